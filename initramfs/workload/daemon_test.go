package workload

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fogwright/fogwright/initramfs/state"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const oneItem = "[[content]]\ntorrent = \"http://origin.example/film.torrent\"\n"

func TestWaitsForStorageThenShares(t *testing.T) {
	b := newBox(t)
	b.install(filepath.Join(b.dir, "factory/workloads/edgecache"))
	b.site(oneItem)
	b.start("")
	b.await("waits for storage", is("waiting"))
	b.mountAll()
	w := b.await("shares", is("sharing"))
	if w.PID == 0 || w.Report.BytesServed != 7 || !slices.Equal(w.Ports, []string{"tcp/6881"}) {
		t.Errorf("got %+v, want a process, 7 bytes served and port 6881", w)
	}
	b.stop()
	b.await("stopped", func(w state.Workload) bool { return w.State == "idle" && w.PID == 0 && w.Report == nil })
	if got := b.out.String(); !strings.Contains(got, "edgecache: bye\n") {
		t.Errorf("log: got %q, want the workload's last word under its name", got)
	}
	if left, err := os.ReadDir(filepath.Join(b.dir, "run")); err != nil || len(left) != 0 {
		t.Errorf("left in the run folder: %v, %v", left, err)
	}
}

func TestWaitsForTheNetwork(t *testing.T) {
	b := installed(t)
	b.networkWait = time.Hour
	b.start("share")
	b.await("waits", func(w state.Workload) bool { return w.State == "waiting" && w.Last == "for the network" })
	for _, online := range []bool{false, true} {
		if err := state.Write(filepath.Join(b.dir, "state"), state.NetworkFile, state.Network{Online: online}); err != nil {
			t.Fatal(err)
		}
	}
	b.await("shares", is("sharing"))
}

func TestConfinement(t *testing.T) {
	b := installed(t)
	b.start("share")
	w := b.await("shares", is("sharing"))
	no := "0000000000000000"
	groups, bounding := "Groups:", "CapBnd: "+no
	if b.uid != 10001 { // without root these two cannot be given up
		for _, line := range w.Report.Errors {
			switch {
			case strings.HasPrefix(line, "Groups:"):
				groups = line
			case strings.HasPrefix(line, "CapBnd:"):
				bounding = line
			}
		}
	}
	memory := "data 201326592"
	if raceDetector {
		memory = fmt.Sprint("data ", uint64(unix.RLIM_INFINITY))
	}
	want := []string{
		fmt.Sprintf("Uid: %[1]d %[1]d %[1]d %[1]d", b.uid), fmt.Sprintf("Gid: %[1]d %[1]d %[1]d %[1]d", b.uid), groups,
		"CapInh: " + no, "CapPrm: " + no, "CapEff: " + no, bounding, "CapAmb: " + no,
		"NoNewPrivs: 1", "own session true", "files 512", "core 0", memory, "in its folder true", "variables 4",
	}
	got := slices.Clone(w.Report.Errors)
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what the workload sees of itself (-want +got):\n%s", diff)
	}
	st, err := os.Stat(filepath.Join(b.dir, "data/workloads/edgecache"))
	if err != nil {
		t.Fatal(err)
	}
	if got := st.Sys().(*syscall.Stat_t).Uid; st.Mode().Perm() != 0o700 || int(got) != b.uid {
		t.Errorf("data folder: got mode %v of user %d, want 0700 of %d", st.Mode().Perm(), got, b.uid)
	}
}

func TestIdle(t *testing.T) {
	for _, test := range []struct {
		name, site, last string
		program          bool
	}{
		{name: "no site.toml", program: true, last: "no content"},
		{name: "no content", site: "hostname = \"box\"\n", program: true, last: "no content"},
		{name: "broken site.toml", site: "content = 7\n" + oneItem, program: true, last: "no content"},
		{name: "no program", site: oneItem, last: "is not installed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBox(t)
			if test.program {
				b.install(filepath.Join(b.dir, "factory/workloads/edgecache"))
			}
			if test.site != "" {
				b.site(test.site)
			}
			b.mountAll()
			b.start("")
			w := b.await("is idle", func(w state.Workload) bool { return w.State == "idle" && strings.Contains(w.Last, test.last) })
			if w.PID != 0 {
				t.Errorf("a process runs: %+v", w)
			}
		})
	}
}

