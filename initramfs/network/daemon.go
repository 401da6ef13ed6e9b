package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fogwright/fogwright/initramfs/network/clock"
	"github.com/fogwright/fogwright/initramfs/network/dhcp4"
	"github.com/fogwright/fogwright/initramfs/site"
	"github.com/fogwright/fogwright/initramfs/state"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// daemon is netd's one event loop. All its fields belong to the loop, except those
// that are safe to share.
type daemon struct {
	cfg    Config
	keeper *clock.Keeper
	names  lookup // shared with the keeper

	links    map[int]*managed
	leases   chan leaseNews
	clients  sync.WaitGroup
	hostname atomic.Pointer[string] // shared with the DHCP clients
	secret   netip.Addr             // of IPv6 identifiers
	facts    facts                  // from stored
	named    bool                   // DHCP may start: with what is known by now
	settled  bool                   // IPv6 may start, likewise
	last     state.Network
}

// managed is one link that netd looks after.
type managed struct {
	link      netlink.Link
	carrier   chan bool // to the DHCP client, once it runs
	stop      context.CancelFunc
	hadSignal bool // the last word that went to carrier
	ipv6      bool // IPv6 runs
	solicited bool // routers were asked to show themselves
	lease     *dhcp4.Lease
	expires   time.Time // of the lease by the wall clock, as published
	managed4  bool      // the DHCP client has said something about the lease
	resolvers resolverList
}

// leaseNews is word from one link's DHCP client; nil: it has no lease any more.
type leaseNews struct {
	index int
	lease *dhcp4.Lease
}

const (
	// patience is how long a host name, the IPv6 secret and the last lease are
	// waited for. stored has them in well under a second, unless it is making
	// file systems (first boot) or the disk is broken; then the box goes on
	// without.
	patience = 2 * time.Second
	// grace is how much longer than for the host name DHCP waits for the last
	// address: the two file systems are usually mounted one right after the other.
	grace = 300 * time.Millisecond
	// settleTime lets a burst of kernel messages pass before everything is
	// looked at again.
	settleTime = 20 * time.Millisecond
	// recheck is how often everything is looked at without a reason.
	recheck = time.Minute
)

func (d *daemon) run(ctx context.Context, sub *subscription) error {
	ctx, cancel := context.WithCancel(ctx)
	defer d.clients.Wait()
	defer cancel()
	heard := make(chan news)
	d.clients.Go(func() { sub.run(heard, ctx.Done()) })
	defer sub.close() // wakes the reader up, before Wait
	known := make(chan facts)
	d.clients.Go(func() { watchStorage(ctx, d.cfg.StateDir, d.cfg.Log, known) })
	giveUp := time.After(patience)
	var enough <-chan time.Time
	look := time.NewTimer(0)
	defer look.Stop()
	settling := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case n := <-heard:
			if n.err != nil {
				return n.err
			}
			d.hear(n)
			if !settling { // a flood of messages must not put it off for ever
				settling = true
				look.Reset(settleTime)
			}
			continue
		case n := <-d.leases:
			d.leased(n)
		case f := <-known:
			d.learn(f)
			if !d.named {
				enough = time.After(grace)
			}
		case <-enough:
			d.named = true
		case <-giveUp:
			d.named, d.settled = true, true
		case <-look.C:
		}
		settling = false
		look.Reset(d.reconcile(ctx, time.Now()))
	}
}

// hear takes in what the kernel said.
func (d *daemon) hear(n news) {
	for _, r := range n.resolvers {
		if m := d.links[r.index]; m != nil {
			m.resolvers.add(time.Now(), r)
		}
	}
	for index := range n.lostCarrier {
		// The cable may be back already: the DHCP client is to check anyway.
		if m := d.links[index]; m != nil {
			d.signal(m, false)
		}
	}
}

func (d *daemon) leased(n leaseNews) {
	m := d.links[n.index]
	if m == nil {
		return
	}
	m.lease, m.managed4 = n.lease, true
	if n.lease == nil {
		return
	}
	// Rounded to what two readings of one lease agree upon.
	m.expires = time.Time{}
	if !n.lease.Expires.IsZero() {
		m.expires = time.Now().Round(0).Add(time.Until(n.lease.Expires)).Truncate(time.Second).UTC()
	}
	d.keep(m)
}

