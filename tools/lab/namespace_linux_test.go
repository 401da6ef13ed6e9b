package lab

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// run runs a program in a namespace and gives its output.
func run(t *testing.T, n *Namespace, name string, args ...string) string {
	t.Helper()
	out, err := n.Command(patience(t), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// Linux itself judges the router: its stack takes the advertisement's prefix, its
// tools fetch by name over both families, and nmap finds who is there.
func TestLinuxInTheHome(t *testing.T) {
	t.Parallel()
	home := newHome(t, Options{ULA: netip.MustParsePrefix("fd77:7777:7777:7777::/64")})
	origin, err := home.Internet.Origin("origin.example", originAddrs, film)
	if err != nil {
		t.Fatal(err)
	}
	pc, err := home.Namespace("pc")
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range []string{"-4", "-6"} {
		out := run(t, pc, "sh", "-c", fmt.Sprintf("curl -sS %s --retry 3 --retry-connrefused %s/film.bin | sha256sum", family, origin.URL))
		if got := strings.Fields(out)[0]; got != film.SHA256() {
			t.Errorf("curl %s: SHA-256 %q, want %s", family, out, film.SHA256())
		}
	}
	t.Run("addresses by advertisement", func(t *testing.T) {
		var out string
		err := until(patience(t), func() bool {
			out = run(t, pc, "ip", "-6", "addr", "show", "dev", "lan0", "dynamic")
			return strings.Contains(out, "2001:db8:77:0:") && strings.Contains(out, "fd77:7777:7777:7777:")
		})
		if err != nil {
			t.Errorf("%v; addresses: %s", err, out)
		}
		route := run(t, pc, "ip", "-6", "route", "show", "proto", "ra", "default")
		if !strings.Contains(route, linkLocal(macOf("router LAN")).String()) {
			t.Errorf("default route is %q, want via the router's link-local address", route)
		}
	})
	t.Run("nmap", func(t *testing.T) {
		out := run(t, pc, "nmap", "-n", "-sS", "-Pn", "-p", "22,80,443", "-oG", "-", "203.0.113.10")
		if !strings.Contains(out, "80/open/tcp") || !strings.Contains(out, "22/closed/tcp") {
			t.Errorf("nmap of the origin: %s", out)
		}
		out = run(t, pc, "nmap", "-n", "-sn", home.opts.LAN4.Addr().String()+"/27")
		if !strings.Contains(out, home.Router.LAN4().String()) || !strings.Contains(out, nth(home.opts.LAN4, firstHost).String()) {
			t.Errorf("nmap of the LAN found neither router nor laptop: %s", out)
		}
	})
}
