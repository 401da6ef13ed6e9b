// Package clock keeps the box's time believable.
//
// Most boards have no battery-backed clock and wake up in 1970. The parties are
// the box, its own past (the build time of the firmware and the last time that it
// wrote down), and NTP servers, which are not authenticated: anybody on the path
// can answer for them.
//
// So time has a floor. It never is earlier than the build, nor than the last time
// that was written down; an old time would make expired signatures and
// certificates good again. A server that says otherwise is not believed. There is
// a ceiling as well, far above the build, against an answer from a broken server
// that would raise the floor for ever. Between the two, a majority of the servers
// that answer decides. A real-time clock sets the time at start but not the floor:
// a flat battery must not outvote the network.
//
// Nothing waits for this package. Time that is not synchronised is published as
// such, and the box works on.
package clock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fogwright/fogwright/initramfs/state"
)

// System is the clock that is kept. [Kernel] is the box's own.
type System interface {
	Now() time.Time
	// Set steps the clock.
	Set(time.Time) error
	// Slew lets the kernel remove offset (at most 500 ms either way) little by
	// little and learn the crystal's drift from it. poll is the time until the
	// next measurement.
	Slew(offset, poll time.Duration) error
}

// Sources is where time may come from, as far as netd knows by now.
type Sources struct {
	Servers []string // host names or addresses of NTP servers
	Online  bool     // asking them makes sense
	Dir     string   // folder that keeps the last known time; empty: none yet
}

// Keeper keeps one clock.
type Keeper struct {
	System System
	Build  time.Time // of the firmware; no time is earlier
	// RTC reads the hardware clock.
	RTC func() (time.Time, error)
	// Query measures one server.
	Query func(ctx context.Context, server string) (Sample, error)
	// Write replaces a small file so that a power cut leaves the old or the new
	// content.
	Write   func(path string, content []byte) error
	Publish func(state.Time) // called on change only
	Log     *slog.Logger

	mu      sync.Mutex
	sources Sources
	changed chan struct{}

	floor     time.Time
	dir       string
	persisted time.Time // when, by the clock, the time was last written down
	status    state.Time
	banned    map[string]time.Time // servers that asked to be left alone, until when
	loop      loop
}

const (
	// years is how long a firmware may be in service before its own ceiling
	// stops it from believing the right time.
	years = 20
	// persistEvery is the write budget: 24 small files a day.
	persistEvery = time.Hour
	// maxServers bounds a poll: more do not make the majority better.
	maxServers = 4
	// banTime is how long a server is left alone that sent DENY or RSTR (RFC
	// 5905, 7.4: stop sending to it), in case its operator changes his mind.
	banTime = 24 * time.Hour
)

// NewKeeper makes a Keeper; fill its exported fields before Run.
func NewKeeper() *Keeper {
	return &Keeper{changed: make(chan struct{}, 1), banned: map[string]time.Time{}}
}

// Use tells the keeper where time may come from now. It never blocks.
func (k *Keeper) Use(s Sources) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sources = s
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// Run keeps the clock until ctx ends, and writes the time down once more then.
func (k *Keeper) Run(ctx context.Context) error {
	k.start()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var src Sources
	for {
		select {
		case <-ctx.Done():
			k.persist(0)
			return nil
		case <-k.changed:
			old := src
			k.mu.Lock()
			src = k.sources
			k.mu.Unlock()
			k.open(src.Dir)
			if src.Online && len(src.Servers) > 0 && (!old.Online || !slices.Equal(old.Servers, src.Servers)) {
				timer.Reset(0)
			}
			continue
		case <-timer.C:
		}
		if !src.Online {
			continue // Use wakes us when that changes
		}
		timer.Reset(k.poll(ctx, src.Servers))
		k.persist(persistEvery)
	}
}

// start raises the clock to the firmware's build time or the hardware clock.
func (k *Keeper) start() {
	k.floor = k.Build
	now, source := k.System.Now(), "floor"
	rtc, err := k.RTC()
	switch {
	case err != nil:
		k.Log.Debug("no hardware clock", "err", err)
	case k.possible(rtc) != nil:
		k.Log.Warn("hardware clock is not believed", "err", k.possible(rtc))
	case rtc.After(now.Add(-time.Minute)):
		// The kernel may have set the clock from it already.
		source = "rtc"
		if rtc.After(now.Add(time.Minute)) {
			k.set(rtc, "hardware clock")
		}
	}
	k.raise()
	k.publish(state.Time{Source: source})
}

