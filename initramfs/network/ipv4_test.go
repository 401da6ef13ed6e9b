package network

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fogwright/fogwright/initramfs/network/dhcp4"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inKernel lists the IPv4 addresses and routes of eth0.
func inKernel(t *testing.T, l netlink.Link) []string {
	t.Helper()
	var out []string
	addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		out = append(out, prefixOf(a.IPNet).String())
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{LinkIndex: l.Attrs().Index}, netlink.RT_FILTER_OIF)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		is := routeOf(r)
		out = append(out, fmt.Sprintf("%s via %s by %s", is.to, is.gw, r.Protocol))
	}
	slices.Sort(out)
	return out
}

// TestApplyIPv4 puts leases into force one after the other, each twice.
func TestApplyIPv4(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	newHome(t)
	l, err := netlink.LinkByName("eth0")
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	// A route that is not ours is never touched.
	if err == nil {
		err = netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK,
			Protocol: unix.RTPROT_STATIC, Dst: ipNet(netip.MustParsePrefix("198.51.100.0/24"))})
	}
	if err != nil {
		t.Fatal(err)
	}
	const foreign = "198.51.100.0/24 via 0.0.0.0 by static"
	route := func(to, via string) dhcp4.Route {
		return dhcp4.Route{To: netip.MustParsePrefix(to), Gateway: netip.MustParseAddr(via)}
	}
	now := time.Now()
	lease := func(addr string, left time.Duration, routes ...dhcp4.Route) *dhcp4.Lease {
		l := &dhcp4.Lease{Address: netip.MustParsePrefix(addr), Routes: routes}
		if left > 0 {
			l.Expires = now.Add(left)
		}
		return l
	}
	tests := []struct {
		name  string
		lease *dhcp4.Lease
		want  []string
	}{
		{"first", lease("192.0.2.9/24", time.Hour, route("0.0.0.0/0", "192.0.2.1")),
			[]string{"0.0.0.0/0 via 192.0.2.1 by dhcp", "192.0.2.0/24 via 0.0.0.0 by kernel", "192.0.2.9/24", foreign}},
		{"another gateway and routes", lease("192.0.2.9/24", time.Hour, route("0.0.0.0/0", "192.0.2.2"), route("10.0.0.0/8", "192.0.2.3"), route("192.0.2.0/24", "0.0.0.0")),
			[]string{"0.0.0.0/0 via 192.0.2.2 by dhcp", "10.0.0.0/8 via 192.0.2.3 by dhcp", "192.0.2.0/24 via 0.0.0.0 by kernel", "192.0.2.9/24", foreign}},
		{"another address, for ever, gateway outside of the subnet", lease("203.0.113.5/32", 0, route("0.0.0.0/0", "203.0.113.1")),
			[]string{"0.0.0.0/0 via 203.0.113.1 by dhcp", foreign, "203.0.113.5/32"}},
		// With the last address of a link the kernel removes all of its routes.
		{"none", nil, nil},
	}
	for _, tt := range tests {
		for i := range 2 {
			if err := applyIPv4(l, tt.lease, now); err != nil {
				t.Errorf("%s, time %d: %v", tt.name, i+1, err)
			}
			if diff := cmp.Diff(tt.want, inKernel(t, l)); diff != "" {
				t.Errorf("%s, time %d (-want +got):\n%s", tt.name, i+1, diff)
			}
		}
	}
	t.Log("without netd, the kernel lets the address go when the lease ends")
	if err := applyIPv4(l, lease("192.0.2.9/24", time.Second), now); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the address gone", func() bool { return !slices.Contains(inKernel(t, l), "192.0.2.9/24") })
}
