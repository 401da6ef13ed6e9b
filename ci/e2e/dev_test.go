//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/u-root/mkuimage/cpio"

	"github.com/fogwright/fogwright/boards"
	"github.com/fogwright/fogwright/firmware"
	"github.com/fogwright/fogwright/firmware/boot/uki"
	"github.com/fogwright/fogwright/firmware/disk"
	"github.com/fogwright/fogwright/firmware/userland"
	"github.com/fogwright/fogwright/tools/rig"
)

// initramfs reads the archive back out of an image's first slot.
func initramfs(t *testing.T, b *built) []cpio.Record {
	t.Helper()
	files, err := disk.Files(b.path(".img"), 2)
	if err != nil {
		t.Fatal(err)
	}
	var archive []byte
	for _, f := range files {
		switch {
		case f.Path == firmware.SlotInitrd:
			archive = f.Data
		case strings.HasPrefix(f.Path, "EFI/BOOT/"):
			sections, err := uki.Sections(f.Data)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range sections {
				if s.Name == ".initrd" {
					archive = s.Data
				}
			}
		}
	}
	if archive == nil {
		t.Fatal("the slot has no initramfs")
	}
	records, err := userland.ReadArchive(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	return records
}

// A release image of any board holds one program, and no shell: by name, by the
// packages that are linked in, and by what is executable at all.
func TestReleaseHasNoShell(t *testing.T) {
	for _, name := range boards.Names() {
		t.Run(name, func(t *testing.T) {
			b := image(t, name, firmware.Release)
			programs := 0
			for _, r := range initramfs(t, b) {
				switch base := path.Base(r.Name); {
				case base == "sh" || base == "gosh" || base == "bash" || base == "busybox" || base == "bb" || strings.HasPrefix(r.Name, "bbin"):
					t.Errorf("%s is in a release image", r.Name)
				}
				if r.Mode&cpio.S_IFMT != cpio.S_IFREG || r.Mode&0o111 == 0 {
					continue
				}
				programs++
				info, err := buildinfo.Read(r.ReaderAt)
				if err != nil {
					t.Errorf("%s is executable and no Go program: %v", r.Name, err)
					continue
				}
				if info.Path != "github.com/fogwright/fogwright/initramfs/cmd/box" {
					t.Errorf("%s is %s", r.Name, info.Path)
				}
			}
			if programs != 1 {
				t.Errorf("%d programs in the initramfs, want 1", programs)
			}
		})
	}
}

// shell is somebody at the serial console of a dev image.
type shell struct {
	t   *testing.T
	box *rig.Rig
	n   int
}

// newShell waits for the prompt: before it gosh asks the terminal about itself and
// swallows what is typed.
func newShell(t *testing.T, box *rig.Rig) *shell {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	if err := box.Machine.WaitConsole(ctx, "toggle key help"); err != nil {
		t.Fatal(err)
	}
	return &shell{t: t, box: box}
}

// run types a command and returns what it printed.
func (s *shell) run(line string) string {
	s.t.Helper()
	s.n++
	mark := fmt.Sprintf("done-%d-", s.n)
	// The mark is typed in two parts, so that its echo is not taken for it.
	fmt.Fprintf(s.box.Machine.Input(), "%s; echo do''ne-%d-\n", line, s.n)
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	if err := s.box.Machine.WaitConsole(ctx, mark); err != nil {
		s.t.Fatalf("at the shell: %s: %v", line, err)
	}
	out := s.box.Machine.Console()
	out = out[:strings.LastIndex(out, mark)]
	if i := strings.LastIndex(out, fmt.Sprintf("ne-%d-", s.n)); i >= 0 {
		out = out[i:]
	}
	return out
}

// A dev image has a shell and u-root's commands on its console, over which one can
// look inside; the supervisor restarts what dies; vsock carries the control
// channel; and after the boot nobody, not even root, can load a kernel module.
func TestDevImage(t *testing.T) {
	b := image(t, "pc-amd64", firmware.Dev)
	probe := filepath.Join(t.TempDir(), "vsockprobe")
	build := exec.Command("go", "build", "-o", probe, "./testdata/vsockprobe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	data, err := os.ReadFile(probe)
	if err != nil {
		t.Fatal(err)
	}
	box := power(t, b, func(o *rig.Options) { o.Files = map[string][]byte{"vsockprobe": data} })
	before := until(t, b, box, "sharing")
	sh := newShell(t, box)

	if out := sh.run("ls /lib/modules; cat /proc/sys/kernel/modules_disabled"); !strings.Contains(out, "1") {
		t.Errorf("kernel.modules_disabled is not 1: %q", out)
	}
	if out := sh.run("/factory/vsockprobe"); !strings.Contains(out, "over vsock: pc-amd64 sharing") {
		t.Errorf("the control channel over vsock: %q", out)
	}

	var pid int
	for _, s := range before.Services {
		if s.Name == "netd" {
			pid = s.PID
		}
	}
	sh.run(fmt.Sprintf("kill -9 %d", pid))
	ctx := budget(t, b)
	for {
		s, err := box.Control.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		back := false
		for _, v := range s.Services {
			back = back || v.Name == "netd" && v.State == "running" && v.PID != pid && v.Restarts == 1
		}
		if back && s.State == "sharing" {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("netd was not restarted: %+v", s.Services)
		}
		time.Sleep(100 * time.Millisecond)
	}
	off(t, b, box)
}

// A kernel panic resets the box by itself, and it comes back.
func TestPanicResets(t *testing.T) {
	b := image(t, "pc-amd64", firmware.Dev)
	box := power(t, b, nil)
	before := until(t, b, box, "sharing")
	newShell(t, box)
	fmt.Fprint(box.Machine.Input(), "echo c > /proc/sysrq-trigger\n")
	ctx := budget(t, b)
	for {
		s, err := box.Control.Status(ctx)
		if err == nil && s.Boot.BootID != before.Boot.BootID && s.State == "sharing" {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("the box did not come back after a kernel panic: %v", err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	if !strings.Contains(box.Machine.Console(), "Kernel panic") {
		t.Error("the console shows no kernel panic")
	}
	off(t, b, box)
}
