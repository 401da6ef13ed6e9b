package boot

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// end stops the box in good order. See watchdog for what guards it.
func (p *initProcess) end(a Action) error {
	p.mu.Lock()
	p.stopBefore = time.Now().Add(stopLimit)
	p.mu.Unlock()
	p.console.Printf("stopping for %s at %.3fs", a, uptime())
	if p.supStop != nil {
		p.supStop()
		<-p.supDone
	}
	p.endStrays()
	p.console.Printf("stopped at %.3fs", uptime())
	if a == PowerOff {
		p.dog.disarm()
	} else {
		p.dog.feed()
	}
	err := p.cfg.Halt(a)
	p.console.Printf("the kernel did not %s: %v", a, err)
	return err // the end of PID 1: a panic, hence a reboot
}

// endStrays ends what the services left behind.
func (p *initProcess) endStrays() {
	if os.Getpid() != 1 {
		return // kill(-1) is for the one who owns them all
	}
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		for range 20 { // two seconds
			if p.reaper.Childless() {
				return
			}
			_ = unix.Kill(-1, signal)
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// unmountAll unmounts every file system that lies on a device, the last mounted
// first, and makes read-only what is busy. stored has done so for its own; this is
// for what it could not.
func unmountAll() {
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return
	}
	targets := deviceMounts(string(text))
	for i := len(targets) - 1; i >= 0; i-- {
		if unix.Unmount(targets[i], 0) != nil {
			_ = unix.Mount("", targets[i], "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
	}
}

// deviceMounts are the targets in /proc/mounts whose source is a device.
func deviceMounts(text string) []string {
	var targets []string
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) >= 2 && strings.HasPrefix(f[0], "/dev/") {
			targets = append(targets, unescape.Replace(f[1]))
		}
	}
	return targets
}
