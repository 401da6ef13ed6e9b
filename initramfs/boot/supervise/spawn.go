package supervise

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Service is one daemon: a program and the little that it may do.
type Service struct {
	Name string
	Path string   // the program
	Args []string // from argv[0] on; empty means Name
	Env  []string
	UID  uint32
	GID  uint32
	// Caps is all that the service can ever hold: permitted, effective,
	// inheritable, ambient and bounding set. User 0 gets no more than this
	// either, only the ownership of root's files.
	Caps []uintptr
	// TTY, if any, is the terminal that the service owns: its input, output
	// and session. Then its output is not captured.
	TTY string
	// Plain leaves the caller's privileges as they are: for the shell of a dev
	// image.
	Plain bool
}

// start starts s with its standard output and error going to w, and returns at
// once. It keeps nothing open.
//
// The privileges of a process are in truth those of a thread, and a new process
// takes over the thread's that forks it. So instead of a helper program that
// would restrict itself and exec the service (a second start of a Go program, some
// 20 ms on a small ARM), a thread of this process is restricted, forks, and is
// thrown away: the Go runtime ends a thread whose goroutine ends while locked to
// it. PR_SET_PDEATHSIG must stay off, because that "parent" dies at once; nothing
// is lost, since the end of PID 1 is the end of all processes anyhow.
func (s *Service) start(w *os.File) (pid int, err error) {
	in, err := os.OpenFile(cmp.Or(s.TTY, os.DevNull), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return 0, fmt.Errorf("starting service %s: %w", s.Name, err)
	}
	defer in.Close()
	if s.TTY != "" {
		w = in
	}
	args := s.Args
	if len(args) == 0 {
		args = []string{s.Name}
	}
	attr := &syscall.ProcAttr{
		Dir:   "/",
		Env:   s.Env,
		Files: []uintptr{in.Fd(), w.Fd(), w.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: s.TTY != ""},
	}
	if !s.Plain {
		attr.Sys.Credential = &syscall.Credential{Uid: s.UID, Gid: s.GID}
		attr.Sys.AmbientCaps = s.Caps
	}
	onSpareThread(func() {
		if !s.Plain {
			if err = s.restrict(); err != nil {
				return
			}
		}
		pid, err = syscall.ForkExec(s.Path, args, attr)
	})
	if err != nil {
		return 0, fmt.Errorf("starting service %s (%s): %w", s.Name, s.Path, err)
	}
	return pid, nil
}

// restrict takes from the calling thread what the service must never have.
func (s *Service) restrict() error {
	keep := map[uintptr]bool{}
	for _, c := range s.Caps {
		keep[c] = true
	}
	for c := uintptr(0); c < 64; c++ {
		if keep[c] {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if err == unix.EINVAL { // past the last capability of this kernel
			break
		}
		if err != nil {
			return fmt.Errorf("dropping capability %d from the bounding set: %w", c, err)
		}
	}
	// SECBIT_NOROOT and its lock (linux/securebits.h): user id 0 and set-uid
	// programs give no capabilities; only the ambient set does.
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, 1<<0|1<<1, 0, 0, 0); err != nil {
		return fmt.Errorf("setting securebits: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("setting no_new_privs: %w", err)
	}
	return nil
}

// onSpareThread runs f on a thread that does nothing before and ends after.
func onSpareThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread is never ended, only parked, and /proc/1
			// shows its credentials. Hold it so that it cannot be had,
			// and take another.
			onSpareThread(f)
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}

// pipe is where a service writes its log; the read end goes to capture.
func pipe(capture func(io.Reader)) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	go func() {
		defer r.Close()
		capture(r)
	}()
	return w, nil
}
