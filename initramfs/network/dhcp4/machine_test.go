package dhcp4

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

var (
	testMAC = net.HardwareAddr{2, 0, 0, 1, 2, 3}
	epoch   = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
)

// story drives a machine with a clock of its own and notes what it does.
type story struct {
	t     *testing.T
	m     *Machine
	now   time.Time
	lines []string
	last  *dhcpv4.DHCPv4 // sent last
}

func newStory(t *testing.T, last string) *story {
	s := &story{t: t, now: epoch}
	var addr netip.Addr
	if last != "" {
		addr = netip.MustParseAddr(last)
	}
	s.m = NewMachine(testMAC, func() string { return "box" }, addr, rand.New(rand.NewPCG(1, 2)))
	return s
}

// note writes actions down in short words.
func (s *story) note(a Actions) {
	if a.Lost != "" {
		s.lines = append(s.lines, "lost: "+a.Lost)
	}
	if a.Bound != nil {
		s.lines = append(s.lines, "bound "+a.Bound.Address.String())
	}
	for _, p := range a.Send {
		s.last = p.Message
		line := strings.ToLower(p.Message.MessageType().String())
		if ip := p.Message.RequestedIPAddress(); ip != nil && !ip.IsUnspecified() {
			line += " want=" + ip.String()
		}
		if ip := p.Message.ServerIdentifier(); ip != nil && !ip.IsUnspecified() {
			line += " server=" + ip.String()
		}
		if ip := p.Message.ClientIPAddr; ip != nil && !ip.IsUnspecified() {
			line += " ciaddr=" + ip.String()
		}
		if p.Unicast {
			line += " unicast"
		}
		s.lines = append(s.lines, line)
	}
	if a.Probe.IsValid() {
		s.lines = append(s.lines, "probe "+a.Probe.String())
	}
}

func (s *story) pass(d time.Duration) {
	s.now = s.now.Add(d)
	s.note(s.m.Tick(s.now))
}

// next passes the time until the machine wants to be woken.
func (s *story) next() time.Duration {
	s.t.Helper()
	n := s.m.Next()
	if n.IsZero() {
		s.t.Fatalf("in %s the machine waits for nothing", s.m.State())
	}
	d := max(n.Sub(s.now), 0)
	s.pass(d)
	return d
}

// reply makes a server's answer to what was sent last.
func (s *story) reply(kind dhcpv4.MessageType, addr string, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	s.t.Helper()
	mods = append([]dhcpv4.Modifier{
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 0, 2, 1))),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithLeaseTime(3600),
		dhcpv4.WithOption(dhcpv4.OptRouter(net.IPv4(192, 0, 2, 1))),
	}, mods...)
	if addr != "" {
		mods = append(mods, dhcpv4.WithYourIP(net.ParseIP(addr)))
	}
	p, err := dhcpv4.NewReplyFromRequest(s.last, mods...)
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

func (s *story) server(kind dhcpv4.MessageType, addr string, mods ...dhcpv4.Modifier) {
	s.t.Helper()
	s.note(s.m.Handle(s.now, s.reply(kind, addr, mods...)))
}

func (s *story) is(state State, want ...string) {
	s.t.Helper()
	if diff := cmp.Diff(want, s.lines); diff != "" {
		s.t.Errorf("actions (-want +got):\n%s", diff)
	}
	if s.m.State() != state {
		s.t.Errorf("state %s, want %s", s.m.State(), state)
	}
	s.lines = nil
}

const (
	offer = dhcpv4.MessageTypeOffer
	ack   = dhcpv4.MessageTypeAck
	nak   = dhcpv4.MessageTypeNak
)

// bound brings a new machine to a lease of 192.0.2.9 for an hour.
func (s *story) bound() {
	s.t.Helper()
	s.note(s.m.Start(s.now))
	s.server(offer, "192.0.2.9")
	s.server(ack, "192.0.2.9")
	s.next()
	s.is(Bound, "discover", "request want=192.0.2.9 server=192.0.2.1", "probe 192.0.2.9", "bound 192.0.2.9/24")
}

