package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

// judge calls a tool of e2fsprogs; a machine without it fails the test.
func judge(t rapid.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("%s is missing: install the Debian package e2fsprogs", name)
	}
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// value is what a line of dumpe2fs says behind "name:".
func value(t testing.TB, text, name string) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^ *` + regexp.QuoteMeta(name) + `: *(.*)$`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no %q in\n%s", name, text)
	}
	return strings.TrimSpace(m[1])
}

func options(size int64, quota bool) Options {
	return Options{
		Size: size, Label: "data", Time: time.Unix(1_800_000_000, 0), ProjectQuota: quota,
		UUID:     [16]byte{0x2b, 0x18, 0x7f, 0x41, 0x96, 0x60, 0x45, 0x23, 0xad, 7, 0xb6, 9, 0x8b, 0xc2, 0xd9, 3},
		HashSeed: [16]byte{15: 1},
	}
}

// partition is a file that counts what is written to it. After left writes it is
// cut off, in the middle of the next one.
type partition struct {
	*os.File
	left, written int
}

var errCut = errors.New("power cut")

func newPartition(t testing.TB, size int64) *partition {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "partition"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	p := &partition{File: f, left: math.MaxInt}
	p.blank(t, size)
	return p
}

// blank makes it zero and of that size.
func (p *partition) blank(t rapid.TB, size int64) {
	t.Helper()
	if err := errors.Join(p.Truncate(0), p.Truncate(size)); err != nil {
		t.Fatal(err)
	}
}

func (p *partition) WriteAt(b []byte, off int64) (int, error) {
	if p.left--; p.left < 0 {
		n, err := p.File.WriteAt(b[:3*512], off) // in the middle of the superblock
		return n, errors.Join(err, errCut)
	}
	p.written += len(b)
	return p.File.WriteAt(b, off)
}

func (p *partition) Sync() error { return nil } // nobody pulls the plug

// Every size that a partition may have gives what e2fsck finds nothing wrong with,
// and the partition is used but for less than a group's tables.
func TestAnySize(t *testing.T) {
	p := newPartition(t, 0)
	check := func(t rapid.TB, size int64, quota bool) {
		t.Helper()
		p.blank(t, size)
		p.written = 0
		if err := Make(p, options(size, quota)); err != nil {
			t.Fatal(err)
		}
		judge(t, "e2fsck", "-fn", p.Name())
		got, ok := Read(p)
		if want := (Info{Fit(size) / BlockSize, BlockSize}); !ok || got != want {
			t.Errorf("%d bytes: superblock tells %+v, want %+v", size, got, want)
		}
		if left := size - Fit(size); left < 0 || left >= smallestGroup*BlockSize {
			t.Errorf("%d bytes: %d of them are not used", size, left)
		}
		if size <= 8*gib && p.written > 256<<10 {
			t.Errorf("%d bytes: wrote %d", size, p.written)
		}
	}
	const group = blocksPerGroup * BlockSize
	for _, size := range []int64{MinSize, group, group + BlockSize, group + (smallestGroup-1)*BlockSize,
		group + smallestGroup*BlockSize, 3*group + smallestGroup*BlockSize, 8 * gib, 8*gib + group, MaxSize} {
		for _, quota := range []bool{false, true} {
			check(t, size, quota)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		check(t, rapid.Int64Range(MinSize, 2*gib).Draw(t, "size"), rapid.Bool().Draw(t, "quota"))
	})
}

func TestWhatOthersRead(t *testing.T) {
	p := newPartition(t, 256*mib)
	o := options(256*mib, true)
	if err := Make(p, o); err != nil {
		t.Fatal(err)
	}
	head := judge(t, "dumpe2fs", "-h", p.Name())
	got := map[string]string{}
	want := map[string]string{
		"Filesystem volume name": "data",
		"Filesystem UUID":        "2b187f41-9660-4523-ad07-b6098bc2d903",
		"Directory Hash Seed":    "00000000-0000-0000-0000-000000000001",
		"Filesystem features": "has_journal ext_attr resize_inode dir_index filetype extent 64bit flex_bg sparse_super " +
			"large_file huge_file dir_nlink extra_isize quota metadata_csum project",
		"Filesystem state":      "clean",
		"Errors behavior":       "Remount read-only",
		"Block count":           "65536",
		"Inode count":           "4096",
		"Reserved GDT blocks":   "31",
		"Overhead clusters":     "4422",
		"Project quota inode":   "12",
		"Journal inode":         "8",
		"Journal backup":        "inode blocks",
		"Total journal size":    "16M",
		"Journal start":         "0",
		"Default mount options": "user_xattr acl",
	}
	for name := range want {
		got[name] = value(t, head, name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("dumpe2fs (-want +got):\n%s", diff)
	}
	created, err := time.Parse("Mon Jan _2 15:04:05 2006", value(t, judge(t, "env", "TZ=UTC", "dumpe2fs", "-h", p.Name()), "Filesystem created"))
	if err != nil || !created.Equal(o.Time) {
		t.Errorf("created %v (%v), want %v", created, err, o.Time)
	}
	root := judge(t, "debugfs", "-R", "ls -p /", p.Name())
	for _, line := range []string{"/2/040755/0/0/.//", "/2/040755/0/0/..//", "/11/040700/0/0/lost+found//"} {
		if !strings.Contains(root, line) {
			t.Errorf("no %s in\n%s", line, root)
		}
	}
	if out := judge(t, "debugfs", "-R", "list_quota project", p.Name()); !regexp.MustCompile(`(?m)^ *0 +8192 +0 +0 +2 +0 +0$`).MatchString(out) {
		t.Errorf("quota of project 0: %s", out)
	}
}

// Times behind 2038 and 2106 need more than 32 bits.
func TestLateTimes(t *testing.T) {
	p := newPartition(t, MinSize)
	for _, want := range []string{"2037-12-31", "2039-01-01", "2107-01-01"} {
		o := options(MinSize, false)
		o.Time, _ = time.Parse(time.DateOnly, want)
		if err := Make(p, o); err != nil {
			t.Fatal(err)
		}
		judge(t, "e2fsck", "-fn", p.Name())
		stat := judge(t, "env", "TZ=UTC", "debugfs", "-R", "stat <2>", p.Name())
		for _, kind := range []string{"ctime", "mtime", "atime", "crtime"} {
			_, text, _ := strings.Cut(value(t, stat, kind), " -- ")
			got, err := time.Parse("Mon Jan _2 15:04:05 2006", text)
			if err != nil || !got.Equal(o.Time) {
				t.Errorf("%s = %v (%v), want %v", kind, got, err, o.Time)
			}
		}
	}
}

// What an earlier life left on the partition does not come through.
func TestOverGarbage(t *testing.T) {
	const size = 200 * mib
	blank, full := newPartition(t, size), newPartition(t, size)
	noise := bytes.Repeat([]byte("\xc0\x3b\x39\x98\x00\x00\x00\x02\x53\xefnoise"), mib/15)
	for off := int64(0); off+int64(len(noise)) <= size; off += int64(len(noise)) {
		if _, err := full.File.WriteAt(noise, off); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []*partition{blank, full} {
		if err := Make(p, options(size, true)); err != nil {
			t.Fatal(err)
		}
	}
	judge(t, "e2fsck", "-fn", full.Name())
	if want, got := judge(t, "dumpe2fs", blank.Name()), judge(t, "dumpe2fs", full.Name()); got != want {
		t.Errorf("on noise (-want +got):\n%s", cmp.Diff(want, got))
	}
}

func TestEqualOptionsGiveEqualBytes(t *testing.T) {
	var images [2][]byte
	for i := range images {
		p := newPartition(t, 32*mib)
		if err := Make(p, options(32*mib, true)); err != nil {
			t.Fatal(err)
		}
		var err error
		if images[i], err = io.ReadAll(io.NewSectionReader(p, 0, 32*mib)); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("two file systems made with the same options differ")
	}
}

// Over an old file system, a cut leaves no superblock that holds, or all of the
// new one.
func TestEveryCut(t *testing.T) {
	const size = 300 * mib // with a copy of the superblock
	p := newPartition(t, size)
	for cut := 0; ; cut++ {
		p.left = math.MaxInt
		if err := Make(p, options(size, false)); err != nil {
			t.Fatal(err)
		}
		p.left = cut
		o := options(size, true)
		o.UUID[0]++
		err := Make(p, o)
		if err == nil {
			judge(t, "e2fsck", "-fn", p.Name())
			return
		}
		if !errors.Is(err, errCut) {
			t.Fatal(err)
		}
		out, _ := exec.Command("dumpe2fs", "-h", p.Name()).CombinedOutput()
		if !bytes.Contains(out, []byte("Bad magic number")) && !bytes.Contains(out, []byte("checksum does not match")) {
			t.Errorf("cut in write %d: dumpe2fs says\n%s", cut, out)
		}
	}
}

func TestRefuses(t *testing.T) {
	for _, tt := range []struct {
		want   string
		change func(*Options)
	}{
		{"it must have 16777216 to 274877906944", func(o *Options) { o.Size = MinSize - 1 }},
		{"it must have 16777216 to 274877906944", func(o *Options) { o.Size = MaxSize + 1 }},
		{`label "seventeen letters" is longer`, func(o *Options) { o.Label = "seventeen letters" }},
		{"its time stamps cannot hold", func(o *Options) { o.Time = time.Unix(-1, 0) }},
		{"its time stamps cannot hold", func(o *Options) { o.Time = time.Unix(1<<34, 0) }},
	} {
		o := options(MinSize, false)
		tt.change(&o)
		p := newPartition(t, 0)
		if err := Make(p, o); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: got %v, want %q", o, err, tt.want)
		}
		if p.written != 0 {
			t.Errorf("%+v: wrote %d bytes", o, p.written)
		}
	}
}

func TestHasCopy(t *testing.T) {
	var got []int64
	for g := range int64(400) {
		if hasCopy(g) {
			got = append(got, g)
		}
	}
	want := []int64{0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(fmt.Sprint("groups with copies (-want +got):\n", diff))
	}
}

func FuzzRead(f *testing.F) {
	for _, size := range []int64{MinSize, MaxSize} {
		l, err := newLayout(options(size, true))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(l.superblock(0)[superblockAt : superblockAt+1024])
	}
	f.Add(make([]byte, 1024))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		i, ok := Read(bytes.NewReader(append(make([]byte, superblockAt), b...)))
		if ok && (i.Blocks <= 0 || i.BlockSize < 1024 || i.BlockSize > 65536 || i.Blocks > math.MaxInt64/i.BlockSize) {
			t.Errorf("got %+v", i)
		}
	})
}
