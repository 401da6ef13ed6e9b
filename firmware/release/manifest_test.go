package release

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// outputs makes a folder of outputs with their manifest.
func outputs(t *testing.T) (dir string, m *Manifest) {
	t.Helper()
	dir = t.TempDir()
	names := []string{"box.slot", "box.img", "box.sbom.cdx.json"}
	for _, n := range names {
		if err := os.WriteFile(filepath.Join(dir, n), []byte("content of "+n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	files, err := Hash(t.Context(), dir, names...)
	if err != nil {
		t.Fatal(err)
	}
	m = &Manifest{
		Name: "box", Board: "pc-amd64", Arch: "amd64", Variant: "release", Version: "1",
		Built: time.Unix(1700000000, 5).In(time.FixedZone("", 7200)),
		Go:    "go1.26", Kernel: "6.12.1", Modules: []string{"b", "a"},
		Disk:     Disk{Table: "gpt", ID: "x", Size: 1 << 30, Partitions: []Partition{{1, "factory", 1 << 20, 1 << 24}}},
		Slot:     files[0].SHA256,
		Files:    files,
		Packages: packages(),
	}
	if err := m.Write(dir); err != nil {
		t.Fatal(err)
	}
	return dir, m
}

func TestManifestRoundTrip(t *testing.T) {
	dir, m := outputs(t)
	got, err := Read(dir, "box")
	if err != nil {
		t.Fatal(err)
	}
	want := *m
	want.Schema = Schema
	want.Built = time.Unix(1700000000, 0).UTC()
	want.Files = []File{m.Files[1], m.Files[2], m.Files[0]}
	want.Packages = []Package{m.Packages[1], m.Packages[0]}
	for i := range want.Packages {
		want.Packages[i].Copyright = nil
	}
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Errorf("Read after Write (-want +got):\n%s", diff)
	}
	first, _ := os.ReadFile(filepath.Join(dir, ManifestFile("box")))
	if err := got.Write(dir); err != nil {
		t.Fatal(err)
	}
	second, _ := os.ReadFile(filepath.Join(dir, ManifestFile("box")))
	if diff := cmp.Diff(string(first), string(second)); diff != "" {
		t.Errorf("written twice (-first +second):\n%s", diff)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// sha256sum is the judge of the hashes.
func TestHashEqualsSha256sum(t *testing.T) {
	dir, m := outputs(t)
	for _, f := range m.Files {
		out, err := exec.Command("sha256sum", filepath.Join(dir, f.Name)).Output()
		if err != nil {
			t.Fatal(err)
		}
		if got, _, _ := strings.Cut(string(out), " "); got != f.SHA256 {
			t.Errorf("%s: sha256sum says %s, we say %s", f.Name, got, f.SHA256)
		}
	}
}

func TestVerify(t *testing.T) {
	write := func(name, text string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644) }
	}
	for _, tc := range []struct {
		name   string
		damage func(dir string) error
		want   string // part of the error; empty: none
	}{
		{"untouched", func(string) error { return nil }, ""},
		{"another file beside", write("other", "x"), ""},
		{"bit flipped", write("box.img", "content of box.imh"), "box.img has SHA-256"},
		{"truncated", write("box.slot", "content"), "box.slot has 7 bytes, the manifest says 19"},
		{"missing", func(d string) error { return os.Remove(filepath.Join(d, "box.slot")) }, "no such file"},
		{"symbolic link", func(d string) error {
			return errors.Join(os.Rename(filepath.Join(d, "box.slot"), filepath.Join(d, "x")), os.Symlink("x", filepath.Join(d, "box.slot")))
		}, "box.slot is not a regular file"},
		{"no manifest", func(d string) error { return Withdraw(d, "box") }, "no such file"},
		{"half a manifest", func(d string) error { return os.Truncate(filepath.Join(d, ManifestFile("box")), 200) }, "unexpected EOF"},
		{"text behind", func(d string) error {
			b, _ := os.ReadFile(filepath.Join(d, ManifestFile("box")))
			return write(ManifestFile("box"), string(b)+"{}")(d)
		}, "something follows"},
		{"manifest of others", func(d string) error {
			b, _ := os.ReadFile(filepath.Join(d, ManifestFile("box")))
			return write(ManifestFile("box"), strings.Replace(string(b), `"box"`, `"tin"`, 1))(d)
		}, `outputs called "tin"`},
		{"file elsewhere", func(d string) error {
			b, _ := os.ReadFile(filepath.Join(d, ManifestFile("box")))
			return write(ManifestFile("box"), strings.Replace(string(b), `"box.img"`, `"../box.img"`, 1))(d)
		}, "malformed"},
		{"unknown key", func(d string) error {
			b, _ := os.ReadFile(filepath.Join(d, ManifestFile("box")))
			return write(ManifestFile("box"), strings.Replace(string(b), `"board"`, `"bord"`, 1))(d)
		}, `unknown field "bord"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir, _ := outputs(t)
			if err := tc.damage(dir); err != nil {
				t.Fatal(err)
			}
			err := Verify(t.Context(), dir, "box")
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("Verify: error %v, want one with %q", err, tc.want)
			}
		})
	}
	dir, _ := outputs(t)
	if err := errors.Join(write("box.img", "")(dir), write("box.slot", "")(dir)); err != nil {
		t.Fatal(err)
	}
	if err := Verify(t.Context(), dir, "box"); err == nil || strings.Count(err.Error(), "has 0 bytes") != 2 {
		t.Errorf("two damaged files: got %v, want both named", err)
	}
}

func TestWithdraw(t *testing.T) {
	dir, _ := outputs(t)
	for range 2 { // the second time there is nothing to do
		if err := Withdraw(dir, "box"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Read(dir, "box"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read after Withdraw: %v, want fs.ErrNotExist", err)
	}
}

// A manifest that could not be read back is not written, and the old one stays.
func TestWriteRefuses(t *testing.T) {
	for _, tc := range []struct {
		change func(*Manifest)
		want   string
	}{
		{func(m *Manifest) { m.Files = nil }, "names no files"},
		{func(m *Manifest) { m.Files[0].Name = "a/b" }, `file "a/b"`},
		{func(m *Manifest) { m.Files[0] = m.Files[1] }, "named twice"},
		{func(m *Manifest) { m.Files[0].Name = ManifestFile("box") }, "or is the manifest"},
		{func(m *Manifest) { m.Slot = "" }, "slot hash"},
		{func(m *Manifest) { m.Version = "" }, "is empty"},
		{func(m *Manifest) { m.Packages[0].SHA256 = "x" }, "package"},
	} {
		dir, m := outputs(t)
		tc.change(m)
		if err := m.Write(dir); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("Write: error %v, want one with %q", err, tc.want)
		}
		if err := Verify(t.Context(), dir, "box"); err != nil {
			t.Errorf("after a refused Write: %v", err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"schema":1,"name":"a","board":"b","version":"1","arch":"arm","slot_sha256":"` + strings.Repeat("0", 64) + `","files":[{"name":"a.img","size":1,"sha256":"` + strings.Repeat("0", 64) + `"}]}`))
	f.Add([]byte(`{"schema":1,"files":[{"name":"../x"}]}`))
	f.Add([]byte(`{}{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parse(b)
		if err != nil {
			return
		}
		for _, file := range m.Files {
			if filepath.Base(file.Name) != file.Name || file.Name == "." || file.Name == ".." {
				t.Fatalf("accepted the file name %q", file.Name)
			}
		}
	})
}
