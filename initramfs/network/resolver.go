package network

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
)

// maxResolvers is how many name servers a C library reads (MAXNS in resolv.h).
const maxResolvers = 3

// resolvConf is resolv.conf(5) for the given resolvers.
func resolvConf(resolvers []string) []byte {
	var b bytes.Buffer
	b.WriteString("# Written by netd from DHCP and router advertisements.\n")
	for i, r := range resolvers {
		if i == maxResolvers {
			break
		}
		fmt.Fprintf(&b, "nameserver %s\n", r)
	}
	// Two seconds instead of five: with one dead resolver of two, the first
	// connection after boot should not look like a dead network.
	b.WriteString("options timeout:2 attempts:3\n")
	return b.Bytes()
}

// writeResolvConf replaces the file atomically when it has to change. Where path
// is a symbolic link, the file it leads to is replaced, so that /etc may be
// read-only to netd.
func writeResolvConf(path string, resolvers []string) error {
	if to, err := os.Readlink(path); err == nil {
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = to
	}
	want := resolvConf(resolvers)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, want) {
		return nil
	}
	return writeAtomic(path, want, 0o644, false)
}

// lookup resolves names for netd itself. It asks the resolvers directly: Go reads
// resolv.conf at most every five seconds, which is long in a boot of ten.
type lookup struct {
	servers atomic.Pointer[[]string]
	turn    atomic.Uint32
}

func (l *lookup) use(servers []string) { l.servers.Store(&servers) }

// ips returns the addresses of host.
func (l *lookup) ips(ctx context.Context, host string) ([]net.IP, error) {
	r := net.Resolver{PreferGo: true, Dial: l.dial}
	// The dot at the end keeps the search list of the image's resolv.conf, if
	// somebody gave it one, out of this.
	addrs, err := r.LookupIPAddr(ctx, strings.TrimSuffix(host, ".")+".")
	if err != nil {
		return nil, err
	}
	ips := make([]net.IP, len(addrs))
	for i, a := range addrs {
		ips[i] = a.IP
	}
	return ips, nil
}

// dial connects to the next of our resolvers, whichever one Go would have asked.
func (l *lookup) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	servers := l.servers.Load()
	if servers == nil || len(*servers) == 0 {
		return nil, fmt.Errorf("no resolver is known yet")
	}
	n := l.turn.Add(1)
	var d net.Dialer
	return d.DialContext(ctx, network, net.JoinHostPort((*servers)[int(n)%len(*servers)], "53"))
}

// zoned writes a resolver's address; a link-local one is nothing without its link.
func zoned(a netip.Addr, link string) string {
	if a.IsLinkLocalUnicast() && a.Is6() {
		a = a.WithZone(link)
	}
	return a.String()
}
