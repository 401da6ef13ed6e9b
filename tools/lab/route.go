package lab

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// maxUnresolved is how many packets wait for their next hop's Ethernet address;
// more are dropped, or a box that scans the internet would fill our memory.
const maxUnresolved = 1024

// gateway carries packets between the router's interfaces. The stack could do
// it, and does for what is odd (IPv4 options); but in gVisor's IPv4 forwarding the
// header that it reads the TTL from may be memory that was already given back
// (forwardPacketWithRoute uses h after DeepCopyForForwarding), which the race
// detector rightly reports. Address translation will have its place here, too.
//
// A packet whose hops are used up, or to an address that nobody has, is lost
// without a word, as on much of the internet.
type gateway struct {
	stack      *stack.Stack
	lan, wan   *nic
	home       []netip.Prefix
	own        []netip.Addr
	unresolved atomic.Int64
}

// forward takes a frame that reached the router's interface from. It says whether
// that frame is dealt with; if not, it is the stack's.
func (g *gateway) forward(from *nic, frame []byte) bool {
	if MAC(frame[:6]) != from.mac {
		return false
	}
	dst, hops, ok := hop(frame)
	if !ok || !dst.IsGlobalUnicast() {
		return false
	}
	for _, a := range g.own {
		if a == dst {
			return false
		}
	}
	id, to := nicWAN, g.wan
	for _, p := range g.home {
		if p.Contains(dst) {
			id, to = nicLAN, g.lan
		}
	}
	if hops < 2 {
		return true
	}
	// Back out of the interface that it came from, too, as ordinary home routers
	// do: a box must not reach the LAN by way of the gateway, and only a gateway
	// that would do it shows whether it tries.
	out := bytes.Clone(frame)
	copy(out[6:12], to.mac[:])
	ip := out[etherHeader:]
	if dst.Is4() {
		ip[8]-- // TTL, and the checksum by RFC 1141
		sum := uint32(binary.BigEndian.Uint16(ip[10:])) + 0x0100
		binary.BigEndian.PutUint16(ip[10:], uint16(sum+sum>>16))
	} else {
		ip[7]--
	}
	g.send(id, to, dst, out)
	return true
}

// send sends a frame to dst's Ethernet address, as soon as that is known.
func (g *gateway) send(id tcpip.NICID, to *nic, dst netip.Addr, out []byte) {
	if g.unresolved.Add(1) > maxUnresolved {
		g.unresolved.Add(-1)
		return
	}
	// The callback may come now or later, with the stack's locks held: a port
	// only queues.
	g.stack.GetLinkAddress(id, address(dst), tcpip.Address{}, protocol(dst), func(r stack.LinkResolutionResult) {
		g.unresolved.Add(-1)
		if r.Err == nil {
			copy(out[:6], r.LinkAddress)
			to.port.Send(out)
		}
	})
}

// hop is the destination and the hop limit of a packet that may be forwarded
// without further thought: a sound IPv4 packet without options or an IPv6 packet,
// from an address that has a meaning elsewhere.
func hop(frame []byte) (dst netip.Addr, hops uint8, ok bool) {
	ip := frame[etherHeader:]
	var src netip.Addr
	switch kind := binary.BigEndian.Uint16(frame[12:]); {
	case kind == 0x0800 && len(ip) >= header.IPv4MinimumSize:
		h := header.IPv4(ip)
		if ip[0] != 0x45 || int(h.TotalLength()) > len(ip) || !h.IsChecksumValid() {
			return dst, 0, false
		}
		hops = h.TTL()
		src, dst = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	case kind == 0x86dd && len(ip) >= header.IPv6MinimumSize && ip[0]>>4 == 6:
		hops = ip[7]
		src, dst = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
	default:
		return dst, 0, false
	}
	return dst, hops, src.IsGlobalUnicast()
}
