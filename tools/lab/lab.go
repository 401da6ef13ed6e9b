// Package lab is a virtual home: a network with a router, an internet behind it,
// the owner's laptop on it, and boxes that are QEMU machines. All of it runs in
// this process and needs neither root nor kernel modules.
//
// The parties, and what passes between them:
//
//	box (QEMU) ──unix socket──┐
//	box (QEMU) ──unix socket──┤
//	laptop (user-space TCP) ──┼── LAN [Switch] ── [Router] ── internet [Switch] ──┬── origin
//	Linux tools (TAP) ────────┘                                                   ├── tracker
//	                                                                              └── NTP server
//
// Everything on those lines is Ethernet frames. Hosts that are not machines have
// a TCP/IP stack of gVisor's netstack each, so a test serves HTTP at a public
// address with an ordinary net.Listener. The router gives addresses (DHCPv4 and
// router advertisements), answers DNS out of the names of this internet, and
// forwards. Nothing leaves for the real internet: a box in the lab sees only what
// a test put there.
//
// Nobody here trusts a box: frames of any shape are counted and switched or
// dropped, tables and queues are bounded.
//
// A home needs a call of [Reexec] first in main or TestMain only if it uses
// [Home.Namespace].
package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Options of a home. The zero value is an ordinary home with IPv4 and IPv6.
type Options struct {
	// LAN4 is the home's IPv4 network; the router is its first address.
	// Default 192.168.77.0/24. At least a /24.
	LAN4 netip.Prefix
	// LAN6 is the home's global IPv6 prefix, a /64; the router is ::1 in it.
	// Default 2001:db8:77::/64 (RFC 3849).
	LAN6 netip.Prefix
	// ULA is a further, unique-local /64 (RFC 4193). Default: none.
	ULA netip.Prefix
	// Lease is the life of a DHCP lease. Default 1 hour.
	Lease time.Duration
	// NTP are the time servers that DHCP names (option 42). Default: none.
	NTP []netip.Addr
	// Log gets what goes wrong in the background. Default: nothing is logged.
	Log *slog.Logger
}

func (o Options) withDefaults() Options {
	if !o.LAN4.IsValid() {
		o.LAN4 = netip.MustParsePrefix("192.168.77.0/24")
	}
	if !o.LAN6.IsValid() {
		o.LAN6 = netip.MustParsePrefix("2001:db8:77::/64")
	}
	if o.Lease == 0 {
		o.Lease = time.Hour
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.LAN4, o.LAN6, o.ULA = o.LAN4.Masked(), o.LAN6.Masked(), o.ULA.Masked()
	return o
}

func (o Options) check() error {
	var all []error
	if !o.LAN4.Addr().Is4() || o.LAN4.Bits() > 24 {
		all = append(all, fmt.Errorf("LAN4 %v is not an IPv4 network of /24 or larger", o.LAN4))
	}
	if !o.LAN6.Addr().Is6() || o.LAN6.Bits() != 64 {
		all = append(all, fmt.Errorf("LAN6 %v is not an IPv6 /64", o.LAN6))
	}
	if o.ULA.IsValid() && (!o.ULA.Addr().IsPrivate() || !o.ULA.Addr().Is6() || o.ULA.Bits() != 64) {
		all = append(all, fmt.Errorf("ULA %v is not a unique-local IPv6 /64", o.ULA))
	}
	return errors.Join(all...)
}

// Home is one virtual home and the internet that it is connected to.
type Home struct {
	LAN      *Switch
	Router   *Router
	Internet *Internet
	// Laptop is the owner's computer: address .10 and ::10 on the LAN.
	Laptop *Host

	opts Options

	mu      sync.Mutex
	closers []func() error // run in reverse order
	hosts   int            // LAN hosts with a static address, so far
}

// First LAN addresses of each kind. The router is 1, hosts with a static
// address begin at 10, DHCP at 100.
const (
	firstHost  = 10
	firstLease = 100
	lastLease  = 249
)

// NewHome makes a home that is up: router and laptop are on the LAN. Close it.
func NewHome(opts Options) (*Home, error) {
	opts = opts.withDefaults()
	if err := opts.check(); err != nil {
		return nil, fmt.Errorf("making a virtual home: %w", err)
	}
	h := &Home{LAN: NewSwitch(), opts: opts}
	h.onClose(h.LAN.Close)
	h.Internet = newInternet(opts)
	h.onClose(h.Internet.Close)
	var err error
	if h.Router, err = newRouter(h.LAN, h.Internet, opts); err == nil {
		h.onClose(h.Router.Close)
		h.Laptop, err = h.Join("laptop")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making a virtual home: %w", err), h.Close())
	}
	return h, nil
}

// Close stops everything in the home, its machines too.
func (h *Home) Close() error {
	h.mu.Lock()
	closers := h.closers
	h.closers = nil
	h.mu.Unlock()
	var all []error
	for i := len(closers) - 1; i >= 0; i-- {
		all = append(all, closers[i]())
	}
	return errors.Join(all...)
}

func (h *Home) onClose(f func() error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closers = append(h.closers, f)
}

// static gives out the next pair of fixed LAN addresses.
func (h *Home) static() (v4, v6 netip.Prefix, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := firstHost + h.hosts
	if n >= firstLease {
		return v4, v6, fmt.Errorf("the LAN has no static address left below .%d", firstLease)
	}
	h.hosts++
	return netip.PrefixFrom(nth(h.opts.LAN4, n), h.opts.LAN4.Bits()), netip.PrefixFrom(nth(h.opts.LAN6, n), 64), nil
}

// Join puts one more host on the LAN, with a static address of each family and
// the router as its gateway and resolver. It leaves when the home closes.
func (h *Home) Join(name string) (*Host, error) {
	v4, v6, err := h.static()
	if err != nil {
		return nil, fmt.Errorf("joining %q to the LAN: %w", name, err)
	}
	host, err := newHost(name, []netip.Addr{h.Router.LAN4(), h.Router.LAN6()})
	if err == nil {
		err = host.plug(1, h.LAN, macOf(name), v4, v6)
	}
	if err != nil {
		return nil, fmt.Errorf("joining %q to the LAN: %w", name, err)
	}
	host.route(1, v4, netip.Addr{})
	host.route(1, v6, netip.Addr{})
	if h.opts.ULA.IsValid() {
		host.route(1, h.opts.ULA, netip.Addr{})
	}
	host.route(1, any4, h.Router.LAN4())
	host.route(1, any6, h.Router.LAN6())
	h.onClose(host.Close)
	return host, nil
}

// Dial connects from the laptop: network is tcp or udp, address is host:port with
// an address or a name of this internet.
func (h *Home) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return h.Laptop.Dial(ctx, network, address)
}

// PowerOn starts a machine with its network cable in the home's switch. The
// machine dies when ctx ends and when the home closes.
func (h *Home) PowerOn(ctx context.Context, spec Spec) (*Machine, error) {
	m, err := startMachine(ctx, spec, h)
	if err != nil {
		return nil, fmt.Errorf("starting machine %q: %w", spec.Name, err)
	}
	h.onClose(m.Close)
	return m, nil
}

// nth is the address number n of a prefix.
func nth(p netip.Prefix, n int) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	b[len(b)-1] += byte(n)
	b[len(b)-2] += byte(n >> 8)
	a, _ := netip.AddrFromSlice(b)
	return a
}
