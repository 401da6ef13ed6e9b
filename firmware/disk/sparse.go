package disk

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// block is the unit in which outputs are mapped and holes are left: the page
// and file system block size of every system that these images are handled on,
// and the block size that bmap-tools uses.
const block = 4096

// Sparse is a run of bytes of fixed size that is known only in places. What is
// not placed is a hole: it reads as zeros and nobody cares what a medium holds
// there. Placed zeros are different: they are written to the medium.
//
// The placed bytes are not copied, so they must not change afterwards.
type Sparse struct {
	size    int64
	extents []extent // sorted by off, not overlapping, none empty
}

type extent struct {
	off  int64
	data []byte
}

func (e extent) end() int64 { return e.off + int64(len(e.data)) }

// NewSparse returns size bytes of hole.
func NewSparse(size int64) *Sparse { return &Sparse{size: size} }

// Size is the length in bytes, holes included.
func (s *Sparse) Size() int64 { return s.size }

// Place puts data at off. Bytes that lie outside or on already placed ones are
// an error.
func (s *Sparse) Place(off int64, data []byte) error {
	if off < 0 || off > s.size || int64(len(data)) > s.size-off {
		return fmt.Errorf("%d bytes at offset %d do not fit into %d bytes", len(data), off, s.size)
	}
	if len(data) == 0 {
		return nil
	}
	e := extent{off, data}
	i := s.after(off)
	if i < len(s.extents) && s.extents[i].off < e.end() {
		o := s.extents[i]
		return fmt.Errorf("%d bytes at offset %d overlap the %d bytes at offset %d", len(data), off, len(o.data), o.off)
	}
	s.extents = slices.Insert(s.extents, i, e)
	return nil
}

// Insert places everything that is placed in o, moved by off. The holes of o
// stay holes.
func (s *Sparse) Insert(off int64, o *Sparse) error {
	if off < 0 || off > s.size || o.size > s.size-off {
		return fmt.Errorf("%d bytes at offset %d do not fit into %d bytes", o.size, off, s.size)
	}
	for _, e := range o.extents {
		if err := s.Place(off+e.off, e.data); err != nil {
			return err
		}
	}
	return nil
}

// wipe places zeros in the holes between off and off+n: what a medium held
// there before must not survive.
func (s *Sparse) wipe(off, n int64) error {
	zero := make([]byte, n)
	for end := off + n; off < end; {
		next := end
		if i := s.after(off); i < len(s.extents) {
			if e := s.extents[i]; e.off <= off {
				off = e.end()
				continue
			}
			next = min(end, s.extents[i].off)
		}
		if err := s.Place(off, zero[:next-off]); err != nil {
			return err
		}
		off = next
	}
	return nil
}

// after is the index of the first extent that ends behind off.
func (s *Sparse) after(off int64) int {
	i, _ := slices.BinarySearchFunc(s.extents, off, func(e extent, off int64) int {
		if e.end() <= off {
			return -1
		}
		return 1
	})
	return i
}

// ReadAt is io.ReaderAt; holes read as zeros.
func (s *Sparse) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("reading at offset %d: %w", off, os.ErrInvalid)
	}
	if off >= s.size {
		return 0, io.EOF
	}
	var err error
	if int64(len(p)) > s.size-off {
		p, err = p[:s.size-off], io.EOF
	}
	pos := off
	for _, e := range s.extents[s.after(off):] {
		if e.off >= off+int64(len(p)) {
			break
		}
		start := max(e.off, off)
		clear(p[pos-off : start-off])
		pos = start + int64(copy(p[start-off:], e.data[start-e.off:]))
	}
	clear(p[pos-off:])
	return len(p), err
}