// keep writes a link's address down for the next boot.
func (d *daemon) keep(m *managed) {
	if m.lease == nil {
		return
	}
	if err := keepAddress(d.facts.dir, m.link.Attrs().HardwareAddr.String(), m.lease.Address.Addr()); err != nil {
		d.cfg.Log.Warn("keeping the address for the next boot", "err", err)
	}
}

// learn takes in what stored has found.
func (d *daemon) learn(f facts) {
	if f.dir != "" && d.facts.dir == "" {
		secret, err := loadSecret(f.dir, d.secret)
		if err != nil {
			d.cfg.Log.Warn("IPv6 addresses may change at the next boot", "err", err)
		}
		if !d.settled {
			d.secret = secret // else links have their addresses already
		}
	}
	d.facts = f
	for _, m := range d.links {
		d.keep(m)
	}
	if f.site != nil && f.site.Hostname != "" {
		d.hostname.Store(&f.site.Hostname)
	}
	// The site comes first, so with the folder everything is known.
	known := f.dir != "" || f.final
	d.named, d.settled = d.named || known, d.settled || known
}

// reconcile compares what is with what should be, mends the difference, publishes
// the result, and returns when to look again.
func (d *daemon) reconcile(ctx context.Context, now time.Time) time.Duration {
	there, err := ours(d.cfg.Physical)
	if err != nil {
		d.cfg.Log.Error("looking at links", "err", err)
		return time.Second
	}
	for index, m := range d.links {
		if there[index] == nil {
			d.cfg.Log.Info("link is gone", "link", m.link.Attrs().Name)
			m.stop()
			delete(d.links, index)
		}
	}
	for _, index := range sorted(there) {
		l := there[index]
		m := d.links[index]
		if m == nil {
			d.cfg.Log.Info("new link", "link", l.Attrs().Name, "mac", l.Attrs().HardwareAddr.String())
			m = &managed{stop: func() {}}
			d.links[index] = m
		}
		m.link = l
		if err := d.mend(ctx, m, now); err != nil {
			d.cfg.Log.Error("configuring", "link", l.Attrs().Name, "err", err)
		}
	}
	return d.publish(now)
}

// mend brings one link a step closer to how it should be.
func (d *daemon) mend(ctx context.Context, m *managed, now time.Time) error {
	a := m.link.Attrs()
	if a.RawFlags&unix.IFF_UP == 0 {
		m.ipv6, m.solicited = false, false // the kernel starts over at the next up
		if err := d.raise(m); err != nil {
			return err
		}
	}
	if d.hostname.Load() == nil {
		name := hostnameFor(a.HardwareAddr)
		d.hostname.Store(&name)
	}
	var failed []error
	if d.settled && !m.ipv6 {
		m.ipv6 = true
		failed = append(failed, startIPv6(d.cfg.ProcSys, a.Name, d.secret))
	}
	if d.named {
		d.startDHCP(ctx, m)
		d.signal(m, hasCarrier(m.link))
	}
	if m.managed4 {
		failed = append(failed, applyIPv4(m.link, m.lease, now))
	}
	return errors.Join(failed...)
}

// raise brings a link up. Autonegotiation takes seconds on real hardware, so this
// waits for nothing; IPv6 stays off on the link until its identity is known.
func (d *daemon) raise(m *managed) error {
	name := m.link.Attrs().Name
	err := applySysctls(d.cfg.ProcSys, name)
	if !d.settled {
		err = errors.Join(err, writeSysctl(d.cfg.ProcSys, "ipv6/conf/"+name+"/disable_ipv6", "1"))
	}
	if err != nil {
		// With a link that believes redirects there is still a box; without a
		// link there is none.
		d.cfg.Log.Error("hardening", "link", name, "err", err)
	}
	if err := netlink.LinkSetUp(m.link); err != nil {
		return fmt.Errorf("bringing %s up (needs CAP_NET_ADMIN): %w", name, err)
	}
	return nil
}

// startDHCP starts the link's DHCP client, once.
func (d *daemon) startDHCP(ctx context.Context, m *managed) {
	if m.carrier != nil {
		return
	}
	a := m.link.Attrs()
	m.carrier = make(chan bool, 16)
	ctx, m.stop = context.WithCancel(ctx)
	carrier, index := m.carrier, a.Index
	c := &dhcp4.Client{
		Index: index, MAC: a.HardwareAddr, Log: d.cfg.Log.With("link", a.Name),
		Hostname: func() string { return *d.hostname.Load() },
		Last:     d.lastAddress(m.link),
		Changed: func(l *dhcp4.Lease) {
			select {
			case d.leases <- leaseNews{index, l}:
			case <-ctx.Done():
			}
		},
	}
	d.clients.Go(func() {
		if err := c.Run(ctx, carrier); err != nil {
			d.cfg.Log.Error("DHCP", "link", a.Name, "err", err)
		}
	})
}

