// Package network is netd: the daemon that connects the box to a home network.
//
// The parties are the box's wired links, the home's router (DHCPv4 server, IPv6
// router, resolver), time servers on the internet, and every other host in the
// home. Nothing that arrives here is authenticated, and any host in the home can
// pretend to be the router: what netd learns is where the way out may be, never
// whom to trust. Every value is checked and every list bounded.
//
// Data passes in from the kernel (rtnetlink), from the network (DHCPv4, NTP, and
// through the kernel router advertisements), from stored (storage.json: where
// site.toml and netd's own folder are), and out to the kernel, to
// [state.NetworkFile], [state.TimeFile] and resolv.conf.
//
// The kernel does IPv6: router advertisements, addresses, duplicate detection.
// netd sets the terms (sysctl.go) before a link comes up, and publishes what the
// kernel then knows. IPv4 is ours, in package dhcp4. Time is in package clock.
//
// netd opens no port, ever: DHCP goes through packet sockets that are open for
// seconds, NTP and DNS through connected sockets that are closed after the answer.
//
// # What it needs
//
// netd runs under its own user id with CAP_NET_ADMIN (links, addresses, routes,
// and /proc/sys/net, which the kernel opens to that capability), CAP_NET_RAW
// (packet sockets, router solicitations) and CAP_SYS_TIME. It writes in the
// folders /run/fogwright (network.json, time.json), the one that /etc/resolv.conf
// lies in or, if that is a symbolic link, leads to, and /state/network (time,
// ipv6-secret, dhcp4-MAC). init makes the last one; until it is there, and without
// it, netd works and remembers nothing.
package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/fogwright/fogwright/initramfs/network/clock"
	"github.com/fogwright/fogwright/initramfs/state"
	"golang.org/x/sync/errgroup"
)

// Config says where the box is. Its zero value is the real box.
type Config struct {
	StateDir   string // of the state files; empty: state.Dir
	BoardFile  string // empty: state.BoardFile
	ResolvConf string // empty: /etc/resolv.conf
	ProcSys    string // empty: /proc/sys/net
	// Physical picks the links to look after; nil: wired network devices.
	Physical func(name string) bool
	// BeforeLinks runs before any link is brought up, and again every second
	// while it fails; links stay down until it returns nil. This is where the
	// isolation policy goes. nil: links come up at once.
	BeforeLinks func(ctx context.Context) error
	// Clock is the clock to keep; nil: the kernel's.
	Clock clock.System
	// RTC reads the hardware clock; nil: the kernel's first one.
	RTC func() (time.Time, error)
	Log *slog.Logger // nil: slog.Default
}

func (c Config) withDefaults() Config {
	set := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	set(&c.StateDir, state.Dir)
	set(&c.BoardFile, state.BoardFile)
	set(&c.ResolvConf, "/etc/resolv.conf")
	set(&c.ProcSys, "/proc/sys/net")
	if c.Physical == nil {
		c.Physical = func(name string) bool { return isPhysical("/sys/class/net", name) }
	}
	if c.BeforeLinks == nil {
		c.BeforeLinks = func(context.Context) error { return nil }
	}
	if c.Clock == nil {
		c.Clock = clock.Kernel{}
	}
	if c.RTC == nil {
		c.RTC = clock.RTC
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// defaultNTP are the time servers of a box whose owner and router name none.
//
// The NTP pool would be the first choice, but asks a product to use a zone of its
// own, which its makers apply for, and never the general names or another vendor's
// (ntppool.org, "The NTP Pool for vendors"). Until there is such a zone, these are
// three unrelated operators that invite public use and do not smear leap seconds,
// so that two of them can outvote the third: Cloudflare, NIST and Netnod.
func defaultNTP() []string { return []string{"time.cloudflare.com", "time.nist.gov", "ntp.se"} }

// Main is netd. It returns nil when ctx ends; addresses and routes stay, so that
// the next netd finds the box connected.
func Main(ctx context.Context, cfg Config) error {
	cfg = cfg.withDefaults()
	d := &daemon{cfg: cfg, links: map[int]*managed{}, leases: make(chan leaseNews), secret: newSecret()}
	d.keeper = d.newKeeper()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.keeper.Run(ctx) })
	g.Go(func() error {
		if err := prepare(ctx, cfg); err != nil {
			return err
		}
		sub, err := subscribe()
		if err != nil {
			return err
		}
		return d.run(ctx, sub)
	})
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("netd: %w", err)
	}
	return nil
}

// prepare does what must be done before any link is touched.
func prepare(ctx context.Context, cfg Config) error {
	for _, who := range []string{"all", "default"} {
		if err := applySysctls(cfg.ProcSys, who); err != nil {
			cfg.Log.Error("hardening", "err", err)
		}
	}
	if err := raiseLoopback(); err != nil {
		cfg.Log.Error("loopback", "err", err)
	}
	for {
		err := cfg.BeforeLinks(ctx)
		if err == nil {
			return nil
		}
		cfg.Log.Error("links stay down", "err", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// newKeeper makes the clock's keeper, which publishes time.json.
func (d *daemon) newKeeper() *clock.Keeper {
	k := clock.NewKeeper()
	k.System, k.RTC, k.Log = d.cfg.Clock, d.cfg.RTC, d.cfg.Log
	var board state.Board
	if err := readBoard(d.cfg.BoardFile, &board); err != nil {
		d.cfg.Log.Error("the clock has no floor", "err", err)
	}
	k.Build = time.Unix(board.BuildTime, 0)
	client := &clock.Client{Lookup: d.names.ips}
	if _, real := k.System.(clock.Kernel); !real {
		client.Now = k.System.Now
	}
	k.Query = client.Query
	k.Write = func(path string, content []byte) error { return writeDurable(path, content, 0o644) }
	k.Publish = func(s state.Time) {
		if err := state.Write(d.cfg.StateDir, state.TimeFile, s); err != nil {
			d.cfg.Log.Error("publishing", "err", err)
		}
	}
	return k
}
