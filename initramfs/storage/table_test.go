package storage

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	mib     = 1 << 20
	gptID   = "2b187f41-9660-5523-ad07-b6098bc2d903"
	mbrID   = "6b5958d3"
	oldSize = 16 * mib
	dataGPT = 5
	dataMBR = 6
)

// run calls a foreign tool; a machine without it fails the test.
func run(t testing.TB, debianPackage, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("%s is missing: install the Debian package %s", name, debianPackage)
	}
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// makeTable gives a file with the five partitions, written by a foreign tool, that
// has room for a disk of that size.
func makeTable(t testing.TB, kind string, size int64) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), kind+".img")
	if err := os.WriteFile(name, tables(t)[kind], 0o600); err != nil {
		t.Fatal(err)
	}
	truncate(t, name, size)
	return name
}

// tables makes both disks once: sfdisk takes half a second for each.
func tables(t testing.TB) map[string][]byte {
	once.Do(func() {
		for kind, script := range map[string]string{
			"gpt": "label: gpt\nlabel-id: " + gptID + "\n" +
				"start=2048,size=2M\nsize=2M\nsize=2M\nsize=4M\nsize=4M\n",
			"mbr": "label: dos\nlabel-id: 0x" + mbrID + "\n" +
				"start=2048,size=2M,type=c\nsize=2M,type=c\nsize=2M,type=c\ntype=f\n" +
				"start=16384,size=3M,type=83\nstart=24576,size=3M,type=83\n",
		} {
			name := filepath.Join(t.TempDir(), kind)
			if err := os.WriteFile(name, make([]byte, oldSize), 0o600); err != nil {
				t.Fatal(err)
			}
			run(t, "fdisk", script, "sfdisk", "-q", name)
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			made[kind] = b
		}
	})
	return made
}

var (
	once sync.Once
	made = map[string][]byte{}
)

