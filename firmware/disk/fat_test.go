package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func testTime() time.Time { return time.Date(2026, 9, 14, 13, 37, 42, 0, time.UTC) }

// boxFiles are the awkward things that boards and people put on a FAT.
func boxFiles() []File {
	files := []File{
		{"bootcode.bin", noise(1, 52<<10)},
		{"CONFIG.TXT", []byte("[all]\nkernel=kernel8.img\n")},
		{"site.toml", []byte("hostname = \"box\"\n")},
		{"workloads/edgecache", noise(2, 5<<20)},
		{"EFI/BOOT/BOOTX64.EFI", noise(3, 4096)},
		{"overlays/vc4-kms-v3d-pi4.dtbo", noise(4, 4097)},
		{"overlays/vc4-kms-v3d.dtbo", noise(5, 1)},
		{"overlays/README", nil},
		{"sun8i-h3+hat,v1[x].dtb", noise(6, 511)},
		{".hidden", []byte("x")},
		{"a.b.c.tar.gz", []byte("y")},
		{"VC4-KM~1.DTB", []byte("a short name that others would get")},
		{"overlays/VC4-KM~1.DTB", []byte("and here they meet")},
		{"Größe 漢字.txt", []byte("z")},
		{strings.Repeat("n", 255), []byte("long")},
		{"empty/", nil},
		{"deep/" + strings.Repeat("d/", 20) + "f", []byte("down")},
	}
	for i := range 300 {
		files = append(files, File{fmt.Sprintf("many/file number %03d.txt", i), fmt.Append(nil, i)})
	}
	return files
}

// sorted is how ReadFAT gives files back: never nil, in the order of the tree.
func sorted(files []File) []File {
	out := slices.Clone(files)
	for i := range out {
		if out[i].Data == nil && !strings.HasSuffix(out[i].Path, "/") {
			out[i].Data = []byte{}
		}
	}
	slices.SortFunc(out, func(a, b File) int {
		return slices.Compare(strings.Split(fold(a.Path), "/"), strings.Split(fold(b.Path), "/"))
	})
	return out
}

func TestFATIsJudged(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		size  int64
		files []File
		kind  string
	}{
		{"empty", 0, nil, "FAT12"},
		{"small", 0, boxFiles()[1:3], "FAT12"},
		{"all, minimal", 0, boxFiles(), "FAT12"},
		{"24 MiB, minimal", 0, append(boxFiles(), File{"zImage", noise(7, 24<<20)}), "FAT16"},
		{"all in 8 MiB", 8 << 20, boxFiles(), "FAT12"},
		{"all in 16 MiB", 16 << 20, boxFiles(), "FAT12"},
		{"all in 17 MiB", 17 << 20, boxFiles(), "FAT16"},
		{"all in 128 MiB", 128 << 20, boxFiles(), "FAT16"},
		{"all in 257 MiB", 257 << 20, boxFiles(), "FAT32"},
		{"all in 1 GiB", 1 << 30, boxFiles(), "FAT32"},
		{"all in 9 GiB", 9 << 30, boxFiles(), "FAT32"},
		{"an odd size", 20<<20 + 512*7, boxFiles(), "FAT16"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := FAT{Label: "FACTORY", Serial: 0xC0FFEE01, Size: tt.size, Time: testTime(), Files: tt.files}
			s, err := f.Build()
			if err != nil {
				t.Fatal(err)
			}
			if tt.size != 0 && s.Size() != tt.size {
				t.Errorf("size: got %d, want %d", s.Size(), tt.size)
			}
			img := writeTemp(t, s)
			judgeFAT(t, img, tt.kind)
			judgeFiles(t, img, tt.files)
			got, err := ReadFAT(s, s.Size())
			if err != nil {
				t.Fatal(err)
			}
			if got.Label != f.Label || got.Serial != f.Serial || len(tt.files) > 0 && !got.Time.Equal(f.Time) {
				t.Errorf("read back: label %q, serial %x, time %v", got.Label, got.Serial, got.Time)
			}
			if diff := cmp.Diff(listing(tt.files), listing(got.Files)); diff != "" {
				t.Errorf("read back (-want +got):\n%s", diff)
			}
		})
	}
}

