package supervise

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fogwright/fogwright/initramfs/state"
)

// The test program plays the services, and PID 1 of a namespace of its own: what a
// reaper of *all* children does must not meet the children of another test.
func TestMain(m *testing.M) {
	switch os.Getenv("FOGWRIGHT_TEST_ROLE") {
	case "":
		os.Exit(m.Run())
	case "crash":
		fmt.Println("about to crash")
		os.Exit(3)
	case "privileges":
		status, err := os.ReadFile("/proc/self/status")
		fmt.Printf("%s%v\n", status, err)
		time.Sleep(time.Hour) // an empty select is a deadlock to the runtime
	case "obedient":
		c := make(chan os.Signal, 1)
		signal.Notify(c, unix.SIGTERM)
		fmt.Println("up")
		<-c
		fmt.Println("down")
	case "stubborn":
		signal.Ignore(unix.SIGTERM)
		fmt.Println("up")
		time.Sleep(time.Hour) // an empty select is a deadlock to the runtime
	case "orphans":
		// Leaves five grandchildren to PID 1 and ends.
		for range 5 {
			c := exec.Command("/proc/self/exe")
			c.Env = []string{"FOGWRIGHT_TEST_ROLE=crash"}
			if err := c.Start(); err != nil {
				os.Exit(1)
			}
		}
	}
}

// asPID1 runs the named test again as PID 1 of a new PID namespace with its own
// /proc, and returns true in there.
func asPID1(t *testing.T) bool {
	t.Helper()
	if os.Getpid() == 1 {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatalf("keeping mounts to ourselves: %v", err)
		}
		if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
			t.Fatalf("mounting /proc: %v", err)
		}
		return true
	}
	c := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if os.Getuid() != 0 {
		c.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("as PID 1 of a namespace (run as root, or allow user namespaces): %v\n%s", err, out)
	}
	t.Logf("%s", out)
	return false
}

func role(name, as string) Service {
	return Service{Name: name, Path: "/proc/self/exe", Env: []string{"FOGWRIGHT_TEST_ROLE=" + as}, Plain: true}
}

// A hundred children that end at once, from eight goroutines: every end arrives,
// each once.
func TestReaperLosesNothing(t *testing.T) {
	if !asPID1(t) {
		return
	}
	r := NewReaper()
	go r.Run(t.Context())
	s := Service{Path: "/bin/true", Plain: true}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 12 {
				exits := make(chan Exit, 1)
				pid, err := r.Start(func() (int, error) { return s.start(null) }, exits)
				if err != nil {
					t.Error(err)
					return
				}
				if e := <-exits; e.PID != pid || e.Status.ExitStatus() != 0 {
					t.Errorf("got the end of %d, %v; want %d, 0", e.PID, e.Status, pid)
				}
				if r.Signal(pid, unix.SIGKILL) {
					t.Errorf("%d was sent a signal after its end", pid)
				}
			}
		})
	}
	wg.Wait()
	if !r.Childless() {
		t.Error("children left")
	}
}

func TestReaperTakesOrphansAndFailedStarts(t *testing.T) {
	if !asPID1(t) {
		return
	}
	r := NewReaper()
	go r.Run(t.Context())
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	exits := make(chan Exit, 1)
	missing := Service{Name: "missing", Path: "/does/not/exist", Plain: true}
	if _, err := r.Start(func() (int, error) { return missing.start(null) }, exits); err == nil {
		t.Error("a program that is not there was started")
	}
	parent := role("parent", "orphans")
	if _, err := r.Start(func() (int, error) { return parent.start(null) }, exits); err != nil {
		t.Fatal(err)
	}
	<-exits
	for !r.Childless() {
		time.Sleep(time.Millisecond)
	}
	if got := r.Orphans(); got != 5 {
		t.Errorf("%d orphans reaped, want 5", got)
	}
}

// journal is a stand-in for init: it collects lines and events.
type journal struct {
	lines  chan string
	mu     sync.Mutex
	events []string
	tables chan state.Services
}

func newJournal() *journal {
	return &journal{lines: make(chan string, 1000), tables: make(chan state.Services, 1000)}
}

func (j *journal) capture(service string, r io.Reader) {
	for s := bufio.NewScanner(r); s.Scan(); {
		j.lines <- service + ": " + s.Text()
	}
}

func (j *journal) event(format string, a ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.events = append(j.events, fmt.Sprintf(format, a...))
}

func (j *journal) supervisor(r *Reaper, services ...Service) *Supervisor {
	return &Supervisor{
		Reaper: r, Services: services, Grace: 5 * time.Second,
		Backoff: Backoff{Min: time.Millisecond, Max: 4 * time.Millisecond, Stable: time.Hour, Crashes: 3, Slow: 10 * time.Millisecond},
		Now:     func() float64 { return 0 },
		Capture: j.capture, Event: j.event,
		Publish: func(s state.Services) {
			select {
			case j.tables <- s:
			default:
			}
		},
	}
}

// untilLine waits for a line of a service.
func (j *journal) until(want string) {
	for line := range j.lines {
		if line == want {
			return
		}
	}
}

