package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fogwright/fogwright/initramfs/boot/supervise"
	"github.com/fogwright/fogwright/initramfs/state"
)

// The daemons' user ids. stored is user 0 because it mounts (the kernel asks for
// the owner of the initial root, not only for a capability, when it opens block
// devices: they are root's), without root's capabilities. Workloads have ids from
// 10001 on.
const (
	uidStored = 0
	uidNetd   = 101
	uidWorkd  = 102
	uidCtld   = 103
)

// boxServices is the table of daemons and of what each may do. They start at once
// and wait for each other's state files; they stop in reverse order, so stored,
// which unmounts, is the last.
func boxServices() []supervise.Service {
	env := []string{"PATH=/bin", "HOME=/", "LANG=C.UTF-8"}
	daemon := func(name string, uid uint32, caps ...uintptr) supervise.Service {
		return supervise.Service{Name: name, Path: "/proc/self/exe", Env: env, UID: uid, GID: Group, Caps: caps}
	}
	return []supervise.Service{
		daemon("stored", uidStored,
			unix.CAP_SYS_ADMIN,    // mount, BLKPG, ext4's resize
			unix.CAP_SYS_RESOURCE, // ext4's resize asks for it
			unix.CAP_CHOWN,        // hands folders to the other daemons
			unix.CAP_FOWNER, unix.CAP_DAC_OVERRIDE),
		daemon("ctld", uidCtld), // nothing: init opens its doors, see socket.go
		daemon("netd", uidNetd,
			unix.CAP_NET_ADMIN, // links, addresses, routes; /proc/sys/net
			unix.CAP_NET_RAW,   // DHCP without a port
			unix.CAP_SYS_TIME), // the clock
		daemon("workd", uidWorkd,
			unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SETPCAP, // to become the workload
			unix.CAP_CHOWN, unix.CAP_FOWNER, unix.CAP_DAC_OVERRIDE, // the workload's folders
			unix.CAP_KILL, unix.CAP_SYS_RESOURCE, // to stop and to limit it
			unix.CAP_SYS_ADMIN), // mounts: a bounded place for its report
	}
}

// services is the phase: from here on the supervisor's loop turns.
func (p *initProcess) services(work context.Context) error {
	p.sup.Services = p.cfg.Services
	if p.board.Variant == "dev" {
		if s, ok := devShell(); ok {
			p.sup.Services = append(p.sup.Services, s)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	p.supStop = stop
	go func() {
		defer close(p.supDone)
		p.sup.Run(ctx)
	}()
	go p.powerButtons(work)
	return nil
}

// devShell is the shell that a dev image has on its console, and a release image
// does not: its program is not there.
func devShell() (supervise.Service, bool) {
	for _, path := range []string{"/bbin/gosh", "/bin/sh"} {
		if !exists(path) {
			continue
		}
		// /dev/console cannot control a session; the device behind it can.
		active, err := os.ReadFile("/sys/class/tty/console/active")
		ttys := strings.Fields(string(active))
		if err != nil || len(ttys) == 0 {
			return supervise.Service{}, false
		}
		return supervise.Service{
			Name: "shell", Path: path, Args: []string{path}, Plain: true,
			Env: []string{"PATH=/bbin:/bin", "HOME=/", "TERM=linux", "LANG=C.UTF-8"},
			TTY: "/dev/" + ttys[len(ttys)-1],
		}, true
	}
	return supervise.Service{}, false
}

// stateFolders are what daemons keep over a reboot, each in a folder of its own.
var stateFolders = [...]struct {
	path string
	uid  int
}{
	{"/state/network", uidNetd},
}

// waitForStorage is the phase: until stored has every file system, or no more time.
func (p *initProcess) waitForStorage(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.StorageWait)
	defer cancel()
	var s state.Storage
	// The wait may not hold up the end that somebody asks for meanwhile.
	var asked atomic.Bool
	go func() {
		select {
		case a := <-p.actions:
			asked.Store(true)
			p.ask(a)
			cancel()
		case <-ctx.Done():
		}
	}()
	state.Watch(ctx, p.cfg.StateDir, state.StorageFile, func([]byte) bool {
		var next state.Storage
		if err := state.Read(p.cfg.StateDir, state.StorageFile, &next); err == nil {
			s = next
		}
		return !s.Ready
	})
	if asked.Load() && !s.Ready {
		return errors.New("not waited for: the box was asked to end")
	}
	if !s.Ready {
		return fmt.Errorf("stored has not got its file systems within %v: %s", p.cfg.StorageWait, strings.Join(s.Errors, "; "))
	}
	var errs []error
	for _, e := range s.Errors {
		errs = append(errs, errors.New(e))
	}
	for _, f := range stateFolders {
		if fs, ok := s.FileSystems["state"]; !ok || fs.ReadOnly || fs.Error != "" {
			break
		}
		err := os.MkdirAll(f.path, 0o700)
		if err == nil {
			err = os.Lchown(f.path, f.uid, Group)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("making %s for its daemon: %w", f.path, err))
		}
	}
	return errors.Join(errs...)
}

// follow tells the console the box's state in one word whenever that changes, and
// gives the machine the name that netd chose.
func (p *initProcess) follow(ctx context.Context) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var word, name string
	for {
		var s state.Status
		// A file that cannot be read leaves its part empty; ctld tells of it.
		_ = s.Load(p.cfg.StateDir)
		if w := s.Word(); w != word {
			word = w
			p.console.Printf("state %s at %.3fs", word, uptime())
		}
		if h := s.Network.Hostname; h != name && h != "" && len(h) <= 64 {
			name = h
			if err := unix.Sethostname([]byte(filepath.Base(h))); err != nil {
				p.console.Printf("setting the host name: %v", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