// lastAddress is the address that DHCP tries first: the one that an earlier netd
// left on the link, or the one of the last boot.
func (d *daemon) lastAddress(l netlink.Link) netip.Addr {
	if have, err := netlink.AddrList(l, netlink.FAMILY_V4); err == nil && len(have) > 0 {
		return prefixOf(have[0].IPNet).Addr()
	}
	return lastAddress(d.facts.dir, l.Attrs().HardwareAddr.String())
}

// signal tells the DHCP client about the carrier when that has changed.
func (d *daemon) signal(m *managed, up bool) {
	if m.carrier == nil || m.hadSignal == up {
		return
	}
	select {
	case m.carrier <- up:
		m.hadSignal = up
	default: // the client is behind by 16 changes; the next look tries again
	}
}

// publish writes down what the world may know, and returns when to look again.
func (d *daemon) publish(now time.Time) time.Duration {
	next := recheck
	s := state.Network{}
	if h := d.hostname.Load(); h != nil {
		s.Hostname = *h
	}
	var ntp, fromDHCP, fromRA []string
	for _, index := range sorted(d.links) {
		m := d.links[index]
		l, err := describe(m.link)
		if err != nil {
			d.cfg.Log.Error("describing", "err", err)
			return time.Second
		}
		if m.lease != nil {
			l.Lease = &state.Lease{Server: m.lease.Server.String(), Expires: m.expires}
			for _, a := range m.lease.DNS {
				fromDHCP = append(fromDHCP, a.String())
			}
			for _, a := range m.lease.NTP {
				ntp = append(ntp, a.String())
			}
		}
		if m.ipv6 && !m.solicited && l.Carrier && hasLinkLocal(l) {
			m.solicited = true // the kernel asks too; ours is only sooner
			if err := solicit(index); err != nil {
				d.cfg.Log.Warn("asking for routers", "link", l.Name, "err", err)
			}
		}
		addrs, expiry := m.resolvers.current(now)
		for _, a := range addrs {
			fromRA = append(fromRA, zoned(a, l.Name))
		}
		if !expiry.IsZero() {
			next = min(next, max(expiry.Sub(now), time.Second))
		}
		s.Links = append(s.Links, l)
		s.Online = s.Online || online(l)
	}
	s.Resolvers = alternate(fromDHCP, fromRA)
	d.names.use(s.Resolvers)
	if err := writeResolvConf(d.cfg.ResolvConf, s.Resolvers); err != nil {
		d.cfg.Log.Error("programs on the box will not resolve names", "err", err)
		next = min(next, time.Second)
	}
	if !reflect.DeepEqual(s, d.last) {
		if err := state.Write(d.cfg.StateDir, state.NetworkFile, s); err != nil {
			d.cfg.Log.Error("publishing", "err", err)
			return time.Second
		}
		d.last = s
	}
	d.keeper.Use(clock.Sources{Servers: d.timeServers(ntp), Online: s.Online, Dir: d.facts.dir})
	return next
}

// alternate merges two lists of resolvers, one of each in turn: a program reads
// only the first three, and IPv4's and IPv6's should both be among them.
func alternate(a, b []string) []string {
	var out []string
	for i := range max(len(a), len(b)) {
		for _, l := range [][]string{a, b} {
			if i < len(l) && !slices.Contains(out, l[i]) {
				out = append(out, l[i])
			}
		}
	}
	return out
}

// timeServers are the owner's, else those of DHCP, else the built-in ones.
func (d *daemon) timeServers(fromDHCP []string) []string {
	switch {
	case d.facts.site != nil && len(d.facts.site.NTP) > 0:
		return d.facts.site.NTP
	case len(fromDHCP) > 0:
		return fromDHCP
	}
	return defaultNTP()
}

// facts is what stored gives netd.
type facts struct {
	site  *site.Site // nil until it is known
	dir   string     // netd's folder on the state partition; empty: none yet
	final bool       // nothing more will come
}

// dirName is netd's folder on the state partition.
const dirName = "network"
