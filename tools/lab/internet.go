package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// Addresses of the router on the internet (TEST-NET-2 of RFC 5737, and the
// documentation prefix of RFC 3849).
var (
	routerWAN4 = netip.MustParseAddr("198.51.100.2")
	routerWAN6 = netip.MustParseAddr("2001:db8:fffe::2")
)

// Internet is everything behind the router: hosts at public addresses that a test
// names, and the names that the router's resolver knows. All hosts lie on one
// switch and reach each other directly.
type Internet struct {
	sw   *Switch
	home []netip.Prefix // reached through the router

	mu    sync.Mutex
	names map[string][]netip.Addr // lower case, no final dot
	hosts []*Host
}

func newInternet(o Options) *Internet {
	return &Internet{sw: NewSwitch(), home: []netip.Prefix{o.LAN4, o.LAN6}, names: map[string][]netip.Addr{}}
}

// Host adds a host that has these public addresses and this name. Listen on it
// with its Listen and ListenPacket. Its Close takes it off the internet; the name
// stays.
func (in *Internet) Host(name string, addrs ...netip.Addr) (*Host, error) {
	host, err := newHost(name, nil)
	if err == nil {
		var ps []netip.Prefix
		for _, a := range addrs {
			ps = append(ps, netip.PrefixFrom(a, a.BitLen()))
		}
		err = host.plug(1, in.sw, macOf("internet "+name), ps...)
	}
	if err != nil {
		return nil, fmt.Errorf("putting host %q on the internet: %w", name, err)
	}
	for _, p := range in.home {
		gateway := routerWAN6
		if p.Addr().Is4() {
			gateway = routerWAN4
		}
		host.route(1, p, gateway)
	}
	host.route(1, any4, netip.Addr{})
	host.route(1, any6, netip.Addr{})
	in.Name(name, addrs...)
	in.mu.Lock()
	in.hosts = append(in.hosts, host)
	in.mu.Unlock()
	return host, nil
}

// Name makes the router's resolver answer name with addrs, from now on. No addrs:
// the name exists and has no address.
func (in *Internet) Name(name string, addrs ...netip.Addr) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.names[canonical(name)] = slices.Clone(addrs)
}

// resolve tells the addresses of a name, and whether it exists.
func (in *Internet) resolve(name string) ([]netip.Addr, bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	addrs, ok := in.names[canonical(name)]
	return addrs, ok
}

// Close takes every host off the internet.
func (in *Internet) Close() error {
	in.mu.Lock()
	hosts := in.hosts
	in.hosts = nil
	in.mu.Unlock()
	var all []error
	for _, h := range hosts {
		all = append(all, h.Close())
	}
	return errors.Join(append(all, in.sw.Close())...)
}

func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }
