package lab

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const mtu = 1500

var (
	any4 = netip.MustParsePrefix("0.0.0.0/0")
	any6 = netip.MustParsePrefix("::/0")
)

// Host is a computer with a user-space TCP/IP stack, on one or more switches. It
// answers pings by itself; what else it does is up to whoever listens on it.
type Host struct {
	Name string

	stack     *stack.Stack
	nics      []*nic
	resolvers []netip.Addr
}

// nic joins a stack's interface with a switch port.
type nic struct {
	mac  MAC
	port *Port
	ep   *channel.Endpoint
	stop context.CancelFunc
	done chan struct{}
	// first sees each frame for this interface before the stack does, and says
	// whether that was all. It is set by a router, once.
	first atomic.Value // of func(frame []byte) bool
}

// sendBuffer bounds what a host has under way on one connection: 90 full frames. It
// is plenty at a home's round-trip time. A few hundred frames more fill the receive
// ring of QEMU's model of the Allwinner Ethernet (512, Linux stmmac), which then
// receives nothing ever again: hw/net/allwinner-sun8i-emac.c waits for a register
// write that the driver has no reason for.
const sendBuffer = 128 << 10

// newHost makes a host without interfaces, which asks resolvers for names.
func newHost(name string, resolvers []netip.Addr) (*Host, error) {
	s := stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			ipv4.NewProtocol,
			// Without duplicate address detection: addresses in the lab are ours
			// to give, and a second of waiting per host adds up.
			ipv6.NewProtocolWithOptions(ipv6.Options{AutoGenLinkLocal: true}),
			arp.NewProtocol,
		},
		TransportProtocols: []stack.TransportProtocolFactory{
			tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
		},
		HandleLocal: true,
	})
	sack, moderate, recovery := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true), tcpip.TCPRecovery(0)
	send := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: sendBuffer, Max: sendBuffer}
	for _, opt := range []tcpip.SettableTransportProtocolOption{
		&sack,
		&moderate,
		// RACK in this stack retransmits without need and keeps the window
		// small (gvisor issue 9778).
		&recovery,
		&send,
	} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, opt); err != nil {
			return nil, fmt.Errorf("setting up TCP: %s", err)
		}
	}
	return &Host{Name: name, stack: s, resolvers: resolvers}, nil
}

