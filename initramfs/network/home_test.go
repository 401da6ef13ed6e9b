package network

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fogwright/fogwright/initramfs/state"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
)

func hasAddress(n state.Network, source string, in string) bool {
	return addressIn(n, source, in).IsValid()
}

// addressIn finds an address of the given source inside a prefix.
func addressIn(n state.Network, source string, in string) netip.Prefix {
	for _, l := range n.Links {
		for _, a := range l.Addresses {
			p, err := netip.ParsePrefix(a.CIDR)
			if err == nil && a.Source == source && netip.MustParsePrefix(in).Contains(p.Addr()) {
				return p
			}
		}
	}
	return netip.Prefix{}
}

// eventually waits for ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never saw %s", what)
}

// noOpenPort fails when this network namespace has a UDP or TCP socket that is
// not connected to one peer.
func noOpenPort(t *testing.T) {
	t.Helper()
	for _, table := range []string{"udp", "udp6", "udplite", "udplite6", "tcp", "tcp6"} {
		b, err := os.ReadFile("/proc/thread-self/net/" + table) // /proc/net may show the home: it follows the main thread
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(b), "\n")[1:] {
			if f := strings.Fields(line); len(f) > 2 && strings.HasSuffix(f[2], ":0000") {
				t.Errorf("%s: an open port: %s", table, line)
			}
		}
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// pool is dnsmasq's usual range of addresses.
const pool = "--dhcp-range=192.168.77.50,192.168.77.99,10m"

// TestHome is the story of a box in a home with a real router (dnsmasq).
func TestHome(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	h := newHome(t)
	router := h.dnsmasq("--enable-ra", "--ra-param=lan0,5", "--dhcp-range=2001:db8:77::,ra-only,10m",
		"--dhcp-option=option6:dns-server,[2001:db8:77::1],[fe80::1]", "--dhcp-option=option:mtu,1400",
		// Not the built-in names: Go looks names up for seconds after their asker has gone.
		"--dhcp-option=option:ntp-server,192.168.77.1",
		pool, "--dhcp-option-force=121,10.9.0.0/16,192.168.77.9,0.0.0.0/0,192.168.77.1")
	b := newBox(t, "hostname = \"attic\"\n")
	before := goleak.IgnoreCurrent()
	b.run()
	b.storage()
	n := b.until("both addresses and resolvers", func(n state.Network) bool {
		return n.Online && hasAddress(n, "dhcp", "192.168.77.0/24") && hasAddress(n, "ra", "2001:db8:77::/64") && len(n.Resolvers) == 3
	})
	v4, v6 := addressIn(n, "dhcp", "192.168.77.0/24"), addressIn(n, "ra", "2001:db8:77::/64")
	l := n.Links[0]
	if n.Hostname != "attic" || l.MTU != 1400 || l.Lease == nil || l.Lease.Server != "192.168.77.1" || len(l.Gateways) != 2 {
		t.Errorf("network.json: %+v lease %+v", n, l.Lease)
	}
	for _, want := range []string{"192.168.77.0/24", "10.9.0.0/16", "2001:db8:77::/64"} {
		if on := want != "10.9.0.0/16"; strings.Contains(strings.Join(l.Prefixes, " "), want) != on {
			t.Errorf("on-link prefix %s should be %v, have %v", want, on, l.Prefixes)
		}
	}
	conf := content(t, b.cfg.ResolvConf)
	for _, want := range []string{"nameserver 192.168.77.1\n", "nameserver 2001:db8:77::1\n", "nameserver fe80::1%eth0\n"} {
		if !strings.Contains(conf, want) {
			t.Errorf("resolv.conf has no %q:\n%s", want, conf)
		}
	}
	if !strings.Contains(router.String(), "client provides name: attic") {
		t.Error("the router did not hear the host name")
	}
	noOpenPort(t)

	kernelHas(t, v4)

	t.Log("the cable is pulled and put back: the address is verified, not searched for")
	requests := func() int { return strings.Count(router.String(), "DHCPREQUEST(lan0)") }
	had := requests()
	h.ip("link set port0 down")
	b.until("offline", func(n state.Network) bool { return !n.Online })
	h.ip("link set port0 up")
	eventually(t, "a verification", func() bool { return requests() > had })
	n = b.until("online again", func(n state.Network) bool { return n.Online })
	if got := addressIn(n, "dhcp", "192.168.77.0/24"); got != v4 {
		t.Errorf("after the cable: %s, before: %s", got, v4)
	}
	noOpenPort(t)

	t.Log("netd is restarted: the addresses stay, and the resolvers are learned again")
	b.end()
	if got := content(t, filepath.Join(b.dir, "state/network/dhcp4-020000abcdef")); got != v4.Addr().String()+"\n" {
		t.Errorf("remembered address %q, want %s", got, v4.Addr())
	}
	kernelHas(t, v4)
	os.Remove(filepath.Join(b.cfg.StateDir, state.NetworkFile))
	b.run()
	n = b.until("everything as before", func(n state.Network) bool {
		return n.Online && len(n.Resolvers) == 3 && n.Links[0].Lease != nil && hasAddress(n, "ra", "2001:db8:77::/64")
	})
	if a, c := addressIn(n, "dhcp", "192.168.77.0/24"), addressIn(n, "ra", "2001:db8:77::/64"); a != v4 || c != v6 {
		t.Errorf("after the restart: %s %s, before: %s %s", a, c, v4, v6)
	}
	// A switch may need longer to pass traffic again than the box's patience.
	if got := strings.Count(router.String(), "DHCPDISCOVER(lan0)"); got > 2 {
		t.Errorf("the box searched %d times", got)
	}

	t.Log("the link vanishes")
	b.deleteLink()
	n = b.until("no link", func(n state.Network) bool { return len(n.Links) == 0 })
	if n.Online || len(n.Resolvers) != 0 {
		t.Errorf("without a link: %+v", n)
	}
	b.end()
	goleak.VerifyNone(t, before)
}

func kernelHas(t *testing.T, want netip.Prefix) {
	t.Helper()
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	have, err := netlink.AddrList(l, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	if len(have) != 1 || prefixOf(have[0].IPNet) != want || have[0].ValidLft > 600 || have[0].ValidLft <= 0 {
		t.Errorf("kernel has %v (valid for %d s), want only %s for at most 600 s", have, have[0].ValidLft, want)
	}
}

func (b *box) deleteLink() {
	b.t.Helper()
	l, err := netlink.LinkByName("eth0")
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// TestMovedBox: the address of the last boot belongs to another network.
func TestMovedBox(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	h := newHome(t)
	router := h.dnsmasq(pool)
	b := newBox(t, "")
	dir := filepath.Join(b.dir, "state/network")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "dhcp4-020000abcdef"), []byte("10.1.2.3\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.storage()
	b.run()
	n := b.until("an address of this network", func(n state.Network) bool { return n.Online && hasAddress(n, "dhcp", "192.168.77.0/24") })
	if n.Hostname != "fogwright-abcdef" {
		t.Errorf("host name %q", n.Hostname)
	}
	if !strings.Contains(router.String(), "DHCPNAK(lan0) 10.1.2.3") {
		t.Error("the box did not try its last address first")
	}
}

// TestTakenAddress: a neighbour without DHCP has the address that is offered.
func TestTakenAddress(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	h := newHome(t)
	h.ip("addr add 192.168.77.50/32 dev lo")
	router := h.dnsmasq("--dhcp-range=192.168.77.50,192.168.77.50,10m")
	b := newBox(t, "")
	b.storage()
	b.run()
	eventually(t, "a DHCPDECLINE", func() bool { return strings.Contains(router.String(), "DHCPDECLINE(lan0) 192.168.77.50") })
	var n state.Network
	if err := state.Read(b.cfg.StateDir, state.NetworkFile, &n); err != nil || hasAddress(n, "dhcp", "0.0.0.0/0") {
		t.Errorf("the box took an address that is taken: %+v %v", n, err)
	}
}
