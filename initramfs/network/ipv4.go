package network

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/fogwright/fogwright/initramfs/network/dhcp4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Bounds of an MTU that a DHCP server may set. Below 1280 the kernel would switch
// IPv6 off on the link (RFC 8200, 5), and some routers send 576 for no reason.
const (
	minMTU = 1280
	maxMTU = 1500
)

// applyIPv4 makes the link's IPv4 configuration that of the lease, or removes it
// all when the lease is nil. What is right already is left alone, so it can be
// called at any time.
//
// The kernel is given the lease's life time as well: the address goes away in time
// even if netd does not live to see it.
func applyIPv4(link netlink.Link, lease *dhcp4.Lease, now time.Time) error {
	have, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("listing addresses of %s: %w", link.Attrs().Name, err)
	}
	var failed []error
	if lease != nil {
		if err := addAddress(link, have, lease, now); err != nil {
			return err
		}
		failed = append(failed, applyMTU(link, lease.MTU))
	}
	for _, a := range have {
		if lease == nil || prefixOf(a.IPNet) != lease.Address {
			if err := netlink.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				failed = append(failed, fmt.Errorf("removing %s from %s: %w", a.IPNet, link.Attrs().Name, err))
			}
		}
	}
	failed = append(failed, applyRoutes(link, lease))
	return errors.Join(failed...)
}

func addAddress(link netlink.Link, have []netlink.Addr, lease *dhcp4.Lease, now time.Time) error {
	want := &netlink.Addr{IPNet: ipNet(lease.Address)}
	if !lease.Expires.IsZero() {
		// int is 32 bits on arm; 68 years will do.
		left := int(min(max(lease.Expires.Sub(now)/time.Second, 1), math.MaxInt32))
		want.ValidLft, want.PreferedLft = left, left
	}
	for _, a := range have {
		const slack = 2 // seconds of rounding
		if prefixOf(a.IPNet) == lease.Address && (want.ValidLft == 0 && uint32(a.ValidLft) == math.MaxUint32 ||
			want.ValidLft > 0 && abs(a.ValidLft-want.ValidLft) <= slack) {
			return nil
		}
	}
	if err := netlink.AddrReplace(link, want); err != nil {
		return fmt.Errorf("giving %s to %s: %w", lease.Address, link.Attrs().Name, err)
	}
	return nil
}

func abs(n int) int { return max(n, -n) }

func applyMTU(link netlink.Link, mtu int) error {
	if mtu < minMTU || mtu > maxMTU || mtu == link.Attrs().MTU {
		return nil
	}
	if err := netlink.LinkSetMTU(link, mtu); err != nil {
		return fmt.Errorf("setting the MTU of %s to %d: %w", link.Attrs().Name, mtu, err)
	}
	return nil
}

// route is what is compared of a route.
type route struct {
	to netip.Prefix
	gw netip.Addr // unspecified: on the link
}

// applyRoutes makes the DHCP routes of the link those of the lease. Routes marked
// RTPROT_DHCP are ours; nobody else's are touched.
func applyRoutes(link netlink.Link, lease *dhcp4.Lease) error {
	index := link.Attrs().Index
	have, err := netlink.RouteListFiltered(netlink.FAMILY_V4,
		&netlink.Route{LinkIndex: index, Protocol: unix.RTPROT_DHCP, Table: unix.RT_TABLE_MAIN},
		netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("listing routes of %s: %w", link.Attrs().Name, err)
	}
	want := wantedRoutes(lease)
	var failed []error
	var there []route
	for _, r := range have {
		if is := routeOf(r); slices.Contains(want, is) && lease != nil && prefersSource(r, lease) {
			there = append(there, is)
		} else if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			failed = append(failed, fmt.Errorf("removing the route %s of %s: %w", is.to, link.Attrs().Name, err))
		}
	}
	for _, w := range want {
		if slices.Contains(there, w) {
			continue
		}
		r := &netlink.Route{
			LinkIndex: index, Protocol: unix.RTPROT_DHCP, Table: unix.RT_TABLE_MAIN,
			Dst: ipNet(w.to), Src: lease.Address.Addr().AsSlice(),
			// The older link wins where two lead out.
			Priority: 100 + index,
		}
		if w.gw.IsUnspecified() {
			r.Scope = netlink.SCOPE_LINK
		} else {
			r.Gw = w.gw.AsSlice()
			// A provider's gateway may lie outside of the subnet.
			r.Flags = int(netlink.FLAG_ONLINK)
		}
		if err := netlink.RouteReplace(r); err != nil {
			failed = append(failed, fmt.Errorf("adding the route %s via %s on %s: %w", w.to, w.gw, link.Attrs().Name, err))
		}
	}
	return errors.Join(failed...)
}

func wantedRoutes(lease *dhcp4.Lease) []route {
	if lease == nil {
		return nil
	}
	var out []route
	for _, r := range lease.Routes {
		is := route{r.To, r.Gateway}
		// The kernel makes the route to the address's own subnet.
		if r.To != lease.Address.Masked() && !slices.ContainsFunc(out, func(o route) bool { return o.to == is.to }) {
			out = append(out, is)
		}
	}
	return out
}

func prefersSource(r netlink.Route, lease *dhcp4.Lease) bool {
	return r.Src.Equal(lease.Address.Addr().AsSlice())
}

func routeOf(r netlink.Route) route {
	is := route{to: netip.PrefixFrom(netip.IPv4Unspecified(), 0), gw: netip.IPv4Unspecified()}
	if r.Dst != nil {
		is.to = prefixOf(r.Dst)
	}
	if gw, ok := netip.AddrFromSlice(r.Gw); ok {
		is.gw = gw.Unmap()
	}
	return is
}

func prefixOf(n *net.IPNet) netip.Prefix {
	a, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