// plug connects interface id with a switch. Addresses carry their prefix length,
// for the broadcast address; routes are the caller's.
func (h *Host) plug(id tcpip.NICID, sw *Switch, mac MAC, addrs ...netip.Prefix) error {
	// The wrapper takes the Ethernet header's 14 bytes off the MTU.
	ep := channel.New(queueLen, mtu+etherHeader, tcpip.LinkAddress(mac[:]))
	if err := h.stack.CreateNIC(id, ethernet.New(ep)); err != nil {
		return fmt.Errorf("interface %d: %s", id, err)
	}
	for _, a := range addrs {
		pa := tcpip.ProtocolAddress{
			Protocol:          protocol(a.Addr()),
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: address(a.Addr()), PrefixLen: a.Bits()},
		}
		if err := h.stack.AddProtocolAddress(id, pa, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("address %v: %s", a, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &nic{mac: mac, ep: ep, stop: cancel, done: make(chan struct{})}
	h.nics = append(h.nics, n)
	n.port = sw.Plug(h.Name, n.receive)
	go n.transmit(ctx)
	return nil
}

// receive gives a frame to the stack, if the interface's hardware would: the
// stack itself does not look at the address, and a router would forward frames
// that were flooded to it.
func (n *nic) receive(frame []byte, _ bool) {
	if dst := MAC(frame[:6]); dst != n.mac && !dst.multicast() {
		return
	}
	if first, ok := n.first.Load().(func([]byte) bool); ok && first(frame) {
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
	n.ep.InjectInbound(0, pkt)
	pkt.DecRef()
}

func (n *nic) transmit(ctx context.Context) {
	defer close(n.done)
	for {
		pkt := n.ep.ReadContext(ctx)
		if pkt == nil {
			return
		}
		frame := make([]byte, 0, pkt.Size())
		for _, part := range pkt.AsSlices() {
			frame = append(frame, part...)
		}
		pkt.DecRef()
		n.port.Send(frame)
	}
}

// route sends what is for dst out of interface id, to a gateway or (the zero
// address) directly.
func (h *Host) route(id tcpip.NICID, dst netip.Prefix, gateway netip.Addr) {
	subnet := tcpip.AddressWithPrefix{Address: address(dst.Addr()), PrefixLen: dst.Bits()}.Subnet()
	r := tcpip.Route{Destination: subnet, NIC: id}
	if gateway.IsValid() {
		r.Gateway = address(gateway)
	}
	h.stack.AddRoute(r)
}

// Port is where the host's first interface is plugged in.
func (h *Host) Port() *Port { return h.nics[0].port }

// Addresses of the host, without link-local ones.
func (h *Host) Addresses() []netip.Addr {
	var all []netip.Addr
	for _, pas := range h.stack.AllAddresses() {
		for _, pa := range pas {
			if a, ok := netip.AddrFromSlice(pa.AddressWithPrefix.Address.AsSlice()); ok && a.IsGlobalUnicast() {
				all = append(all, a)
			}
		}
	}
	return all
}

// Close takes the host off the network; its connections and listeners fail.
func (h *Host) Close() error {
	// Aborting connections sends their RSTs, for which the ports must live.
	h.stack.Close()
	for _, n := range h.nics {
		n.stop()
		<-n.done
		n.port.Unplug()
		n.ep.Close()
	}
	h.stack.Wait()
	return nil
}

// Listen listens like net.Listen: network is tcp, tcp4 or tcp6, and address is
// host:port with an address of this host or an empty host (any of its addresses).
func (h *Host) Listen(network, addr string) (net.Listener, error) {
	at, proto, err := h.local("tcp", network, addr)
	if err == nil {
		var l net.Listener
		if l, err = gonet.ListenTCP(h.stack, at, proto); err == nil {
			return l, nil
		}
	}
	return nil, fmt.Errorf("listening on %s %s at host %q: %w", network, addr, h.Name, err)
}

// ListenPacket is net.ListenPacket for udp, udp4 and udp6.
func (h *Host) ListenPacket(network, addr string) (net.PacketConn, error) {
	at, proto, err := h.local("udp", network, addr)
	if err == nil {
		var c net.PacketConn
		if c, err = gonet.DialUDP(h.stack, &at, nil, proto); err == nil {
			return c, nil
		}
	}
	return nil, fmt.Errorf("listening on %s %s at host %q: %w", network, addr, h.Name, err)
}

// local parses a local address. An empty host means both families for "tcp" and
// "udp": an IPv6 socket of this stack takes IPv4, too.
func (h *Host) local(kind, network, addr string) (tcpip.FullAddress, tcpip.NetworkProtocolNumber, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return tcpip.FullAddress{}, 0, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return tcpip.FullAddress{}, 0, fmt.Errorf("port %q is not a number up to 65535", port)
	}
	at := tcpip.FullAddress{Port: uint16(n)}
	proto := ipv6.ProtocolNumber
	if host != "" {
		a, err := netip.ParseAddr(host)
		if err != nil {
			return at, 0, err
		}
		at.Addr, proto = address(a), protocol(a)
	}
	switch network {
	case kind:
	case kind + "4":
		proto = ipv4.ProtocolNumber
	case kind + "6":
		proto = ipv6.ProtocolNumber
	default:
		return at, 0, net.UnknownNetworkError(network)
	}
	return at, proto, nil
}

// broadcaster is an IPv4 UDP socket on one interface that may send to
// 255.255.255.255.
func (h *Host) broadcaster(id tcpip.NICID, port uint16) (net.PacketConn, error) {
	var wq waiter.Queue
	ep, err := h.stack.NewEndpoint(udp.ProtocolNumber, ipv4.ProtocolNumber, &wq)
	if err != nil {
		return nil, errors.New(err.String())
	}
	ep.SocketOptions().SetBroadcast(true)
	if err := ep.Bind(tcpip.FullAddress{NIC: id, Port: port}); err != nil {
		ep.Close()
		return nil, errors.New(err.String())
	}
	return gonet.NewUDPConn(&wq, ep), nil
}

// Dial connects like net.Dialer: network is tcp or udp (also with 4 or 6),
// address is host:port. Names are asked of the host's resolver.
func (h *Host) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := h.dial(ctx, network, addr)
	if err != nil {
		return nil, fmt.Errorf("dialling %s %s from host %q: %w", network, addr, h.Name, err)
	}
	return c, nil
}

func (h *Host) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	name, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("port %q is not a number up to 65535", port)
	}
	ips, err := h.lookup(ctx, network, name)
	if err != nil {
		return nil, err
	}
	var all []error
	for _, ip := range ips {
		to := tcpip.FullAddress{Addr: address(ip), Port: uint16(n)}
		var c net.Conn
		if strings.HasPrefix(network, "udp") {
			c, err = gonet.DialUDP(h.stack, nil, &to, protocol(ip))
		} else {
			c, err = gonet.DialContextTCP(ctx, h.stack, to, protocol(ip))
		}
		if err == nil {
			return c, nil
		}
		all = append(all, err)
	}
	return nil, errors.Join(all...)
}

func (h *Host) lookup(ctx context.Context, network, name string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{ip.Unmap()}, nil
	}
	if len(h.resolvers) == 0 {
		return nil, fmt.Errorf("host %q has no resolver for the name %q", h.Name, name)
	}
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return h.dial(ctx, network, netip.AddrPortFrom(h.resolvers[0], 53).String())
	}}
	family := "ip" + strings.TrimLeft(network, "tcpud")
	ips, err := r.LookupNetIP(ctx, family, strings.TrimSuffix(name, ".")+".")
	for i := range ips {
		ips[i] = ips[i].Unmap()
	}
	return ips, err
}

func address(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func protocol(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

// macOf makes a locally administered address out of a name: the same name has
// the same address in every run. 52:54:00 is what QEMU gives its guests.
func macOf(name string) MAC {
	f := fnv.New32a()
	f.Write([]byte(name))
	s := f.Sum32()
	return MAC{0x52, 0x54, 0x00, byte(s >> 16), byte(s >> 8), byte(s)}
}

// until calls ok every 20 ms until it says true or ctx ends.
func until(ctx context.Context, ok func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
	return nil
}
