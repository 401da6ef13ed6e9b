package supervise

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Exit is how a process ended.
type Exit struct {
	PID    int
	Status syscall.WaitStatus
}

// Reaper owns wait4 for this whole process.
//
// PID 1 must reap every orphan of the system, which takes a wait for *any* child.
// Such a wait also takes the status of children that somebody else waits for, and
// a process id whose status was taken may be given to another process at once. So
// there is exactly one wait, here, nobody uses os.Process in PID 1, and three
// things happen under one lock: starting a process and noting its id; taking its
// status and forgetting its id; sending it a signal. Hence a status is never lost
// (not even of a child that dies before its id is noted), and a signal never goes
// to a stranger.
//
// The wait comes in two steps for the same reason: a look with WNOWAIT outside of
// the lock, which leaves the zombie and with it the id in place, then the real
// one inside. syscall.ForkExec itself waits for its child when the exec fails;
// it does so under the lock too.
type Reaper struct {
	mu       sync.Mutex
	children map[int]chan<- Exit
	orphans  int
	none     bool // no child at all at the last look
}

// NewReaper makes a reaper; Run does the work.
func NewReaper() *Reaper { return &Reaper{children: map[int]chan<- Exit{}} }

// Start runs start, which starts a process and returns its id, and gives its end
// to exits when it comes. exits must be buffered or read.
func (r *Reaper) Start(start func() (pid int, err error), exits chan<- Exit) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := start()
	if err != nil {
		return 0, err
	}
	r.children[pid] = exits
	r.none = false
	return pid, nil
}

// Signal sends sig to a process that Start started and its process group, and
// tells whether it was still there.
func (r *Reaper) Signal(pid int, sig syscall.Signal) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.children[pid]; !ok {
		return false
	}
	// A service leads its own session, hence its own process group. It may
	// still be on the way there (setsid runs in the child), so both are told;
	// for TERM twice is once.
	syscall.Kill(-pid, sig)
	syscall.Kill(pid, sig)
	return true
}

// Orphans is how many processes were reaped that Start did not start.
func (r *Reaper) Orphans() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.orphans
}

// Childless reports that no process but this one was left at the last look. In
// PID 1 that means: in the whole system.
func (r *Reaper) Childless() bool {
	r.reap()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.none
}

// Run reaps until ctx ends.
func (r *Reaper) Run(ctx context.Context) {
	// One place is enough: a second SIGCHLD that finds it full finds a first
	// one that has not been looked at, and one look takes all zombies.
	chld := make(chan os.Signal, 1)
	signal.Notify(chld, unix.SIGCHLD)
	defer signal.Stop(chld)
	for {
		r.reap()
		select {
		case <-ctx.Done():
			return
		case <-chld:
		}
	}
}

// reap takes every zombie there is.
func (r *Reaper) reap() {
	for {
		pid, err := peek()
		if err != nil || pid == 0 {
			r.mu.Lock()
			r.none = errors.Is(err, unix.ECHILD)
			r.mu.Unlock()
			return
		}
		r.take(pid)
	}
}

func (r *Reaper) take(pid int) {
	r.mu.Lock()
	var status syscall.WaitStatus
	got, err := syscall.Wait4(pid, &status, syscall.WNOHANG, nil)
	exits, ours := r.children[pid]
	if err != nil || got != pid {
		ours = false // ForkExec or another take had it first
	} else if ours {
		delete(r.children, pid)
	} else {
		r.orphans++
	}
	r.mu.Unlock()
	if ours {
		exits <- Exit{pid, status}
	}
}

// peek returns the id of a zombie child and leaves it a zombie; 0 means there is
// none just now, ECHILD that there are no children.
func peek() (int, error) {
	// siginfo_t as the kernel lays it out: signo, errno, code, then (aligned
	// to a pointer) a union that begins with the pid. x/sys has no field for
	// it. 128 bytes everywhere (SI_MAX_SIZE).
	var info struct {
		signo, errno, code int32
		_                  [unsafe.Sizeof(uintptr(0)) - 4]byte
		pid                int32
		_                  [128 - 20]byte
	}
	for {
		err := unix.Waitid(unix.P_ALL, 0, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return int(info.pid), err
	}
}
