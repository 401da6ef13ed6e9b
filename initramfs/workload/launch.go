package workload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Between workd and a workload stands one short step: workd starts its own program
// again with launchArg, and that process gives up everything before it becomes the
// workload. What Go's os/exec can set at fork is not enough (no resource limits,
// no no_new_privs), and after the fork it is too late: the program runs already.
// The sandbox's namespaces, mounts and filters belong into this step, in the order
// that DEPENDENCIES.md tells.
const launchArg = "--launch"

// launch is what the step is told, through the pipe at launchPipe.
type launch struct {
	Parent  int // workd; the workload dies with it
	Program string
	Args    []string
	Env     []string
	Dir     string
	UID     int
	Limits  Limits
}

const launchPipe = 3

// becomeWorkload reads a launch and turns this process into it. It returns only
// when that fails.
func becomeWorkload(ctx context.Context) error {
	pipe := os.NewFile(launchPipe, "launch")
	b, err := io.ReadAll(pipe)
	if err != nil {
		return fmt.Errorf("reading the launch: %w", err)
	}
	pipe.Close()
	var l launch
	if err := json.Unmarshal(b, &l); err != nil {
		return fmt.Errorf("reading the launch: %w", err)
	}
	// Capabilities, no_new_privs and the parent-death signal belong to a
	// thread; exec keeps those of the thread that calls it.
	runtime.LockOSThread()
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"setting resource limits", func() error { return setLimits(l.Limits) }},
		{"dropping the capability bounding set", dropBounding},
		{"changing the user", func() error { return setUser(l.UID) }},
		{"dropping capabilities", dropCapabilities},
		{"setting no_new_privs", func() error { return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }},
		{"asking to die with workd", func() error { return dieWith(l.Parent) }},
		{"entering the data folder", func() error { return os.Chdir(l.Dir) }},
		{"marking open files", closeOnExec},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	if err := ctx.Err(); err != nil { // workd's TERM came before the workload could
		return err
	}
	unix.Umask(0o077)
	err = syscall.Exec(l.Program, append([]string{l.Program}, l.Args...), l.Env)
	return fmt.Errorf("executing %q: %w", l.Program, err)
}

func setLimits(l Limits) error {
	limits := map[int]int64{
		unix.RLIMIT_CORE:     0, // a core would fill the data partition
		unix.RLIMIT_MEMLOCK:  0,
		unix.RLIMIT_MSGQUEUE: 0,
		unix.RLIMIT_RTPRIO:   0,
	}
	for resource, value := range map[int]int64{
		unix.RLIMIT_NOFILE: int64(l.OpenFiles),
		unix.RLIMIT_NPROC:  int64(l.Processes),
		unix.RLIMIT_DATA:   l.Memory,
		unix.RLIMIT_FSIZE:  l.FileSize,
	} {
		if value > 0 {
			limits[resource] = value
		}
	}
	for resource, value := range limits {
		r := unix.Rlimit{Cur: uint64(value), Max: uint64(value)}
		if err := unix.Setrlimit(resource, &r); err != nil {
			return fmt.Errorf("resource %d to %d: %w", resource, value, err)
		}
	}
	return nil
}

// dropBounding needs CAP_SETPCAP. Where workd itself has not got it, there is
// nothing to drop that no_new_privs would not keep away as well.
func dropBounding() error {
	for c := uintptr(0); ; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
			return nil // past the kernel's last capability, or not allowed
		}
		if err != nil {
			return err
		}
	}
}

func setUser(uid int) error {
	if uid <= 0 {
		return fmt.Errorf("user %d: a workload never runs as root", uid)
	}
	if uid == os.Geteuid() {
		return nil // a developer's test without root
	}
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("dropping groups: %w", err)
	}
	if err := syscall.Setresgid(uid, uid, uid); err != nil {
		return fmt.Errorf("to group %d: %w", uid, err)
	}
	if err := syscall.Setresuid(uid, uid, uid); err != nil {
		return fmt.Errorf("to user %d: %w", uid, err)
	}
	return nil
}

// dropCapabilities does not trust the change of user to have done it: securebits
// of workd may keep them.
func dropCapabilities() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("ambient: %w", err)
	}
	var none [2]unix.CapUserData
	return unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0])
}

func dieWith(parent int) error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return err
	}
	if os.Getppid() != parent { // it died before the request
		return errors.New("workd is gone")
	}
	return nil
}

func closeOnExec() error {
	err := unix.CloseRange(launchPipe, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		return nil // before Linux 5.11; all files of ours are marked when they are opened
	}
	return err
}
