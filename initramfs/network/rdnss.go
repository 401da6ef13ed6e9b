package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	optRDNSS = 25 // RFC 8106, 5.1
	// infinite is the lifetime that means "for ever" (RFC 8106, 5.1).
	infinite = 0xffffffff * time.Second
	// maxRDNSS bounds what any number of forged advertisements can make the
	// box remember of one link. RFC 8106, 5.3.1 finds three enough.
	maxRDNSS = 8
)

// rdnss is one RDNSS option out of a router advertisement.
type rdnss struct {
	index    int // of the interface
	lifetime time.Duration
	servers  []netip.Addr
}

// parseUserOptions reads the body of an RTM_NEWNDUSEROPT message: struct
// nduseroptmsg (linux/rtnetlink.h), then the options of a router advertisement
// that the kernel leaves to programs. Options other than RDNSS are passed over.
func parseUserOptions(b []byte) ([]rdnss, error) {
	const header = 16
	if len(b) < header {
		return nil, fmt.Errorf("%d bytes are too short for an ND user option", len(b))
	}
	// family, pad, opts_len, ifindex, icmp_type, icmp_code; host byte order.
	size, index := int(binary.NativeEndian.Uint16(b[2:])), int(int32(binary.NativeEndian.Uint32(b[4:])))
	if b[0] != unix.AF_INET6 || b[8] != routerAdvertisement || b[9] != 0 {
		return nil, nil
	}
	if b = b[header:]; size > len(b) {
		return nil, fmt.Errorf("ND user option says %d bytes and has %d", size, len(b))
	}
	var out []rdnss
	for b = b[:size]; len(b) > 0; {
		if len(b) < 2 || b[1] == 0 || int(b[1])*8 > len(b) {
			return out, errors.New("ND user option is cut off or has no length")
		}
		opt := b[:int(b[1])*8]
		b = b[len(opt):]
		// RFC 8106, 5.1: 8 bytes and any number of addresses, at least one.
		if opt[0] != optRDNSS || len(opt) < 24 || len(opt)%16 != 8 {
			continue
		}
		r := rdnss{index: index, lifetime: time.Duration(binary.BigEndian.Uint32(opt[4:])) * time.Second}
		for a := opt[8:]; len(a) > 0; a = a[16:] {
			addr := netip.AddrFrom16([16]byte(a[:16]))
			if !addr.IsUnspecified() && !addr.IsLoopback() && !addr.IsMulticast() && !addr.Is4In6() {
				r.servers = append(r.servers, addr)
			}
		}
		out = append(out, r)
	}
	return out, nil
}

const routerAdvertisement = 134

// resolverList is the resolvers that routers on one link announced, the oldest
// first.
type resolverList struct {
	entries []resolverEntry
}

type resolverEntry struct {
	addr    netip.Addr
	expires time.Time // zero: never
}

// add takes in an announcement; a lifetime of zero withdraws it (RFC 8106, 5.1).
func (l *resolverList) add(now time.Time, r rdnss) {
	for _, addr := range r.servers {
		i := slices.IndexFunc(l.entries, func(e resolverEntry) bool { return e.addr == addr })
		e := resolverEntry{addr: addr}
		if r.lifetime != infinite {
			e.expires = now.Add(r.lifetime)
		}
		switch {
		case r.lifetime == 0 && i >= 0:
			l.entries = slices.Delete(l.entries, i, i+1)
		case r.lifetime == 0:
		case i >= 0:
			l.entries[i] = e
		case len(l.entries) < maxRDNSS:
			l.entries = append(l.entries, e)
		}
	}
}

// current drops what has expired and returns the rest, and when the next one
// expires (zero: none does).
func (l *resolverList) current(now time.Time) (addrs []netip.Addr, next time.Time) {
	l.entries = slices.DeleteFunc(l.entries, func(e resolverEntry) bool {
		return !e.expires.IsZero() && !now.Before(e.expires)
	})
	for _, e := range l.entries {
		addrs = append(addrs, e.addr)
		if !e.expires.IsZero() && (next.IsZero() || e.expires.Before(next)) {
			next = e.expires
		}
	}
	return addrs, next
}