// judgeFAT asks dosfstools whether all is well, and which kind of FAT it is.
func judgeFAT(t *testing.T, img, kind string) {
	t.Helper()
	out := judge(t, "dosfstools", "fsck.fat", "-vn", img)
	if !strings.Contains(out, " "+kind[3:]+" bit entries") {
		t.Errorf("fsck.fat sees no %s:\n%s", kind, out)
	}
	for _, bad := range []string{"Dirty", "differ", "warning", "Wrong", "wrong", "Unused", "Reclaim"} {
		if strings.Contains(out, bad) {
			t.Errorf("fsck.fat says %q:\n%s", bad, out)
		}
	}
	m := regexp.MustCompile(`Data area starts at byte (\d+)`).FindStringSubmatch(out)
	var data int64
	if m != nil {
		fmt.Sscan(m[1], &data)
	}
	if data == 0 || data%block != 0 {
		t.Errorf("data begins at %d, not at a multiple of %d:\n%s", data, block, out)
	}
	if label := judge(t, "mtools", "mlabel", "-s", "-i", img, "::"); !strings.Contains(label, "FACTORY") {
		t.Errorf("mlabel: got %q, want FACTORY", label)
	}
}

// judgeFiles lets mtools copy everything out.
func judgeFiles(t *testing.T, img string, files []File) {
	t.Helper()
	if len(files) == 0 {
		return
	}
	dir := t.TempDir()
	judge(t, "mtools", "mcopy", "-s", "-m", "-n", "-i", img, "::*", dir)
	var got []File
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		if d.IsDir() {
			if below, _ := os.ReadDir(path); len(below) == 0 {
				got = append(got, File{Path: rel + "/"})
			}
			return nil
		}
		st, _ := d.Info()
		if !st.ModTime().Equal(testTime()) {
			t.Errorf("%s: time: got %v, want %v", rel, st.ModTime().UTC(), testTime())
		}
		data, err := os.ReadFile(path)
		got = append(got, File{rel, data})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(listing(files), listing(got)); diff != "" {
		t.Errorf("mcopy (-want +got):\n%s", diff)
	}
}

func TestFATSizes(t *testing.T) {
	// What Build calls the least is enough, and a sector less is not.
	for _, n := range []int{0, 1, 4096, 4097, 1 << 20, 16630000, 16 << 20, 17 << 20} {
		f := FAT{Label: "SLOT", Time: testTime(), Files: []File{{"kernel", make([]byte, n)}}}
		s, err := f.Build()
		if err != nil {
			t.Fatal(err)
		}
		if over := s.Size() - int64(n); s.Size()%block != 0 || over > 70<<10 {
			t.Errorf("%d bytes: the least is %d", n, s.Size())
		}
		f.Size = s.Size()
		if _, err := f.Build(); err != nil {
			t.Errorf("%d bytes do not fit into the least, %d: %v", n, f.Size, err)
		}
		f.Size -= sector
		want := fmt.Sprintf("the files need %d bytes and there are %d", s.Size(), f.Size)
		if n == 16<<20 {
			continue // between FAT12 and FAT16 the least leaves some room
		}
		if _, err := f.Build(); n > 0 && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%d bytes into %d: got %v, want %q", n, f.Size, err, want)
		}
	}
}

// A FAT32 without a free cluster.
func TestFATFull(t *testing.T) {
	t.Parallel()
	f := FAT{Label: "FACTORY", Time: testTime(), Files: []File{{"big", make([]byte, 257*mib)}}}
	s, err := f.Build()
	if err != nil {
		t.Fatal(err)
	}
	judgeFAT(t, writeTemp(t, s), "FAT32")
}

