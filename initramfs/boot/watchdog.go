package boot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// watchdog is the hardware watchdog (Documentation/watchdog/watchdog-api.rst): a
// timer that resets the board unless it is fed.
//
// It is fed only while the supervisor's loop turns. At the end of the box it
// matters how: a reboot leaves it armed, so that a reboot that hangs in the kernel
// or the firmware is a reset; a power off disarms it ("magic close"), because on
// boards that cannot cut their own power it would start the box again. Both are
// guarded up to their last step: a shutdown that takes longer than stopLimit is no
// longer fed.
type watchdog struct {
	mu      sync.Mutex
	f       *os.File
	timeout time.Duration
}

// open arms the watchdog at path with the wanted time-out. Hardware has limits of
// its own (16 s on Allwinner's); then its own value stands.
func (w *watchdog) open(path string, seconds int) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	timeout := seconds
	err = unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, seconds)
	if got, e := unix.IoctlGetInt(int(f.Fd()), unix.WDIOC_GETTIMEOUT); e == nil && got > 0 {
		timeout, err = got, nil
	}
	w.mu.Lock()
	w.f, w.timeout = f, time.Duration(timeout)*time.Second
	w.mu.Unlock()
	w.feed()
	if err != nil {
		return fmt.Errorf("setting the watchdog's time-out to %d s: %w", seconds, err)
	}
	return nil
}

// feed starts the timer anew.
func (w *watchdog) feed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f != nil {
		// A failed write needs no handling: the reset is what it leads to.
		_, _ = w.f.Write([]byte{0})
	}
}

// armed is the time-out in force, 0 without one.
func (w *watchdog) armed() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil {
		return 0
	}
	return w.timeout
}

// disarm stops the timer, where the driver allows it.
func (w *watchdog) disarm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f != nil {
		_, _ = w.f.Write([]byte("V"))
		_ = w.f.Close()
		w.f = nil
	}
}

// keepFed feeds a quarter of the time-out apart, while healthy says so.
func (w *watchdog) keepFed(ctx context.Context, healthy func(within time.Duration) bool, say func(string, ...any)) {
	tick := time.NewTicker(w.timeout / 4)
	defer tick.Stop()
	hungry := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !healthy(w.timeout / 2) {
			if !hungry {
				say("watchdog no longer fed: init does not turn")
			}
			hungry = true
			continue
		}
		hungry = false
		w.feed()
	}
}

// watchdogWait is how long a driver may take to find its device.
const watchdogWait = 30 * time.Second

// noWatchdog on the kernel command line leaves the watchdog alone. It is for models
// of a board whose watchdog resets the moment it is armed, as QEMU's raspi3b.
const noWatchdog = "fogwright.watchdog=off"

// watchdog is the phase. A unit without the hardware is no error (one pc image
// serves machines with and without), but it is said. The driver may be a moment
// behind its module, so the boot does not wait for that word.
func (p *initProcess) watchdog(ctx context.Context) error {
	if p.board.Watchdog == 0 {
		return nil
	}
	if cmdline, err := os.ReadFile("/proc/cmdline"); err == nil && slices.Contains(strings.Fields(string(cmdline)), noWatchdog) {
		p.console.Printf("watchdog off, by the kernel command line")
		return nil
	}
	err := p.armWatchdog(ctx)
	if !isAbsent(err) {
		return err
	}
	go func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for deadline := time.Now().Add(watchdogWait); isAbsent(err) && time.Now().Before(deadline); {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			err = p.armWatchdog(ctx)
		}
		if isAbsent(err) {
			p.console.Printf("watchdog: this unit has none")
		} else if err != nil {
			p.console.Printf("watchdog: %v", err)
		}
	}()
	return nil
}

func isAbsent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO)
}

// armWatchdog opens the watchdog and keeps it fed from then on.
func (p *initProcess) armWatchdog(ctx context.Context) error {
	err := p.dog.open(p.cfg.Watchdog, p.board.Watchdog)
	timeout := p.dog.armed()
	if timeout == 0 {
		return fmt.Errorf("arming the watchdog: %w", err)
	}
	p.console.Printf("watchdog armed, %v", timeout)
	p.sup.Beat()
	go p.dog.keepFed(ctx, p.healthy, p.console.Printf)
	return err
}

// healthy is what the watchdog wants to know.
func (p *initProcess) healthy(within time.Duration) bool {
	p.mu.Lock()
	stopBefore := p.stopBefore
	p.mu.Unlock()
	if !stopBefore.IsZero() {
		return time.Now().Before(stopBefore)
	}
	return p.sup.Alive(within)
}
