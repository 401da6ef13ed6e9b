// Package dhcp4 gets an IPv4 address for the box and keeps it (RFC 2131).
//
// The parties are this client, the home router's DHCP server, and every other host
// on the link. Nothing on the wire is authenticated: any host on the link can
// answer first, and the box then has the address and the gateway that host chose.
// So nothing learned here is trusted beyond "this may be the way out", every value
// is checked to be possible, every list is bounded, and a hostile server can at
// worst take the box offline.
//
// [Machine] is the protocol, without a clock or a socket. [Client] gives it both:
// packets go through an AF_PACKET socket with a filter, open only while an answer
// is awaited. There is no UDP socket, so port 68 is never open. One consequence:
// when a renewal is answered, the kernel itself finds nobody at port 68 and would
// return an ICMP error to the server, unless the firewall drops the packet first;
// the lease is not affected.
package dhcp4

import (
	"context"
	crand "crypto/rand"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"
)

// Client runs DHCPv4 on one link.
type Client struct {
	Index    int              // of the interface
	MAC      net.HardwareAddr // of the interface: Ethernet, six bytes
	Hostname func() string    // what to call ourselves; called at every message
	Last     netip.Addr       // address of an earlier life, or the zero Addr
	// Changed is told of every lease that comes into force or gets new times,
	// and of its end, with nil. It must not block.
	Changed func(*Lease)
	Log     *slog.Logger

	machine *Machine
	dhcp    *socket
	arp     *socket
	probing netip.Addr
	packets chan packet
	next    net.HardwareAddr // who sent the last DHCPACK: the way to the server
	arpEnd  time.Time
}

// packet is one packet of either socket.
type packet struct {
	received
	from *socket
}

// broadcast is the Ethernet broadcast address.
func broadcast() net.HardwareAddr { return net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} }

// Run runs the client until ctx ends. carrier says, from the first value on,
// whether the link has carrier; a repeated true means that it may have been away
// in between. The lease is left in force at the end: a restarted netd finds it on
// the link and goes on.
func (c *Client) Run(ctx context.Context, carrier <-chan bool) error {
	var seed [32]byte
	crand.Read(seed[:]) // crypto/rand.Read does not fail
	c.machine = NewMachine(c.MAC, c.Hostname, c.Last, rand.New(rand.NewChaCha8(seed)))
	c.packets = make(chan packet)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer c.closeAll()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case up, ok := <-carrier:
			switch {
			case !ok:
				return nil
			case up:
				c.do(ctx, c.machine.Start(time.Now()))
			default:
				c.machine.Stop()
				c.do(ctx, Actions{})
			}
		case p := <-c.packets:
			c.receive(ctx, p)
		case <-timer.C:
			now := time.Now()
			if c.arp != nil && !now.Before(c.arpEnd) {
				c.arp.close()
				c.arp = nil
			}
			c.do(ctx, c.machine.Tick(now))
		}
		timer.Reset(c.wait())
	}
}

// wait is how long nothing needs to be done.
func (c *Client) wait() time.Duration {
	next := c.machine.Next()
	if c.arp != nil && (next.IsZero() || c.arpEnd.Before(next)) {
		next = c.arpEnd
	}
	if next.IsZero() {
		return time.Hour
	}
	return time.Until(next)
}

func (c *Client) receive(ctx context.Context, p packet) {
	now := time.Now()
	switch p.from {
	case c.arp:
		if claims(p.payload, c.MAC, c.probing) {
			c.Log.Warn("address is in use by another host", "address", c.probing, "mac", p.received.from.String())
			c.do(ctx, c.machine.Conflict(now, c.probing))
		}
	case c.dhcp:
		payload, err := decodeUDP(p.payload, p.unsummed)
		if err != nil {
			return
		}
		m, err := dhcpv4.FromBytes(payload)
		if err != nil {
			return
		}
		if m.MessageType() == dhcpv4.MessageTypeAck && m.TransactionID == c.machine.xid {
			c.next = p.received.from
		}
		c.do(ctx, c.machine.Handle(now, m))
	}
}

