package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// The accelerators of QEMU that the lab knows.
const (
	KVM = "kvm"
	TCG = "tcg,thread=multi"
)

// Accelerator is the best accelerator of QEMU that works on this computer for
// machines of an architecture. A /dev/kvm that is there may still not work (it
// does not in many containers and nested machines), so a tiny guest is run. The
// answer is remembered in the user's cache folder until the computer reboots.
func Accelerator(ctx context.Context, arch string) string {
	if arch != runtime.GOARCH || runtime.GOOS != "linux" {
		return TCG
	}
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err != nil {
		return TCG
	} else {
		f.Close()
	}
	dir, err := os.UserCacheDir()
	boot, berr := os.ReadFile("/proc/sys/kernel/random/boot_id")
	find := func() string {
		if probe(ctx, arch, KVM, "host") != nil {
			return TCG
		}
		return KVM
	}
	if errors.Join(err, berr) != nil {
		return find()
	}
	return remembered(filepath.Join(dir, "fogwright", "accelerator-"+arch), string(boot), func() (string, bool) {
		accel := find()
		return accel, ctx.Err() == nil // a probe that was broken off proved nothing
	})
}

// remembered is the accelerator that file has for this boot of the computer, or
// what find finds, which the file gets when it is certain.
func remembered(file, boot string, find func() (accel string, certain bool)) string {
	if b, err := os.ReadFile(file); err == nil {
		if accel, ok := strings.CutPrefix(string(b), boot); ok && (accel == KVM || accel == TCG) {
			return accel
		}
	}
	accel, certain := find()
	if certain {
		remember(file, boot+accel)
	}
	return accel
}

// remember replaces a cache file. Failing costs the next caller a second.
func remember(file, text string) {
	if os.MkdirAll(filepath.Dir(file), 0o755) != nil {
		return
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".accelerator-*")
	if err != nil {
		return
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
	if errors.Join(err, f.Close()) == nil {
		os.Rename(f.Name(), file)
	}
}

// guest is the smallest program that can prove that a processor runs: a ROM that
// makes QEMU exit with a status that nothing else gives.
type guest struct {
	args   []string
	rom    []byte
	status int
}

func guests(arch string) (guest, bool) {
	switch arch {
	case "amd64":
		// The processor starts 16 bytes below the end of the ROM. Writing n to
		// QEMU's debug exit port gives the status 2n+1.
		rom := make([]byte, 64<<10)
		copy(rom[len(rom)-16:], []byte{
			0xba, 0xf4, 0x00, // mov dx, 0xf4
			0xb0, 0x10, // mov al, 0x10
			0xee,       // out dx, al
			0xeb, 0xfe, // jmp to itself
		})
		return guest{[]string{"-machine", "pc", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"}, rom, 0x21}, true
	case "arm64":
		// The processor starts at the ROM's first byte; PSCI's SYSTEM_OFF
		// (Arm DEN0022) ends QEMU with status 0.
		return guest{[]string{"-machine", "virt"}, []byte{
			0x00, 0x01, 0x80, 0x52, // mov w0, #8
			0x00, 0x80, 0xb0, 0x72, // movk w0, #0x8400, lsl #16
			0x02, 0x00, 0x00, 0xd4, // hvc #0
			0x00, 0x00, 0x00, 0x14, // b to itself
		}, 0}, true
	}
	return guest{}, false
}

// probe runs the smallest guest with an accelerator. It has ten seconds, where a
// working one needs a tenth of one.
func probe(ctx context.Context, arch, accel, cpu string) error {
	g, ok := guests(arch)
	if !ok {
		return fmt.Errorf("no guest to probe %s with on %s", accel, arch)
	}
	program, err := Program(arch)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "fogwright-probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	rom := filepath.Join(dir, "rom")
	if err := os.WriteFile(rom, g.rom, 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	args := append([]string{"-nodefaults", "-no-user-config", "-display", "none", "-m", "16M",
		"-accel", accel, "-cpu", cpu, "-bios", rom}, g.args...)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir // where a core dump goes: QEMU aborts where KVM is half there
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != g.status {
		return fmt.Errorf("running a guest with -accel %s: %v: %s", accel, err, strings.TrimSpace(string(out)))
	}
	return nil
}
