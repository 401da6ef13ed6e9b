package dhcp4

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/net/bpf"
)

// fromServer makes what a server would send, out of our own encoder.
func fromServer(payload []byte) []byte {
	b := encodeUDP(netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.9"), payload)
	// Swapping the ports changes no checksum: it is a sum.
	copy(b[ipv4Header:], []byte{0, serverPort, 0, clientPort})
	return b
}

// TestEncodeUDP compares with a packet worked out by hand from RFC 791 and RFC 768.
func TestEncodeUDP(t *testing.T) {
	got := encodeUDP(netip.IPv4Unspecified(), netip.MustParseAddr("255.255.255.255"), []byte("hi!"))
	want := []byte{
		0x45, 0xc0, 0, 31, 0, 0, 0, 0, 64, 17, 0x7a, 0x0f, 0, 0, 0, 0, 255, 255, 255, 255,
		0, 68, 0, 67, 0, 11, 0x75, 0xe8, 'h', 'i', '!',
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
}

func TestDecodeUDP(t *testing.T) {
	good := fromServer([]byte("payload"))
	change := func(at int, v byte) []byte {
		b := bytes.Clone(good)
		b[at] = v
		return b
	}
	summed := func(b []byte) []byte { // with the IPv4 checksum made right again
		b[10], b[11] = 0, 0
		c := ^sum(0, b[:ipv4Header])
		b[10], b[11] = byte(c>>8), byte(c)
		return b
	}
	tests := []struct {
		name     string
		packet   []byte
		unsummed bool
		ok       bool
	}{
		{"good", good, false, true},
		{"padded as Ethernet does", append(bytes.Clone(good), make([]byte, 11)...), false, true},
		{"no checksum", func() []byte { b := change(26, 0); b[27] = 0; return b }(), false, true},
		{"checksum left to the hardware", change(26, 0x55), true, true},
		{"wrong checksum", change(26, 0x55), false, false},
		{"wrong header checksum", change(8, 63), false, false},
		{"a fragment", summed(change(7, 8)), false, false},
		{"the first fragment", summed(change(6, 0x20)), false, false},
		{"TCP", summed(change(9, 6)), false, false},
		{"IPv6", change(0, 0x65), false, false},
		{"short header", change(0, 0x44), false, false},
		{"header beyond the packet", change(0, 0x4f), false, false},
		{"from another port", change(21, 53), true, false},
		{"UDP length too long", change(25, 200), true, false},
		{"UDP length too short", change(25, 7), true, false},
		{"cut off", good[:20], false, false},
		{"empty", nil, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decodeUDP(tt.packet, tt.unsummed)
			if (err == nil) != tt.ok || tt.ok && string(got) != "payload" {
				t.Errorf("got %q, %v; want ok %v", got, err, tt.ok)
			}
		})
	}
}

func TestFilter(t *testing.T) {
	vm, err := bpf.NewVM(dhcpFilter())
	if err != nil {
		t.Fatal(err)
	}
	good := fromServer([]byte("payload"))
	options := append([]byte{0x46}, good[1:ipv4Header]...)
	options = append(append(options, 0, 0, 0, 0), good[ipv4Header:]...)
	change := func(at int, v byte) []byte { b := bytes.Clone(good); b[at] = v; return b }
	for name, tt := range map[string]struct {
		packet []byte
		want   bool
	}{
		"to a client": {good, true}, "with IPv4 options": {options, true}, "to a server": {change(23, 67), false},
		"TCP": {change(9, 6), false}, "a fragment": {change(7, 1), false}, "cut off": {good[:21], false},
	} {
		n, err := vm.Run(tt.packet)
		if err != nil || (n > 0) != tt.want {
			t.Errorf("%s: filter gives %d, %v; want accepted %v", name, n, err, tt.want)
		}
	}
}

func TestClaims(t *testing.T) {
	mine, theirs := testMAC, net.HardwareAddr{2, 0, 0, 9, 9, 9}
	addr, other := netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("192.0.2.8")
	none := netip.IPv4Unspecified()
	for name, tt := range map[string]struct {
		packet []byte
		want   bool
	}{
		"its owner":               {encodeARP(theirs, addr, other), true},
		"somebody probing it too": {encodeARP(theirs, none, addr), true},
		"ourselves":               {encodeARP(mine, none, addr), false},
		"somebody asking for it":  {encodeARP(theirs, other, addr), false},
		"somebody else":           {encodeARP(theirs, other, other), false},
		"cut off":                 {encodeARP(theirs, addr, other)[:20], false},
	} {
		if got := claims(tt.packet, mine, addr); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

func FuzzDecodeUDP(f *testing.F) {
	f.Add(fromServer([]byte("payload")), false)
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, b []byte, unsummed bool) {
		payload, err := decodeUDP(b, unsummed)
		if err == nil && len(payload) > len(b)-ipv4Header-udpHeader {
			t.Fatalf("%d bytes of payload in %d", len(payload), len(b))
		}
		claims(b, testMAC, netip.MustParseAddr("192.0.2.9"))
	})
}
