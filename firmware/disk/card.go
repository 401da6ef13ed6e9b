package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Factory is the number of the factory partition, on every board.
const Factory = 1

// Provision changes files of the factory partition of a raw image or a card:
// what a hobbyist does with a card reader. changes gives the new content by
// path; nil removes the file, or the folder with all that is in it, and is no
// error when there is none. All other files stay. Names are compared as FAT does.
//
// The new file system is made in memory. When it does not fit or a name is bad,
// nothing is written.
func Provision(img string, changes map[string][]byte) (err error) {
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("provisioning: %w", err)
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = fmt.Errorf("provisioning %q: %w", img, err)
		}
	}()
	p, err := partition(f, Factory)
	if err != nil {
		return err
	}
	fat, err := ReadFAT(io.NewSectionReader(f, p.Offset, p.Size), p.Size)
	if err != nil {
		return err
	}
	fat.Files = change(fat.Files, changes)
	fat.Size = p.Size
	s, err := fat.Build()
	if err != nil {
		return err
	}
	if err := overwrite(f, p.Offset, s); err != nil {
		return err
	}
	return f.Sync()
}

// change applies changes to files.
func change(files []File, changes map[string][]byte) []File {
	files = slices.DeleteFunc(slices.Clone(files), func(f File) bool {
		path := fold(strings.TrimSuffix(f.Path, "/"))
		for name, data := range changes {
			name = fold(strings.TrimSuffix(name, "/"))
			if path == name || data == nil && strings.HasPrefix(path, name+"/") {
				return true
			}
		}
		return false
	})
	for _, name := range slices.Sorted(maps.Keys(changes)) {
		if data := changes[name]; data != nil {
			files = append(files, File{name, data})
		}
	}
	return files
}

// overwrite makes the file hold s at off and writes only blocks that differ, so
// that holes of the file stay holes.
func overwrite(f *os.File, off int64, s *Sparse) error {
	want, have := make([]byte, 1<<20), make([]byte, 1<<20)
	for pos := int64(0); pos < s.size; {
		n := min(s.size-pos, int64(len(want)))
		s.read(want[:n], pos)
		if _, err := f.ReadAt(have[:n], off+pos); err != nil {
			return err
		}
		for i := int64(0); i < n; i += block {
			end := min(i+block, n)
			if bytes.Equal(want[i:end], have[i:end]) {
				continue
			}
			if _, err := f.WriteAt(want[i:end], off+pos+i); err != nil {
				return err
			}
		}
		pos += n
	}
	return nil
}

// Files reads all files of one FAT partition of a raw image or a card.
func Files(img string, number int) ([]File, error) {
	f, err := os.Open(img)
	if err != nil {
		return nil, fmt.Errorf("reading partition %d: %w", number, err)
	}
	defer f.Close()
	p, err := partition(f, number)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", img, err)
	}
	fat, err := ReadFAT(io.NewSectionReader(f, p.Offset, p.Size), p.Size)
	if err != nil {
		return nil, fmt.Errorf("%q: partition %d: %w", img, number, err)
	}
	return fat.Files, nil
}

// partition looks a partition up on a disk. A card's size is where its end is.
func partition(f *os.File, number int) (Partition, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return Partition{}, err
	}
	t, err := ReadTable(f, size)
	if err != nil {
		return Partition{}, err
	}
	return t.Partition(number)
}

// CopySparse copies the image src to dst, which is size bytes long then. Holes
// of src and what lies behind its end are holes of dst. dst appears when it is
// complete; it is an error when size is less than src has.
func CopySparse(dst, src string, size int64) error {
	in, err := os.Open(src)
	if err != nil {
		return fmt.Errorf("copying: %w", err)
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return fmt.Errorf("copying: %w", err)
	}
	if size < st.Size() {
		return fmt.Errorf("copying %q to %q: %d bytes do not fit into %d", src, dst, st.Size(), size)
	}
	out, err := createFile(dst)
	if err != nil {
		return err
	}
	defer out.discard()
	err = out.Truncate(size)
	if err == nil {
		err = copyData(out, in, st.Size())
	}
	if err != nil {
		return fmt.Errorf("copying %q to %q: %w", src, dst, err)
	}
	return out.commit()
}

// copyData copies what of in is not hole or zero.
func copyData(out io.WriterAt, in *os.File, size int64) error {
	buf := make([]byte, chunkSize)
	for pos := int64(0); pos < size; {
		start, end, err := nextData(in, pos, size)
		if err != nil {
			return err
		}
		for pos = start; pos < end; {
			p := buf[:min(end-pos, chunkSize)]
			if _, err := in.ReadAt(p, pos); err != nil {
				return err
			}
			if err := writeSparse(out, p, pos); err != nil {
				return err
			}
			pos += int64(len(p))
		}
	}
	return nil
}

// nextData is the next range from pos on that is no hole, as lseek(2) tells; all
// of it where the file system cannot tell.
func nextData(f *os.File, pos, size int64) (start, end int64, err error) {
	start, err = f.Seek(pos, unix.SEEK_DATA)
	if errors.Is(err, syscall.ENXIO) {
		return size, size, nil // nothing but hole up to the end
	}
	if err == nil {
		end, err = f.Seek(start, unix.SEEK_HOLE)
	}
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		return pos, size, nil
	}
	return start, min(end, size), err
}

// CardSize is the smallest size of an SD card that holds n bytes: QEMU takes
// powers of two only, as real cards' sizes nearly are.
func CardSize(n int64) int64 {
	size := int64(1)
	for size < n {
		size *= 2
	}
	return size
}
