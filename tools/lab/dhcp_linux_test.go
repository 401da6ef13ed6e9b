package lab

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// bare is a device without an address, as a DHCP client sees it: a packet
// connection of UDP port 68 right on a switch port.
type bare struct {
	net.PacketConn // for the methods that the client does not use
	mac            MAC
	port           *Port
	in             chan []byte
}

func newBare(sw *Switch, mac MAC) *bare {
	b := &bare{mac: mac, in: make(chan []byte, 16)}
	const udp = etherHeader + header.IPv4MinimumSize
	b.port = sw.Plug("client", func(f []byte, _ bool) {
		if len(f) > udp+8 && f[12] == 8 && f[13] == 0 && f[etherHeader+9] == 17 && f[udp+2] == 0 && f[udp+3] == 68 {
			b.in <- bytes.Clone(f[udp+8:])
		}
	})
	return b
}

func (b *bare) ReadFrom(p []byte) (int, net.Addr, error) {
	m, ok := <-b.in
	if !ok {
		return 0, nil, net.ErrClosed
	}
	return copy(p, m), &net.UDPAddr{IP: net.IPv4bcast, Port: 67}, nil
}

func (b *bare) WriteTo(p []byte, _ net.Addr) (int, error) {
	f := make([]byte, etherHeader+header.IPv4MinimumSize+8, 1600)
	copy(f, everyone[:])
	copy(f[6:], b.mac[:])
	f[12] = 8
	ip := header.IPv4(f[etherHeader:])
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(28 + len(p)), TTL: 64, Protocol: 17, DstAddr: header.IPv4Broadcast})
	ip.SetChecksum(^ip.CalculateChecksum())
	header.UDP(ip.Payload()[:8]).Encode(&header.UDPFields{SrcPort: 68, DstPort: 67, Length: uint16(8 + len(p))})
	b.port.Send(append(f, p...))
	return len(p), nil
}

func (b *bare) SetReadDeadline(time.Time) error { return nil }

func (b *bare) Close() error {
	b.port.Unplug()
	close(b.in)
	return nil
}

// takeLease gets an address for a new device, by somebody else's DHCP client.
func takeLease(t *testing.T, home *Home, mac MAC) *nclient4.Lease {
	t.Helper()
	c, err := nclient4.NewWithConn(newBare(home.LAN, mac), mac[:])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l, err := c.Request(patience(t))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestDHCP(t *testing.T) {
	home := newHome(t, Options{Lease: 90 * time.Second})
	a, b := MAC{2, 0, 0, 0, 0, 1}, MAC{2, 0, 0, 0, 0, 2}
	if got, ok := home.Router.Lease(a); ok {
		t.Errorf("a device that never asked has %v", got)
	}
	for _, c := range []struct {
		mac  MAC
		want string
	}{{a, "192.168.77.100"}, {b, "192.168.77.101"}, {a, "192.168.77.100"}} {
		l := takeLease(t, home, c.mac)
		if got := l.ACK.YourIPAddr.String(); got != c.want {
			t.Errorf("%v got %s, want %s", c.mac, got, c.want)
		}
		if got := l.ACK.IPAddressLeaseTime(0); got != 90*time.Second {
			t.Errorf("lease of %v, want 90 s", got)
		}
		if got, ok := home.Router.Lease(c.mac); !ok || got.String() != c.want {
			t.Errorf("the router says %v, %v; want %s", got, ok, c.want)
		}
	}
}