func TestNoDataFileSystem(t *testing.T) {
	b := newBox(t)
	err := state.Write(filepath.Join(b.dir, "state"), state.StorageFile, state.Storage{Ready: true, FileSystems: map[string]state.FileSystem{
		"data": {Error: "bad superblock"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	b.start("share")
	b.await("says why", func(w state.Workload) bool { return w.State == "waiting" && strings.Contains(w.Last, "bad superblock") })
}

func TestCrashLoop(t *testing.T) {
	b := installed(t)
	b.start("crash")
	w := b.await("is in a crash loop", is("crashloop"))
	if w.Restarts != 2 || w.Last != "exit status 3: boom?[31m" {
		t.Errorf("got %d restarts and %q, want 2 and the exit status with the last line", w.Restarts, w.Last)
	}
}

func TestStubbornIsKilled(t *testing.T) {
	b := installed(t)
	b.start("stubborn")
	pid := b.await("shares", is("sharing")).PID
	b.stop()
	if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
		t.Errorf("after the stop: got %v, want no such process", err)
	}
}

func TestKilledFromOutsideComesBack(t *testing.T) {
	b := installed(t)
	b.start("share")
	pid := b.await("shares", is("sharing")).PID
	syscall.Kill(pid, syscall.SIGKILL)
	w := b.await("shares again", func(w state.Workload) bool { return w.State == "sharing" && w.PID != pid })
	if w.Restarts != 1 || w.Last != "signal: killed" {
		t.Errorf("got %d restarts and %q, want 1 and the signal", w.Restarts, w.Last)
	}
}

func TestChildrenGoToo(t *testing.T) {
	b := installed(t)
	b.start("parent")
	b.await("ends", is("crashloop"))
	for _, line := range strings.Split(b.out.String(), "\n") {
		if _, pid, ok := strings.Cut(line, "edgecache: child "); ok {
			n, err := strconv.Atoi(pid)
			if err != nil {
				t.Fatal(err)
			}
			gone(t, n)
		}
	}
}

// gone waits until a killed process, which is somebody else's to reap, is dead.
func gone(t *testing.T, pid int) {
	t.Helper()
	for range 500 {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(b), ") Z ") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d lives on", pid)
}

func TestBabbleIsBounded(t *testing.T) {
	b := installed(t)
	b.start("babble")
	b.await("shares", is("sharing"))
	b.stop()
	got := b.out.String()
	if n := strings.Count(got, "\n"); n > 1000 {
		t.Errorf("%d lines got through, want few", n)
	}
	for _, line := range strings.Split(got, "\n") {
		if len(line) > lineBytes+32 {
			t.Errorf("a line of %d bytes got through", len(line))
		}
	}
	if !strings.Contains(got, "lines dropped)") {
		t.Error("nothing tells that lines were dropped")
	}
}

func TestHostileReports(t *testing.T) {
	for behaviour, want := range map[string]string{
		"garbage": "not valid JSON",
		"fifo":    "not a file",
		"link":    "too many levels of symbolic links",
		"huge":    "more than",
	} {
		t.Run(behaviour, func(t *testing.T) {
			t.Parallel()
			b := installed(t)
			b.start(behaviour)
			b.await("says what is wrong", func(w state.Workload) bool {
				return w.State == "starting" && w.Report != nil && len(w.Report.Errors) == 1 && strings.Contains(w.Report.Errors[0], want)
			})
		})
	}
}

// A workload must not outlive workd, however workd ends.
func TestDiesWithItsParentThread(t *testing.T) {
	b := installed(t)
	p := &process{
		w:      &Workload{Name: "edgecache", Program: filepath.Join(b.dir, "factory/workloads/edgecache"), UID: b.uid, Config: "share"},
		config: filepath.Join(b.dir, "run/edgecache.json"), reportDir: filepath.Join(b.dir, "run/edgecache"),
		data: filepath.Join(b.dir, "data/workloads/edgecache"), log: &logger{out: &b.out},
	}
	t.Cleanup(p.clear)
	if err := p.prepare(); err != nil {
		t.Fatal(err)
	}
	started := make(chan *exec.Cmd)
	finished := make(chan struct{})
	defer close(finished)
	var parent func()
	parent = func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine,
		if unix.Gettid() == os.Getpid() {
			go parent() // but the main thread never does, so keep off it
			<-finished
			return
		}
		cmd, _, err := p.start()
		if err != nil {
			t.Error(err)
		}
		started <- cmd
		for err == nil {
			if r, _ := readReport(p.report()); r != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	go parent()
	cmd := <-started
	if cmd == nil {
		return
	}
	cmd.Wait()
	if got := cmd.ProcessState.Sys().(syscall.WaitStatus).Signal(); got != syscall.SIGKILL {
		t.Errorf("ended by %v, want SIGKILL", got)
	}
}
