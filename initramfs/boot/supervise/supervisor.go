// Package supervise keeps a table of daemons running.
//
// init is the only user. It trusts the table and nothing that a daemon does: one
// may crash, hang, fork, write without end or refuse to die, and neither the
// others nor init may suffer. A daemon that ends, for whatever reason and with
// whatever status, is started again with a growing, jittered delay; one that keeps
// ending is called a crash loop and tried once a minute, for ever: a box that
// nobody looks at must not wait for somebody.
package supervise

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fogwright/fogwright/initramfs/state"
)

// Supervisor runs services. Fill in the fields, then call Run once.
type Supervisor struct {
	Reaper   *Reaper
	Services []Service // in starting order
	Backoff  Backoff
	// Grace is how long a service has between TERM and KILL.
	Grace time.Duration
	// Now is CLOCK_BOOTTIME in seconds, for what is published.
	Now func() float64
	// Capture reads a service's output to its end.
	Capture func(service string, r io.Reader)
	// Publish is given the whole table after every change.
	Publish func(state.Services)
	// Event is told in one line what happened.
	Event func(format string, a ...any)

	beat atomic.Int64 // UnixNano of the loop's last turn
	runs []run
}

// run is one service's life.
type run struct {
	spec     Service
	shown    state.Service
	failures int       // in a row
	started  time.Time // of the current process
	next     time.Time // when to start it; zero: not planned
}

// tick is how often the loop turns when nothing happens.
const tick = time.Second

// Alive reports whether the loop has turned within d. The hardware watchdog is
// fed only while it has.
func (v *Supervisor) Alive(d time.Duration) bool {
	return time.Since(time.Unix(0, v.beat.Load())) < d
}

// Beat says that the loop turns. Who arms the watchdog before Run calls it once, to
// give Run a first term.
func (v *Supervisor) Beat() { v.beat.Store(time.Now().UnixNano()) }

// Run starts the services and keeps them running until ctx ends; then it stops
// them one by one, the last first, and returns when all have ended.
func (v *Supervisor) Run(ctx context.Context) {
	exits := make(chan Exit, 8)
	v.runs = make([]run, len(v.Services))
	for i, s := range v.Services {
		v.runs[i] = run{spec: s, shown: state.Service{Name: s.Name}}
		v.start(&v.runs[i], exits)
	}
	v.publish()
	for ctx.Err() == nil {
		v.Beat()
		timer := time.NewTimer(v.untilNext())
		select {
		case <-ctx.Done():
		case e := <-exits:
			v.ended(e)
		case <-timer.C:
		}
		timer.Stop()
		if ctx.Err() == nil && v.turn(time.Now(), exits) {
			v.publish()
		}
	}
	for i := len(v.runs) - 1; i >= 0; i-- {
		v.stop(&v.runs[i], exits)
	}
}

// untilNext is how long the loop may sleep.
func (v *Supervisor) untilNext() time.Duration {
	d := tick
	for _, r := range v.runs {
		if !r.next.IsZero() {
			d = min(d, max(0, time.Until(r.next)))
		}
	}
	return d
}

// turn starts what is due and calls a service that has lived long enough healthy.
func (v *Supervisor) turn(now time.Time, exits chan Exit) (changed bool) {
	for i := range v.runs {
		r := &v.runs[i]
		switch {
		case !r.next.IsZero() && !now.Before(r.next):
			r.shown.Restarts++
			v.start(r, exits)
			changed = true
		case r.shown.PID != 0 && r.failures > 0 && now.Sub(r.started) >= v.Backoff.Stable:
			r.failures = 0
			if r.shown.State != "running" {
				r.shown.State, r.shown.Since = "running", v.Now()
				changed = true
			}
		}
	}
	return changed
}

func (v *Supervisor) start(r *run, exits chan<- Exit) {
	v.Beat() // a start may take a second on a small box, and there are several
	r.next = time.Time{}
	r.started = time.Now()
	w, err := pipe(func(p io.Reader) { v.Capture(r.spec.Name, p) })
	if err == nil {
		defer w.Close()
		r.shown.PID, err = v.Reaper.Start(func() (int, error) { return r.spec.start(w) }, exits)
	}
	if err != nil {
		v.failed(r, err.Error())
		return
	}
	if r.shown.State != "crashloop" { // that takes a stable life to lose
		r.shown.State = "running"
	}
	r.shown.Since = v.Now()
	v.Event("service %s started pid %d", r.spec.Name, r.shown.PID)
}

// ended notes that a service's process is gone.
func (v *Supervisor) ended(e Exit) {
	for i := range v.runs {
		r := &v.runs[i]
		if r.shown.PID != e.PID {
			continue
		}
		if time.Since(r.started) >= v.Backoff.Stable {
			r.failures = 0
			r.shown.State = "" // no longer a crash loop, even if nobody looked
		}
		r.shown.PID = 0
		v.failed(r, describe(e.Status))
		v.publish()
	}
}

// failed plans the next start of a service that does not run.
func (v *Supervisor) failed(r *run, why string) {
	r.failures++
	delay, loop := v.Backoff.Delay(r.failures, rand.Float64())
	r.next = time.Now().Add(delay)
	r.shown.State = "backoff"
	if loop {
		r.shown.State = "crashloop"
	}
	r.shown.Since, r.shown.Last = v.Now(), why
	v.Event("service %s ended: %s; %s, next start in %.1fs", r.spec.Name, why, r.shown.State, delay.Seconds())
}

// stop ends one service: TERM, Grace, KILL. It goes on turning the loop's beat,
// since a shutdown in good order is healthy.
func (v *Supervisor) stop(r *run, exits chan Exit) {
	r.next = time.Time{}
	signal, deadline := syscall.SIGTERM, time.Now().Add(v.Grace)
	if r.shown.PID != 0 {
		v.Reaper.Signal(r.shown.PID, signal)
	}
	for r.shown.PID != 0 {
		v.Beat()
		timer := time.NewTimer(min(tick, max(0, time.Until(deadline))))
		select {
		case e := <-exits:
			v.endedForGood(e)
		case <-timer.C:
			if time.Now().Before(deadline) {
				break
			}
			if signal == syscall.SIGKILL {
				// Stuck in the kernel, on a dead disk for instance.
				r.shown.Last = "did not end on KILL"
				v.Event("service %s: %s, leaving it", r.spec.Name, r.shown.Last)
				r.shown.PID = 0
				break
			}
			v.Event("service %s did not stop within %v, killing it", r.spec.Name, v.Grace)
			signal, deadline = syscall.SIGKILL, time.Now().Add(v.Grace)
			v.Reaper.Signal(r.shown.PID, signal)
		}
		timer.Stop()
	}
	r.shown.State, r.shown.Since = "stopped", v.Now()
	v.publish()
}

// endedForGood is ended during shutdown: nothing is planned.
func (v *Supervisor) endedForGood(e Exit) {
	for i := range v.runs {
		if r := &v.runs[i]; r.shown.PID == e.PID {
			r.shown.PID, r.shown.Last = 0, describe(e.Status)
			v.Event("service %s stopped: %s", r.spec.Name, r.shown.Last)
		}
	}
}

func (v *Supervisor) publish() {
	all := state.Services{Services: make([]state.Service, len(v.runs))}
	for i, r := range v.runs {
		all.Services[i] = r.shown
	}
	v.Publish(all)
}

func describe(s syscall.WaitStatus) string {
	if s.Signaled() {
		return fmt.Sprintf("signal %d (%v)", int(s.Signal()), s.Signal())
	}
	return fmt.Sprintf("exit status %d", s.ExitStatus())
}