func TestFirstLease(t *testing.T) {
	s := newStory(t, "")
	s.bound()
	if got := s.now.Sub(epoch); got != probeTime {
		t.Errorf("bound after %s, want %s", got, probeTime)
	}
	want := &Lease{
		Address: netip.MustParsePrefix("192.0.2.9/24"), Server: netip.MustParseAddr("192.0.2.1"),
		Routes: []Route{{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("192.0.2.1")}},
		Renew:  epoch.Add(30 * time.Minute), Rebind: epoch.Add(3150 * time.Second), Expires: epoch.Add(time.Hour),
	}
	if diff := cmp.Diff(want, s.m.lease, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("lease (-want +got):\n%s", diff)
	}
	if s.m.Listening() {
		t.Error("a bound client listens")
	}
}

func TestSlowServerNeedsNoMoreProbing(t *testing.T) {
	s := newStory(t, "")
	s.note(s.m.Start(s.now))
	s.server(offer, "192.0.2.9")
	s.pass(probeTime)
	s.lines = nil
	s.server(ack, "192.0.2.9")
	s.is(Bound, "bound 192.0.2.9/24")
}

func TestDiscoverIsRepeatedMoreAndMoreSlowly(t *testing.T) {
	s := newStory(t, "")
	s.note(s.m.Start(s.now))
	base := time.Second
	xid := s.last.TransactionID
	for range 12 {
		d := s.next()
		// RFC 2131, 4.1: plus or minus one second; a quarter below four seconds.
		by := min(base/4, time.Second)
		if d < base-by || d > base+by {
			t.Errorf("waited %s, want %s±%s", d, base, by)
		}
		base = min(2*base, maxRetry)
	}
	if s.last.TransactionID != xid {
		t.Error("a repeated DISCOVER has another transaction id")
	}
	if s.last.NumSeconds == 0 {
		t.Error("secs does not count")
	}
}

func TestRequestWithoutAnswerStartsOver(t *testing.T) {
	s := newStory(t, "")
	s.note(s.m.Start(s.now))
	s.server(offer, "192.0.2.9")
	for range requestTries {
		s.next()
	}
	r := "request want=192.0.2.9 server=192.0.2.1"
	s.is(Selecting, "discover", r, "probe 192.0.2.9", r, r, r, "discover want=192.0.2.9")
}

func TestReboot(t *testing.T) {
	t.Run("same network", func(t *testing.T) {
		s := newStory(t, "192.0.2.9")
		s.note(s.m.Start(s.now))
		s.server(ack, "192.0.2.9")
		s.next()
		s.is(Bound, "request want=192.0.2.9", "probe 192.0.2.9", "bound 192.0.2.9/24")
	})
	t.Run("another network", func(t *testing.T) {
		s := newStory(t, "10.0.0.9")
		s.note(s.m.Start(s.now))
		s.server(nak, "")
		s.is(Selecting, "request want=10.0.0.9", "probe 10.0.0.9", "discover")
	})
	t.Run("nobody answers", func(t *testing.T) {
		s := newStory(t, "10.0.0.9")
		s.note(s.m.Start(s.now))
		for range rebootTries {
			s.next()
		}
		s.is(Selecting, "request want=10.0.0.9", "probe 10.0.0.9", "request want=10.0.0.9", "discover want=10.0.0.9")
	})
	t.Run("cable back in, address in force", func(t *testing.T) {
		s := newStory(t, "")
		s.bound()
		s.m.Stop()
		s.pass(time.Minute)
		s.note(s.m.Start(s.now))
		s.server(ack, "192.0.2.9")
		s.is(Bound, "request want=192.0.2.9", "bound 192.0.2.9/24")
	})
	t.Run("cable back in, router silent: the address is kept while it is valid", func(t *testing.T) {
		s := newStory(t, "")
		s.bound()
		s.m.Stop()
		s.note(s.m.Start(s.now))
		for s.m.State() == Rebooting {
			s.next()
		}
		r := "request want=192.0.2.9"
		s.is(Selecting, r, r, r, r, "discover want=192.0.2.9")
		s.pass(time.Hour)
		s.is(Selecting, "lost: the lease expired")
	})
	t.Run("cable in another network: the old address goes when the new one comes", func(t *testing.T) {
		s := newStory(t, "")
		s.bound()
		s.m.Stop()
		s.note(s.m.Start(s.now))
		for s.m.State() == Rebooting {
			s.next()
		}
		s.lines = nil
		s.server(offer, "198.51.100.7")
		s.server(ack, "198.51.100.7")
		s.next()
		s.is(Bound, "request want=198.51.100.7 server=192.0.2.1", "probe 198.51.100.7", "bound 198.51.100.7/24")
	})
	t.Run("expired while the cable was out", func(t *testing.T) {
		s := newStory(t, "")
		s.bound()
		s.m.Stop()
		s.next()
		s.is(Stopped, "lost: the lease expired")
		if d := s.now.Sub(epoch); d != time.Hour {
			t.Errorf("lost after %s, want 1h", d)
		}
	})
}

