package storage

import (
	"errors"
	"fmt"
	"io"
)

// Sectors are 512 bytes: the image is built for such disks.
const sector = 512

// align is what partitions are aligned to.
const align = 1 << 20

// table is a partition table as far as the box needs it.
type table struct {
	kind  string // gpt or mbr
	id    string // as in state.Disk
	parts map[int]extent
}

// extent is a piece of the disk in bytes.
type extent struct{ start, size int64 }

func (e extent) end() int64 { return e.start + e.size }

// write is one change to a disk. Whoever applies a list of them flushes after
// each: what a power cut leaves is a prefix of the list.
type write struct {
	offset int64
	data   []byte
}

// errNoTable means that the disk has no such table, as disks of others do.
var errNoTable = errors.New("no partition table of this kind")

// readTable reads the table of a disk of so many bytes.
func readTable(r io.ReaderAt, size int64, kind string) (*table, error) {
	switch kind {
	case "gpt":
		g, err := readGPT(r, size)
		if err != nil {
			return nil, err
		}
		return g.table(), nil
	case "mbr":
		m, err := readMBR(r, size)
		if err != nil {
			return nil, err
		}
		return m.table(), nil
	}
	return nil, fmt.Errorf("partition table kind %q is neither gpt nor mbr", kind)
}

// growTable plans the writes that make partition number n, the last one of the
// disk, reach the disk's end. There are none when it does already. A list may
// only repair: the caller applies it and asks again.
func growTable(r io.ReaderAt, size int64, kind string, n int) ([]write, error) {
	if kind == "gpt" {
		return growGPT(r, size, n)
	}
	return growMBR(r, size, n)
}

// isLast holds that nothing lies behind partition n.
func (t *table) isLast(n int) error {
	last, ok := t.parts[n]
	if !ok {
		return fmt.Errorf("there is no partition %d", n)
	}
	for other, p := range t.parts {
		if p.start > last.start {
			return fmt.Errorf("partition %d cannot grow: partition %d lies behind it", n, other)
		}
	}
	return nil
}

// medium is a block device that is written to, or what a test takes for one.
type medium interface {
	io.WriterAt
	Sync() error
}

// apply makes the changes in their order, each on the medium before the next.
func apply(f medium, writes []write) error {
	for _, w := range writes {
		if _, err := f.WriteAt(w.data, w.offset); err != nil {
			return fmt.Errorf("writing the partition table at byte %d: %w", w.offset, err)
		}
		if err := f.Sync(); err != nil {
			return fmt.Errorf("flushing the partition table: %w", err)
		}
	}
	return nil
}
