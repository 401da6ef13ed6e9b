package boot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/fogwright/fogwright/initramfs/state"
)

// Group is the group of all daemons: it may make files in state.Dir. The folder
// is sticky, so nobody replaces another's.
const Group = 100

// Mount is one kernel file system.
type Mount struct {
	Source, Target, Type string
	Flags                uintptr
	Data                 string
}

func boxMounts() []Mount {
	const strict = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	return []Mount{
		{"proc", "/proc", "proc", strict, ""},
		{"sysfs", "/sys", "sysfs", strict, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0755"},
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0600,ptmxmode=0666"},
		{"tmpfs", "/run", "tmpfs", strict, "mode=0755,size=16m"},
		{"tmpfs", "/tmp", "tmpfs", strict, "mode=1777,size=16m"},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", strict, "nsdelegate"},
	}
}

// mounts is the phase: the kernel's file systems, and the folder of the state
// files.
func (p *initProcess) mounts(context.Context) error {
	unix.Umask(0o022)
	var errs []error
	for _, m := range p.cfg.Mounts {
		if err := os.MkdirAll(m.Target, 0o755); err != nil {
			errs = append(errs, err)
			continue
		}
		err := unix.Mount(m.Source, m.Target, m.Type, m.Flags, m.Data)
		if err != nil && !errors.Is(err, unix.EBUSY) { // EBUSY: it is there already
			errs = append(errs, fmt.Errorf("mounting %s on %s: %w", m.Type, m.Target, err))
		}
	}
	err := os.MkdirAll(p.cfg.StateDir, 0o755)
	if err == nil {
		err = os.Chown(p.cfg.StateDir, 0, Group)
	}
	if err == nil {
		err = os.Chmod(p.cfg.StateDir, 0o775|fs.ModeSticky)
	}
	// netd writes the resolvers where it may write, programs look where they
	// always do.
	if link := p.cfg.Resolvers; err == nil && !exists(link) {
		err = errors.Join(os.MkdirAll(filepath.Dir(link), 0o755), os.Symlink(filepath.Join(p.cfg.StateDir, "resolv.conf"), link))
	}
	// A dead daemon's memory holds keys and is of no use to anybody here.
	core := unix.Rlimit{}
	return errors.Join(append(errs, err, unix.Setrlimit(unix.RLIMIT_CORE, &core))...)
}

// readBoard is the phase: what the builder knows of this board.
func (p *initProcess) readBoard(context.Context) error {
	b, err := os.ReadFile(p.cfg.BoardFile)
	if err != nil {
		return fmt.Errorf("reading the board's facts: %w", err)
	}
	var board state.Board
	if err := json.Unmarshal(b, &board); err != nil {
		return fmt.Errorf("reading the board's facts %s: %w", p.cfg.BoardFile, err)
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	p.mu.Lock()
	p.board = board
	p.boot.BootID = strings.TrimSpace(string(id))
	p.mu.Unlock()
	p.console.Printf("board %s version %s variant %s", board.Name, board.Version, board.Variant)
	return err
}

// Sysctl is one kernel setting: a path below /proc/sys and its value.
type Sysctl struct{ Path, Value string }

// boxSysctls are the machine's; the network's are netd's. What a kernel does not
// have is passed over: no user namespace, no limit on them needed.
func boxSysctls() []Sysctl {
	return []Sysctl{
		// A kernel that is in doubt about itself restarts, ten seconds later,
		// so that the console can be read; the slot machinery does the rest.
		{"kernel/panic", "10"},
		{"kernel/panic_on_oops", "1"},
		// Who got into a daemon learns little about the kernel and cannot
		// change it.
		{"kernel/kptr_restrict", "2"},
		{"kernel/dmesg_restrict", "1"},
		{"kernel/unprivileged_bpf_disabled", "1"},
		{"net/core/bpf_jit_harden", "2"},
		{"kernel/kexec_load_disabled", "1"},
		{"kernel/sysrq", "0"},
		{"kernel/perf_event_paranoid", "3"},
		{"kernel/yama/ptrace_scope", "3"},
		{"kernel/randomize_va_space", "2"},
		{"kernel/io_uring_disabled", "2"},
		{"vm/unprivileged_userfaultfd", "0"},
		{"dev/tty/ldisc_autoload", "0"},
		{"fs/suid_dumpable", "0"},
		{"fs/protected_hardlinks", "1"},
		{"fs/protected_symlinks", "1"},
		{"fs/protected_fifos", "2"},
		{"fs/protected_regular", "2"},
		{"kernel/ctrl-alt-del", "0"}, // tell init, do not reset
		// There is no modprobe. With an empty path the kernel knows; else it
		// starts a helper process for each module it would like to have.
		{"kernel/modprobe", ""},
	}
}

// sysctls is the phase.
func (p *initProcess) sysctls(context.Context) error {
	var errs []error
	for _, s := range p.cfg.Sysctls {
		err := os.WriteFile("/proc/sys/"+s.Path, []byte(s.Value+"\n"), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("setting %s to %s: %w", strings.ReplaceAll(s.Path, "/", "."), s.Value, err))
		}
	}
	return errors.Join(errs...)
}

// modules is the phase: the board's list. What does not wait for another module is
// loaded at the same time as others; on a box of four small cores checking, linking
// and probing take long enough for that to count.
func (p *initProcess) modules(context.Context) error {
	list := p.board.Modules
	done := make([]chan struct{}, len(list))
	errs := make([]error, len(list))
	for i := range list {
		done[i] = make(chan struct{})
	}
	var absent atomic.Int32
	for i, m := range list {
		go func() {
			defer close(done[i])
			for _, n := range m.Needs {
				if n >= 0 && n < i { // or it would wait for ever
					<-done[n]
				}
			}
			err := loadModule(m.Path)
			switch {
			case err == nil, errors.Is(err, unix.EEXIST): // built in or there already
			case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
				absent.Add(1) // its hardware is not in this unit: nothing is wrong
			default:
				errs[i] = fmt.Errorf("loading module %s: %w", filepath.Base(m.Path), err)
			}
		}()
	}
	for i := range done {
		<-done[i]
	}
	err := errors.Join(errs...)
	p.console.Printf("modules: %d listed, %d without hardware, all others loaded: %v", len(list), absent.Load(), err == nil)
	return err
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	// async_probe: the driver looks for its devices while the next module is
	// loaded. Whoever wants a device waits for it anyhow.
	return unix.FinitModule(int(f.Fd()), "async_probe", 0)
}

// lockModules is the phase: from here on nobody, root included, loads code into
// this kernel until the next boot.
func (p *initProcess) lockModules(context.Context) error {
	if len(p.board.Modules) == 0 {
		return nil // nothing to lock, as in a container
	}
	err := os.WriteFile("/proc/sys/kernel/modules_disabled", []byte("1\n"), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("closing the door to modules: %w", err)
	}
	return nil
}

// hostname is the phase: a name until netd knows the real one.
func (p *initProcess) hostname(context.Context) error {
	if err := unix.Sethostname([]byte("fogwright")); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	return nil
}
