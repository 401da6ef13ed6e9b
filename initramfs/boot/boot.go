// Package boot is PID 1: it makes a running box out of a started kernel.
//
// The kernel starts it as /init and trusts it with everything; when it dies the
// kernel panics, and a panicked kernel reboots. It reads three things: the board's
// facts that the builder put into the image (trusted as the image is), what the
// daemons write into the state files (not trusted: only looked at), and requests
// on a socket that only root and ctld may use. It tells the console, in lines that
// begin with "fogwright:" and that host programs read, how the boot goes:
//
//	fogwright: phase modules ok 0.312s at 0.845s
//	fogwright: phase watchdog failed after 0.001s at 0.850s: ...
//	fogwright: service netd started pid 123
//	fogwright: service netd ended: exit status 1; backoff, next start in 0.3s
//	fogwright: ready at 2.345s
//	fogwright: state sharing at 4.567s
//	fogwright: stopping for reboot at 90.123s
//
// Times are seconds since the kernel started. On the console each line stands
// alone (it goes through the kernel's log, which never mixes lines) and may have
// the kernel's own time stamp in front.
//
// A phase that fails is recorded and the boot goes on: half a box can still be
// asked what is wrong with it and can still be updated.
package boot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fogwright/fogwright/initramfs/boot/journal"
	"github.com/fogwright/fogwright/initramfs/boot/supervise"
	"github.com/fogwright/fogwright/initramfs/state"
)

// Config is what a test may want different. The zero value is the real box.
type Config struct {
	StateDir  string              // state.Dir
	BoardFile string              // state.BoardFile
	Resolvers string              // /etc/resolv.conf
	Kmsg      string              // /dev/kmsg; another one leaves the kernel's log settings alone
	Mounts    []Mount             // of the mounts phase
	Sysctls   []Sysctl            // of the sysctl phase
	Watchdog  string              // /dev/watchdog
	Services  []supervise.Service // the daemons
	Backoff   *supervise.Backoff
	// StorageWait is how long the boot waits for stored; it is an error and
	// no end after that. 0 means 90 s: a first boot makes two file systems.
	StorageWait time.Duration
	// Halt ends it all, after every process is gone. It returns only when it
	// could not.
	Halt func(Action) error
}

func (c Config) withDefaults() Config {
	if c.StateDir == "" {
		c.StateDir = state.Dir
	}
	if c.BoardFile == "" {
		c.BoardFile = state.BoardFile
	}
	if c.Resolvers == "" {
		c.Resolvers = "/etc/resolv.conf"
	}
	if c.Kmsg == "" {
		c.Kmsg = kernelLog
	}
	if c.Mounts == nil {
		c.Mounts = boxMounts()
	}
	if c.Sysctls == nil {
		c.Sysctls = boxSysctls()
	}
	if c.Watchdog == "" {
		c.Watchdog = "/dev/watchdog"
	}
	if c.Services == nil {
		c.Services = boxServices()
	}
	if c.Backoff == nil {
		b := supervise.DefaultBackoff()
		c.Backoff = &b
	}
	if c.StorageWait == 0 {
		c.StorageWait = 90 * time.Second
	}
	if c.Halt == nil {
		c.Halt = halt
	}
	return c
}

// Action is how a box ends.
type Action string

// The two ways to end.
const (
	Reboot   Action = "reboot"
	PowerOff Action = "poweroff"
)

const (
	// journalBytes bounds the log: some 5,000 lines.
	journalBytes = 512 << 10
	// stopGrace is what one daemon has to stop in. A workload gets 3 s from
	// workd, and stored unmounts.
	stopGrace = 8 * time.Second
	// stopLimit is when a stopping box is called hung: the watchdog is no
	// longer fed.
	stopLimit = 60 * time.Second
)

