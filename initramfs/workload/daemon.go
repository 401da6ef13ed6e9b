package workload

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fogwright/fogwright/initramfs/site"
	"github.com/fogwright/fogwright/initramfs/state"
)

// Main is the daemon workd. It returns nil when ctx ends, after every workload was
// stopped.
func Main(ctx context.Context, cfg Config) error {
	if len(os.Args) == 2 && os.Args[1] == launchArg {
		return becomeWorkload(ctx)
	}
	d := &daemon{cfg: cfg.withDefaults(), output: &logger{out: os.Stdout}}
	return d.run(ctx)
}

func (c Config) withDefaults() Config {
	if c.StateDir == "" {
		c.StateDir = state.Dir
	}
	if c.RunDir == "" {
		c.RunDir = "/run/workloads"
	}
	if c.Workloads == nil {
		c.Workloads = func(factory string, s *site.Site) []Workload { return []Workload{EdgeCache(factory, s)} }
	}
	if c.Poll == 0 {
		c.Poll = time.Second
	}
	if c.NetworkWait == 0 {
		c.NetworkWait = 10 * time.Second
	}
	if c.StopAfter == 0 {
		c.StopAfter = 5 * time.Second
	}
	c.Restart = c.Restart.withDefaults()
	return c
}

type daemon struct {
	cfg    Config
	output *logger

	mu        sync.Mutex
	lines     []state.Workload // as in workloads.json
	reports   []string         // the report file of each that runs
	published []byte
}

func (d *daemon) run(ctx context.Context) error {
	// Known by name before the site configuration can be read.
	all := d.cfg.Workloads("", site.Default())
	d.reset(all, "waiting", "for the file systems")
	disk, ok := d.awaitStorage(ctx)
	if !ok {
		return nil
	}
	factory := disk.FileSystems["factory"].Mount
	all = d.cfg.Workloads(factory, readSite(factory))
	d.reset(all, "idle", "no content is configured in "+site.File)
	data := d.cfg.DataDir
	if data == "" {
		data = disk.FileSystems["data"].Mount
	}
	d.eachLine(func(i int, w *state.Workload) {
		if all[i].Config != nil {
			w.State, w.Last = "waiting", "for the network"
		}
	})
	d.awaitNetwork(ctx)
	if ctx.Err() != nil {
		return nil
	}
	var running sync.WaitGroup
	defer running.Wait()
	for i := range all {
		if all[i].Config == nil {
			continue
		}
		d.change(i, func(w *state.Workload) { w.State, w.Last = "starting", "" })
		p := &process{
			w:         &all[i],
			config:    filepath.Join(d.cfg.RunDir, all[i].Name+".json"),
			reportDir: filepath.Join(d.cfg.RunDir, all[i].Name),
			data:      filepath.Join(data, "workloads", all[i].Name),
			log:       d.output,
			stopAfter: d.cfg.StopAfter,
		}
		running.Go(func() { d.keep(ctx, i, p) })
	}
	d.pollReports(ctx)
	return nil
}

// awaitStorage waits for a data file system that can be written to. ok is false
// when ctx ended first.
func (d *daemon) awaitStorage(ctx context.Context) (disk state.Storage, ok bool) {
	state.Watch(ctx, d.cfg.StateDir, state.StorageFile, func(b []byte) bool {
		var s state.Storage
		if err := json.Unmarshal(b, &s); err != nil || !s.Ready {
			return true
		}
		if fs := s.FileSystems["data"]; (fs.Mount == "" || fs.ReadOnly) && d.cfg.DataDir == "" {
			slog.Error("no data file system to run workloads on", "error", fs.Error)
			d.eachLine(func(_ int, w *state.Workload) { w.Last = "for a data file system: " + fs.Error })
			return true
		}
		disk, ok = s, true
		return false
	})
	return disk, ok
}

// awaitNetwork waits until netd says that there is one, for a bounded time.
func (d *daemon) awaitNetwork(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.NetworkWait)
	defer cancel()
	state.Watch(ctx, d.cfg.StateDir, state.NetworkFile, func(b []byte) bool {
		var n state.Network
		return json.Unmarshal(b, &n) != nil || !n.Online
	})
}

