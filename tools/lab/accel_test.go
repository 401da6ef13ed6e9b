package lab

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// The probe's guests run under emulation, on every architecture: so when one
// fails with KVM, it is KVM that does not work.
func TestProbeGuestsRun(t *testing.T) {
	for arch, cpu := range map[string]string{"amd64": "qemu64", "arm64": "cortex-a53"} {
		if err := probe(patience(t), arch, TCG, cpu); err != nil {
			t.Errorf("%s: %v", arch, err)
		}
	}
	if err := probe(patience(t), "amd64", "nonsense", "qemu64"); err == nil {
		t.Error("an accelerator that does not exist passed the probe")
	}
}

func TestAcceleratorWorks(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	got := Accelerator(patience(t), runtime.GOARCH)
	kvm := probe(patience(t), runtime.GOARCH, KVM, "host")
	t.Logf("accelerator %s; KVM: %v", got, kvm)
	want := TCG
	if kvm == nil {
		want = KVM
	}
	if got != want {
		t.Errorf("got %q, want %q because a guest with KVM gave: %v", got, want, kvm)
	}
	for _, foreign := range []string{"arm", "riscv64"} {
		if got := Accelerator(patience(t), foreign); got != TCG {
			t.Errorf("%s: got %q, want %q", foreign, got, TCG)
		}
	}
}

func TestAcceleratorIsRemembered(t *testing.T) {
	const boot = "3ef0b09e-0000-0000-0000-000000000000\n"
	for _, c := range []struct {
		name, content string
		certain       bool
		want, keeps   string
	}{
		{"nothing", "", true, KVM, boot + KVM},
		{"this boot", boot + TCG, true, TCG, boot + TCG},
		{"another boot", "another\n" + TCG, true, KVM, boot + KVM},
		{"nonsense", boot + "hvf", true, KVM, boot + KVM},
		{"broken off", "another\n" + TCG, false, KVM, "another\n" + TCG},
	} {
		file := filepath.Join(t.TempDir(), "accelerator")
		if err := os.WriteFile(file, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		got := remembered(file, boot, func() (string, bool) { return KVM, c.certain })
		kept, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != c.want || string(kept) != c.keeps {
			t.Errorf("%s: got %q and keeps %q, want %q and %q", c.name, got, kept, c.want, c.keeps)
		}
	}
}