// initProcess is PID 1 at work.
type initProcess struct {
	cfg     Config
	console *console
	journal *journal.Journal
	reaper  *supervise.Reaper
	sup     *supervise.Supervisor
	dog     watchdog

	actions    chan Action // asked for; the first wins
	supStop    context.CancelFunc
	supDone    chan struct{}
	stopBefore time.Time // set when stopping

	mu    sync.Mutex
	board state.Board
	boot  state.Boot
}

// Main runs the box until somebody asks for its end, and ends it. A cancelled ctx
// asks for power off. It comes back only when the kernel would not stop.
func Main(ctx context.Context, cfg Config) (err error) {
	p := newInit(cfg.withDefaults())
	defer func() {
		if r := recover(); r != nil {
			p.console.Printf("init crashed: %v", r)
			for _, line := range splitLines(debug.Stack()) {
				p.console.Printf("init crashed: %s", line)
			}
			unix.Sync()
			err = p.cfg.Halt(Reboot)
		}
	}()
	work, cancel := context.WithCancel(context.Background())
	defer cancel()
	go p.reaper.Run(work)
	go p.signals(work)
	p.bootUp(work)
	select {
	case <-ctx.Done():
		return p.end(PowerOff)
	case a := <-p.actions:
		return p.end(a)
	}
}

func newInit(cfg Config) *initProcess {
	j := journal.New(journalBytes, uptime)
	p := &initProcess{
		cfg:     cfg,
		journal: j,
		console: newConsole(j),
		reaper:  supervise.NewReaper(),
		actions: make(chan Action, 1),
		supDone: make(chan struct{}),
	}
	p.sup = &supervise.Supervisor{
		Reaper:  p.reaper,
		Backoff: *cfg.Backoff,
		Grace:   stopGrace,
		Now:     uptime,
		Capture: j.Capture,
		Publish: func(s state.Services) { p.publish(state.ServicesFile, s) },
		Event:   p.console.Printf,
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(p.console, nil)))
	return p
}

// bootUp runs every phase.
func (p *initProcess) bootUp(ctx context.Context) {
	run(ctx, p.phases(), uptime, func(all []state.Phase) {
		if last := all[len(all)-1]; last.End > 0 {
			p.console.Printf("%s", phaseLine(last))
		}
		p.change(func(b *state.Boot) { b.Phases = all })
	})
	p.change(func(b *state.Boot) { b.Ready = true })
	p.console.Printf("ready at %.3fs", uptime())
	go p.follow(ctx)
}

// change edits boot.json, whose only writer is this process.
func (p *initProcess) change(edit func(*state.Boot)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	edit(&p.boot)
	p.publish(state.BootFile, p.boot)
}

// publish writes a state file. Before /run is mounted there is nowhere to write
// to; what is said then is said again with the next change.
func (p *initProcess) publish(name string, v any) {
	if err := state.Write(p.cfg.StateDir, name, v); err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.console.Printf("%v", err)
	}
}

// ask requests the end of the box.
func (p *initProcess) ask(a Action) {
	select {
	case p.actions <- a:
	default: // it is ending already
	}
}

// signals turns the two ways in which the kernel and an operator's shell ask.
// With ctrl-alt-del caught (see the sysctl phase) the kernel sends SIGINT, and
// whoever presses that wants a restart; TERM is a power off.
func (p *initProcess) signals(ctx context.Context) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGTERM, unix.SIGINT)
	defer signal.Stop(c)
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-c:
			if s == unix.SIGINT {
				p.ask(Reboot)
			} else {
				p.ask(PowerOff)
			}
		}
	}
}

// uptime is CLOCK_BOOTTIME in seconds.
func uptime() float64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0 // the clock is as old as Linux 2.6.39
	}
	return float64(t.Nano()) / 1e9
}

func phaseLine(p state.Phase) string {
	if p.Error != "" {
		return fmt.Sprintf("phase %s failed after %.3fs at %.3fs: %s", p.Name, p.End-p.Start, p.End, p.Error)
	}
	return fmt.Sprintf("phase %s ok %.3fs at %.3fs", p.Name, p.End-p.Start, p.End)
}