// TestFATKindsMeet goes over the sizes where one kind of FAT gives way to the
// next, in steps of a cluster.
func TestFATKindsMeet(t *testing.T) {
	for _, near := range []int64{4085, 65525} {
		for n := near - 40; n < near+40; n++ {
			f := FAT{Size: (n*block + near*4 + 64<<10) / sector * sector}
			g, err := f.geometry(&node{dir: true})
			if err != nil {
				t.Fatal(err)
			}
			want := 12
			if g.clusters > 4084 {
				want = 16
			}
			if g.clusters > 65524 {
				want = 32
			}
			if g.bits != want || g.total > f.Size/sector || g.fatSectors*sector*8 < (g.clusters+2)*int64(g.bits) {
				t.Fatalf("size %d: %+v", f.Size, g)
			}
		}
	}
}

func TestFATRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		fat  FAT
		want string
	}{
		{"same but for case", FAT{Files: []File{{Path: "Site.toml"}, {Path: "site.TOML"}}}, "is there twice"},
		{"same", FAT{Files: []File{{Path: "a"}, {Path: "a"}}}, "is there twice"},
		{"file and folder", FAT{Files: []File{{Path: "a"}, {Path: "A/b"}}}, "is there twice"},
		{"absolute", FAT{Files: []File{{Path: "/a"}}}, "not a name"},
		{"up", FAT{Files: []File{{Path: "../a"}}}, "not a name"},
		{"colon", FAT{Files: []File{{Path: "a:b"}}}, "character ':'"},
		{"dot at the end", FAT{Files: []File{{Path: "a."}}}, "dot at its end"},
		{"too long", FAT{Files: []File{{Path: strings.Repeat("a", 256)}}}, "longer than 255"},
		{"not UTF-8", FAT{Files: []File{{Path: "a\xff"}}}, "not UTF-8"},
		{"device", FAT{Files: []File{{Path: "con.txt"}}}, "device"},
		{"folder with data", FAT{Files: []File{{"a/", []byte("x")}}}, "has data"},
		{"too deep", FAT{Files: []File{{Path: strings.Repeat("a/", 64) + "b"}}}, "64 elements"},
		{"label", FAT{Label: "factory"}, "label"},
		{"long label", FAT{Label: "FACTORY-RESET"}, "label"},
		{"size", FAT{Size: 1000}, "multiple of 512"},
		{"no room for itself", FAT{Size: 4096}, "need"},
		{"two faults", FAT{Label: "x", Files: []File{{Path: "nul"}, {Path: "b?"}}}, "character '?'"},
	} {
		_, err := tt.fat.Build()
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
		if strings.Contains(tt.want, "name") && !errors.Is(err, errName) {
			t.Errorf("%s: %v is no errName", tt.name, err)
		}
	}
}

func TestFATIsDeterministic(t *testing.T) {
	f := FAT{Label: "SLOT", Serial: 7, Time: testTime(), Files: boxFiles()}
	a, err := f.Build()
	if err != nil {
		t.Fatal(err)
	}
	f.Files = slices.Clone(f.Files)
	slices.Reverse(f.Files)
	f.Time = f.Time.In(time.FixedZone("far", 12*3600)).Add(time.Second)
	b, err := f.Build()
	if err != nil {
		t.Fatal(err)
	}
	if a.SHA256() != b.SHA256() {
		t.Error("the order of the files or the time zone shows in the bytes")
	}
}

func TestFATTimes(t *testing.T) {
	for _, tt := range []struct{ in, want time.Time }{
		{time.Unix(0, 0), fatEpoch()},
		{time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC), fatEnd()},
		{testTime().Add(1999 * time.Millisecond), testTime()},
		{time.Time{}, fatEpoch()},
	} {
		if got := fromFATTime(fatTime(tt.in)); !got.Equal(tt.want) {
			t.Errorf("%v: got %v, want %v", tt.in, got, tt.want)
		}
	}
}

