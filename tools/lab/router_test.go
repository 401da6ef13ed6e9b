package lab

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/beevik/ntp"
	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

func TestDHCPAnswers(t *testing.T) {
	self := netip.MustParseAddr("192.168.77.1")
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	message := func(kind dhcpv4.MessageType, more ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
		m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(mac), dhcpv4.WithMessageType(kind)}, more...)...)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	ask := func(ip string) dhcpv4.Modifier {
		return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(ip)))
	}
	for _, c := range []struct {
		name string
		req  *dhcpv4.DHCPv4
		kind dhcpv4.MessageType // none: no answer
		to   string
	}{
		{"discover", message(dhcpv4.MessageTypeDiscover), dhcpv4.MessageTypeOffer, "255.255.255.255:68"},
		{"its address", message(dhcpv4.MessageTypeRequest, ask("192.168.77.100")), dhcpv4.MessageTypeAck, "255.255.255.255:68"},
		{"renewal", message(dhcpv4.MessageTypeRequest, dhcpv4.WithClientIP(net.IPv4(192, 168, 77, 100))), dhcpv4.MessageTypeAck, "192.168.77.100:68"},
		{"another home's address", message(dhcpv4.MessageTypeRequest, ask("10.0.0.7")), dhcpv4.MessageTypeNak, "255.255.255.255:68"},
		{"another server's client", message(dhcpv4.MessageTypeRequest, ask("192.168.77.100"),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 168, 77, 2)))), dhcpv4.MessageTypeNone, ""},
		{"inform", message(dhcpv4.MessageTypeInform, dhcpv4.WithClientIP(net.IPv4(192, 168, 77, 9))), dhcpv4.MessageTypeAck, "192.168.77.9:68"},
		{"release", message(dhcpv4.MessageTypeRelease), dhcpv4.MessageTypeNone, ""},
		{"reply", message(dhcpv4.MessageTypeOffer, dhcpv4.WithReply(message(dhcpv4.MessageTypeDiscover))), dhcpv4.MessageTypeNone, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDHCPServer(self, Options{}.withDefaults())
			got, to := d.answer(c.req.ToBytes())
			if got == nil || c.kind == dhcpv4.MessageTypeNone {
				if got != nil || c.kind != dhcpv4.MessageTypeNone {
					t.Fatalf("got %v, want %v", got, c.kind)
				}
				return
			}
			if got.MessageType() != c.kind || to.String() != c.to {
				t.Errorf("got %v to %v, want %v to %s", got.MessageType(), to, c.kind, c.to)
			}
		})
	}
	t.Run("full", func(t *testing.T) {
		d := newDHCPServer(self, Options{}.withDefaults())
		for i := range 200 {
			mac[5] = byte(i)
			got, _ := d.answer(message(dhcpv4.MessageTypeDiscover).ToBytes())
			if want := i <= lastLease-firstLease; (got != nil) != want {
				t.Fatalf("device %d: offer %v, want one: %v", i, got != nil, want)
			}
		}
	})
}

func TestDNS(t *testing.T) {
	home := newHome(t, Options{})
	home.Internet.Name("both.example", originAddrs...)
	home.Internet.Name("four.example", originAddrs[0])
	home.Internet.Name("none.example")
	for _, via := range []netip.Addr{home.Router.LAN4(), home.Router.LAN6()} {
		for _, proto := range []string{"udp", "tcp"} {
			r := net.Resolver{PreferGo: true, StrictErrors: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				c, err := home.Dial(ctx, proto, netip.AddrPortFrom(via, 53).String())
				if proto == "udp" && err == nil {
					return datagrams{c, c.(net.PacketConn)}, nil
				}
				return c, err
			}}
			for _, c := range []struct {
				network, name string
				want          []netip.Addr
				missing       bool
			}{
				{"ip", "Both.Example.", originAddrs, false},
				{"ip4", "both.example.", originAddrs[:1], false},
				{"ip6", "both.example.", originAddrs[1:], false},
				{"ip6", "four.example.", nil, true},
				{"ip", "none.example.", nil, true},
				{"ip", "unknown.example.", nil, true},
			} {
				got, err := r.LookupNetIP(patience(t), c.network, c.name)
				var dns *net.DNSError
				if (err != nil) != c.missing || c.missing && (!errors.As(err, &dns) || !dns.IsNotFound) {
					t.Errorf("%v %s: %s %s: %v", via, proto, c.network, c.name, err)
				}
				if diff := cmp.Diff(c.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a.Unmap() == b.Unmap() })); diff != "" {
					t.Errorf("%v %s: %s %s (-want +got):\n%s", via, proto, c.network, c.name, diff)
				}
			}
		}
	}
}

// datagrams tells Go's resolver that a connection is UDP, which it sees by the
// type.
type datagrams struct {
	net.Conn
	net.PacketConn
}

func (d datagrams) Close() error                       { return d.Conn.Close() }
func (d datagrams) LocalAddr() net.Addr                { return d.Conn.LocalAddr() }
func (d datagrams) SetDeadline(t time.Time) error      { return d.Conn.SetDeadline(t) }
func (d datagrams) SetReadDeadline(t time.Time) error  { return d.Conn.SetReadDeadline(t) }
func (d datagrams) SetWriteDeadline(t time.Time) error { return d.Conn.SetWriteDeadline(t) }

func TestNTP(t *testing.T) {
	home := newHome(t, Options{})
	want := time.Date(2031, 2, 3, 4, 5, 6, 789e6, time.UTC)
	if _, err := home.Internet.NTP("time.example", func() time.Time { return want }, originAddrs...); err != nil {
		t.Fatal(err)
	}
	for _, a := range originAddrs {
		r, err := ntp.QueryWithOptions(netip.AddrPortFrom(a, 123).String(), ntp.QueryOptions{
			Dialer: func(_, remote string) (net.Conn, error) { return home.Dial(t.Context(), "udp", remote) },
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Validate(); err != nil {
			t.Errorf("%v: %v", a, err)
		}
		if diff := r.Time.Sub(want).Abs(); diff > time.Microsecond {
			t.Errorf("%v says %v, want %v", a, r.Time, want)
		}
	}
}

func TestRouterHasNoBackDoor(t *testing.T) {
	var log bytes.Buffer
	home := newHome(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := home.Dial(ctx, "tcp", netip.AddrPortFrom(home.Router.LAN4(), 80).String())
	if err == nil {
		c.Close()
		t.Error("something answers on the router's port 80")
	} else if !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v, want a refusal", err)
	}
}

// A long conversation in small pieces: a DNS client that sends two queries in one
// TCP connection gets both answers.
func TestDNSOverOneConnection(t *testing.T) {
	home := newHome(t, Options{})
	home.Internet.Name("a.example", originAddrs...)
	c, err := home.Dial(patience(t), "tcp", netip.AddrPortFrom(home.Router.LAN4(), 53).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	q := dnsQuery("a.example.")
	for range 2 {
		if _, err := c.Write(append([]byte{0, byte(len(q))}, q...)); err != nil {
			t.Fatal(err)
		}
		var n [2]byte
		if _, err := io.ReadFull(c, n[:]); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, c, int64(n[0])<<8|int64(n[1])); err != nil {
			t.Fatal(err)
		}
	}
}
