// Package userland makes what runs on the box: it compiles the programs for the
// board's processor and assembles the initramfs.
//
// The one program of the operating system is initramfs/cmd/box; the built-in
// workloads are programs of their own in nested modules. Both come out of the
// module's own source tree through the ordinary go command, so the ordinary build
// cache makes a warm build take a second or two. The archive is assembled with
// u-root's mkuimage, and a dev image gets u-root's shell and commands from it.
//
// Whoever can write to the source tree or the Go module cache decides what runs
// on the box; go.sum stands guard over the latter.
package userland

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Target is the processor to compile for.
type Target struct {
	Arch  string // Go's name: amd64, arm64, arm
	GOARM int    // 5, 6 or 7, for arm only
}

// String names the target in file names: amd64, arm64, armv7.
func (t Target) String() string {
	if t.Arch == "arm" {
		return fmt.Sprintf("armv%d", t.GOARM)
	}
	return t.Arch
}

// environ is the go command's environment for t. Every setting that changes what
// comes out is pinned, so that the user's own settings do not.
func (t Target) environ() []string {
	env := append(os.Environ(),
		"CGO_ENABLED=0", "GOOS=linux", "GOARCH="+t.Arch,
		"GOFLAGS=", "GOEXPERIMENT=", "GODEBUG=", "GOFIPS140=off", "GOWORK=off",
		"GOAMD64=v1", "GOARM64=v8.0")
	if t.Arch == "arm" {
		env = append(env, "GOARM="+strconv.Itoa(t.GOARM))
	}
	return env
}

// Compiler compiles programs out of one source tree.
type Compiler struct {
	// Dir is the root of the module github.com/fogwright/fogwright.
	Dir string
	// Cache keeps the programs of the last build, so that an unchanged one
	// is not linked again: the go command knows it by its build ID.
	Cache string
}

// Program is one compiled program.
type Program struct {
	Path string // of the file, which the next Compile may replace
	Data []byte
}

// Compile compiles the main package in folder pkg (relative to the module's root;
// it may lie in a nested module) for t, with these build tags. The result is
// bit-for-bit the same wherever the tree lies: -trimpath, no version control stamp.
// Several processes may compile the same program at once; one waits for the other.
func (c Compiler) Compile(ctx context.Context, t Target, pkg string, tags ...string) (*Program, error) {
	dir := filepath.Join(c.Cache, "programs", t.String())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("compiling %s: %w", pkg, err)
	}
	out := filepath.Join(dir, filepath.Base(pkg))
	unlock, err := Lock(out + ".lock")
	if err != nil {
		return nil, fmt.Errorf("compiling %s: %w", pkg, err)
	}
	defer unlock()
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags=-s -w", "-tags="+strings.Join(tags, ","), "-o", out, ".")
	cmd.Dir = filepath.Join(c.Dir, filepath.FromSlash(pkg))
	cmd.Env = t.environ()
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compiling %s for %s: %w\n%s", pkg, t, err, bytes.TrimSpace(text))
	}
	data, err := os.ReadFile(out)
	if err != nil {
		return nil, fmt.Errorf("compiling %s: %w", pkg, err)
	}
	return &Program{Path: out, Data: data}, nil
}

// ModuleDir finds the source tree of this module from the working directory: the
// checkout one stands in, or the module cache when Fogwright is a dependency.
func ModuleDir(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/fogwright/fogwright")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("finding Fogwright's source (run this inside its checkout, or name it with -source): %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(bytes.TrimSpace(out)), nil
}

// Toolchain is what the go command tells of itself.
type Toolchain struct {
	Version     string `json:"GOVERSION"` // go1.26.8
	ModuleCache string `json:"GOMODCACHE"`
}

// Toolchain asks the go command that compiles, which may be another one than this
// program was built with.
func (c Compiler) Toolchain(ctx context.Context) (Toolchain, error) {
	cmd := exec.CommandContext(ctx, "go", "env", "-json", "GOVERSION", "GOMODCACHE")
	cmd.Dir = c.Dir
	var t Toolchain
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &t)
	}
	if err != nil {
		return t, fmt.Errorf("asking the go command about itself (is Go installed and on the PATH? this program was built with %s): %w", runtime.Version(), err)
	}
	return t, nil
}

// Lock takes the advisory lock of a file and returns what gives it back. The
// kernel gives it back too when the process dies.
func Lock(name string) (func(), error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", name, err)
	}
	return func() { f.Close() }, nil
}
