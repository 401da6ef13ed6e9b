//go:build e2e

package e2e

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fogwright/fogwright/firmware"
	"github.com/fogwright/fogwright/firmware/release"
	"github.com/fogwright/fogwright/firmware/source"
)

// kill -9 of the builder at any moment leaves no damaged cache, and no output that
// looks complete and is not. The builder is the real program, in its own process
// group, with a cache of its own that begins with the downloads only.
func TestKill(t *testing.T) {
	const board, rounds = "orangepi-pc", 12
	b := image(t, board, firmware.Release)
	program := filepath.Join(t.TempDir(), "fogwright")
	tool(t, "go", "build", "-o", program, root+"/tools/fogwright")
	cache, out := t.TempDir(), t.TempDir()
	copyDownloads(t, b.plan.Cache, cache)
	args := []string{"build", "-board", board, "-out", out, "-cache", cache, "-source", b.plan.Source, "-version", "1.2.3", "-offline"}

	timed := func() time.Duration {
		start := time.Now()
		builder(t, program, args, 0)
		return time.Since(start)
	}
	cold, warm := timed(), timed()
	want := hashes(t, out, board)

	seed := rand.Uint64()
	t.Logf("a build takes %v, warm %v; seed %d", cold, warm, seed)
	random := rand.New(rand.NewPCG(seed, 0))
	killed, complete := 0, 0
	for i := range rounds {
		takes := warm
		if i%3 == 0 { // from the downloads on, every third time
			dropUnpacked(t, cache)
			takes = cold
		}
		if i == rounds/2 { // until here there are outputs to be replaced
			removeOutputs(t, out, board)
		}
		after := time.Duration(random.Int64N(int64(takes)))
		if builder(t, program, args, max(after, time.Millisecond)) {
			killed++
		}
		if _, err := os.Stat(filepath.Join(out, board+".manifest.json")); err == nil {
			complete++
			if err := release.Verify(context.Background(), out, board); err != nil {
				t.Errorf("round %d, killed after %v: outputs that look complete: %v", i, after, err)
			}
		}
	}
	t.Logf("%d of %d builds were killed; %d times there were complete outputs", killed, rounds, complete)
	if killed < rounds/3 {
		t.Errorf("only %d of %d builds were killed: the test proves little", killed, rounds)
	}

	store, err := source.Open(source.Config{CacheDir: cache, Lock: b.plan.Packages.Lock, Offline: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Fetch(context.Background(), firmware.Needs(b.plan.Board)); err != nil {
		t.Errorf("the cache is damaged: %v", err)
	}
	builder(t, program, args, 0)
	if diff := cmp.Diff(want, hashes(t, out, board)); diff != "" {
		t.Errorf("the build after the kills differs (-want +got):\n%s", diff)
	}
	left, err := filepath.Glob(filepath.Join(out, ".*.building-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// builder runs a build, killed with all its children after that time unless it is
// 0, and tells whether it was.
func builder(t *testing.T, program string, args []string, after time.Duration) bool {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if after > 0 {
		timer := time.AfterFunc(after, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		defer timer.Stop()
	}
	err := cmd.Wait()
	if err != nil && after > 0 && cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
		return true
	}
	if err != nil {
		t.Fatalf("building: %v\n%s", err, out.String())
	}
	return false
}

// copyDownloads fills a new cache with the .deb files of another one.
func copyDownloads(t *testing.T, from, to string) {
	t.Helper()
	tool(t, "cp", "-a", filepath.Join(from, "packages"), to)
	dropUnpacked(t, to)
}

// dropUnpacked leaves a cache with the downloads only.
func dropUnpacked(t *testing.T, cache string) {
	t.Helper()
	tool(t, "find", filepath.Join(cache, "packages"), "-name", "*.tar", "-delete")
}

func removeOutputs(t *testing.T, out, board string) {
	t.Helper()
	for _, s := range suffixes {
		if err := os.RemoveAll(filepath.Join(out, board+s)); err != nil {
			t.Fatal(err)
		}
	}
}