func TestRenewRebindExpire(t *testing.T) {
	s := newStory(t, "")
	s.bound()
	s.next()
	if d := s.now.Sub(epoch); d < 25*time.Minute || d > 35*time.Minute {
		t.Errorf("renews after %s, want about 30m", d)
	}
	s.is(Renewing, "request ciaddr=192.0.2.9 unicast")
	for s.m.State() == Renewing {
		if d := s.next(); d < 0 {
			t.Fatal("time runs backwards")
		}
	}
	if d := s.now.Sub(epoch); d != 3150*time.Second {
		t.Errorf("rebinds after %s, want 52m30s", d)
	}
	if n := len(s.lines); n < 2 || n > 6 {
		t.Errorf("%d requests while renewing: %q", n, s.lines)
	}
	s.lines = nil
	for s.m.State() == Rebinding {
		s.next()
	}
	if d := s.now.Sub(epoch); d != time.Hour {
		t.Errorf("expired after %s, want 1h", d)
	}
	last := s.lines[len(s.lines)-2:]
	if diff := cmp.Diff([]string{"lost: the lease expired", "discover want=192.0.2.9"}, last); diff != "" {
		t.Error(diff)
	}
}

func TestRenewed(t *testing.T) {
	for _, state := range []State{Renewing, Rebinding} {
		s := newStory(t, "")
		s.bound()
		for s.m.State() != state {
			s.next()
		}
		s.lines = nil
		asked := s.m.asked
		s.server(ack, "192.0.2.9")
		s.is(Bound, "bound 192.0.2.9/24")
		if got := s.m.lease.Expires.Sub(asked); got != time.Hour {
			t.Errorf("%s: runs %s from the request, want 1h", state, got)
		}
	}
}

func TestRefusedRenewal(t *testing.T) {
	s := newStory(t, "")
	s.bound()
	s.next()
	s.lines = nil
	s.server(nak, "")
	s.is(Selecting, "lost: the server refused the address 192.0.2.9", "discover")
}

func TestServerThatOffersAndRefusesIsNotHammered(t *testing.T) {
	s := newStory(t, "")
	s.note(s.m.Start(s.now))
	sent := 0
	for s.now.Sub(epoch) < 10*time.Minute {
		switch s.m.State() {
		case Selecting:
			s.server(offer, "192.0.2.9")
		case Requesting:
			sent++
			s.server(nak, "")
		default:
			s.next()
		}
	}
	if sent > 20 {
		t.Errorf("%d requests in ten minutes", sent)
	}
}

func TestConflict(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.9")
	for name, early := range map[string]bool{"before the ack": true, "after the ack": false} {
		t.Run(name, func(t *testing.T) {
			s := newStory(t, "")
			s.note(s.m.Start(s.now))
			s.server(offer, "192.0.2.9")
			s.lines = nil
			if early {
				s.note(s.m.Conflict(s.now, addr))
			}
			s.server(ack, "192.0.2.9")
			if !early {
				s.note(s.m.Conflict(s.now, addr))
			}
			s.is(Waiting, "decline want=192.0.2.9 server=192.0.2.1")
			if d := s.next(); d < declinePause {
				t.Errorf("starts over after %s, want at least %s", d, declinePause)
			}
			s.is(Selecting, "discover")
		})
	}
	t.Run("too late", func(t *testing.T) {
		s := newStory(t, "")
		s.bound()
		s.note(s.m.Conflict(s.now, addr))
		s.is(Bound)
	})
}

