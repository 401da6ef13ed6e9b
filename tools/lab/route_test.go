package lab

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

func packet4(src, dst string, ttl uint8) []byte {
	f := make([]byte, etherHeader+header.IPv4MinimumSize)
	f[12] = 8
	ip := header.IPv4(f[etherHeader:])
	ip.Encode(&header.IPv4Fields{
		TotalLength: header.IPv4MinimumSize, TTL: ttl, Protocol: 253, // RFC 3692: experiments
		SrcAddr: address(netip.MustParseAddr(src)), DstAddr: address(netip.MustParseAddr(dst)),
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	return f
}

func packet6(src, dst string, hops uint8) []byte {
	f := make([]byte, etherHeader+header.IPv6MinimumSize)
	f[12], f[13] = 0x86, 0xdd
	header.IPv6(f[etherHeader:]).Encode(&header.IPv6Fields{
		HopLimit: hops, SrcAddr: address(netip.MustParseAddr(src)), DstAddr: address(netip.MustParseAddr(dst)),
	})
	return f
}

func changed(f []byte, at int, to byte) []byte {
	f[at] = to
	return f
}

func TestHop(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []byte
		want string // empty: not for the fast path
	}{
		{"IPv4", packet4("192.168.77.10", "203.0.113.10", 64), "203.0.113.10"},
		{"IPv4 from nowhere", packet4("0.0.0.0", "203.0.113.10", 64), ""},
		{"IPv4 damaged", changed(packet4("192.168.77.10", "203.0.113.10", 64), etherHeader+9, 1), ""},
		{"IPv4 with options", changed(packet4("192.168.77.10", "203.0.113.10", 64), etherHeader, 0x46), ""},
		{"IPv4 cut", packet4("192.168.77.10", "203.0.113.10", 64)[:33], ""},
		{"IPv6", packet6("2001:db8:77::10", "2001:db8:ffff::10", 64), "2001:db8:ffff::10"},
		{"IPv6 link-local", packet6("fe80::1", "2001:db8:ffff::10", 64), ""},
		{"IPv6 cut", packet6("2001:db8:77::10", "2001:db8:ffff::10", 64)[:53], ""},
		{"ARP", changed(make([]byte, 60), 13, 6), ""},
	} {
		got, hops, ok := hop(c.in)
		if ok != (c.want != "") || ok && (got.String() != c.want || hops != 64) {
			t.Errorf("%s: got %v, %d hops, %v; want %q, 64", c.name, got, hops, ok, c.want)
		}
	}
}

// Every TTL must leave a sound IPv4 checksum behind: the incremental update has a
// carry.
func TestForwardedHeadersAreSound(t *testing.T) {
	home := newHome(t, Options{})
	if _, err := home.Internet.Host("origin.example", originAddrs...); err != nil {
		t.Fatal(err)
	}
	box := home.LAN.Plug("box", func([]byte, bool) {})
	got := make(chan []byte, 512)
	home.Internet.hosts[0].nics[0].first.Store(func(f []byte) bool {
		if binary.BigEndian.Uint16(f[12:]) == 0x0800 {
			got <- f
			return true
		}
		return false
	})
	router := macOf("router LAN")
	for ttl := -2; ttl < 254; ttl++ { // the first two are used up
		f := packet4("192.168.77.10", "203.0.113.10", uint8(ttl+2))
		copy(f, router[:])
		copy(f[6:], []byte{2, 0, 0, 0, 0, 1})
		box.Send(f)
	}
	for ttl := range 254 {
		select {
		case f := <-got:
			ip := header.IPv4(f[etherHeader:])
			if !ip.IsChecksumValid() || int(ip.TTL()) != ttl+1 {
				t.Fatalf("packet %d arrived as %s, TTL %d", ttl, hex.EncodeToString(f), ip.TTL())
			}
		case <-patience(t).Done():
			t.Fatalf("packet %d was not forwarded", ttl)
		}
	}
}

// The router sends a packet back into the LAN that came from there.
func TestRouterForwardsBackIntoTheLAN(t *testing.T) {
	home := newHome(t, Options{})
	got := make(chan bool, 16)
	home.Laptop.nics[0].first.Store(func(f []byte) bool {
		if binary.BigEndian.Uint16(f[12:]) == 0x0800 && f[etherHeader+9] == 253 {
			got <- MAC(f[6:12]) == macOf("router LAN")
		}
		return false
	})
	box := home.LAN.Plug("box", func([]byte, bool) {})
	f := packet4("192.168.77.99", "192.168.77.10", 64)
	router := macOf("router LAN")
	copy(f, router[:])
	copy(f[6:], []byte{2, 0, 0, 0, 0, 1})
	box.Send(f)
	select {
	case byRouter := <-got:
		if !byRouter {
			t.Error("the laptop got the packet, and not from the router")
		}
	case <-patience(t).Done():
		t.Error("the laptop did not get the packet")
	}
}
