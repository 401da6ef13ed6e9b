package lab

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// configureLink brings an interface of this namespace up, with its addresses and
// gateways.
func configureLink(name string, c namespaceConfig) error {
	for _, up := range []string{"lo", name} {
		l, err := netlink.LinkByName(up)
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err != nil {
			return fmt.Errorf("bringing %s up: %w", up, err)
		}
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	for _, p := range c.Addresses {
		a := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD // usable at once
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			return fmt.Errorf("address %v on %s: %w", p, name, err)
		}
	}
	for _, g := range c.Gateways {
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: g.AsSlice()}); err != nil {
			return fmt.Errorf("gateway %v on %s: %w", g, name, err)
		}
	}
	return nil
}
