//go:build e2e

// Package e2e boots real images through real loaders in a virtual home and judges
// them from outside. Nothing in it is skipped: a missing tool is a failure that
// names the package to install.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fogwright/fogwright/boards"
	"github.com/fogwright/fogwright/firmware"
	"github.com/fogwright/fogwright/firmware/release"
	"github.com/fogwright/fogwright/firmware/source"
	"github.com/fogwright/fogwright/initramfs/state"
	"github.com/fogwright/fogwright/tools/lab"
	"github.com/fogwright/fogwright/tools/rig"
)

// root of the checkout, from this folder.
const root = "../.."

// work is a folder for the images of this run, which all tests share.
var work string

func TestMain(m *testing.M) {
	lab.Reexec()
	dir, err := os.MkdirTemp("", "fogwright-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	work = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// plan is a build of a board as `fogwright build` would do it.
func plan(t testing.TB, board, variant, out string) firmware.Plan {
	t.Helper()
	b, err := boards.Find(board)
	if err != nil {
		t.Fatal(err)
	}
	src, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	user, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(user, "fogwright")
	return firmware.Plan{
		Board: b, Variant: variant, Version: "1.2.3", Out: out, Source: src, Cache: cache,
		Packages: packages(t, src, cache),
	}
}

func packages(t testing.TB, src, cache string) source.Config {
	t.Helper()
	lock, err := source.ReadLock(filepath.Join(src, "boards", "packages.lock"))
	if err != nil {
		t.Fatal(err)
	}
	return source.Config{CacheDir: cache, Lock: lock}
}

// built is one image of this run.
type built struct {
	once     sync.Once
	dir      string
	plan     firmware.Plan
	manifest *release.Manifest
	err      error
}

var images sync.Map // board + variant -> *built

// image builds a board's image once for all tests.
func image(t testing.TB, board, variant string) *built {
	t.Helper()
	v, _ := images.LoadOrStore(board+"-"+variant, &built{})
	b := v.(*built)
	b.once.Do(func() {
		b.dir = filepath.Join(work, board+"-"+variant)
		b.plan = plan(t, board, variant, b.dir)
		b.manifest, b.err = firmware.Build(context.Background(), b.plan)
	})
	if b.err != nil {
		t.Fatalf("building %s (%s): %v", board, variant, b.err)
	}
	return b
}

// path of one of the image's files, by suffix: ".img", ".slot".
func (b *built) path(suffix string) string {
	return filepath.Join(b.dir, b.plan.Board.Name+suffix)
}

// power builds the board's image and switches a box with it on. What its console
// said is in the test's log if the test fails.
func power(t *testing.T, b *built, change func(*rig.Options)) *rig.Rig {
	t.Helper()
	o := rig.Options{Board: b.plan.Board, Image: b.path(".img"), Packages: b.plan.Packages}
	if change != nil {
		change(&o)
	}
	box, err := rig.Start(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the box's console:\n%s", tail(box.Machine.Console(), 6000))
		}
		if err := box.Close(); err != nil {
			t.Errorf("closing the rig: %v", err)
		}
	})
	return box
}

// budget bounds a boot: twice the board's own budget, since the test machine may
// have other things to do. That it is met, `make bench` shows.
func budget(t *testing.T, b *built) context.Context {
	t.Helper()
	limit := 2 * time.Duration(b.plan.Board.Budget.BootSeconds) * time.Second
	ctx, cancel := context.WithTimeoutCause(context.Background(), limit, fmt.Errorf("%s are over", limit))
	t.Cleanup(cancel)
	return ctx
}

// until waits for the box to be that far.
func until(t *testing.T, b *built, box *rig.Rig, word string) *state.Status {
	t.Helper()
	s, err := box.Until(budget(t, b), word)
	if err != nil {
		t.Fatalf("%v\nlast status: %+v", err, s)
	}
	return s
}

// off shuts the box down in good order.
func off(t *testing.T, b *built, box *rig.Rig) {
	t.Helper()
	if err := box.PowerOff(budget(t, b)); err != nil {
		t.Fatalf("shutting down: %v", err)
	}
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// tool runs a foreign program and returns what it said; its failure is ours.
func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("%v: run ci/setup.sh test", err)
	}
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