func TestSupervisorRestartsAndCallsACrashLoop(t *testing.T) {
	if !asPID1(t) {
		return
	}
	r, j := NewReaper(), newJournal()
	go r.Run(t.Context())
	v := j.supervisor(r, role("good", "obedient"), role("bad", "crash"))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { v.Run(ctx); close(done) }()
	for s := range j.tables {
		bad := s.Services[1]
		if bad.State == "crashloop" && bad.Restarts >= 5 {
			if bad.Last != "exit status 3" {
				t.Errorf("Last = %q, want exit status 3", bad.Last)
			}
			if good := s.Services[0]; good.State != "running" || good.Restarts != 0 || good.PID == 0 {
				t.Errorf("the other service suffered: %+v", good)
			}
			break
		}
	}
	if !v.Alive(time.Minute) {
		t.Error("the loop does not beat")
	}
	stop()
	<-done
	if !r.Childless() {
		t.Error("services left")
	}
}

func TestSupervisorStopsInReverseOrder(t *testing.T) {
	if !asPID1(t) {
		return
	}
	r, j := NewReaper(), newJournal()
	go r.Run(t.Context())
	v := j.supervisor(r, role("first", "obedient"), role("deaf", "stubborn"), role("last", "obedient"))
	v.Grace = 50 * time.Millisecond
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { v.Run(ctx); close(done) }()
	up := map[string]bool{}
	for len(up) < 3 {
		up[<-j.lines] = true
	}
	stop()
	<-done
	var ends []string
	for _, e := range j.events {
		if strings.Contains(e, "stopped") || strings.Contains(e, "killing") {
			ends = append(ends, strings.Fields(e)[1])
		}
	}
	// Whether a service on a busy machine needs its KILL is not the point;
	// the order is.
	if got, want := slices.Compact(ends), []string{"last", "deaf", "first"}; !slices.Equal(got, want) {
		t.Errorf("stopped in the order %v, want %v\n%s", got, want, strings.Join(j.events, "\n"))
	}
}

// What a service may do, in the kernel's words.
func TestPrivileges(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("run as root: giving up privileges takes having them")
	}
	if !asPID1(t) {
		return
	}
	netAdminAndTime := []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SYS_TIME}
	tests := []struct {
		name     string
		uid, gid uint32
		caps     []uintptr
		want     string // all five sets
	}{
		{"nobody", 103, 100, nil, "0000000000000000"},
		{"some", 101, 100, netAdminAndTime, "0000000002001000"},
		{"user 0 without root's power", 0, 100, []uintptr{unix.CAP_SYS_ADMIN}, "0000000000200000"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, j := NewReaper(), newJournal()
			go r.Run(t.Context())
			s := role("s", "privileges")
			s.Plain, s.UID, s.GID, s.Caps = false, tt.uid, tt.gid, tt.caps
			v := j.supervisor(r, s)
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { v.Run(ctx); close(done) }()
			got := map[string]string{}
			for line := range j.lines {
				key, value, _ := strings.Cut(strings.TrimPrefix(line, "s: "), ":")
				got[key] = strings.TrimSpace(value)
				if line == "s: <nil>" {
					break
				}
			}
			stop()
			<-done
			id := func(n uint32) string { return strings.TrimSuffix(strings.Repeat(fmt.Sprint(n)+"\t", 4), "\t") }
			want := map[string]string{
				"Uid": id(tt.uid), "Gid": id(tt.gid), "Groups": "", "NoNewPrivs": "1",
				"CapInh": tt.want, "CapPrm": tt.want, "CapEff": tt.want, "CapBnd": tt.want, "CapAmb": tt.want,
			}
			for key := range got {
				if _, ok := want[key]; !ok {
					delete(got, key)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("privileges (-want +got):\n%s", diff)
			}
		})
	}
}

// Starting restricted services must leave this process's main thread, which is
// what /proc shows and new threads may come from, as it was.
func TestStartLeavesTheStarterAlone(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("run as root: giving up privileges takes having them")
	}
	if !asPID1(t) {
		return
	}
	r := NewReaper()
	go r.Run(t.Context())
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	before := capabilities(t)
	s := Service{Path: "/bin/true", UID: 101, GID: 100}
	for range 50 {
		exits := make(chan Exit, 1)
		if _, err := r.Start(func() (int, error) { return s.start(null) }, exits); err != nil {
			t.Fatal(err)
		}
		<-exits
	}
	if diff := cmp.Diff(before, capabilities(t)); diff != "" {
		t.Errorf("the main thread's privileges changed (-before +after):\n%s", diff)
	}
}

func capabilities(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(strings.Split(string(text), "\n"), func(line string) bool {
		return !strings.HasPrefix(line, "Cap") && !strings.HasPrefix(line, "NoNewPrivs")
	})
}

func TestBackoff(t *testing.T) {
	b := DefaultBackoff()
	tests := []struct {
		n      int
		random float64
		want   time.Duration
		loop   bool
	}{
		{1, 0.5, 250 * time.Millisecond, false},
		{2, 0.5, 500 * time.Millisecond, false},
		{4, 0.5, 2 * time.Second, false},
		{4, 0, 1500 * time.Millisecond, false},
		{4, 1, 2500 * time.Millisecond, false},
		{5, 0.5, time.Minute, true},
		{1_000_000, 0.5, time.Minute, true},
	}
	for _, tt := range tests {
		if got, loop := b.Delay(tt.n, tt.random); got != tt.want || loop != tt.loop {
			t.Errorf("Delay(%d, %g) = %v, %v; want %v, %v", tt.n, tt.random, got, loop, tt.want, tt.loop)
		}
	}
}