func truncate(t testing.TB, name string, size int64) {
	t.Helper()
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, name string) *os.File {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

var kinds = []struct {
	kind, id string
	data     int
}{{"gpt", gptID, dataGPT}, {"mbr", mbrID, dataMBR}}

func TestGrowIsWhatOthersUnderstand(t *testing.T) {
	for _, k := range kinds {
		for _, size := range []int64{oldSize, oldSize + 512, 32 * mib, 8<<30 + 12345*512, 3 << 40} {
			name := makeTable(t, k.kind, size)
			f := open(t, name)
			before, err := readTable(f, size, k.kind)
			if err != nil {
				t.Fatal(err)
			}
			if before.id != k.id {
				t.Errorf("%s: id = %q, want %q", k.kind, before.id, k.id)
			}
			writes, err := growTable(f, size, k.kind, k.data)
			if err != nil {
				t.Fatal(err)
			}
			if err := apply(&recorder{f, func() {}}, writes); err != nil {
				t.Fatal(err)
			}
			if again, err := growTable(f, size, k.kind, k.data); err != nil || len(again) != 0 {
				t.Errorf("%s, %d bytes: growing twice plans %d writes, %v", k.kind, size, len(again), err)
			}
			after, err := readTable(f, size, k.kind)
			if err != nil {
				t.Fatal(err)
			}
			end := size / align * align
			if k.kind == "gpt" {
				end = (size - 33*sector) / align * align
			} else {
				end = min(end, 1<<41-align)
			}
			want := before.parts[k.data]
			want.size = max(want.size, end-want.start)
			if got := after.parts[k.data]; got != want {
				t.Errorf("%s, %d bytes: data = %+v, want %+v", k.kind, size, got, want)
			}
			delete(before.parts, k.data)
			delete(after.parts, k.data)
			if diff := cmp.Diff(before.parts, after.parts, cmp.AllowUnexported(extent{})); diff != "" {
				t.Errorf("%s: other partitions changed:\n%s", k.kind, diff)
			}
			judge(t, k.kind, name)
		}
	}
}

// judge asks the tools that everybody uses.
func judge(t *testing.T, kind, name string) {
	t.Helper()
	if kind == "gpt" {
		if out := run(t, "gdisk", "", "sgdisk", "-v", name); !strings.Contains(out, "No problems found") {
			t.Errorf("sgdisk -v: %s", out)
		}
	}
	if out := run(t, "fdisk", "", "sfdisk", "--verify", name); !strings.Contains(out, "No errors detected") {
		t.Errorf("sfdisk --verify: %s", out)
	}
}

// recorder keeps what a disk would hold after every write and, because a cut may
// tear one, after every sector of it.
type recorder struct {
	f      *os.File
	states func()
}

func (r *recorder) WriteAt(b []byte, off int64) (int, error) {
	for n := 0; n < len(b); n += sector {
		m := min(sector, len(b)-n)
		if _, err := r.f.WriteAt(b[n:n+m], off+int64(n)); err != nil {
			return n, err
		}
		r.states()
	}
	return len(b), nil
}

func (r *recorder) Sync() error { return nil }

// After a cut at any sector the disk is found again by its id, its data
// partition has the old size or the new one, and growing it again ends well.
func TestGrowSurvivesEveryCut(t *testing.T) {
	const size = 64*mib + 7*sector
	for _, k := range kinds {
		name := makeTable(t, k.kind, size)
		f := open(t, name)
		before, err := readTable(f, size, k.kind)
		if err != nil {
			t.Fatal(err)
		}
		writes, err := growTable(f, size, k.kind, k.data)
		if err != nil {
			t.Fatal(err)
		}
		cuts := 0
		apply(&recorder{f, func() {
			cuts++
			got, err := readTable(f, size, k.kind)
			if err != nil || got.id != k.id {
				t.Errorf("%s, cut %d: %v", k.kind, cuts, err)
				return
			}
			p := got.parts[k.data]
			if p.start != before.parts[k.data].start || p.size != before.parts[k.data].size && p.end() < 62*mib {
				t.Errorf("%s, cut %d: data = %+v", k.kind, cuts, p)
			}
			delete(got.parts, k.data)
			for n, p := range got.parts {
				if p != before.parts[n] {
					t.Errorf("%s, cut %d: partition %d = %+v, was %+v", k.kind, cuts, n, p, before.parts[n])
				}
			}
			recovers(t, f, size, k.kind, k.data)
		}}, writes)
		if cuts < 3 {
			t.Errorf("%s: only %d cuts", k.kind, cuts)
		}
	}
}

// recovers grows a copy of a disk that was cut, as the next boot does.
func recovers(t *testing.T, f *os.File, size int64, kind string, data int) {
	t.Helper()
	o := &overlay{base: f, sectors: map[int64][]byte{}}
	for range 3 {
		writes, err := growTable(o, size, kind, data)
		if err != nil {
			t.Error(err)
			return
		}
		if len(writes) == 0 {
			got, err := readTable(o, size, kind)
			if err != nil || got.parts[data].end() < 63*mib {
				t.Errorf("%s: after recovery data = %+v, %v", kind, got.parts[data], err)
			}
			return
		}
		apply(o, writes)
	}
	t.Errorf("%s: does not come to rest", kind)
}

// overlay is a disk whose writes do not reach the file under it.
type overlay struct {
	base    *os.File
	sectors map[int64][]byte
}

func (o *overlay) ReadAt(b []byte, off int64) (int, error) {
	n, err := o.base.ReadAt(b, off)
	for at := off; at < off+int64(len(b)); at += sector {
		if s, ok := o.sectors[at]; ok {
			copy(b[at-off:], s)
		}
	}
	return n, err
}

func (o *overlay) WriteAt(b []byte, off int64) (int, error) {
	for at := 0; at < len(b); at += sector {
		o.sectors[off+int64(at)] = bytes.Clone(b[at : at+sector])
	}
	return len(b), nil
}

func (o *overlay) Sync() error { return nil }

func TestNotTheLastPartition(t *testing.T) {
	for _, k := range kinds {
		f := open(t, makeTable(t, k.kind, 32*mib))
		if writes, err := growTable(f, 32*mib, k.kind, 2); err == nil {
			t.Errorf("%s: growing partition 2 plans %d writes", k.kind, len(writes))
		}
	}
}

func TestOthersDisks(t *testing.T) {
	gpt := open(t, makeTable(t, "gpt", oldSize))
	mbr := open(t, makeTable(t, "mbr", oldSize))
	blank := bytes.NewReader(make([]byte, mib))
	if _, err := readTable(gpt, oldSize, "mbr"); !errors.Is(err, errNoTable) {
		t.Errorf("a GPT read as MBR: %v", err)
	}
	if _, err := readTable(mbr, oldSize, "gpt"); !errors.Is(err, errNoTable) {
		t.Errorf("an MBR read as GPT: %v", err)
	}
	for _, k := range kinds {
		if _, err := readTable(blank, mib, k.kind); !errors.Is(err, errNoTable) {
			t.Errorf("a blank disk read as %s: %v", k.kind, err)
		}
	}
}

// sparse is a disk of which a fuzzer gives the start and the end.
type sparse struct {
	start, end []byte
	size       int64
}

func (s sparse) ReadAt(b []byte, off int64) (int, error) {
	clear(b)
	if off < int64(len(s.start)) {
		copy(b, s.start[off:])
	}
	if tail := s.size - int64(len(s.end)); off >= tail && off < s.size {
		copy(b, s.end[off-tail:])
	}
	return len(b), nil
}

func FuzzTable(f *testing.F) {
	for _, k := range kinds {
		img, err := os.ReadFile(makeTable(f, k.kind, oldSize))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(img[:34*sector], img[len(img)-33*sector:], int64(oldSize))
		f.Add(img[:34*sector], []byte{}, int64(32*mib))
		f.Add(img[7*mib:7*mib+sector], []byte{}, int64(1))
	}
	f.Fuzz(func(t *testing.T, start, end []byte, size int64) {
		d := sparse{start, end, size}
		for _, k := range kinds {
			table, err := readTable(d, size, k.kind)
			if err != nil {
				continue
			}
			for n := range table.parts {
				writes, err := growTable(d, size, k.kind, n)
				if err != nil {
					continue
				}
				for _, w := range writes {
					if w.offset < 0 || w.offset+int64(len(w.data)) > size {
						t.Fatalf("%s: a write of %d bytes at %d of a disk of %d", k.kind, len(w.data), w.offset, size)
					}
				}
			}
		}
	})
}
