package dhcp4

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Lease is what a DHCP server granted. Times come from the clock that was handed
// to the [Machine]; with time.Now they carry the monotonic reading, so a step of
// the wall clock neither shortens nor lengthens a lease.
type Lease struct {
	Address netip.Prefix // the box's address and the length of its subnet's prefix
	Server  netip.Addr   // the server identifier
	Routes  []Route      // the way out, the default route among them
	DNS     []netip.Addr
	NTP     []netip.Addr
	MTU     int // of the link, as the server wishes it; 0: it said nothing
	// Renew (T1) is when the server is asked to extend the lease, Rebind (T2)
	// when any server is, and Expires when the address must no longer be used.
	// All three are zero when the lease never ends.
	Renew, Rebind, Expires time.Time
}

// Route is one IPv4 route. A Gateway of 0.0.0.0 means that To is on the link.
type Route struct {
	To      netip.Prefix
	Gateway netip.Addr
}

const (
	// infinite is the lease time that means "for ever" (RFC 2131, 3.3).
	infinite = 0xffffffff * time.Second
	// minLease is the shortest lease time taken at its word: a server that
	// grants one second would have the box renew without pause.
	minLease = 20 * time.Second
	// maxList bounds every list that a server sends. One packet could carry
	// some 360 addresses; nobody's home needs more than a few.
	maxList = 16
)

// valid reports whether the lease may still be used at now.
func (l *Lease) valid(now time.Time) bool {
	return l != nil && (l.Expires.IsZero() || now.Before(l.Expires))
}

// newLease reads a lease out of a DHCPACK. asked is when the client first asked
// for it: RFC 2131, 4.4.1 counts lease times from there and not from the answer.
func newLease(ack *dhcpv4.DHCPv4, asked time.Time) (*Lease, error) {
	addr, err := hostAddr(ack.YourIPAddr)
	if err != nil {
		return nil, fmt.Errorf("granted address: %w", err)
	}
	l := &Lease{DNS: addrs(ack.DNS()), NTP: addrs(ack.NTPServers())}
	if l.Server, err = hostAddr(ack.ServerIdentifier()); err != nil {
		return nil, fmt.Errorf("server identifier: %w", err)
	}
	bits, err := prefixLength(ack, addr)
	if err != nil {
		return nil, err
	}
	l.Address = netip.PrefixFrom(addr, bits)
	l.Routes = routes(ack)
	if mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, ack.Options); err == nil {
		l.MTU = int(mtu)
	}
	lifetime := ack.IPAddressLeaseTime(0)
	if lifetime == 0 {
		return nil, errors.New("no lease time (option 51)")
	}
	if lifetime == infinite {
		return l, nil
	}
	lifetime = max(lifetime, minLease)
	l.Expires = asked.Add(lifetime)
	// RFC 2131, 4.4.5: T1 is half and T2 seven eighths of the lease, unless the
	// server says otherwise and makes sense.
	rebind := ack.IPAddressRebindingTime(lifetime / 8 * 7)
	if rebind <= 0 || rebind >= lifetime {
		rebind = lifetime / 8 * 7
	}
	renew := ack.IPAddressRenewalTime(lifetime / 2)
	if renew <= 0 || renew >= rebind {
		renew = min(lifetime/2, rebind)
	}
	l.Renew, l.Rebind = asked.Add(renew), asked.Add(rebind)
	return l, nil
}

// prefixLength reads the subnet mask, or falls back to the address's old class as
// RFC 2132, 3.3 leaves it.
func prefixLength(ack *dhcpv4.DHCPv4, addr netip.Addr) (int, error) {
	mask := ack.SubnetMask()
	if mask == nil {
		ones, _ := net.IP(addr.AsSlice()).DefaultMask().Size()
		return ones, nil
	}
	ones, size := mask.Size()
	if size != 32 || ones == 0 {
		return 0, fmt.Errorf("subnet mask %s is not a mask of one to 32 leading ones", mask)
	}
	return ones, nil
}

// routes turns options 121 and 3 into routes. RFC 3442: who gets classless static
// routes must not look at the router option.
func routes(ack *dhcpv4.DHCPv4) []Route {
	var out []Route
	for _, r := range ack.ClasslessStaticRoute() {
		dst, ok := netip.AddrFromSlice(r.Dest.IP.To4())
		gw, ok2 := netip.AddrFromSlice(r.Router.To4())
		ones, _ := r.Dest.Mask.Size()
		if !ok || !ok2 || len(out) == maxList || (!gw.IsUnspecified() && !isHost(gw)) {
			continue
		}
		to := netip.PrefixFrom(dst, ones).Masked()
		if to.Addr().IsLoopback() || to.Addr().IsMulticast() {
			continue
		}
		out = append(out, Route{To: to, Gateway: gw})
	}
	if len(out) > 0 {
		return out
	}
	for _, gw := range addrs(ack.Router()) {
		// RFC 2132, 3.5 lists routers in order of preference: the first one is
		// the default gateway.
		return []Route{{To: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Gateway: gw}}
	}
	return nil
}

// addrs keeps the host addresses of a list, each once.
func addrs(ips []net.IP) []netip.Addr {
	var out []netip.Addr
	seen := map[netip.Addr]bool{}
	for _, ip := range ips {
		if a, err := hostAddr(ip); err == nil && !seen[a] && len(out) < maxList {
			seen[a] = true
			out = append(out, a)
		}
	}
	return out
}

// hostAddr takes an IPv4 address that one host can have.
func hostAddr(ip net.IP) (netip.Addr, error) {
	a, ok := netip.AddrFromSlice(ip.To4())
	if !ok {
		return a, errors.New("missing")
	}
	if !isHost(a) {
		return a, fmt.Errorf("%s is not the address of one host", a)
	}
	return a, nil
}

func isHost(a netip.Addr) bool {
	return a.Is4() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && a.As4()[0] < 240 && a.As4()[0] != 0
}