func TestShortNames(t *testing.T) {
	got := shortNames([]string{
		"kernel8.img", "initramfs.cpio", "initramfs.cpio.gz", "a long name", "A LONGER NAME",
		".config", "ab+c.txt", "ALONGN~1", "Ünder.txt", "bcm2711-rpi-4-b.dtb",
	})
	want := []string{
		"KERNEL8 IMG", "INITRA~1CPI", "INITRA~1GZ ", "ALONGN~2   ", "ALONGE~1   ",
		"CONFIG~1   ", "AB_C~1  TXT", "ALONGN~1   ", "_NDER~1 TXT", "BCM271~1DTB",
	}
	for i := range want {
		if string(got[i][:]) != want[i] {
			t.Errorf("name %d: got %q, want %q", i, got[i][:], want[i])
		}
	}
}

// TestReadForeignFAT reads what mkfs.fat and mtools wrote.
func TestReadForeignFAT(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		bits  string
		extra []string
		size  int64
	}{
		{"12", nil, 8 << 20},
		{"16", []string{"-s", "1"}, 16 << 20},
		{"32", []string{"-s", "1"}, 64 << 20}, // what people make for a Raspberry Pi
		{"32", []string{"-S", "4096", "-s", "1"}, 300 << 20},
		{"16", []string{"-f", "1", "-s", "64"}, 256 << 20},
	} {
		img := filepath.Join(t.TempDir(), "fat.img")
		if err := NewSparse(tt.size).WriteFile(img); err != nil {
			t.Fatal(err)
		}
		judge(t, "dosfstools", "mkfs.fat", append([]string{"-F", tt.bits, "-i", "12345678", "-n", "CARD"}, append(tt.extra, img)...)...)
		dir := t.TempDir()
		want := []File{
			{"readme", noise(1, 100000)},
			{"sub/lower.txt", []byte("x")},
			{"sub/Some Longer Name, 漢字.text", noise(2, 70000)},
		}
		if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, f := range want {
			if err := os.WriteFile(filepath.Join(dir, f.Path), f.Data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		// A deleted file leaves its entry, and makes the next one fragmented.
		judge(t, "mtools", "mcopy", "-i", img, filepath.Join(dir, "sub/lower.txt"), "::gone")
		judge(t, "mtools", "mcopy", "-s", "-i", img, filepath.Join(dir, "sub"), "::")
		judge(t, "mtools", "mdel", "-i", img, "::gone")
		judge(t, "mtools", "mcopy", "-i", img, filepath.Join(dir, "readme"), "::")
		f, err := os.Open(img)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		got, err := ReadFAT(f, tt.size)
		if err != nil {
			t.Fatalf("FAT%s %v: %v", tt.bits, tt.extra, err)
		}
		if got.Label != "CARD" || got.Serial != 0x12345678 {
			t.Errorf("FAT%s %v: label %q, serial %x", tt.bits, tt.extra, got.Label, got.Serial)
		}
		if diff := cmp.Diff(listing(want), listing(got.Files)); diff != "" {
			t.Errorf("FAT%s %v: files (-want +got):\n%s", tt.bits, tt.extra, diff)
		}
	}
}

func TestReadFATRefusesLoops(t *testing.T) {
	f := FAT{Time: testTime(), Files: []File{{"a", noise(1, 3*block)}, {"b/c", []byte("x")}}}
	s, err := f.Build()
	if err != nil {
		t.Fatal(err)
	}
	good := flat(t, s)
	table := int(binary.LittleEndian.Uint16(good[14:])) * sector
	for _, tt := range []struct {
		name string
		edit func(b []byte)
		want string
	}{
		{"a loop", func(b []byte) { copy(b[table+3:], []byte{0x03, 0x20, 0x00}) }, "used twice"},
		{"a free cluster", func(b []byte) { copy(b[table+3:], []byte{0, 0, 0}) }, "bytes of"},
		{"a cluster outside", func(b []byte) { copy(b[table:], bytes.Repeat([]byte{0x77}, 12)) }, "of 5"},
		{"no signature", func(b []byte) { b[510] = 0 }, "no boot sector"},
		{"truncated", func(b []byte) { b[20] = 0x7f }, "sectors of 512 bytes in"},
	} {
		b := bytes.Clone(good)
		tt.edit(b)
		_, err := ReadFAT(bytes.NewReader(b), int64(len(b)))
		if !errors.Is(err, errFAT) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

// drawFiles makes up a valid list of files.
func drawFiles(t *rapid.T) []File {
	names := rapid.StringOfN(rapid.RuneFrom([]rune("abXY0 .-_+~äЖ漢😀,;=[]")), 1, 30, -1).
		Filter(func(s string) bool { return checkName(s) == nil })
	paths := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(names, 1, 4).Draw(t, "elements"), "/")
	})
	var files []File
	taken := make(map[string]bool)
	for _, path := range rapid.SliceOfN(paths, 0, 40).Draw(t, "paths") {
		free := !taken[fold(path)+"/"]
		for i, c := range path + "/" {
			free = free && !(c == '/' && taken[fold(path[:i])])
		}
		if !free {
			continue
		}
		taken[fold(path)] = true
		for i, c := range path {
			if c == '/' {
				taken[fold(path[:i])+"/"] = true
			}
		}
		files = append(files, File{path, rapid.SliceOfN(rapid.Byte(), 0, 10000).Draw(t, "data")})
	}
	return files
}

func TestFATRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := FAT{
			Label:  rapid.StringMatching(`([A-Z0-9][A-Z0-9 _-]{0,9}[A-Z0-9])?`).Draw(t, "label"),
			Serial: rapid.Uint32().Draw(t, "serial"),
			Size:   rapid.SampledFrom([]int64{0, 3 << 20, 40 << 20, 300 << 20}).Draw(t, "size"),
			Time:   testTime(),
			Files:  drawFiles(t),
		}
		s, err := f.Build()
		if err != nil {
			t.Fatal(err)
		}
		got, err := ReadFAT(s, s.Size())
		if err != nil {
			t.Fatal(err)
		}
		if got.Label != f.Label || got.Serial != f.Serial {
			t.Fatalf("got label %q, serial %x; want %q, %x", got.Label, got.Serial, f.Label, f.Serial)
		}
		// Folders keep the spelling that comes first.
		want, have := sorted(f.Files), sorted(got.Files)
		same := slices.EqualFunc(want, have, func(a, b File) bool {
			return fold(a.Path) == fold(b.Path) && bytes.Equal(a.Data, b.Data)
		})
		if !same {
			t.Fatalf("read back (-want +got):\n%s", cmp.Diff(want, have))
		}
	})
}

func FuzzReadFAT(f *testing.F) {
	// Much smaller than Build makes them, so that the fuzzer gets somewhere.
	for _, g := range []geometry{
		{bits: 12, perCluster: 1, reserved: 1, fatSectors: 1, rootEntries: 16, clusters: 30},
		{bits: 32, perCluster: 1, reserved: 9, fatSectors: 1, clusters: 30},
	} {
		fat := FAT{Label: "SEED", Time: testTime(), Files: append(boxFiles()[5:12], File{"e/f/", nil}, File{"e/g", noise(1, 2000)})}
		fat.Files[0].Data = nil
		root, err := fat.tree()
		if err != nil {
			f.Fatal(err)
		}
		g.total = g.data() + g.clusters
		w := fatWriter{FAT: fat, geometry: g, table: make([]byte, g.fatSectors*sector)}
		s, err := w.write(root, g.total*sector)
		if err != nil {
			f.Fatal(err)
		}
		if _, err := ReadFAT(s, s.Size()); err != nil {
			f.Fatalf("the seed: %v", err)
		}
		f.Add(flat(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ReadFAT(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		var sum int
		for _, file := range got.Files {
			sum += len(file.Data)
		}
		if sum > len(b) {
			t.Fatalf("%d bytes hold files of %d bytes", len(b), sum)
		}
		// What can be read can be written again, unless two names are alike.
		got.Size, got.Label = 0, ""
		if _, err := got.Build(); err != nil && !strings.Contains(err.Error(), "is there twice") {
			t.Fatal(err)
		}
	})
}
