package userland

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/u-root/mkuimage/cpio"
	"github.com/u-root/mkuimage/uimage/initramfs"
)

const (
	// pageSize is what the data of every file starts at a multiple of, so
	// that a change in one file does not shift the pages of the next: patches
	// between two releases stay small.
	pageSize = 4096
	// pathMax is the longest name that the kernel's unpacker takes, with its
	// closing zero (init/initramfs.c, do_header: PATH_MAX).
	pathMax = 4096
	// headerSize is that of a newc header
	// (Documentation/driver-api/early-userspace/buffer-format.rst).
	headerSize = 110
)

// Archive is the initramfs in the making.
type Archive struct {
	records []cpio.Record
	base    *cpio.Archive // of a dev image
}

// File adds a file.
func (a *Archive) File(name string, data []byte, perm uint64) {
	r := cpio.StaticRecord(data, cpio.Info{Name: name, Mode: cpio.S_IFREG | perm})
	a.records = append(a.records, r)
}

// Symlink adds a symbolic link.
func (a *Archive) Symlink(name, target string) {
	a.records = append(a.records, cpio.Symlink(name, target))
}

// Directory adds an empty folder; the folders of files come by themselves.
func (a *Archive) Directory(name string, perm uint64) {
	a.records = append(a.records, cpio.Directory(name, perm))
}

// Device adds a character device node.
func (a *Archive) Device(name string, perm, major, minor uint64) {
	a.records = append(a.records, cpio.CharDev(name, perm, major, minor))
}

// Bytes writes the archive: sorted by name, times and owners zero, the data of
// every file at a multiple of 4 KiB.
func (a *Archive) Bytes() ([]byte, error) {
	files := initramfs.NewFiles()
	for _, r := range a.records {
		if err := files.AddRecord(cpio.MakeReproducible(r)); err != nil {
			return nil, fmt.Errorf("initramfs: %s: %w", r.Name, err)
		}
	}
	out := &aligned{}
	opts := &initramfs.Opts{Files: files, OutputFile: out, UseExistingInit: false}
	if a.base != nil {
		opts.BaseArchive = &initramfs.Archive{Archive: a.base}
	}
	if err := initramfs.Write(opts); err != nil {
		return nil, fmt.Errorf("initramfs: %w", err)
	}
	return out.buf.Bytes(), nil
}

// aligned is an initramfs.Writer that moves the data of files to page boundaries.
// It pads a file's name with further zeros, which the kernel and every cpio take
// for the end of the name.
type aligned struct {
	buf     bytes.Buffer
	w       cpio.RecordWriter
	fillers map[int]bool // zeros in the names of those written so far
}

// OpenWriter is part of initramfs.WriteOpener.
func (a *aligned) OpenWriter() (initramfs.Writer, error) {
	a.w = cpio.Newc.Writer(&a.buf)
	return a, nil
}

// WriteRecord is part of initramfs.Writer.
func (a *aligned) WriteRecord(r cpio.Record) error {
	if r.Mode&cpio.S_IFMT == cpio.S_IFREG && r.FileSize > 0 {
		if len(r.Name)+1+pageSize/2 > pathMax {
			return fmt.Errorf("name %q is too long to align its data", r.Name)
		}
		if a.missing(r.Name) > pageSize/2 {
			if err := a.fill(a.missing(r.Name) - pageSize/4); err != nil {
				return err
			}
		}
		r.Name += strings.Repeat("\x00", a.missing(r.Name))
	}
	return a.w.WriteRecord(r)
}

// missing is how many bytes more in a record's name would have its data begin a
// page.
func (a *aligned) missing(name string) int {
	used := a.buf.Len() + headerSize + len(name) + 1
	return (pageSize - used%pageSize) % pageSize
}

// fill takes up about n bytes (at least 1 KiB) with a record that says nothing new:
// the root folder. A name may be no longer than a page, so the larger gaps are
// filled in two steps. The writer drops a name that it has written before, zeros
// and all, so no two fillers have the same number of them.
func (a *aligned) fill(n int) error {
	zeros := n - headerSize
	for a.fillers[zeros] {
		zeros--
	}
	if a.fillers == nil {
		a.fillers = map[int]bool{}
	}
	a.fillers[zeros] = true
	root := cpio.MakeReproducible(cpio.Directory(".", 0o755))
	root.Name += strings.Repeat("\x00", zeros)
	return a.w.WriteRecord(root)
}

// Finish is part of initramfs.Writer.
func (a *aligned) Finish() error {
	return cpio.WriteTrailer(a.w)
}

// ReadArchive lists the records of an initramfs; what is read back from an image
// in tests and by the lab.
func ReadArchive(r io.ReaderAt) ([]cpio.Record, error) {
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(r))
	if err != nil {
		return nil, fmt.Errorf("initramfs: %w", err)
	}
	for i := range records {
		records[i].Name, _, _ = strings.Cut(records[i].Name, "\x00")
	}
	return records, nil
}
