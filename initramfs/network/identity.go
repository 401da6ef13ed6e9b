package network

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// secretFile holds the secret that the kernel makes IPv6 interface identifiers
// from (RFC 7217): the same network gives the same address again, another network
// another one, and neither tells the MAC address. 16 bytes, written like an IPv6
// address because the kernel's stable_secret wants it so.
const secretFile = "ipv6-secret"

// newSecret draws a secret.
func newSecret() netip.Addr {
	var b [16]byte
	rand.Read(b[:]) // crypto/rand.Read does not fail
	b[0] |= 0x80    // never looks like an IPv4-mapped address
	return netip.AddrFrom16(b)
}

// loadSecret reads the secret in dir, or keeps fresh there when it is the box's
// first.
func loadSecret(dir string, fresh netip.Addr) (netip.Addr, error) {
	path := filepath.Join(dir, secretFile)
	b, err := os.ReadFile(path)
	if err == nil {
		s, perr := parseSecret(b)
		if perr == nil {
			return s, nil
		}
		err = fmt.Errorf("%s: %w", path, perr)
	}
	if werr := writeDurable(path, []byte(fresh.String()+"\n"), 0o600); werr != nil {
		return fresh, fmt.Errorf("keeping the IPv6 secret: %w", werr)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return fresh, err
}

func parseSecret(b []byte) (netip.Addr, error) {
	if len(b) > 64 {
		return netip.Addr{}, errors.New("too long for a secret of 16 bytes")
	}
	a, err := netip.ParseAddr(strings.TrimSpace(string(b)))
	if err != nil {
		return a, err
	}
	if !a.Is6() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() {
		return netip.Addr{}, errors.New("not 16 bytes in the notation of an IPv6 address")
	}
	return a, nil
}

// startIPv6 gives a link its identity and lets IPv6 run on it. The settings of
// the link are in place before: with the first packet, the address is final.
func startIPv6(root, link string, secret netip.Addr) error {
	conf := "ipv6/conf/" + link + "/"
	name := filepath.Join(root, conf+"stable_secret")
	if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
		return nil // a kernel without IPv6
	}
	// The kernel expands what it prints, and refuses to print before it has one.
	old, _ := os.ReadFile(name)
	if have, err := netip.ParseAddr(strings.TrimSpace(string(old))); err != nil || have != secret {
		if err := writeSysctl(root, conf+"stable_secret", secret.StringExpanded()); err != nil {
			return err
		}
	}
	// 2: stable privacy addresses. Writing the secret sets it, but not when the
	// mode was changed by hand before.
	if err := writeSysctl(root, conf+"addr_gen_mode", "2"); err != nil {
		return err
	}
	return writeSysctl(root, conf+"disable_ipv6", "0")
}

// solicit asks the routers of a link for an advertisement now (RFC 4861, 4.1). The
// kernel asks by itself too, but only after a second of duplicate detection; and
// it does not ask for a netd that was restarted and has forgotten the resolvers.
func solicit(index int) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMPV6)
	if err != nil {
		return fmt.Errorf("router solicitation: %w", err)
	}
	defer unix.Close(fd)
	// RFC 4861, 6.1.1: a hop limit below 255 has been forwarded and is not taken.
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
		return fmt.Errorf("router solicitation: %w", err)
	}
	const routerSolicitation = 133
	allRouters := &unix.SockaddrInet6{ZoneId: uint32(index), Addr: netip.MustParseAddr("ff02::2").As16()}
	// Four bytes of header, whose checksum the kernel fills in, and four reserved.
	if err := unix.Sendto(fd, []byte{routerSolicitation, 0, 0, 0, 0, 0, 0, 0}, 0, allRouters); err != nil {
		return fmt.Errorf("router solicitation: %w", err)
	}
	return nil
}
