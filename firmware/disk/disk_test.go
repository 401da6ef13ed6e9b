package disk

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func slotFiles(kernel int) []File {
	return []File{{"kernel", noise(9, kernel)}, {"cmdline", []byte("quiet\n")}}
}

// box is a whole small disk with five partitions and a loader.
func box(t testing.TB, table Table, slot int) Image {
	t.Helper()
	factory, err := FAT{Label: "FACTORY", Serial: 1, Size: table.Partitions[0].Size, Time: testTime(), Files: boxFiles()}.Build()
	if err != nil {
		t.Fatal(err)
	}
	slotFAT, err := FAT{Label: "SLOT", Serial: 2, Time: testTime(), Files: slotFiles(slot)}.Build()
	if err != nil {
		t.Fatal(err)
	}
	m := Image{Table: table, Contents: map[int]*Sparse{1: factory, 2: slotFAT, 3: slotFAT}}
	if table.Kind == MBR {
		m.Blobs = []Blob{{Name: "u-boot", Offset: 8 << 10, Data: noise(10, 600<<10)}}
	}
	return m
}

func build(t testing.TB, m Image) *Sparse {
	t.Helper()
	s, err := m.Build()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestImage(t *testing.T) {
	t.Parallel()
	for _, table := range []Table{gptTable(), mbrTable()} {
		t.Run(table.Kind, func(t *testing.T) {
			m := box(t, table, 9<<20)
			s := build(t, m)
			if b := m.Blobs; len(b) > 0 {
				got := make([]byte, len(b[0].Data))
				s.read(got, b[0].Offset)
				if !bytes.Equal(got, b[0].Data) {
					t.Error("the blob is not where it should be")
				}
			}
			img := writeTemp(t, s)
			judge(t, "fdisk", "sfdisk", "--verify", img)
			for i, p := range table.Partitions[:3] {
				// Another program's way: look the partition up, then the file.
				out := judge(t, "mtools", "mdir", "-b", "-i", fmt.Sprintf("%s@@%d", img, p.Offset), "::")
				want := "::/kernel"
				if i == 0 {
					want = "::/site.toml"
				}
				if !strings.Contains(out, want) {
					t.Errorf("partition %d: mdir has no %s:\n%s", p.Number, want, out)
				}
			}
			slot, err := Files(img, 3)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(listing(slotFiles(9<<20)), listing(slot)); diff != "" {
				t.Errorf("slot-b (-want +got):\n%s", diff)
			}
		})
	}
}

func TestImageRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*Image)
		want string
	}{
		{"blob on the GPT", func(m *Image) { m.Blobs = []Blob{{"u-boot", 8 << 10, noise(1, 9000)}} }, "the GPT (17408 bytes at offset 0) overlaps blob u-boot"},
		{"blob on a partition", func(m *Image) { m.Blobs = []Blob{{"u-boot", mib - 10, noise(1, 20)}} }, "blob u-boot (20 bytes at offset 1048566) overlaps partition 1"},
		{"blob on a blob", func(m *Image) { m.Blobs = []Blob{{"a", 50000, noise(1, 20)}, {"b", 50010, noise(1, 20)}} }, "blob a (20 bytes at offset 50000) overlaps blob b"},
		{"blob outside", func(m *Image) { m.Blobs = []Blob{{"a", 1 << 40, noise(1, 20)}} }, "leaves the disk"},
		{"too much", func(m *Image) { m.Contents[4] = NewSparse(1 << 30) }, "partition 4: the content has 1073741824 bytes"},
		{"no such partition", func(m *Image) { m.Contents[9] = NewSparse(0) }, "there is no partition 9"},
		{"bad table", func(m *Image) { m.Table.ID = "x" }, "GUID"},
	} {
		m := box(t, gptTable(), 1)
		tt.edit(&m)
		if _, err := m.Build(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

// TestFlashingAUsedCard writes only what is mapped onto a card full of old
// bytes: everything that somebody reads must come out as in the image.
func TestFlashingAUsedCard(t *testing.T) {
	t.Parallel()
	for _, table := range []Table{gptTable(), mbrTable()} {
		s := build(t, box(t, table, 9<<20))
		card := bytes.Repeat([]byte{0xAA}, int(s.Size()))
		for _, c := range s.chunks() {
			s.read(card[c.off:c.off+c.size], c.off)
		}
		got, err := ReadTable(bytes.NewReader(card), s.Size())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&table, got); diff != "" {
			t.Errorf("table (-want +got):\n%s", diff)
		}
		if table.Kind == MBR && !isZero(card[sector:8<<10]) {
			t.Error("an old GPT would survive")
		}
		for _, p := range table.Partitions {
			content := card[p.Offset:p.end()]
			if p.Type == TypeLinux && p.Number > 3 {
				if !isZero(content[:wipePartition]) {
					t.Errorf("partition %d: an old file system would survive", p.Number)
				}
				continue
			}
			want, err := ReadFAT(io.NewSectionReader(s, p.Offset, p.Size), p.Size)
			if err != nil {
				t.Fatal(err)
			}
			got, err := ReadFAT(bytes.NewReader(content), p.Size)
			if err != nil {
				t.Errorf("partition %d: %v", p.Number, err)
			} else if diff := cmp.Diff(listing(want.Files), listing(got.Files)); diff != "" {
				t.Errorf("partition %d (-want +got):\n%s", p.Number, diff)
			}
		}
	}
}

// exported is a disk written in all forms.
func exported(t testing.TB, s *Sparse) (Outputs, Exported) {
	t.Helper()
	dir := t.TempDir()
	out := Outputs{filepath.Join(dir, "box.img"), filepath.Join(dir, "box.img.zst"), filepath.Join(dir, "box.bmap")}
	done, err := s.Export(out)
	if err != nil {
		t.Fatal(err)
	}
	return out, done
}

func fileSum(t testing.TB, path string) Written {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		t.Fatal(err)
	}
	return Written{n, [sha256.Size]byte(h.Sum(nil))}
}

