package disk

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func readTableFile(path string) (*Table, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return ReadTable(f, st.Size())
}

func TestProvision(t *testing.T) {
	t.Parallel()
	for _, table := range []Table{gptTable(), mbrTable()} {
		img := writeTemp(t, build(t, box(t, table, 1)))
		before := fileSum(t, img)
		changes := map[string][]byte{
			"SITE.TOML":            []byte("hostname = \"kitchen\"\n"),
			"workloads/other/new":  noise(20, 70000),
			"workloads/EdgeCache":  nil,
			"many":                 nil,
			"not there":            nil,
			"overlays/README":      {},
			"EFI/BOOT/BOOTX64.EFI": noise(21, 10000),
		}
		for range 2 { // the second time changes nothing
			if err := Provision(img, changes); err != nil {
				t.Fatal(err)
			}
		}
		got, err := Files(img, Factory)
		if err != nil {
			t.Fatal(err)
		}
		want := slices.DeleteFunc(boxFiles(), func(f File) bool {
			return strings.HasPrefix(f.Path, "many/") || slices.Contains([]string{"site.toml", "workloads/edgecache", "EFI/BOOT/BOOTX64.EFI", "overlays/README"}, f.Path)
		})
		for path, data := range changes {
			if data != nil {
				want = append(want, File{path, data})
			}
		}
		if diff := cmp.Diff(listing(want), listing(got)); diff != "" {
			t.Errorf("%s: files (-want +got):\n%s", table.Kind, diff)
		}
		p := table.Partitions[0]
		if out := judge(t, "mtools", "mtype", "-i", fmt.Sprintf("%s@@%d", img, p.Offset), "::site.toml"); !strings.Contains(out, "kitchen") {
			t.Errorf("mtype: got %q", out)
		}
		if slot, err := Files(img, 2); err != nil || len(slot) != 2 {
			t.Errorf("%s: slot-a after it: %d files, %v", table.Kind, len(slot), err)
		}
		judgeProvisioned(t, img, p)

		// Undone, it is the image that it was, byte for byte.
		undo := map[string][]byte{"workloads/other": nil}
		for _, f := range boxFiles() {
			undo[strings.TrimSuffix(f.Path, "/")] = f.Data
			if f.Data == nil {
				undo[f.Path] = []byte{}
			}
		}
		delete(undo, "empty")
		delete(undo, "empty/")
		if err := Provision(img, undo); err != nil {
			t.Fatal(err)
		}
		if fileSum(t, img) != before {
			t.Errorf("%s: undoing it does not give the old bytes", table.Kind)
		}
	}
}

// judgeProvisioned lets fsck.fat look at the factory partition alone.
func judgeProvisioned(t *testing.T, img string, p Partition) {
	t.Helper()
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(t.TempDir(), "factory.img")
	if err := os.WriteFile(part, b[p.Offset:p.end()], 0o644); err != nil {
		t.Fatal(err)
	}
	judgeFAT(t, part, "FAT12")
}

func TestProvisionRefuses(t *testing.T) {
	t.Parallel()
	img := writeTemp(t, build(t, box(t, gptTable(), 1)))
	before := fileSum(t, img)
	for _, tt := range []struct {
		name    string
		changes map[string][]byte
		want    string
	}{
		{"too big", map[string][]byte{"big": make([]byte, 12<<20)}, "the files need"},
		{"bad name", map[string][]byte{"a:b": {1}}, "character ':'"},
		{"on a folder", map[string][]byte{"EFI": {1}}, "is there twice"},
	} {
		if err := Provision(img, tt.changes); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), img) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	if fileSum(t, img) != before {
		t.Error("a refused change was written")
	}
	if err := Provision(filepath.Join(t.TempDir(), "none"), nil); err == nil {
		t.Error("no image: got no error")
	}
	empty := writeTemp(t, NewSparse(mib))
	if err := Provision(empty, nil); err == nil || !strings.Contains(err.Error(), "no signature") {
		t.Errorf("no table: got %v", err)
	}
	if _, err := Files(img, 9); err == nil || !strings.Contains(err.Error(), "no partition 9") {
		t.Errorf("Files of partition 9: got %v", err)
	}
	if _, err := Files(img, 4); err == nil || !strings.Contains(err.Error(), "partition 4") {
		t.Errorf("Files of an empty partition: got %v", err)
	}
}

func TestCopySparse(t *testing.T) {
	t.Parallel()
	s := NewSparse(100*mib + 123)
	for _, off := range []int64{0, 5 * mib, 100*mib + 100} {
		if err := s.Place(off, []byte("some data")); err != nil {
			t.Fatal(err)
		}
	}
	src := writeTemp(t, s)
	dir := t.TempDir()
	dst := filepath.Join(dir, "copy.img")
	size := CardSize(s.Size())
	if size != 128*mib {
		t.Errorf("CardSize(%d): got %d, want %d", s.Size(), size, 128*mib)
	}
	if err := CopySparse(dst, src, size); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(dst)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(got)) != size || !bytes.Equal(got[:s.Size()], flat(t, s)) || !isZero(got[s.Size():]) {
		t.Error("the copy differs")
	}
	st, err := os.Stat(dst)
	if err != nil {
		t.Fatal(err)
	}
	if used := st.Sys().(*syscall.Stat_t).Blocks * 512; used > 64<<10 {
		t.Errorf("27 bytes take %d bytes of disk", used)
	}
	if err := CopySparse(filepath.Join(dir, "small"), src, 1000); err == nil || !strings.Contains(err.Error(), "do not fit") {
		t.Errorf("into 1000 bytes: got %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("a failure leaves something behind: %v", left)
	}
}

func TestCardSize(t *testing.T) {
	for _, tt := range []struct{ in, want int64 }{{1, 1}, {3, 4}, {4, 4}, {1<<30 + 1, 1 << 31}} {
		if got := CardSize(tt.in); got != tt.want {
			t.Errorf("CardSize(%d): got %d, want %d", tt.in, got, tt.want)
		}
	}
}
