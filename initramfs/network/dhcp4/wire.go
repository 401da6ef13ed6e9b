package dhcp4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// DHCP's ports (RFC 2131, 4.1).
const (
	serverPort = 67
	clientPort = 68
)

const (
	protoUDP   = 17
	ipv4Header = 20
	udpHeader  = 8
	arpLength  = 28
)

// encodeUDP makes an IPv4 packet with one UDP datagram from the client's port to
// the server's.
func encodeUDP(src, dst netip.Addr, payload []byte) []byte {
	b := make([]byte, ipv4Header+udpHeader+len(payload))
	b[0] = 0x45 // version 4, five words of header
	// RFC 791: precedence "internetwork control", as DHCP is what makes the
	// network work; RFC 2474 keeps that as class selector 6.
	b[1] = 0xc0
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	b[8], b[9] = 64, protoUDP
	s, d := src.As4(), dst.As4()
	copy(b[12:], s[:])
	copy(b[16:], d[:])
	binary.BigEndian.PutUint16(b[10:], ^sum(0, b[:ipv4Header]))

	u := b[ipv4Header:]
	binary.BigEndian.PutUint16(u[0:], clientPort)
	binary.BigEndian.PutUint16(u[2:], serverPort)
	binary.BigEndian.PutUint16(u[4:], uint16(len(u)))
	copy(u[udpHeader:], payload)
	c := ^sum(pseudo(b, len(u)), u)
	if c == 0 {
		c = 0xffff // RFC 768: zero on the wire means "no checksum"
	}
	binary.BigEndian.PutUint16(u[6:], c)
	return b
}

// decodeUDP takes the payload out of an IPv4 packet that carries one UDP datagram
// from a DHCP server to a client. With unsummed, the UDP checksum is not looked
// at: a packet from this very machine (a router in another network namespace) may
// not have one yet.
func decodeUDP(b []byte, unsummed bool) ([]byte, error) {
	if len(b) < ipv4Header || b[0]>>4 != 4 {
		return nil, errors.New("not an IPv4 packet")
	}
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if header < ipv4Header || total < header+udpHeader || len(b) < total {
		return nil, fmt.Errorf("IPv4 packet of %d bytes claims a header of %d and a length of %d", len(b), header, total)
	}
	if sum(0, b[:header]) != 0xffff {
		return nil, errors.New("wrong IPv4 header checksum")
	}
	if b[9] != protoUDP || binary.BigEndian.Uint16(b[6:])&0x3fff != 0 {
		return nil, errors.New("not a whole UDP datagram")
	}
	u := b[header:total]
	size := int(binary.BigEndian.Uint16(u[4:]))
	if size < udpHeader || size > len(u) {
		return nil, fmt.Errorf("UDP length of %d in %d bytes", size, len(u))
	}
	u = u[:size]
	if src, dst := binary.BigEndian.Uint16(u), binary.BigEndian.Uint16(u[2:]); src != serverPort || dst != clientPort {
		return nil, fmt.Errorf("UDP from port %d to %d is not DHCP's", src, dst)
	}
	if binary.BigEndian.Uint16(u[6:]) != 0 && !unsummed && sum(pseudo(b, size), u) != 0xffff {
		return nil, errors.New("wrong UDP checksum")
	}
	return u[udpHeader:], nil
}

// pseudo sums the UDP pseudo header of an IPv4 packet (RFC 768).
func pseudo(ip []byte, udpLen int) uint32 {
	return uint32(sum(uint32(protoUDP)+uint32(udpLen), ip[12:20]))
}

// sum is the one's complement sum of RFC 1071, begun at start.
func sum(start uint32, b []byte) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		start += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		start += uint32(b[0]) << 8
	}
	for start > 0xffff {
		start = start>>16 + start&0xffff
	}
	return uint16(start)
}

// encodeARP makes an ARP request about target for Ethernet and IPv4 (RFC 826).
// With the zero sender it is a probe, with sender == target an announcement (RFC
// 5227, 1.1).
func encodeARP(mac net.HardwareAddr, sender, target netip.Addr) []byte {
	b := make([]byte, arpLength)
	copy(b, []byte{0, 1, 8, 0, 6, 4, 0, 1})
	copy(b[8:14], mac)
	s, t := sender.As4(), target.As4()
	copy(b[14:], s[:])
	copy(b[24:], t[:])
	return b
}

// claims reports whether the ARP packet b shows that somebody other than mac has
// addr, or is probing for it too (RFC 5227, 2.1.1).
func claims(b []byte, mac net.HardwareAddr, addr netip.Addr) bool {
	if len(b) < arpLength || string(b[:6]) != "\x00\x01\x08\x00\x06\x04" || string(b[8:14]) == string(mac) {
		return false
	}
	sender, target := netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
	return sender == addr || sender.IsUnspecified() && target == addr
}