// WriteTo is io.WriterTo; holes are written as zeros.
func (s *Sparse) WriteTo(w io.Writer) (int64, error) {
	zero := make([]byte, 64<<10)
	var pos int64
	hole := func(end int64) error {
		for pos < end {
			n, err := w.Write(zero[:min(end-pos, int64(len(zero)))])
			pos += int64(n)
			if err != nil {
				return err
			}
		}
		return nil
	}
	for _, e := range s.extents {
		if err := hole(e.off); err != nil {
			return pos, err
		}
		n, err := w.Write(e.data)
		pos += int64(n)
		if err != nil {
			return pos, err
		}
	}
	err := hole(s.size)
	return pos, err
}

// SHA256 is the hash of all bytes, holes included.
func (s *Sparse) SHA256() [sha256.Size]byte {
	h := sha256.New()
	s.WriteTo(h) // a hash never fails
	return [sha256.Size]byte(h.Sum(nil))
}

// WriteFile writes the bytes to path, with holes in the file wherever a whole
// block is zero. The file appears under its name only when it is complete.
func (s *Sparse) WriteFile(path string) error {
	f, err := createFile(path)
	if err != nil {
		return err
	}
	defer f.discard()
	if err := f.Truncate(s.size); err != nil {
		return fmt.Errorf("writing %q: %w", path, err)
	}
	buf := make([]byte, chunkSize)
	for _, c := range s.chunks() {
		p := buf[:c.size]
		s.read(p, c.off)
		if err := writeSparse(f, p, c.off); err != nil {
			return fmt.Errorf("writing %q: %w", path, err)
		}
	}
	return f.commit()
}

// read is ReadAt for a range that is known to lie inside.
func (s *Sparse) read(p []byte, off int64) {
	if n, _ := s.ReadAt(p, off); n < len(p) {
		clear(p[n:])
	}
}

// chunkSize is the most that outputs handle at a time. It is part of the
// format: block maps and compressed images are cut here, whatever the number of
// processors, so changing it changes the bytes of a release.
const chunkSize = 4 << 20

// chunk is a range of placed bytes, grown to whole blocks.
type chunk struct{ off, size int64 }

// chunks cuts what is placed into ranges of at most chunkSize bytes that start
// and end at block boundaries, or at the end of s.
func (s *Sparse) chunks() []chunk {
	var all []chunk
	var end int64 // of the last chunk
	for _, e := range s.extents {
		from := max(e.off/block*block, end)
		to := min((e.end()+block-1)/block*block, s.size)
		for from < to {
			if len(all) > 0 && from == end && all[len(all)-1].size < chunkSize {
				last := &all[len(all)-1]
				last.size += min(to-from, chunkSize-last.size)
				end = last.off + last.size
			} else {
				all = append(all, chunk{from, min(to-from, chunkSize)})
				end = from + all[len(all)-1].size
			}
			from = end
		}
	}
	return all
}

// writeSparse writes p at off of a file that is all hole, without its blocks of
// zeros. Neighbouring blocks go out in one write.
func writeSparse(w io.WriterAt, p []byte, off int64) error {
	for start := 0; start < len(p); {
		end := start
		for end < len(p) && !isZero(p[end:min(end+block, len(p))]) {
			end = min(end+block, len(p))
		}
		if end > start {
			if _, err := w.WriteAt(p[start:end], off+int64(start)); err != nil {
				return err
			}
		}
		start = end + block
	}
	return nil
}

// isZero compares p with itself, one byte on: as fast as memory, and no block
// of zeros to keep.
func isZero(p []byte) bool {
	return len(p) == 0 || p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1])
}

// newFile is a file that is not under its name yet.
type newFile struct {
	*os.File
	path string
}

func createFile(path string) (*newFile, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".partial-*")
	if err != nil {
		return nil, fmt.Errorf("creating %q: %w", path, err)
	}
	return &newFile{f, path}, nil
}

// commit gives the file its name. It is not flushed: a build can be repeated.
func (f *newFile) commit() error {
	err := errors.Join(f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), f.path)
	}
	if err != nil {
		return fmt.Errorf("writing %q: %w", f.path, err)
	}
	return nil
}

// discard removes the file unless it was committed.
func (f *newFile) discard() {
	f.Close()
	os.Remove(f.Name())
}
