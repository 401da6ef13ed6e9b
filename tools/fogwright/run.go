package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/fogwright/fogwright/firmware"
	"github.com/fogwright/fogwright/initramfs/state"
	"github.com/fogwright/fogwright/tools/lab"
	"github.com/fogwright/fogwright/tools/rig"
)

// stages are what -until waits for.
var stages = []string{"ready", "online", "sharing"}

// goodbye is how long a box may take to shut down in good order.
const goodbye = 60 * time.Second

func runCommand() *command {
	return &command{
		name: "run", summary: "build a board's firmware and boot it in a virtual home",
		usage: "-board NAME|FOLDER [flags]",
		about: `The box is a QEMU machine that boots the built image through the board's own boot
chain; its network is a virtual home inside this process, with a router and an
origin that has something to share. No root is needed, and nothing of it reaches
your real network. Ctrl-C shuts the box down cleanly; a second one cuts the power.

While it runs, "fogwright ctl" in another terminal talks to it.`,
		examples: [][2]string{
			{"fogwright run -board pc-amd64", "build it, boot it, watch it until Ctrl-C"},
			{"fogwright run -board orangepi-pc -peer aria2c", "and let a real BitTorrent client fetch from it"},
			{"fogwright run -board rpi3 -until sharing -json", "for scripts: status as JSON once it shares, then a clean shutdown"},
			{"fogwright run -board pc-arm64 -variant dev -console", "see and use its serial console, with a shell"},
		},
		run: func(fs *flag.FlagSet) runner {
			r := &session{}
			r.buildOptions.add(fs)
			fs.StringVar(&r.folder, "out", "out", "build into, and boot from, this `folder`")
			fs.BoolVar(&r.asBuilt, "as-built", false, "boot the image in the folder as it is, without building")
			fs.StringVar(&r.until, "until", "", "shut down and exit once the box is that far: `ready`, online or sharing")
			fs.StringVar(&r.peer, "peer", "", "once the box shares, fetch from it with this BitTorrent `program` (aria2c) and compare")
			fs.BoolVar(&r.console, "console", false, "show the serial console instead of the named steps; what you type goes there")
			fs.BoolVar(&r.json, "json", false, "print the box's status as JSON, and nothing else, on standard output")
			fs.DurationVar(&r.budget, "timeout", 0, "how long it may take from power-on (else the board's boot budget)")
			return func(ctx context.Context, args []string, s stdio) error {
				if err := noArgs("run", args); err != nil {
					return err
				}
				if r.until != "" && beginning(stages, r.until) == nil {
					return usagef("run", "-until %q: want one of %s", r.until, strings.Join(stages, ", "))
				}
				r.stdio = s
				return r.run(ctx)
			}
		},
	}
}

// session is one `fogwright run`.
type session struct {
	buildOptions
	stdio
	folder, until, peer    string
	asBuilt, console, json bool
	budget                 time.Duration
}

func (r *session) run(ctx context.Context) error {
	plan, err := r.plan(ctx, r.folder)
	if err != nil {
		return err
	}
	if !r.asBuilt {
		show := &progress{w: r.err, terminal: r.terminal}
		plan.Progress = show.event
		if _, err := firmware.Build(ctx, plan); err != nil {
			return err
		}
	}
	if r.budget == 0 {
		r.budget = time.Duration(plan.Board.Budget.BootSeconds) * time.Second
	}
	steps := newSteps(r.err)
	var console io.Writer = steps
	if r.console {
		console = r.err
	}
	// The machine outlives ctx, which Ctrl-C ends, by its clean shutdown.
	box, err := rig.Start(context.WithoutCancel(ctx), rig.Options{
		Board: plan.Board, Image: filepath.Join(r.folder, plan.Board.Name+".img"),
		Packages: plan.Packages, Site: string(plan.Site), Console: console,
	})
	if err != nil {
		return err
	}
	defer box.Close()
	if r.console {
		go io.Copy(box.Machine.Input(), r.in)
	}
	stop, err := serveControl(plan.Board.Name, box.Control)
	if err != nil {
		return err
	}
	defer stop()
	steps.start(box.PowerOn)
	steps.line("power on (%s, %s)", plan.Board.QEMU.Machine, acceleration(box.Machine.Accelerator))
	return r.watch(ctx, box, steps)
}

