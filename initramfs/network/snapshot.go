package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fogwright/fogwright/initramfs/state"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// maxListed bounds what is published of one link. The kernel itself stops at 16
// addresses made from advertisements (ip-sysctl, max_addresses) but not at any
// number of routes.
const maxListed = 64

// describe reads a link's addresses, gateways and on-link prefixes out of the
// kernel: what is in force there is the truth, whoever set it.
func describe(l netlink.Link) (state.Link, error) {
	a := l.Attrs()
	s := state.Link{Name: a.Name, MAC: a.HardwareAddr.String(), MTU: a.MTU, Carrier: hasCarrier(l)}
	addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return s, fmt.Errorf("listing addresses of %s: %w", a.Name, err)
	}
	for _, addr := range addrs {
		if source := sourceOf(addr); source != "" && len(s.Addresses) < maxListed {
			s.Addresses = append(s.Addresses, state.Address{CIDR: prefixOf(addr.IPNet).String(), Source: source})
		}
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL,
		&netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return s, fmt.Errorf("listing routes of %s: %w", a.Name, err)
	}
	for _, r := range routes {
		addRoute(&s, r, a.Index)
	}
	slices.SortFunc(s.Addresses, func(a, b state.Address) int { return strings.Compare(a.CIDR, b.CIDR) })
	slices.Sort(s.Gateways)
	slices.Sort(s.Prefixes)
	s.Gateways, s.Prefixes = slices.Compact(s.Gateways), slices.Compact(s.Prefixes)
	return s, nil
}

// sourceOf says where an address came from, or "" for one that cannot be used.
func sourceOf(a netlink.Addr) string {
	tentative := a.Flags&unix.IFA_F_TENTATIVE != 0 && a.Flags&unix.IFA_F_OPTIMISTIC == 0
	addr := prefixOf(a.IPNet).Addr()
	switch {
	case a.Flags&unix.IFA_F_DADFAILED != 0 || tentative:
		return ""
	case addr.IsLinkLocalUnicast():
		return "link-local"
	case addr.Is4():
		return "dhcp"
	}
	return "ra"
}

// addRoute sorts one route of the main table into the link's gateways or
// prefixes, if it is the link's at all.
func addRoute(s *state.Link, r netlink.Route, index int) {
	if r.Type != unix.RTN_UNICAST || (r.Dst == nil && r.Gw == nil && len(r.MultiPath) == 0) {
		return
	}
	to := netip.Prefix{}
	if r.Dst != nil {
		to = prefixOf(r.Dst)
	}
	isDefault := r.Dst == nil || to.Bits() == 0
	hops := []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw}}
	if len(r.MultiPath) > 0 {
		hops = r.MultiPath
	}
	for _, hop := range hops {
		gw, ok := netip.AddrFromSlice(hop.Gw)
		switch {
		case hop.LinkIndex != index:
		case isDefault && ok && len(s.Gateways) < maxListed:
			s.Gateways = append(s.Gateways, gw.Unmap().String())
		case !isDefault && !ok && !to.Addr().IsMulticast() && !to.Addr().IsLinkLocalUnicast() && len(s.Prefixes) < maxListed:
			s.Prefixes = append(s.Prefixes, to.Masked().String())
		}
	}
}

// hasLinkLocal reports whether IPv6 on the link is ready to send.
func hasLinkLocal(l state.Link) bool {
	return slices.ContainsFunc(l.Addresses, func(a state.Address) bool {
		p, err := netip.ParsePrefix(a.CIDR)
		return err == nil && p.Addr().Is6() && p.Addr().IsLinkLocalUnicast()
	})
}

// online reports whether a link leads out: carrier, an address that is more than
// link-local, and a gateway of the same family.
func online(l state.Link) bool {
	if !l.Carrier {
		return false
	}
	for _, a := range l.Addresses {
		p, err := netip.ParsePrefix(a.CIDR)
		if err != nil || a.Source == "link-local" {
			continue
		}
		for _, g := range l.Gateways {
			if gw, err := netip.ParseAddr(g); err == nil && gw.Is4() == p.Addr().Is4() {
				return true
			}
		}
	}
	return false
}