// do carries out actions and opens or closes the DHCP socket as the machine's new
// state needs it.
func (c *Client) do(ctx context.Context, a Actions) {
	if a.Lost != "" {
		c.Log.Warn("lease lost", "why", a.Lost)
		c.Changed(nil)
	}
	if a.Bound != nil {
		c.Log.Info("lease", "address", a.Bound.Address, "server", a.Bound.Server, "expires", a.Bound.Expires.Round(time.Second))
		c.Changed(a.Bound)
		c.announce(ctx, a.Bound.Address.Addr())
	}
	if (c.machine.Listening() || len(a.Send) > 0) && c.dhcp == nil {
		c.dhcp = c.open(ctx, unix.ETH_P_IP)
	}
	for _, p := range a.Send {
		c.send(p)
	}
	if a.Probe.IsValid() {
		c.probe(ctx, a.Probe)
	}
	if !c.machine.Listening() && c.dhcp != nil {
		c.dhcp.close()
		c.dhcp = nil
	}
}

// send sends one message. A failure is only logged: the machine sends again.
func (c *Client) send(p Packet) {
	if c.dhcp == nil {
		return
	}
	src, dst, to := netip.IPv4Unspecified(), netip.AddrFrom4([4]byte{255, 255, 255, 255}), broadcast()
	if ci, ok := netip.AddrFromSlice(p.Message.ClientIPAddr.To4()); ok {
		src = ci
	}
	if p.Unicast {
		// The frame goes to whoever delivered the lease: the server, or the
		// relay in front of it, which is the way to it.
		dst = c.machine.lease.Server
		if c.next != nil {
			to = c.next
		}
	}
	if err := c.dhcp.send(to, encodeUDP(src, dst, p.Message.ToBytes())); err != nil {
		c.Log.Warn("sending", "message", p.Message.MessageType(), "err", err)
		return
	}
	c.Log.Debug("sent", "message", p.Message.MessageType(), "to", dst, "state", c.machine.State())
}

// probe asks who has addr (RFC 5227, 2.1.1, shortened to one probe).
func (c *Client) probe(ctx context.Context, addr netip.Addr) {
	c.probing, c.arpEnd = addr, time.Now().Add(probeTime)
	if c.arp == nil {
		c.arp = c.open(ctx, unix.ETH_P_ARP)
	}
	c.sendARP(netip.IPv4Unspecified(), addr)
}

// announce tells the link that addr is ours, so that nobody keeps an old
// neighbour's MAC address for it (RFC 5227, 2.3).
func (c *Client) announce(ctx context.Context, addr netip.Addr) {
	if c.arp == nil {
		c.arp, c.arpEnd = c.open(ctx, unix.ETH_P_ARP), time.Now()
	}
	c.sendARP(addr, addr)
}

func (c *Client) sendARP(sender, target netip.Addr) {
	if c.arp == nil {
		return
	}
	if err := c.arp.send(broadcast(), encodeARP(c.MAC, sender, target)); err != nil {
		c.Log.Warn("sending ARP", "target", target, "err", err)
	}
}

// open opens a socket and a goroutine that reads it until it is closed.
func (c *Client) open(ctx context.Context, proto uint16) *socket {
	filter := dhcpFilter()
	if proto == unix.ETH_P_ARP {
		filter = arpFilter()
	}
	s, err := openSocket(c.Index, proto, filter)
	if err != nil {
		c.Log.Error("DHCP cannot run", "err", err)
		return nil
	}
	go func() {
		for {
			r, err := s.read()
			if err != nil {
				if !s.done.Load() {
					c.Log.Warn("reading packets", "err", err)
				}
				return
			}
			select {
			case c.packets <- packet{r, s}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return s
}

func (c *Client) closeAll() {
	for _, s := range []*socket{c.dhcp, c.arp} {
		if s != nil {
			s.close()
		}
	}
}