// watch waits for the box to share, shows it, and shuts it down.
func (r *session) watch(ctx context.Context, box *rig.Rig, steps *steps) error {
	goal := r.until
	if goal == "" {
		goal = "sharing"
	}
	bounded, cancel := context.WithDeadlineCause(ctx, box.PowerOn.Add(r.budget),
		fmt.Errorf("the boot budget of %s is used up", r.budget))
	status, err := box.Until(bounded, goal)
	cancel()
	switch {
	case ctx.Err() != nil:
		return r.off(box, steps)
	case err != nil:
		return fmt.Errorf("%w\nThe end of its console:\n%s", err, lastLines(box.Machine.Console(), 40))
	}
	steps.line("%s", goal)
	if r.json {
		e := json.NewEncoder(r.out)
		e.SetIndent("", "  ")
		if err := e.Encode(status); err != nil {
			return err
		}
	} else {
		printStatus(r.out, status)
	}
	if r.peer != "" {
		if err := r.fetch(ctx, box, steps); err != nil {
			return err
		}
	}
	if r.until == "" && isInteractive(r.in) {
		fmt.Fprintf(r.err, "\nThe box stays up. In another terminal: fogwright ctl status. Ctrl-C shuts it down.\n")
		select {
		case <-ctx.Done():
		case <-box.Machine.Done():
			return errors.New("the machine switched itself off")
		}
	}
	return r.off(box, steps)
}

// fetch lets a foreign client fetch from the box.
func (r *session) fetch(ctx context.Context, box *rig.Rig, steps *steps) error {
	program, err := exec.LookPath(r.peer)
	if err != nil {
		return fmt.Errorf("-peer: %w (on Debian and Ubuntu: apt install aria2)", err)
	}
	if err := box.Origin.Stop(); err != nil { // so that it can only come from the box
		return err
	}
	steps.line("origin stopped; %s fetches %s from the box", r.peer, box.Content[0].Name)
	got, err := box.Fetch(ctx, program, box.Content[0])
	if err != nil {
		return err
	}
	steps.line("%s has %s in %s, SHA-256 %s…, as the origin's", got.Program, mib(got.Size), got.Took.Round(100*time.Millisecond), got.SHA256[:16])
	return nil
}

// off shuts the box down in good order.
func (r *session) off(box *rig.Rig, steps *steps) error {
	ctx, cancel := context.WithTimeout(context.Background(), goodbye)
	defer cancel()
	steps.line("shutting down")
	if err := box.PowerOff(ctx); err != nil {
		return err
	}
	steps.line("off")
	return nil
}

func acceleration(a string) string {
	if a == lab.KVM {
		return "KVM"
	}
	return "emulated: no working KVM for it here"
}

// lastLines is the end of a console, without the escape sequences of loaders.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(plain(text), "\n"), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-n):], "\n  ")
}

// printStatus shows the box on one page.
func printStatus(w io.Writer, s *state.Status) {
	fmt.Fprintf(w, "\n%s: %s, Fogwright %s (%s), slot %s, up %.0f s\n", s.Board.Name, strings.ToUpper(s.State), s.Board.Version, s.Board.Variant, orNone(s.Boot.Slot), s.Uptime)
	for _, l := range s.Network.Links {
		for _, a := range l.Addresses {
			fmt.Fprintf(w, "  address   %s %s (%s)\n", l.Name, a.CIDR, a.Source)
		}
	}
	fmt.Fprintf(w, "  resolver  %s\n", orNone(strings.Join(s.Network.Resolvers, ", ")))
	fmt.Fprintf(w, "  clock     %s by %s\n", s.Time.UTC().Format(time.RFC3339), orNone(s.Clock.Source))
	for name, f := range s.Storage.FileSystems {
		fmt.Fprintf(w, "  storage   %s: %s, %s free of %s\n", name, f.Type, mib(f.Free), mib(f.Size))
	}
	for _, x := range s.Workloads {
		fmt.Fprintf(w, "  workload  %s: %s", x.Name, x.State)
		if x.Report != nil {
			fmt.Fprintf(w, ", served %s to %d peers now", mib(x.Report.BytesServed), x.Report.Peers)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "  memory    %s used of %s\n", mib(s.Memory.Total-s.Memory.Available), mib(s.Memory.Total))
	fmt.Fprintf(w, "  listening %s\n", orNone(strings.Join(s.Listening, ", ")))
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
