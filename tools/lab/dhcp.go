package lab

import (
	"net"
	"net/netip"
	"sync"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// dhcpServer gives each device one address and never another (RFC 2131).
type dhcpServer struct {
	self netip.Addr
	opts Options

	mu     sync.Mutex
	leases map[MAC]*lease
	next   int
}

type lease struct {
	addr     netip.Addr
	accepted bool
}

func newDHCPServer(self netip.Addr, o Options) *dhcpServer {
	return &dhcpServer{self: self, opts: o, leases: map[MAC]*lease{}, next: firstLease}
}

// serve answers on a socket of port 67 until it is closed.
func (d *dhcpServer) serve(c net.PacketConn) {
	b := make([]byte, 4096)
	for {
		n, _, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		reply, to := d.answer(b[:n])
		if reply == nil {
			continue
		}
		if _, err := c.WriteTo(reply.ToBytes(), to); err != nil {
			d.opts.Log.Warn("DHCP answer not sent", "to", to, "err", err)
		}
	}
}

// answer is the reply to one message and where it goes, or nil.
func (d *dhcpServer) answer(b []byte) (*dhcpv4.DHCPv4, *net.UDPAddr) {
	req, err := dhcpv4.FromBytes(b)
	if err != nil || req.OpCode != dhcpv4.OpcodeBootRequest || len(req.ClientHWAddr) != 6 {
		return nil, nil
	}
	if id := req.ServerIdentifier(); id != nil && !id.Equal(net.IP(d.self.AsSlice())) {
		return nil, nil // the client chose another server
	}
	kind, addr := d.decide(req)
	if kind == dhcpv4.MessageTypeNone {
		return nil, nil
	}
	reply, err := dhcpv4.NewReplyFromRequest(req,
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithServerIP(d.self.AsSlice()),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(d.self.AsSlice())))
	if err != nil {
		return nil, nil
	}
	if kind != dhcpv4.MessageTypeNak {
		d.configure(reply)
	}
	if addr.IsValid() {
		reply.YourIPAddr = addr.AsSlice()
		reply.UpdateOption(dhcpv4.OptIPAddressLeaseTime(d.opts.Lease))
	}
	// A client without an address cannot answer ARP yet, so what it asked for
	// goes to everyone (RFC 2131, 4.1); one that renews has an address.
	to := &net.UDPAddr{IP: net.IPv4bcast, Port: 68}
	if kind != dhcpv4.MessageTypeNak && !req.ClientIPAddr.IsUnspecified() {
		to.IP = req.ClientIPAddr
	}
	return reply, to
}

// configure adds what every client of this network is told.
func (d *dhcpServer) configure(reply *dhcpv4.DHCPv4) {
	reply.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(d.opts.LAN4.Bits(), 32)))
	reply.UpdateOption(dhcpv4.OptRouter(d.self.AsSlice()))
	reply.UpdateOption(dhcpv4.OptDNS(d.self.AsSlice()))
	var ntp []net.IP
	for _, a := range d.opts.NTP {
		ntp = append(ntp, a.AsSlice())
	}
	if len(ntp) > 0 {
		reply.UpdateOption(dhcpv4.OptNTPServers(ntp...))
	}
}

// decide is what to say, and which address goes with it.
func (d *dhcpServer) decide(req *dhcpv4.DHCPv4) (dhcpv4.MessageType, netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	mac := MAC(req.ClientHWAddr)
	switch req.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		l := d.offer(mac)
		if l == nil {
			return dhcpv4.MessageTypeNone, netip.Addr{}
		}
		return dhcpv4.MessageTypeOffer, l.addr
	case dhcpv4.MessageTypeRequest:
		asked := req.RequestedIPAddress()
		if asked == nil {
			asked = req.ClientIPAddr
		}
		l := d.offer(mac)
		if l == nil || !asked.Equal(net.IP(l.addr.AsSlice())) {
			return dhcpv4.MessageTypeNak, netip.Addr{}
		}
		l.accepted = true
		return dhcpv4.MessageTypeAck, l.addr
	case dhcpv4.MessageTypeRelease:
		if l := d.leases[mac]; l != nil {
			l.accepted = false
		}
	case dhcpv4.MessageTypeInform:
		return dhcpv4.MessageTypeAck, netip.Addr{}
	}
	return dhcpv4.MessageTypeNone, netip.Addr{}
}

// offer is the lease of mac, a new one if there is room.
func (d *dhcpServer) offer(mac MAC) *lease {
	l := d.leases[mac]
	if l == nil && d.next <= lastLease {
		l = &lease{addr: nth(d.opts.LAN4, d.next)}
		d.leases[mac] = l
		d.next++
	}
	return l
}

func (d *dhcpServer) lease(mac MAC) (netip.Addr, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.leases[mac]
	if l == nil || !l.accepted {
		return netip.Addr{}, false
	}
	return l.addr, true
}
