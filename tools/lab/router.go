package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
)

// The router's interfaces.
const (
	nicLAN tcpip.NICID = 1
	nicWAN tcpip.NICID = 2
)

// Router is the box that the internet provider sent: gateway, DHCP server, sender
// of router advertisements and resolver of the home. It forwards both families
// as they are: the internet of the lab knows the way back to the home's
// addresses, so there is no address translation between them.
type Router struct {
	host *Host
	opts Options
	dhcp *dhcpServer

	mu     sync.Mutex
	advert Advertisement
	conns  map[net.Conn]struct{} // DNS over TCP

	closers []func() error
	stop    chan struct{}
	tasks   sync.WaitGroup
}

func newRouter(lan *Switch, in *Internet, o Options) (*Router, error) {
	host, err := newHost("router", nil)
	if err != nil {
		return nil, fmt.Errorf("router: %w", err)
	}
	r := &Router{host: host, opts: o, conns: map[net.Conn]struct{}{}, stop: make(chan struct{})}
	r.advert = Advertisement{Prefixes: r.prefixes()[1:], Resolvers: []netip.Addr{r.LAN6()}}
	err = r.connect(lan, in)
	if err == nil {
		err = r.serve(in)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("router: %w", err), r.Close())
	}
	return r, nil
}

// connect plugs both cables in and starts to forward.
func (r *Router) connect(lan *Switch, in *Internet) error {
	var lanAddrs []netip.Prefix
	for _, p := range r.prefixes() {
		lanAddrs = append(lanAddrs, netip.PrefixFrom(nth(p, 1), p.Bits()))
	}
	if err := r.host.plug(nicLAN, lan, macOf("router LAN"), lanAddrs...); err != nil {
		return err
	}
	wan4, wan6 := netip.PrefixFrom(routerWAN4, 32), netip.PrefixFrom(routerWAN6, 128)
	if err := r.host.plug(nicWAN, in.sw, macOf("router WAN"), wan4, wan6); err != nil {
		return err
	}
	for _, p := range lanAddrs {
		r.host.route(nicLAN, p.Masked(), netip.Addr{})
	}
	r.host.route(nicWAN, any4, netip.Addr{})
	r.host.route(nicWAN, any6, netip.Addr{})
	for _, p := range []tcpip.NetworkProtocolNumber{ipv4.ProtocolNumber, ipv6.ProtocolNumber} {
		if err := r.host.stack.SetForwardingDefaultAndAllNICs(p, true); err != nil {
			return fmt.Errorf("forwarding: %s", err)
		}
	}
	return nil
}

// serve starts the router's services on the LAN.
func (r *Router) serve(in *Internet) error {
	dns := func(q []byte) []byte { return answerDNS(q, in.resolve) }
	for _, a := range []netip.Addr{r.LAN4(), r.LAN6()} {
		at := netip.AddrPortFrom(a, 53).String()
		c, err := r.host.ListenPacket("udp", at)
		if err != nil {
			return err
		}
		l, err := r.host.Listen("tcp", at)
		if err != nil {
			return errors.Join(err, c.Close())
		}
		r.closers = append(r.closers, c.Close, l.Close)
		r.tasks.Go(func() { serveDatagrams(c, dns) })
		r.tasks.Go(func() { r.serveStreams(l, dns) })
	}
	c, err := r.host.broadcaster(nicLAN, 67)
	if err != nil {
		return fmt.Errorf("DHCP server: %w", err)
	}
	r.closers = append(r.closers, c.Close)
	r.dhcp = newDHCPServer(r.LAN4(), r.opts)
	r.tasks.Go(func() { r.dhcp.serve(c) })

	lan, wan := r.host.nics[0], r.host.nics[1]
	g := &gateway{stack: r.host.stack, lan: lan, wan: wan, home: r.prefixes(), own: r.host.Addresses()}
	solicited := make(chan struct{}, 1)
	lan.first.Store(func(frame []byte) bool {
		if isRouterSolicitation(frame) {
			select {
			case solicited <- struct{}{}:
			default: // one is about to be answered, to everyone
			}
		}
		return g.forward(lan, frame)
	})
	wan.first.Store(func(frame []byte) bool { return g.forward(wan, frame) })
	r.tasks.Go(func() { r.advertise(lan, solicited) })
	return nil
}

func (r *Router) serveStreams(l net.Listener, answer func([]byte) []byte) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		r.conns[c] = struct{}{}
		r.mu.Unlock()
		r.tasks.Go(func() {
			serveStream(c, answer)
			r.mu.Lock()
			delete(r.conns, c)
			r.mu.Unlock()
		})
	}
}

// prefixes are the home's networks.
func (r *Router) prefixes() []netip.Prefix {
	all := []netip.Prefix{r.opts.LAN4, r.opts.LAN6}
	if r.opts.ULA.IsValid() {
		all = append(all, r.opts.ULA)
	}
	return all
}

// LAN4 is the router's IPv4 address in the home: gateway, resolver, DHCP server.
func (r *Router) LAN4() netip.Addr { return nth(r.opts.LAN4, 1) }

// LAN6 is the router's global IPv6 address in the home.
func (r *Router) LAN6() netip.Addr { return nth(r.opts.LAN6, 1) }

// Port is the router's socket on the LAN.
func (r *Router) Port() *Port { return r.host.nics[0].port }

// Lease is the IPv4 address that the DHCP server gave to a device, once the
// device has accepted it.
func (r *Router) Lease(mac MAC) (netip.Addr, bool) { return r.dhcp.lease(mac) }

// Close switches the router off.
func (r *Router) Close() error {
	close(r.stop)
	var all []error
	for _, f := range r.closers {
		all = append(all, f())
	}
	r.mu.Lock()
	for c := range r.conns {
		c.Close()
	}
	r.mu.Unlock()
	all = append(all, r.host.Close())
	r.tasks.Wait()
	return errors.Join(all...)
}
