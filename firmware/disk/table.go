package disk

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
)

// The kinds of partition table.
const (
	GPT = "gpt"
	MBR = "mbr"
)

// The types of partition.
const (
	TypeFAT   = "fat"   // readable on any PC
	TypeESP   = "esp"   // the FAT that UEFI boots from
	TypeLinux = "linux" // whatever only Linux reads
)

// Table is a partition table.
type Table struct {
	Kind string // GPT or MBR
	// ID is the disk GUID in lower case, or the MBR's disk signature as eight
	// hexadecimal digits in lower case, not all zero.
	ID   string
	Size int64 // of the disk, bytes, a multiple of 512
	// Partitions by rising Number, which is the kernel's. In an MBR 1 to 3
	// are primary and from 5 on logical; 4, the extended one around those, is
	// not listed.
	Partitions []Partition
}

// Partition is one entry of a Table.
type Partition struct {
	Number int
	Name   string // GPT only: up to 36 UTF-16 units
	// Type is TypeFAT, TypeESP or TypeLinux; ReadTable gives the GUID in lower
	// case, or the number as 0xNN, of any other.
	Type     string
	GUID     string // GPT only, lower case
	Offset   int64  // bytes, a multiple of 512
	Size     int64  // bytes, a multiple of 512
	Bootable bool   // the MBR's active flag, the GPT's legacy BIOS bootable bit
}

func (p Partition) end() int64 { return p.Offset + p.Size }

// area is a range of bytes with an owner.
type area struct {
	name      string
	off, size int64
}

// collisions says which of the areas overlap or leave the disk.
func collisions(areas []area, size int64) error {
	var faults []error
	areas = slices.Clone(areas)
	slices.SortStableFunc(areas, func(a, b area) int { return cmp.Compare(a.off, b.off) })
	for i, a := range areas {
		if a.off < 0 || a.size < 0 || a.off > size || a.size > size-a.off {
			faults = append(faults, fmt.Errorf("%s (%d bytes at offset %d) leaves the disk of %d bytes", a.name, a.size, a.off, size))
			continue
		}
		// Only the next one that holds anything: a hostile table must not
		// make a message for each pair.
		next := i + 1 + slices.IndexFunc(areas[i+1:], func(b area) bool { return b.size > 0 })
		if b := areas[next]; a.size > 0 && next > i && b.off < a.off+a.size {
			faults = append(faults, fmt.Errorf("%s (%d bytes at offset %d) overlaps %s (%d bytes at offset %d)",
				a.name, a.size, a.off, b.name, b.size, b.off))
		}
	}
	return errors.Join(faults...)
}

// check is what holds for every table, read or to be written.
func (t *Table) check() error {
	var faults []error
	if t.Size <= 0 || t.Size%sector != 0 {
		faults = append(faults, fmt.Errorf("disk size %d is not a multiple of %d", t.Size, sector))
	}
	numbers := make(map[int]bool)
	for _, p := range t.Partitions {
		if numbers[p.Number] {
			faults = append(faults, fmt.Errorf("partition number %d is there twice", p.Number))
		}
		numbers[p.Number] = true
		if p.Offset%sector != 0 || p.Size%sector != 0 || p.Size <= 0 {
			faults = append(faults, fmt.Errorf("partition %d: offset %d and size %d are not multiples of %d", p.Number, p.Offset, p.Size, sector))
		}
	}
	return errors.Join(append(faults, collisions(t.partitionAreas(), t.Size))...)
}

func (p Partition) area() area { return area{fmt.Sprintf("partition %d", p.Number), p.Offset, p.Size} }

// Build makes the table's own sectors: Size bytes with the partitions left as
// holes.
func (t *Table) Build() (*Sparse, error) {
	s := NewSparse(t.Size)
	err := t.check()
	if t.Kind != GPT && t.Kind != MBR {
		err = errors.Join(err, fmt.Errorf("kind %q is neither %s nor %s", t.Kind, GPT, MBR))
	}
	if err == nil {
		err = collisions(append(t.partitionAreas(), t.ownAreas()...), t.Size)
	}
	if err == nil && t.Kind == GPT {
		err = t.buildGPT(s)
	} else if err == nil {
		err = t.buildMBR(s)
	}
	if err != nil {
		return nil, fmt.Errorf("building partition table: %w", err)
	}
	return s, nil
}

func (t *Table) partitionAreas() []area {
	var all []area
	for _, p := range t.Partitions {
		all = append(all, p.area())
	}
	return all
}

// ownAreas are the sectors that the table itself takes.
func (t *Table) ownAreas() []area {
	if t.Kind == GPT {
		return []area{
			{"the GPT", 0, gptFront},
			{"the GPT's copy at the end", t.Size - gptBack, gptBack},
		}
	}
	all := []area{{"the MBR", 0, sector}}
	for _, p := range t.Partitions {
		if p.Number > mbrPrimaries {
			all = append(all, area{fmt.Sprintf("the boot record of partition %d", p.Number), p.Offset - ebrGap, ebrGap})
		}
	}
	return all
}

// Partition is the partition of that number.
func (t *Table) Partition(number int) (Partition, error) {
	i := slices.IndexFunc(t.Partitions, func(p Partition) bool { return p.Number == number })
	if i < 0 {
		return Partition{}, fmt.Errorf("there is no partition %d", number)
	}
	return t.Partitions[i], nil
}

// ReadTable reads the partition table of a disk of size bytes: a GPT if the MBR
// says that there is one (its copy at the end, if the first is damaged), else an
// MBR with its logical partitions. Partitions that leave the disk or overlap are
// errors, and so is a disk without a table.
func ReadTable(r io.ReaderAt, size int64) (*Table, error) {
	t, err := readTable(r, size)
	if err != nil {
		return nil, fmt.Errorf("reading partition table: %w", err)
	}
	return t, nil
}

func readTable(r io.ReaderAt, size int64) (*Table, error) {
	mbr, err := readSectors(r, 0, 1)
	if err != nil {
		return nil, err
	}
	if mbr[510] != 0x55 || mbr[511] != 0xAA {
		return nil, errors.New("there is none: sector 0 has no signature")
	}
	t := &Table{Kind: MBR, Size: size / sector * sector}
	for _, e := range mbrEntries(mbr) {
		if e.kind == mbrProtective {
			t.Kind = GPT
		}
	}
	if t.Kind == GPT {
		err = t.readGPT(r)
	} else {
		err = t.readMBR(r, mbr)
	}
	if err != nil {
		return nil, err
	}
	return t, t.check()
}

func readSectors(r io.ReaderAt, first, count int64) ([]byte, error) {
	b := make([]byte, count*sector)
	if n, err := r.ReadAt(b, first*sector); n < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("sector %d: %w", first, err)
	}
	return b, nil
}