// readSite returns the owner's wishes, as far as they can be understood.
func readSite(factory string) *site.Site {
	path := filepath.Join(factory, site.File)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || factory == "" {
		return site.Default()
	}
	if err != nil {
		slog.Error("reading the site configuration; going on without", "error", err)
		return site.Default()
	}
	s, err := site.Parse(path, text)
	if err != nil {
		slog.Error("the site configuration is not used", "error", err)
		return site.Default()
	}
	return s
}

// keep runs one workload for as long as ctx lasts, whatever becomes of it.
func (d *daemon) keep(ctx context.Context, i int, p *process) {
	defer p.clear()
	crashes := 0
	for {
		if err := p.prepare(); errors.Is(err, errNotInstalled) {
			// Somebody flashed content and not the program, and the box only
			// reads the factory partition: nothing here will change that.
			slog.Error("workload does not run", "error", err)
			d.change(i, func(w *state.Workload) { w.State, w.Last = "idle", err.Error() })
			return
		} else if err != nil {
			slog.Error("workload cannot be prepared", "error", err)
			d.change(i, func(w *state.Workload) { w.Last = err.Error() })
		} else {
			began := time.Now()
			d.change(i, func(w *state.Workload) { w.State = "starting" })
			last := p.run(ctx, func(pid int) { d.started(i, pid, p.report()) })
			if ctx.Err() != nil {
				d.ended(i, "idle", "stopped with workd")
				return
			}
			if time.Since(began) >= d.cfg.Restart.Healthy {
				crashes = 0
			}
			slog.Error("workload ended", "workload", p.w.Name, "how", last)
			d.ended(i, "backoff", last)
		}
		crashes++
		wait, loop := d.cfg.Restart.next(crashes)
		d.change(i, func(w *state.Workload) {
			if w.State = "backoff"; loop {
				w.State = "crashloop"
			}
		})
		select {
		case <-ctx.Done():
			d.change(i, func(w *state.Workload) { w.State = "idle" })
			return
		case <-time.After(wait):
		}
		d.change(i, func(w *state.Workload) { w.Restarts++ })
	}
}

func (d *daemon) started(i, pid int, report string) {
	d.change(i, func(w *state.Workload) {
		w.PID = pid
		d.reports[i] = report
	})
}

// ended drops the report: what a program said of itself ends with it.
func (d *daemon) ended(i int, as, last string) {
	d.change(i, func(w *state.Workload) {
		w.State, w.Last, w.PID, w.Report = as, last, 0, nil
		d.reports[i] = ""
	})
}

// pollReports merges the reports of all running workloads, all in one write.
func (d *daemon) pollReports(ctx context.Context) {
	tick := time.NewTicker(d.cfg.Poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		d.mu.Lock()
		for i, path := range d.reports {
			if path != "" {
				merge(&d.lines[i], path)
			}
		}
		d.publish()
		d.mu.Unlock()
	}
}

func merge(w *state.Workload, path string) {
	r, err := readReport(path)
	if err != nil {
		r = &state.Report{Errors: []string{"workd: " + plain(err.Error())}}
	}
	w.Report = r
	if w.State = "starting"; r != nil && r.Sharing {
		w.State = "sharing"
	}
}

func (d *daemon) reset(all []Workload, as, why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = make([]state.Workload, len(all))
	d.reports = make([]string, len(all))
	for i, w := range all {
		d.lines[i] = state.Workload{Name: w.Name, State: as, Last: why, Ports: w.Ports}
	}
	d.publish()
}

func (d *daemon) change(i int, f func(*state.Workload)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(&d.lines[i])
	d.publish()
}

func (d *daemon) eachLine(f func(int, *state.Workload)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.lines {
		f(i, &d.lines[i])
	}
	d.publish()
}

// publish writes workloads.json if it would change. d.mu is held.
func (d *daemon) publish() {
	b, err := json.Marshal(d.lines)
	if err == nil && bytes.Equal(b, d.published) {
		return
	}
	if err == nil {
		err = state.Write(d.cfg.StateDir, state.WorkloadsFile, state.Workloads{Workloads: d.lines})
	}
	if err != nil {
		slog.Error("publishing", "error", fmt.Errorf("writing %s: %w", state.WorkloadsFile, err))
		return
	}
	d.published = b
}
