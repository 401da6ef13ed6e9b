package workload

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fogwright/fogwright/initramfs/site"
	"github.com/fogwright/fogwright/initramfs/state"
	"golang.org/x/sys/unix"
)

// TestMain is the tests, the launch step, or the workload that the launch step
// becomes.
func TestMain(m *testing.M) {
	if os.Getenv("FOGWRIGHT_CONFIG") != "" {
		behave()
		return
	}
	if len(os.Args) == 2 && os.Args[1] == launchArg {
		fmt.Fprintln(os.Stderr, Main(context.Background(), Config{}))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// behave is the workload of these tests: its configuration is what it shall do.
func behave() {
	text, err := os.ReadFile(os.Getenv("FOGWRIGHT_CONFIG"))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	var as string
	if json.Unmarshal(text, &as) != nil {
		as = "share" // edgecache's own configuration
	}
	report := os.Getenv("FOGWRIGHT_REPORT")
	write := func(b string) {
		if err := os.WriteFile(report, []byte(b), 0o600); err != nil {
			fmt.Println(err)
		}
	}
	switch as {
	case "share":
		write(`{"sharing": true, "bytes_served": 7, "errors": ` + facts() + `}`)
	case "crash":
		fmt.Println("boom\x1b[31m")
		os.Exit(3)
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		write(`{"sharing": true}`)
	case "babble":
		fmt.Println(strings.Repeat("long", 10000))
		for i := range 10000 {
			fmt.Println("line", i)
		}
		write(`{"sharing": true}`)
	case "parent":
		child := exec.Command("sleep", "1000")
		child.Start()
		fmt.Println("child", child.Process.Pid)
		os.Exit(0)
	case "garbage":
		write(`{"sharing": tru`)
	case "fifo":
		syscall.Mkfifo(report, 0o600)
	case "link":
		os.Symlink("/proc/1/environ", report)
	case "huge":
		write(`{"errors":["` + strings.Repeat("x", maxReport) + `"]}`)
	}
	if as == "stubborn" {
		time.Sleep(time.Hour)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
	fmt.Println("bye")
}

// facts are what the workload sees of its own confinement.
func facts() string {
	status, _ := os.ReadFile("/proc/self/status")
	var all []string
	for _, line := range strings.Split(string(status), "\n") {
		if k, _, _ := strings.Cut(line, ":"); slices.Contains([]string{"Uid", "Gid", "Groups", "NoNewPrivs", "CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"}, k) {
			all = append(all, strings.Join(strings.Fields(line), " "))
		}
	}
	sid, _ := unix.Getsid(0)
	all = append(all, fmt.Sprint("own session ", sid == os.Getpid()))
	for name, resource := range map[string]int{"files": unix.RLIMIT_NOFILE, "core": unix.RLIMIT_CORE, "data": unix.RLIMIT_DATA} {
		var l unix.Rlimit
		unix.Getrlimit(resource, &l)
		all = append(all, fmt.Sprint(name, " ", l.Max))
	}
	wd, _ := os.Getwd()
	all = append(all, fmt.Sprint("in its folder ", wd == os.Getenv("FOGWRIGHT_DATA")), fmt.Sprint("variables ", len(os.Environ())))
	b, _ := json.Marshal(all)
	return string(b)
}

// box is a folder that looks like the real one's mounts, with workd in it.
type box struct {
	t    *testing.T
	dir  string
	uid  int
	out  safeBuffer
	stop func()
	// networkWait is short, as no netd runs here.
	networkWait time.Duration
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newBox(t *testing.T) *box {
	t.Helper()
	dir := t.TempDir()
	// The workload, another user, must be able to walk down here.
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b := &box{t: t, dir: dir, uid: 10001, networkWait: time.Millisecond}
	if os.Geteuid() != 0 {
		b.uid = os.Geteuid()
	}
	for _, d := range []string{"state", "data", "factory/workloads"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// install copies this test to where the program belongs.
func (b *box) install(path string) {
	b.t.Helper()
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		b.t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		b.t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) mountAll() {
	b.t.Helper()
	err := state.Write(filepath.Join(b.dir, "state"), state.StorageFile, state.Storage{Ready: true, FileSystems: map[string]state.FileSystem{
		"factory": {Mount: filepath.Join(b.dir, "factory"), ReadOnly: true},
		"data":    {Mount: filepath.Join(b.dir, "data")},
	}})
	if err != nil {
		b.t.Fatal(err)
	}
}

// start runs workd; what is "" for its built-in workload, else the behaviour of
// one that the test brings.
func (b *box) start(what string) {
	cfg := Config{
		StateDir:    filepath.Join(b.dir, "state"),
		RunDir:      filepath.Join(b.dir, "run"),
		Restart:     Restart{First: time.Millisecond, Max: time.Millisecond, Crashes: 3, Loop: time.Hour},
		Poll:        10 * time.Millisecond,
		NetworkWait: b.networkWait,
		StopAfter:   100 * time.Millisecond,
	}
	cfg.Workloads = func(factory string, s *site.Site) []Workload {
		w := EdgeCache(factory, s)
		w.UID = b.uid
		w.Limits.Processes = 0 // a developer has more than that already
		if raceDetector {
			w.Limits.Memory = 0
		}
		if what != "" {
			w.Config = what
		}
		return []Workload{w}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	d := &daemon{cfg: cfg.withDefaults(), output: &logger{out: &b.out}}
	go func() { done <- d.run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("workd: %v", err)
		}
	})
	b.t.Cleanup(b.stop)
}

// await polls workloads.json. The limit only ends a hang.
func (b *box) await(what string, ok func(state.Workload) bool) state.Workload {
	b.t.Helper()
	var s state.Workloads
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		s = state.Workloads{}
		if state.Read(filepath.Join(b.dir, "state"), state.WorkloadsFile, &s) == nil && len(s.Workloads) == 1 && ok(s.Workloads[0]) {
			return s.Workloads[0]
		}
	}
	b.t.Fatalf("never: %s; the last state is %+v\nthe log:\n%s", what, s, b.out.String())
	return state.Workload{}
}

func is(as string) func(state.Workload) bool {
	return func(w state.Workload) bool { return w.State == as }
}

// installed is a box with the program and its file systems.
func installed(t *testing.T) *box {
	b := newBox(t)
	b.install(filepath.Join(b.dir, "factory/workloads/edgecache"))
	b.mountAll()
	return b
}

func (b *box) site(text string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, "factory", site.File), []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}
