package network

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// isPhysical reports whether a link is a wired network device: one that has a
// device behind it (a bridge, a tunnel or a veth has none) and speaks Ethernet
// but is no radio. sys is /sys/class/net. Wi-Fi needs somebody to give it a
// password, and is left alone.
func isPhysical(sys, name string) bool {
	dir := filepath.Join(sys, name)
	if _, err := os.Stat(filepath.Join(dir, "device")); err != nil {
		return false
	}
	for _, radio := range []string{"wireless", "phy80211"} {
		if _, err := os.Stat(filepath.Join(dir, radio)); err == nil {
			return false
		}
	}
	kind, err := os.ReadFile(filepath.Join(dir, "type"))
	const arphrdEther = "1\n" // linux/if_arp.h
	return err == nil && string(kind) == arphrdEther
}

// ours returns the links that netd looks after, by interface index.
func ours(physical func(name string) bool) (map[int]netlink.Link, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing links: %w", err)
	}
	out := map[int]netlink.Link{}
	for _, l := range all {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback == 0 && len(a.HardwareAddr) == 6 && physical(a.Name) {
			out[a.Index] = l
		}
	}
	return out, nil
}

// hasCarrier reports whether the cable is in and the link is up.
func hasCarrier(l netlink.Link) bool {
	return l.Attrs().RawFlags&unix.IFF_UP != 0 && l.Attrs().RawFlags&unix.IFF_LOWER_UP != 0
}

// raiseLoopback brings lo up, which programs expect to be there.
func raiseLoopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("looking for lo: %w", err)
	}
	if lo.Attrs().RawFlags&unix.IFF_UP != 0 {
		return nil
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bringing lo up: %w", err)
	}
	return nil
}

// hostnameFor is the name of a box that nobody named: fogwright- and the last
// three bytes of a MAC address, as on the sticker.
func hostnameFor(mac net.HardwareAddr) string {
	if len(mac) < 3 {
		return "fogwright"
	}
	return fmt.Sprintf("fogwright-%x", []byte(mac[len(mac)-3:]))
}

// sorted returns the keys of m in ascending order.
func sorted[V any](m map[int]V) []int {
	keys := make([]int, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
