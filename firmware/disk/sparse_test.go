package disk

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestPlace(t *testing.T) {
	s := NewSparse(100)
	for _, tt := range []struct {
		name string
		off  int64
		n    int
		ok   bool
	}{
		{"first", 10, 10, true},
		{"just in front", 0, 10, true},
		{"just behind", 20, 5, true},
		{"same place", 10, 1, false},
		{"over the end of one", 24, 2, false},
		{"around one", 5, 40, false},
		{"at the end", 99, 1, true},
		{"over the end", 98, 3, false},
		{"behind the end", 101, 0, false},
		{"nothing at the end", 100, 0, true},
		{"negative", -1, 1, false},
	} {
		if err := s.Place(tt.off, make([]byte, tt.n)); (err == nil) != tt.ok {
			t.Errorf("%s: Place(%d, %d bytes): got %v, want ok=%v", tt.name, tt.off, tt.n, err, tt.ok)
		}
	}
	if err := s.Insert(50, NewSparse(51)); err == nil {
		t.Error("Insert of 51 bytes at 50 of 100: got no error")
	}
}

// TestSparseIsItsModel holds a Sparse against plain bytes.
func TestSparseIsItsModel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.img")
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(0, 5*block).Draw(t, "size")
		s, model := NewSparse(size), make([]byte, size)
		covered := make([]bool, size)
		for range rapid.IntRange(0, 6).Draw(t, "pieces") {
			off := rapid.Int64Range(0, size).Draw(t, "off")
			n := rapid.Int64Range(0, size-off).Draw(t, "n")
			if rapid.Bool().Draw(t, "wipe") {
				if err := s.wipe(off, n); err != nil {
					t.Fatalf("wipe(%d, %d): %v", off, n, err)
				}
				for i := off; i < off+n; i++ {
					covered[i] = true
				}
				continue
			}
			data := bytes.Repeat([]byte{rapid.Byte().Draw(t, "value")}, int(n))
			free := !bytes.Contains(boolBytes(covered[off:off+n]), []byte{1})
			if err := s.Place(off, data); (err == nil) != free {
				t.Fatalf("Place(%d, %d bytes): got %v, want ok=%v", off, n, err, free)
			} else if err == nil {
				copy(model[off:], data)
				for i := off; i < off+n; i++ {
					covered[i] = true
				}
			}
		}
		var all bytes.Buffer
		if n, err := s.WriteTo(&all); err != nil || n != size {
			t.Fatalf("WriteTo: got %d, %v, want %d", n, err, size)
		}
		if !bytes.Equal(all.Bytes(), model) {
			t.Fatal("WriteTo differs from the model")
		}
		off := rapid.Int64Range(0, size).Draw(t, "read at")
		p := make([]byte, rapid.Int64Range(0, size-off).Draw(t, "read"))
		for i := range p {
			p[i] = 0xAA
		}
		if n, err := s.ReadAt(p, off); n != len(p) || err != nil && off < size {
			t.Fatalf("ReadAt(%d bytes, %d): got %d, %v", len(p), off, n, err)
		}
		if !bytes.Equal(p, model[off:off+int64(len(p))]) {
			t.Fatal("ReadAt differs from the model")
		}
		if got, want := s.SHA256(), sha256.Sum256(model); got != want {
			t.Fatalf("SHA256: got %x, want %x", got, want)
		}
		if err := s.WriteFile(path); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, model) {
			t.Fatalf("the file differs from the model (%v)", err)
		}
		checkChunks(t, s, covered)
	})
}

// checkChunks: they rise, do not overlap, hold everything that is placed and no
// block in which nothing is.
func checkChunks(t *rapid.T, s *Sparse, covered []bool) {
	var end int64
	inside := make([]byte, len(covered))
	for _, c := range s.chunks() {
		if c.off < end || c.off%block != 0 || c.size < 1 || c.size > chunkSize || c.off+c.size > s.size {
			t.Fatalf("chunk %+v behind %d of %d", c, end, s.size)
		}
		end = c.off + c.size
		if end%block != 0 && end != s.size {
			t.Fatalf("chunk %+v ends inside of a block", c)
		}
		for i := c.off; i < end; i += block {
			if !bytes.Contains(boolBytes(covered[i:min(i+block, end)]), []byte{1}) {
				t.Fatalf("nothing is placed in block %d of chunk %+v", i/block, c)
			}
		}
		copy(inside[c.off:end], bytes.Repeat([]byte{1}, int(c.size)))
	}
	for i, c := range covered {
		if c && inside[i] == 0 {
			t.Fatalf("byte %d is in no chunk", i)
		}
	}
}

func boolBytes(b []bool) []byte {
	out := make([]byte, len(b))
	for i, v := range b {
		if v {
			out[i] = 1
		}
	}
	return out
}

func TestChunksOfBigData(t *testing.T) {
	s := NewSparse(16 << 20)
	for _, e := range []struct{ off, n int64 }{{0, 100}, {5000, 9 << 20}, {12 << 20, 1 << 20}} {
		if err := s.Place(e.off, make([]byte, e.n)); err != nil {
			t.Fatal(err)
		}
	}
	want := []chunk{{0, 4 << 20}, {4 << 20, 4 << 20}, {8 << 20, 1<<20 + 8192}, {12 << 20, 1 << 20}}
	if diff := cmp.Diff(want, s.chunks(), cmp.AllowUnexported(chunk{})); diff != "" {
		t.Errorf("chunks (-want +got):\n%s", diff)
	}
}

func TestWriteFileLeavesHoles(t *testing.T) {
	s := NewSparse(256 << 20)
	if err := s.Place(100<<20, append(make([]byte, 8<<20), 1)); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(writeTemp(t, s))
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() != s.Size() {
		t.Errorf("size: got %d, want %d", st.Size(), s.Size())
	}
	if used := st.Sys().(*syscall.Stat_t).Blocks * 512; used > 64<<10 {
		t.Errorf("one byte in 256 MiB takes %d bytes of disk", used)
	}
}

// A file that cannot be finished must not look finished.
func TestWriteFileLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "disk.img")
	if err := os.Mkdir(target, 0o755); err != nil { // renaming onto it fails
		t.Fatal(err)
	}
	if err := NewSparse(1 << 20).WriteFile(target); err == nil {
		t.Error("writing onto a folder: got no error")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
