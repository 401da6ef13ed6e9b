package lab

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/dns/dnsmessage"
)

func dnsQuery(name string) []byte {
	b, _ := (&dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}).Pack()
	return b
}

func FuzzDNS(f *testing.F) {
	f.Add(dnsQuery("origin.example."))
	f.Add(dnsQuery("unknown.example.")[:20])
	f.Fuzz(func(t *testing.T, q []byte) {
		out := answerDNS(q, func(string) ([]netip.Addr, bool) { return originAddrs, true })
		if out == nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(out); err != nil || !m.Response || !bytes.Equal(out[:2], q[:2]) {
			t.Errorf("%x is answered with %x: %v", q, out, err)
		}
	})
}

func FuzzNTP(f *testing.F) {
	f.Add(append([]byte{0x23}, make([]byte, 47)...))
	f.Add([]byte{0x23})
	f.Fuzz(func(t *testing.T, q []byte) {
		if out := answerNTP(q, time.Unix(0, 0)); out != nil && (len(out) != 48 || !bytes.Equal(out[24:32], q[40:48])) {
			t.Errorf("%x is answered with %x", q, out)
		}
	})
}

func FuzzDHCP(f *testing.F) {
	m, err := dhcpv4.New(dhcpv4.WithHwAddr([]byte{2, 0, 0, 0, 0, 1}), dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(m.ToBytes())
	f.Add(m.ToBytes()[:240])
	f.Fuzz(func(t *testing.T, b []byte) {
		d := newDHCPServer(netip.MustParseAddr("192.168.77.1"), Options{}.withDefaults())
		if reply, _ := d.answer(b); reply != nil && reply.OpCode != dhcpv4.OpcodeBootReply {
			t.Errorf("%x is answered with %v", b, reply)
		}
	})
}

func FuzzReadFrames(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x03abc\x00\x00\x00\x00\x00\x00\x00\x01d"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var back []byte
		err := readFrames(bytes.NewReader(b), func(frame []byte) {
			back = append(binary.BigEndian.AppendUint32(back, uint32(len(frame))), frame...)
		})
		if !bytes.HasPrefix(b, back) || err == nil && len(back) != len(b) {
			t.Errorf("%x was read as %x: %v", b, back, err)
		}
	})
}

// FuzzFrame throws frames at the home from a box's port.
func FuzzFrame(f *testing.F) {
	home, err := NewHome(Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { home.Close() })
	box := home.LAN.Plug("box", func([]byte, bool) {})
	router := macOf("router LAN")
	f.Add(Advertisement{Prefixes: []netip.Prefix{home.opts.LAN6}}.frame(router))
	solicitation := Advertisement{}.frame(MAC{2, 0, 0, 0, 0, 1})
	solicitation[etherHeader+40] = icmpRouterSolicitation
	f.Add(solicitation)
	f.Add(packet4("192.168.77.10", "203.0.113.10", 64))
	f.Add(packet6("2001:db8:77::10", "2001:db8:ffff::10", 64))
	f.Add(append(router[:], "\x02\x00\x00\x00\x00\x01\x08\x06"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if isRouterSolicitation(b) && len(b) < 62 {
			t.Errorf("%x is no router solicitation", b)
		}
		box.Send(bytes.Clone(b))
		if len(b) >= etherHeader {
			b = bytes.Clone(b)
			copy(b, router[:])
			box.Send(b)
		}
	})
}
