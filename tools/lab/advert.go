package lab

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const (
	icmpRouterSolicitation  = 133
	icmpRouterAdvertisement = 134
	// advertEvery is how often the router speaks unasked; RFC 4861 (6.2.1)
	// allows 3 s to 30 min.
	advertEvery = 10 * time.Second
)

// Advertisement is what the router advertises (RFC 4861, 4.2). Lifetimes are
// whole seconds.
type Advertisement struct {
	// Lifetime of the router as a default gateway. 0: 30 minutes; negative: not
	// a default gateway (sent as 0).
	Lifetime time.Duration
	// Prefixes are on-link and for stateless addresses.
	Prefixes []netip.Prefix
	// Withdrawn prefixes are deprecated at once: preferred lifetime 0, valid
	// lifetime two hours (RFC 4862, 5.5.3 lets nobody shorten it further).
	Withdrawn []netip.Prefix
	// Resolvers are recursive DNS servers (RFC 8106).
	Resolvers []netip.Addr
}

// Advertise changes what the router advertises, and says it at once.
func (r *Router) Advertise(a Advertisement) {
	r.mu.Lock()
	r.advert = a
	r.mu.Unlock()
	r.sendAdvertisement(r.host.nics[0])
}

// Advertisement is what the router advertises now.
func (r *Router) Advertisement() Advertisement {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.advert
	a.Prefixes, a.Withdrawn, a.Resolvers = slices.Clone(a.Prefixes), slices.Clone(a.Withdrawn), slices.Clone(a.Resolvers)
	return a
}

// advertise speaks at start, when asked, and from time to time.
func (r *Router) advertise(n *nic, solicited <-chan struct{}) {
	tick := time.NewTicker(advertEvery)
	defer tick.Stop()
	for {
		r.sendAdvertisement(n)
		select {
		case <-r.stop:
			return
		case <-tick.C:
		case <-solicited:
		}
	}
}

func (r *Router) sendAdvertisement(n *nic) {
	n.port.Send(r.Advertisement().frame(n.mac))
}

// frame is the advertisement as an Ethernet frame from a router's link-local
// address to all nodes.
func (a Advertisement) frame(from MAC) []byte {
	src, dst := linkLocal(from), netip.MustParseAddr("ff02::1")
	body := a.marshal(from)
	f := make([]byte, 0, etherHeader+header.IPv6MinimumSize+len(body))
	f = append(f, 0x33, 0x33, 0, 0, 0, 1) // all nodes (RFC 2464, 7)
	f = append(f, from[:]...)
	f = append(f, 0x86, 0xdd)
	f = append(f, 0x60, 0, 0, 0)
	f = binary.BigEndian.AppendUint16(f, uint16(len(body)))
	f = append(f, byte(header.ICMPv6ProtocolNumber), 255) // RFC 4861, 6.1.2: hop limit 255 or it is ignored
	f = append(f, src.AsSlice()...)
	f = append(f, dst.AsSlice()...)
	sum := header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, address(src), address(dst), uint16(len(body)))
	binary.BigEndian.PutUint16(body[2:], ^checksum.Checksum(body, sum))
	return append(f, body...)
}

// marshal is the ICMPv6 message with a zero checksum.
func (a Advertisement) marshal(from MAC) []byte {
	b := []byte{icmpRouterAdvertisement, 0, 0, 0, 64, 0} // hop limit 64; no DHCPv6
	life := a.Lifetime
	if life == 0 {
		life = 30 * time.Minute
	}
	b = binary.BigEndian.AppendUint16(b, uint16(max(0, life.Seconds())))
	b = append(b, make([]byte, 8)...)                 // reachable and retransmission time: unspecified
	b = append(append(b, 1, 1), from[:]...)           // source link-layer address
	b = append(b, 5, 1, 0, 0, 0, 0, mtu>>8, mtu&0xff) // MTU
	const valid, preferred = 24 * 3600, 4 * 3600
	for _, p := range a.Prefixes {
		b = appendPrefix(b, p, valid, preferred)
	}
	for _, p := range a.Withdrawn {
		b = appendPrefix(b, p, 2*3600, 0)
	}
	if len(a.Resolvers) > 0 {
		b = append(b, 25, byte(1+2*len(a.Resolvers)), 0, 0)
		b = binary.BigEndian.AppendUint32(b, 3600)
		for _, r := range a.Resolvers {
			b = append(b, r.AsSlice()...)
		}
	}
	return b
}

// appendPrefix adds a prefix information option with the flags on-link and
// autonomous (RFC 4861, 4.6.2).
func appendPrefix(b []byte, p netip.Prefix, valid, preferred uint32) []byte {
	b = append(b, 3, 4, byte(p.Bits()), 0xc0)
	b = binary.BigEndian.AppendUint32(b, valid)
	b = binary.BigEndian.AppendUint32(b, preferred)
	b = append(b, 0, 0, 0, 0)
	return append(b, p.Addr().AsSlice()...)
}

// isRouterSolicitation tells whether an Ethernet frame is one, untagged and
// without extension headers, as hosts send it.
func isRouterSolicitation(f []byte) bool {
	const icmp = etherHeader + header.IPv6MinimumSize
	return len(f) >= icmp+8 && f[12] == 0x86 && f[13] == 0xdd &&
		f[etherHeader+6] == byte(header.ICMPv6ProtocolNumber) && f[etherHeader+7] == 255 &&
		f[icmp] == icmpRouterSolicitation && f[icmp+1] == 0
}

// linkLocal is the link-local address that a device with this MAC address takes
// by default (RFC 4291, appendix A), as the router's stack does.
func linkLocal(m MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]})
}
