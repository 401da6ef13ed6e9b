package rpi

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func pi3() Params {
	return Params{
		SlotA: 2, SlotB: 3,
		Kernel: "vmlinuz", Initrd: "initramfs", DTB: "board.dtb", Arm64: true,
		Args:   []string{"console=ttyS1,115200", "panic=10"},
		Config: []string{"dtparam=watchdog=on"},
	}
}

func TestFactory(t *testing.T) {
	got, err := Factory(pi3())
	if err != nil {
		t.Fatal(err)
	}
	// The example of the documentation's section "autoboot.txt", letter for
	// letter.
	want := map[string][]byte{"autoboot.txt": []byte("[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Factory (-want +got):\n%s", diff)
	}
	for _, bad := range []Params{{SlotA: 0, SlotB: 3}, {SlotA: 2, SlotB: 5}, {SlotA: 2, SlotB: 2}} {
		if _, err := Factory(bad); err == nil {
			t.Errorf("Factory with slots %d and %d: no error", bad.SlotA, bad.SlotB)
		}
	}
}

func TestSlot(t *testing.T) {
	got, err := Slot(pi3())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"config.txt": `# Made by the builder of Fogwright; a slot is replaced as a whole.
[all]
kernel=vmlinuz
initramfs initramfs followkernel
device_tree=board.dtb
enable_uart=1
disable_splash=1
boot_delay=0
arm_64bit=1
dtparam=watchdog=on
`,
		"cmdline.txt": "console=ttyS1,115200 panic=10\n",
	}
	text := map[string]string{}
	for name, b := range got {
		text[name] = string(b)
	}
	if diff := cmp.Diff(want, text); diff != "" {
		t.Errorf("Slot (-want +got):\n%s", diff)
	}
}

func TestSlotRefuses(t *testing.T) {
	for _, tc := range []struct {
		change func(*Params)
		want   string
	}{
		{func(p *Params) { p.Kernel = "" }, `kernel file name ""`},
		{func(p *Params) { p.Initrd = "a,b" }, `initramfs file name "a,b"`},
		{func(p *Params) { p.DTB = "a b" }, `device tree file name "a b"`},
		{func(p *Params) { p.Args = []string{"a\nb"} }, `kernel argument "a\nb"`},
		{func(p *Params) { p.Args = []string{""} }, `kernel argument ""`},
		{func(p *Params) { p.Config = []string{"a=1\nb=2"} }, "config.txt line"},
		{func(p *Params) { p.Config = []string{strings.Repeat("x", 99)} }, "up to 98"},
	} {
		p := pi3()
		tc.change(&p)
		if _, err := Slot(p); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("Slot(%+v): error %v, want one with %q", p, err, tc.want)
		}
	}
	p := pi3()
	p.Config = []string{strings.Repeat("x", 98)}
	if _, err := Slot(p); err != nil {
		t.Errorf("a line of 98 characters: %v", err)
	}
}
