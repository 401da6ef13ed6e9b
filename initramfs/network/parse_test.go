package network

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

var sameAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// userOption makes the body of an RTM_NEWNDUSEROPT message around options.
func userOption(index int, options ...byte) []byte {
	b := make([]byte, 16, 16+len(options))
	b[0], b[8] = unix.AF_INET6, routerAdvertisement
	binary.NativeEndian.PutUint16(b[2:], uint16(len(options)))
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	return append(b, options...)
}

// rdnssOption is RFC 8106, 5.1.
func rdnssOption(lifetime uint32, servers ...string) []byte {
	b := []byte{optRDNSS, byte(1 + 2*len(servers)), 0, 0}
	b = binary.BigEndian.AppendUint32(b, lifetime)
	for _, s := range servers {
		a := netip.MustParseAddr(s).As16()
		b = append(b, a[:]...)
	}
	return b
}

func TestParseUserOptions(t *testing.T) {
	two := rdnssOption(600, "2001:db8::53", "fe80::1")
	tests := []struct {
		name string
		in   []byte
		want []rdnss
		ok   bool
	}{
		{"two servers", userOption(3, two...), []rdnss{{3, 600 * time.Second, []netip.Addr{netip.MustParseAddr("2001:db8::53"), netip.MustParseAddr("fe80::1")}}}, true},
		{"behind another option", userOption(3, append([]byte{31, 1, 0, 0, 0, 0, 0, 0}, two...)...), []rdnss{{3, 600 * time.Second, []netip.Addr{netip.MustParseAddr("2001:db8::53"), netip.MustParseAddr("fe80::1")}}}, true},
		{"no server that can be one", userOption(3, rdnssOption(600, "ff02::1", "::", "::1", "::ffff:10.0.0.1")...), []rdnss{{3, 600 * time.Second, nil}}, true},
		{"length zero", userOption(3, 25, 0, 0, 0, 0, 0, 0, 0), nil, false},
		{"cut off", userOption(3, two[:20]...), nil, false},
		{"no server at all", userOption(3, 25, 1, 0, 0, 0, 0, 2, 88), nil, true},
		{"half a server", userOption(3, append([]byte{25, 2, 0, 0, 0, 0, 2, 88}, make([]byte, 8)...)...), nil, true},
		{"says more than it has", func() []byte { b := userOption(3, two...); return b[:len(b)-8] }(), nil, false},
		{"IPv4", func() []byte { b := userOption(3, two...); b[0] = unix.AF_INET; return b }(), nil, true},
		{"short", []byte{10}, nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseUserOptions(tt.in)
			if diff := cmp.Diff(tt.want, got, sameAddr, cmp.AllowUnexported(rdnss{})); diff != "" || (err == nil) != tt.ok {
				t.Errorf("error %v, want ok %v; (-want +got):\n%s", err, tt.ok, diff)
			}
		})
	}
}

func TestResolverList(t *testing.T) {
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	a, b := netip.MustParseAddr("2001:db8::a"), netip.MustParseAddr("2001:db8::b")
	var l resolverList
	has := func(at time.Duration, wantNext time.Duration, want ...netip.Addr) {
		t.Helper()
		got, next := l.current(now.Add(at))
		if diff := cmp.Diff(want, got, sameAddr); diff != "" {
			t.Errorf("after %s (-want +got):\n%s", at, diff)
		}
		if wantNext == 0 && !next.IsZero() || wantNext != 0 && !next.Equal(now.Add(wantNext)) {
			t.Errorf("after %s: next expiry %s, want %s", at, next, wantNext)
		}
	}
	l.add(now, rdnss{lifetime: time.Minute, servers: []netip.Addr{a}})
	l.add(now, rdnss{lifetime: infinite, servers: []netip.Addr{b}})
	has(0, time.Minute, a, b)
	l.add(now.Add(30*time.Second), rdnss{lifetime: time.Minute, servers: []netip.Addr{a}})
	has(70*time.Second, 90*time.Second, a, b)
	has(90*time.Second, 0, b)
	l.add(now, rdnss{lifetime: 0, servers: []netip.Addr{a, b}})
	has(0, 0)
	for i := range 100 { // a flood of forged advertisements
		l.add(now, rdnss{lifetime: infinite, servers: []netip.Addr{netip.AddrFrom16([16]byte{0x20, 1, 15: byte(i)})}})
	}
	if got, _ := l.current(now); len(got) != maxRDNSS {
		t.Errorf("remembers %d resolvers, want %d", len(got), maxRDNSS)
	}
}

func TestParsePersisted(t *testing.T) {
	for in, ok := range map[string]bool{
		"192.0.2.9\n": true, "192.0.2.9": true, "": false, "0.0.0.0": false, "127.0.0.1": false, "224.0.0.1": false,
		"2001:db8::1": false, "fe80::1%eth0": false, "192.0.2.9 or so": false,
	} {
		if a, err := parseAddress([]byte(in)); (err == nil) != ok || a.IsValid() != ok {
			t.Errorf("address %q: %v, %v; want ok %v", in, a, err, ok)
		}
	}
	for in, ok := range map[string]bool{
		"80::1\n": true, newSecret().String(): true, "": false, "::": false, "1.2.3.4": false, "::ffff:1.2.3.4": false,
		"fe80::1%eth0": false,
	} {
		if _, err := parseSecret([]byte(in)); (err == nil) != ok {
			t.Errorf("secret %q: %v; want ok %v", in, err, ok)
		}
	}
}

func FuzzUserOptions(f *testing.F) {
	f.Add(userOption(3, rdnssOption(600, "2001:db8::53")...))
	f.Add(userOption(3, rdnssOption(0, "2001:db8::53", "fe80::1")...))
	f.Add(userOption(3, 25, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		options, _ := parseUserOptions(b)
		var l resolverList
		for _, o := range options {
			for _, s := range o.servers {
				if !s.Is6() || s.IsMulticast() || s.IsUnspecified() {
					t.Fatalf("took %s for a resolver", s)
				}
			}
			l.add(time.Unix(0, 0), o)
		}
		if got, _ := l.current(time.Unix(0, 0)); len(got) > maxRDNSS {
			t.Fatalf("%d resolvers", len(got))
		}
		parseNews(b)
	})
}

func FuzzPersisted(f *testing.F) {
	f.Add([]byte("192.0.2.9\n"))
	f.Add([]byte("8000::1\n"))
	f.Add([]byte("fe80::1%eth0"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := parseAddress(b); err == nil && !a.Is4() {
			t.Fatalf("%q gives the address %s", b, a)
		}
		if s, err := parseSecret(b); err == nil {
			again, err := parseSecret([]byte(s.StringExpanded()))
			if err != nil || again != s {
				t.Fatalf("%q gives %s, then %s, %v", b, s, again, err)
			}
		}
	})
}
