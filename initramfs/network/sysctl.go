package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// setting is one file below /proc/sys/net.
type setting struct{ path, value string }

// forLink are the settings of one link. NAME is the link's name; before any link
// is touched they are written for "default" and, where the kernel combines the
// two, for "all" (Documentation/networking/ip-sysctl.rst).
func forLink() []setting {
	const v4, v6 = "ipv4/conf/NAME/", "ipv6/conf/NAME/"
	return []setting{
		// Nobody on the link may tell the box a different way.
		{v4 + "accept_redirects", "0"},
		{v4 + "secure_redirects", "0"},
		{v4 + "send_redirects", "0"},
		{v4 + "accept_source_route", "0"},
		{v6 + "accept_redirects", "0"},
		{v6 + "accept_source_route", "-1"}, // 0 would still take type 2
		// Sources that a reply would not go back to are forged (RFC 3704).
		{v4 + "rp_filter", "1"},
		// Answer ARP only on the link that has the address, and never show one
		// link's address on another.
		{v4 + "arp_ignore", "1"},
		{v4 + "arp_announce", "2"},
		// 2: take router advertisements even once the box forwards for
		// workloads' networks, which would switch 1 off.
		{v6 + "accept_ra", "2"},
		{v6 + "autoconf", "1"},
		// RFC 7559 repeats router solicitations after 4 s and doubles that. The
		// first is often lost, like the first DHCPDISCOVER, so begin with 1 s.
		{v6 + "router_solicitation_interval", "1"},
		// No temporary addresses (RFC 8981): the box is a server whose address
		// its peers must find again, its stable address says nothing about its
		// hardware (RFC 7217, see identity.go), and each further address would
		// have to be watched by the isolation policy.
		{v6 + "use_tempaddr", "0"},
		// Use addresses while duplicate detection still runs (RFC 4429): it
		// takes a second, and with 64 random bits finds nothing.
		{v6 + "optimistic_dad", "1"},
		{v6 + "use_optimistic", "1"},
	}
}

// applySysctls writes the settings for one link, or for "default" or "all". Only
// what differs is written. A setting that this kernel does not have is left out.
func applySysctls(root, link string) error {
	var failed []error
	for _, s := range forLink() {
		if err := writeSysctl(root, strings.ReplaceAll(s.path, "NAME", link), s.value); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// writeSysctl sets one value below root (/proc/sys/net). A process that is not
// root may do so with CAP_NET_ADMIN: the kernel then grants it the owner's access
// (net_ctl_permissions in net/sysctl_net.c).
func writeSysctl(root, path, value string) error {
	name := filepath.Join(root, path)
	old, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && strings.TrimSpace(string(old)) == value {
		return nil
	}
	if err := os.WriteFile(name, []byte(value), 0); err != nil {
		return fmt.Errorf("setting %s to %s (needs CAP_NET_ADMIN): %w", path, value, err)
	}
	return nil
}
