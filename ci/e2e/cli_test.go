//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fogwright/fogwright/firmware/release"
	"github.com/fogwright/fogwright/initramfs/state"
)

// fogwright runs the command line from the checkout, as a script would.
func fogwright(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "fogwright")
	tool(t, "go", "build", "-o", program, root+"/tools/fogwright")
	cmd := exec.Command(program, args...)
	cmd.Dir = root
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// What scripts rely on: status as JSON and exit code 0 after a clean shutdown, or
// exit code 1 with the end of the console.
func TestRunForScripts(t *testing.T) {
	dir := t.TempDir()
	out, errs, code := fogwright(t, "run", "-board", "pc-amd64", "-until", "sharing", "-json", "-out", dir, "-timeout", "2m")
	var s state.Status
	if err := json.Unmarshal([]byte(out), &s); err != nil || code != 0 || s.State != "sharing" {
		t.Errorf("exit code %d, state %q, %v\n%s\n%s", code, s.State, err, out, errs)
	}
	out, errs, code = fogwright(t, "run", "-board", "pc-amd64", "-as-built", "-until", "sharing", "-json", "-out", dir, "-timeout", "4s")
	if code != 1 || out != "" || !strings.Contains(errs, "end of its console") {
		t.Errorf("out of time: exit code %d\n%s\n%s", code, out, errs)
	}
}

// A board is a folder, wherever it lies: this one has another name and no Go.
func TestBoardOutsideTheRepo(t *testing.T) {
	dir := t.TempDir()
	board := filepath.Join(dir, "my-board")
	if err := os.CopyFS(board, os.DirFS(filepath.Join(root, "boards", "orangepi-pc"))); err != nil {
		t.Fatal(err)
	}
	_, errs, code := fogwright(t, "build", "-board", board, "-out", dir)
	if code != 0 {
		t.Fatalf("exit code %d\n%s", code, errs)
	}
	if err := release.Verify(t.Context(), dir, "my-board"); err != nil {
		t.Error(err)
	}
	// The same mistake as a newcomer's: a module that the kernel does not have.
	file := filepath.Join(board, "board.toml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.Replace(text, []byte(`"mmc_block"`), []byte(`"mmc_blok"`), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	_, errs, code = fogwright(t, "build", "-board", board, "-out", dir)
	if code != 1 || !strings.Contains(errs, "board.toml:") || !strings.Contains(errs, `no module "mmc_blok" (is it "mmc_block"?)`) {
		t.Errorf("unknown module: exit code %d\n%s", code, errs)
	}
}

// The finished image in the hands of the tools that people will use on it.
func TestImageIsJudged(t *testing.T) {
	for _, board := range []string{"pc-amd64", "orangepi-pc"} {
		t.Run(board, func(t *testing.T) {
			b := image(t, board, "release")
			copied := filepath.Join(t.TempDir(), "card.img")
			tool(t, "bmaptool", "copy", "--bmap", b.path(".bmap"), b.path(".img.zst"), copied)
			tool(t, "zstd", "-tq", b.path(".img.zst"))
			tool(t, "fsck.fat", "-n", b.path(".slot"))
			_, partitions := table(t, b.path(".img"))
			factory := filepath.Join(t.TempDir(), "factory")
			cut(t, b.path(".img"), factory, partitions[1])
			tool(t, "fsck.fat", "-n", factory)
			if board == "pc-amd64" {
				if out := tool(t, "sgdisk", "-v", b.path(".img")); !strings.Contains(out, "No problems found") {
					t.Error(out)
				}
				efi := filepath.Join(t.TempDir(), "BOOTX64.EFI")
				tool(t, "mcopy", "-i", b.path(".slot"), "::EFI/BOOT/BOOTX64.EFI", efi)
				if out := tool(t, "objdump", "-h", efi); !strings.Contains(out, ".initrd") || !strings.Contains(out, ".linux") {
					t.Error(out)
				}
				return
			}
			script := filepath.Join(t.TempDir(), "boot.scr")
			tool(t, "mcopy", "-i", factory, "::boot.scr", script)
			if out := tool(t, "dumpimage", "-l", script); !strings.Contains(out, "Script") {
				t.Error(out)
			}
		})
	}
}