func TestWhatIsNotForUsIsNotHeard(t *testing.T) {
	other := dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 0, 2, 66)))
	tests := []struct {
		name  string
		state State
		kind  dhcpv4.MessageType
		addr  string
		mods  []dhcpv4.Modifier
	}{
		{"wrong transaction", Selecting, offer, "192.0.2.9", []dhcpv4.Modifier{func(d *dhcpv4.DHCPv4) { d.TransactionID[0] ^= 1 }}},
		{"wrong hardware", Selecting, offer, "192.0.2.9", []dhcpv4.Modifier{dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 9, 9, 9})}},
		{"a request", Selecting, offer, "192.0.2.9", []dhcpv4.Modifier{func(d *dhcpv4.DHCPv4) { d.OpCode = dhcpv4.OpcodeBootRequest }}},
		{"offer without server", Selecting, offer, "192.0.2.9", []dhcpv4.Modifier{func(d *dhcpv4.DHCPv4) { d.DeleteOption(dhcpv4.OptionServerIdentifier) }}},
		{"offer of nothing", Selecting, offer, "0.0.0.0", nil},
		{"offer of loopback", Selecting, offer, "127.0.0.1", nil},
		{"offer of multicast", Selecting, offer, "224.0.0.1", nil},
		{"ack without request", Selecting, ack, "192.0.2.9", nil},
		{"nak without request", Selecting, nak, "", nil},
		{"ack of another server", Requesting, ack, "192.0.2.9", []dhcpv4.Modifier{other}},
		{"nak of another server", Requesting, nak, "", []dhcpv4.Modifier{other}},
		{"ack of another address", Requesting, ack, "192.0.2.10", nil},
		{"ack without a lease time", Requesting, ack, "192.0.2.9", []dhcpv4.Modifier{func(d *dhcpv4.DHCPv4) { d.DeleteOption(dhcpv4.OptionIPAddressLeaseTime) }}},
		{"ack with an impossible mask", Requesting, ack, "192.0.2.9", []dhcpv4.Modifier{dhcpv4.WithNetmask(net.IPv4Mask(255, 0, 255, 0))}},
		{"a second offer", Requesting, offer, "192.0.2.10", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStory(t, "")
			s.note(s.m.Start(s.now))
			if tt.state == Requesting {
				s.server(offer, "192.0.2.9")
			}
			s.lines = nil
			s.server(tt.kind, tt.addr, tt.mods...)
			s.is(tt.state)
		})
	}
}