// raise lifts the clock to the floor, or brings it down from beyond the ceiling.
func (k *Keeper) raise() {
	if err := k.possible(k.System.Now()); err != nil {
		k.set(k.floor, err.Error())
	}
}

// possible says what is wrong with a time, if anything is.
func (k *Keeper) possible(t time.Time) error {
	// A build without a real date (SOURCE_DATE_EPOCH=0) says nothing about
	// how late it can be.
	ceiling := k.Build.AddDate(years, 0, 0)
	switch {
	case t.Before(k.floor):
		return fmt.Errorf("%s is before %s, which has been", stamp(t), stamp(k.floor))
	case k.Build.Year() >= 2020 && t.After(ceiling):
		return fmt.Errorf("%s is more than %d years after this firmware was built", stamp(t), years)
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (k *Keeper) set(t time.Time, why string) {
	old := k.System.Now()
	if err := k.System.Set(t); err != nil {
		k.Log.Error("setting the clock", "to", stamp(t), "err", err)
		return
	}
	k.Log.Info("clock set", "from", stamp(old), "to", stamp(t), "why", why)
}

// open takes over the folder with the last known time, once there is one.
func (k *Keeper) open(dir string) {
	if dir == "" || dir == k.dir {
		return
	}
	k.dir = dir
	last, err := readTime(dir)
	if err != nil {
		k.Log.Info("no earlier time", "err", err)
		return
	}
	if err := k.possible(last); err != nil {
		k.Log.Warn("the time written down is not believed", "err", err)
		return
	}
	k.floor, k.persisted = last, last
	k.raise()
}

// persist writes the time down if that is every ago, and only a time that servers
// agreed upon: a floor cannot be lowered again.
func (k *Keeper) persist(every time.Duration) {
	now := k.System.Now()
	if k.dir == "" || !k.status.Synchronised || now.Before(k.persisted.Add(max(every, time.Minute))) {
		return
	}
	if err := k.Write(filepath.Join(k.dir, timeFile), fmt.Appendf(nil, "%d\n", now.Unix())); err != nil {
		k.Log.Warn("writing the time down", "err", err)
	}
	k.floor, k.persisted = now, now // after a failure too: try again in an hour
}

// poll asks the servers, corrects the clock, and returns when to ask again.
func (k *Keeper) poll(ctx context.Context, servers []string) time.Duration {
	samples := k.ask(ctx, servers)
	best, err := choose(samples)
	if err != nil {
		if ctx.Err() == nil {
			k.Log.Info("no time from the network", "err", err)
		}
		return jitter(k.loop.failed())
	}
	step, poll := k.loop.measured(best.Offset)
	if k.loop.doubtful() {
		k.Log.Warn("clock is far off; measuring again before it is stepped", "offset", best.Offset, "server", best.Server)
		return jitter(poll)
	}
	slew := best.Offset
	if step {
		k.set(k.System.Now().Add(best.Offset), "NTP server "+best.Server)
		slew = 0 // a step forgets that the clock was synchronised: say so again
	}
	if err := k.System.Slew(slew, poll); err != nil {
		k.Log.Error("slewing the clock", "offset", slew, "err", err)
	}
	now := k.System.Now().Round(0).UTC()
	k.publish(state.Time{Synchronised: true, Source: "ntp", Server: best.Server, Offset: best.Offset, LastSync: &now})
	return jitter(poll)
}

// ask measures the servers side by side.
func (k *Keeper) ask(ctx context.Context, servers []string) []Sample {
	now := time.Now()
	var mu sync.Mutex
	var all []Sample
	var wg sync.WaitGroup
	asked := 0
	for _, server := range servers {
		if now.Before(k.banned[server]) {
			continue
		}
		if asked++; asked > maxServers {
			break
		}
		wg.Go(func() {
			s, err := k.Query(ctx, server)
			if err == nil {
				// Not s.Time: what the clock would become counts.
				err = k.possible(k.System.Now().Add(s.Offset))
			}
			mu.Lock()
			defer mu.Unlock()
			var kiss *KissError
			switch {
			case errors.As(err, &kiss):
				k.Log.Warn("NTP server refuses", "server", server, "code", kiss.Code)
				k.banned[server] = now.Add(kiss.pause())
			case err != nil && ctx.Err() == nil:
				k.Log.Info("NTP server", "server", server, "err", err)
			case err == nil:
				all = append(all, s)
			}
		})
	}
	wg.Wait()
	return all
}

func (k *Keeper) publish(s state.Time) {
	k.status = s
	k.Publish(s)
}

// jitter spreads polls by a tenth, so that boxes that started together do not
// ask together.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()-0.5)*0.2*float64(d))
}