func TestExportIsJudged(t *testing.T) {
	t.Parallel()
	s := build(t, box(t, gptTable(), 9<<20))
	out, done := exported(t, s)
	want := Exported{fileSum(t, out.Image), fileSum(t, out.Zstd), fileSum(t, out.BlockMap)}
	if diff := cmp.Diff(want, done); diff != "" {
		t.Errorf("what Export says of its files (-want +got):\n%s", diff)
	}
	if want.Image != (Written{s.Size(), s.SHA256()}) {
		t.Error("the image is not what it should be")
	}
	dir := t.TempDir()
	judge(t, "zstd", "zstd", "-t", "-q", out.Zstd)
	plain := filepath.Join(dir, "plain.img")
	judge(t, "zstd", "zstd", "-d", "-q", out.Zstd, "-o", plain)
	if fileSum(t, plain) != want.Image {
		t.Error("zstd -d gives something else")
	}
	if list := judge(t, "zstd", "zstd", "-lv", out.Zstd); !strings.Contains(list, fmt.Sprintf("(%d B)", s.Size())) {
		t.Errorf("zstd -l does not know the size %d:\n%s", s.Size(), list)
	}
	for _, src := range []string{out.Image, out.Zstd} {
		flashed := filepath.Join(dir, "flashed.img")
		judge(t, "bmap-tools", "bmaptool", "copy", "--bmap", out.BlockMap, src, flashed)
		if fileSum(t, flashed) != want.Image {
			t.Errorf("bmaptool copy %s gives something else", src)
		}
	}
	// The block map notices a flipped bit.
	b, err := os.ReadFile(out.Image)
	if err != nil {
		t.Fatal(err)
	}
	b[20*mib] ^= 1
	if err := os.WriteFile(plain, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if text, err := ask(t, "bmap-tools", "bmaptool", "copy", "--bmap", out.BlockMap, plain, filepath.Join(dir, "x.img")); err == nil {
		t.Errorf("bmaptool takes a damaged image:\n%s", text)
	}
}

func TestExportIsDeterministic(t *testing.T) {
	s := build(t, box(t, mbrTable(), 22<<20))
	_, want := exported(t, s)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, n := range []int{1, 2, 7} {
		runtime.GOMAXPROCS(n)
		if _, got := exported(t, s); got != want {
			t.Errorf("GOMAXPROCS=%d shows in the bytes", n)
		}
	}
}

// The second slot shares its chunks with the first.
func TestExportCompressesOnce(t *testing.T) {
	s := build(t, box(t, mbrTable(), 22<<20))
	e := newExport(s)
	sums := make(map[[sha256.Size]byte]bool)
	for _, c := range e.chunks {
		p := make([]byte, c.size)
		s.read(p, c.off)
		sums[sha256.Sum256(p)] = true
	}
	if got, most := len(sums), len(e.chunks)-5; got > most {
		t.Errorf("%d of %d chunks differ; want at most %d", got, len(e.chunks), most)
	}
}

func TestExportPartly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := build(t, box(t, gptTable(), 1))
	for _, out := range []Outputs{{}, {Image: "a"}, {Zstd: "b"}, {BlockMap: "c"}} {
		for _, p := range []*string{&out.Image, &out.Zstd, &out.BlockMap} {
			if *p != "" {
				*p = filepath.Join(dir, *p)
			}
		}
		if _, err := s.Export(out); err != nil {
			t.Errorf("%+v: %v", out, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 3 {
		t.Errorf("written: %v", left)
	}
	if _, err := s.Export(Outputs{Image: filepath.Join(dir, "d"), Zstd: filepath.Join(dir, "no", "where")}); err == nil {
		t.Error("a folder that is not there: got no error")
	}
	if left, _ := os.ReadDir(dir); len(left) != 3 {
		t.Errorf("a failure leaves something behind: %v", left)
	}
}

func TestZeroFrame(t *testing.T) {
	t.Parallel()
	for _, n := range []int64{0, 1, 128 << 10, 128<<10 + 1, 300 * mib} {
		path := filepath.Join(t.TempDir(), "zeros.zst")
		if err := os.WriteFile(path, zeroFrame(n), 0o644); err != nil {
			t.Fatal(err)
		}
		plain := path + ".plain"
		judge(t, "zstd", "zstd", "-d", "-q", path, "-o", plain)
		if got, want := fileSum(t, plain), (Written{n, NewSparse(n).SHA256()}); got != want {
			t.Errorf("%d zeros: zstd -d gives %d bytes, or others", n, got.Size)
		}
	}
}

// bigBox is as much as a real board has: 150 MB of content in 800 MiB. A kernel
// compresses by about half, so every other 64 bytes are from a small set.
func bigBox(b *testing.B) *Sparse {
	b.Helper()
	table := mbrTable()
	table.Size = 800 * mib
	for i, p := range []struct{ off, size int64 }{{4, 32}, {36, 96}, {132, 96}, {230, 256}, {487, 256}} {
		table.Partitions[i].Offset, table.Partitions[i].Size = p.off*mib, p.size*mib
	}
	kernel := noise(1, 68<<20)
	for i := 0; i+128 <= len(kernel); i += 128 {
		copy(kernel[i:i+64], kernel[i%8192:])
	}
	slot, err := FAT{Label: "SLOT", Files: []File{{"kernel", kernel}}}.Build()
	if err != nil {
		b.Fatal(err)
	}
	factory, err := FAT{Label: "FACTORY", Size: 32 * mib, Files: []File{{"edgecache", kernel[:14<<20]}}}.Build()
	if err != nil {
		b.Fatal(err)
	}
	return build(b, Image{Table: table, Contents: map[int]*Sparse{1: factory, 2: slot, 3: slot}})
}

func BenchmarkFATBuild(b *testing.B) {
	f := FAT{Label: "SLOT", Files: append(boxFiles(), File{"kernel", noise(1, 64<<20)})}
	for b.Loop() {
		if _, err := f.Build(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkExport(b *testing.B) {
	for _, tt := range []struct {
		name string
		out  Outputs
	}{
		{"image", Outputs{Image: "box.img"}},
		{"zstd", Outputs{Zstd: "box.img.zst"}},
		{"bmap", Outputs{BlockMap: "box.bmap"}},
		{"all", Outputs{"box.img", "box.img.zst", "box.bmap"}},
	} {
		b.Run(tt.name, func(b *testing.B) {
			s := bigBox(b)
			b.Chdir(b.TempDir())
			b.SetBytes(s.Size())
			for b.Loop() {
				if _, err := s.Export(tt.out); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