func TestLease(t *testing.T) {
	duration := func(code dhcpv4.OptionCode, sec uint32) dhcpv4.Modifier {
		return dhcpv4.WithOption(dhcpv4.OptGeneric(code, []byte{byte(sec >> 24), byte(sec >> 16), byte(sec >> 8), byte(sec)}))
	}
	raw := func(code uint8, b ...byte) dhcpv4.Modifier {
		return dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(code), b))
	}
	tests := []struct {
		name string
		mods []dhcpv4.Modifier
		want string
	}{
		{"plain", nil, "192.0.2.9/24 via 192.0.2.1 T1=30m0s T2=52m30s 1h0m0s"},
		{"times of the server", []dhcpv4.Modifier{duration(dhcpv4.OptionRenewTimeValue, 60), duration(dhcpv4.OptionRebindingTimeValue, 120)},
			"192.0.2.9/24 via 192.0.2.1 T1=1m0s T2=2m0s 1h0m0s"},
		{"times out of order", []dhcpv4.Modifier{duration(dhcpv4.OptionRenewTimeValue, 4000), duration(dhcpv4.OptionRebindingTimeValue, 5000)},
			"192.0.2.9/24 via 192.0.2.1 T1=30m0s T2=52m30s 1h0m0s"},
		{"T2 before half", []dhcpv4.Modifier{duration(dhcpv4.OptionRebindingTimeValue, 60)},
			"192.0.2.9/24 via 192.0.2.1 T1=1m0s T2=1m0s 1h0m0s"},
		{"one second", []dhcpv4.Modifier{dhcpv4.WithLeaseTime(1)}, "192.0.2.9/24 via 192.0.2.1 T1=10s T2=17.5s 20s"},
		{"for ever", []dhcpv4.Modifier{dhcpv4.WithLeaseTime(0xffffffff)}, "192.0.2.9/24 via 192.0.2.1 for ever"},
		{"classless routes hide the router", []dhcpv4.Modifier{raw(121, 16, 10, 9, 192, 0, 2, 7, 0, 192, 0, 2, 2)},
			"192.0.2.9/24 10.9.0.0/16 via 192.0.2.7, via 192.0.2.2 T1=30m0s T2=52m30s 1h0m0s"},
		{"on-link route", []dhcpv4.Modifier{raw(121, 24, 198, 51, 100, 0, 0, 0, 0)},
			"192.0.2.9/24 198.51.100.0/24 via 0.0.0.0 T1=30m0s T2=52m30s 1h0m0s"},
		{"route to loopback", []dhcpv4.Modifier{raw(121, 8, 127, 192, 0, 2, 1)}, "192.0.2.9/24 via 192.0.2.1 T1=30m0s T2=52m30s 1h0m0s"},
		{"cut-off routes", []dhcpv4.Modifier{raw(121, 32, 10)}, "192.0.2.9/24 via 192.0.2.1 T1=30m0s T2=52m30s 1h0m0s"},
		{"no mask", []dhcpv4.Modifier{func(d *dhcpv4.DHCPv4) { d.DeleteOption(dhcpv4.OptionSubnetMask) }}, "192.0.2.9/24 via 192.0.2.1 T1=30m0s T2=52m30s 1h0m0s"},
		{"resolvers once, hosts only", []dhcpv4.Modifier{raw(6, 9, 9, 9, 9, 127, 0, 0, 53, 9, 9, 9, 9, 255, 255, 255, 255)},
			"192.0.2.9/24 via 192.0.2.1 dns=9.9.9.9 T1=30m0s T2=52m30s 1h0m0s"},
		{"mtu", []dhcpv4.Modifier{raw(26, 5, 0x78)}, "192.0.2.9/24 via 192.0.2.1 mtu=1400 T1=30m0s T2=52m30s 1h0m0s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStory(t, "")
			s.note(s.m.Start(s.now))
			s.server(offer, "192.0.2.9")
			l, err := newLease(s.reply(ack, "192.0.2.9", tt.mods...), epoch)
			if err != nil {
				t.Fatal(err)
			}
			if got := describe(l); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func describe(l *Lease) string {
	var routes []string
	for _, r := range l.Routes {
		to := r.To.String() + " "
		if r.To.Bits() == 0 {
			to = ""
		}
		routes = append(routes, to+"via "+r.Gateway.String())
	}
	s := l.Address.String() + " " + strings.Join(routes, ", ")
	for _, a := range l.DNS {
		s += " dns=" + a.String()
	}
	if l.MTU != 0 {
		s += fmt.Sprintf(" mtu=%d", l.MTU)
	}
	if l.Expires.IsZero() {
		return s + " for ever"
	}
	return s + fmt.Sprintf(" T1=%s T2=%s %s", l.Renew.Sub(epoch), l.Rebind.Sub(epoch), l.Expires.Sub(epoch))
}

// FuzzMachine lets arbitrary packets, time and cable pulls at the machine. Whatever
// comes, it sends no storm, keeps no expired lease and takes no impossible one.
func FuzzMachine(f *testing.F) {
	seed := newStory(&testing.T{}, "")
	seed.note(seed.m.Start(seed.now))
	f.Add(append([]byte{0}, seed.reply(offer, "192.0.2.9").ToBytes()...))
	f.Add(append([]byte{1}, seed.reply(ack, "192.0.2.9").ToBytes()...))
	f.Add(append([]byte{2}, seed.reply(nak, "").ToBytes()...))
	f.Add([]byte{7, 0, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) == 0 {
			return
		}
		s := newStory(t, "")
		s.note(s.m.Start(s.now))
		if in[0]&1 != 0 {
			s.server(offer, "192.0.2.9")
		}
		if in[0]&2 != 0 && s.m.State() == Requesting {
			s.server(ack, "192.0.2.9")
		}
		p, err := dhcpv4.FromBytes(in[1:])
		if err == nil {
			// A packet that could be meant for us is more interesting.
			p.TransactionID, p.ClientHWAddr, p.OpCode = s.m.xid, testMAC, dhcpv4.OpcodeBootReply
			s.note(s.m.Handle(s.now, p))
		}
		s.lines = nil
		for range 200 {
			n := s.m.Next()
			if n.IsZero() {
				break
			}
			s.pass(max(n.Sub(s.now), 0))
			if l := s.m.lease; l != nil && (!l.valid(s.now) || !isHost(l.Address.Addr()) || l.Address.Bits() == 0 || len(l.Routes) > maxList) {
				t.Fatalf("keeps the lease %+v at %s", l, s.now)
			}
		}
		// With the slowest retransmission of about a minute and a lease of at
		// least 20 s, 200 wake-ups cannot pass in no time.
		if !s.m.Next().IsZero() && s.now.Sub(epoch) < time.Minute {
			t.Fatalf("200 wake-ups in %s: %q", s.now.Sub(epoch), s.lines)
		}
		for _, line := range s.lines {
			if strings.Contains(line, "unicast") && !strings.Contains(line, "ciaddr") {
				t.Fatalf("unicast without an address: %s", line)
			}
		}
	})
}
