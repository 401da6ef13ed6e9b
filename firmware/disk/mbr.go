package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
)

const (
	mbrProtective = 0xEE // a GPT follows
	mbrExtended   = 0x0F // addressed by sector number
	mbrPrimaries  = 3    // 4 is the extended one
	// ebrGap is how far in front of a logical partition its boot record lies:
	// as fdisk does, so that partitions begin at whole MiB.
	ebrGap = 1 << 20
	// maxRecords keeps a damaged chain short; Linux takes 256 partitions.
	maxRecords = 251
)

// mbrTypes are the type numbers of our types of partition.
var mbrTypes = [...]struct {
	name string
	kind byte
}{
	{TypeFAT, 0x0C}, // FAT32 by sector number; nobody minds if it is a FAT16
	{TypeESP, 0xEF},
	{TypeLinux, 0x83},
}

// mbrEntry is one of the four entries of an MBR or extended boot record; what
// first counts from depends on where the entry is.
type mbrEntry struct {
	active      bool
	kind        byte
	first, size int64 // sectors
}

// put writes the entry. start is first, counted from the start of the disk.
func (e mbrEntry) put(b []byte, start int64) {
	if e.active {
		b[0] = 0x80
	}
	b[4] = e.kind
	chs(b[1:], start)
	chs(b[5:], start+e.size-1)
	binary.LittleEndian.PutUint32(b[8:], uint32(e.first))
	binary.LittleEndian.PutUint32(b[12:], uint32(e.size))
}

// chs writes a sector number as cylinder, head and sector of the disk with 255
// heads and 63 sectors that every BIOS makes up; what does not fit is the largest.
func chs(b []byte, lba int64) {
	c, h, s := lba/(255*63), lba/63%255, lba%63+1
	if c > 1023 {
		c, h, s = 1023, 254, 63
	}
	b[0], b[1], b[2] = byte(h), byte(s|c>>8<<6), byte(c)
}

func mbrEntries(b []byte) (all [4]mbrEntry) {
	for i := range all {
		e := b[446+16*i:]
		all[i] = mbrEntry{
			active: e[0] == 0x80,
			kind:   e[4],
			first:  int64(binary.LittleEndian.Uint32(e[8:])),
			size:   int64(binary.LittleEndian.Uint32(e[12:])),
		}
	}
	return all
}

// record is an MBR or an extended boot record.
func record() []byte {
	b := make([]byte, sector)
	b[510], b[511] = 0x55, 0xAA
	return b
}

// mbrEntry checks what only an MBR cannot do and gives the entry.
func (p Partition) mbrEntry() (mbrEntry, error) {
	e := mbrEntry{active: p.Bootable, first: p.Offset / sector, size: p.Size / sector}
	for _, typ := range mbrTypes {
		if typ.name == p.Type {
			e.kind = typ.kind
		}
	}
	switch {
	case e.kind == 0:
		return e, fmt.Errorf("partition %d: unknown type %q", p.Number, p.Type)
	case p.end()/sector > 1<<32-1:
		return e, fmt.Errorf("partition %d ends beyond the 2 TiB of an MBR", p.Number)
	}
	return e, nil
}

func (t *Table) buildMBR(s *Sparse) error {
	id, err := strconv.ParseUint(t.ID, 16, 32)
	if err != nil || id == 0 || !regexp.MustCompile(`^[0-9a-f]{8}$`).MatchString(t.ID) {
		return fmt.Errorf("disk id %q is not eight hexadecimal digits in lower case, not all zero", t.ID)
	}
	mbr := record()
	binary.LittleEndian.PutUint32(mbr[440:], uint32(id))
	var logical []Partition
	for _, p := range t.Partitions {
		e, err := p.mbrEntry()
		switch {
		case err != nil:
			return err
		case p.Number >= 1 && p.Number <= mbrPrimaries:
			e.put(mbr[446+16*(p.Number-1):], e.first)
		case p.Number == 5+len(logical) && (len(logical) == 0 || logical[len(logical)-1].end() <= p.Offset):
			logical = append(logical, p)
		default:
			return fmt.Errorf("partition %d: an MBR has primary ones 1 to %d and logical ones from 5 on, in the order of their places", p.Number, mbrPrimaries)
		}
	}
	if len(logical) > 0 {
		first := logical[0].Offset - ebrGap
		e := mbrEntry{kind: mbrExtended, first: first / sector, size: (logical[len(logical)-1].end() - first) / sector}
		e.put(mbr[446+16*mbrPrimaries:], e.first)
		if err := t.primaryInside(e); err != nil {
			return err
		}
	}
	if err := placeLogical(s, logical); err != nil {
		return err
	}
	return s.Place(0, mbr)
}

// primaryInside finds a primary partition between the logical ones.
func (t *Table) primaryInside(extended mbrEntry) error {
	areas := []area{{"the extended partition", extended.first * sector, extended.size * sector}}
	for _, p := range t.Partitions {
		if p.Number <= mbrPrimaries {
			areas = append(areas, p.area())
		}
	}
	return collisions(areas, t.Size)
}

// placeLogical writes the chain of extended boot records. Each says where its
// partition is, counted from itself, and where the next record is, counted from
// the first.
func placeLogical(s *Sparse, logical []Partition) error {
	for i, p := range logical {
		e, err := p.mbrEntry()
		if err != nil {
			return err
		}
		start := e.first
		e.first = ebrGap / sector
		b := record()
		e.put(b[446:], start)
		if i+1 < len(logical) {
			next := logical[i+1]
			at := (next.Offset - ebrGap) / sector
			link := mbrEntry{
				kind:  0x05, // what fdisk writes here, whatever the outer type
				first: at - (logical[0].Offset-ebrGap)/sector,
				size:  (next.Size + ebrGap) / sector,
			}
			link.put(b[446+16:], at)
		}
		if err := s.Place(p.Offset-ebrGap, b); err != nil {
			return err
		}
	}
	return nil
}

func (t *Table) readMBR(r io.ReaderAt, mbr []byte) error {
	t.ID = fmt.Sprintf("%08x", binary.LittleEndian.Uint32(mbr[440:]))
	var extended mbrEntry
	for i, e := range mbrEntries(mbr) {
		if b := mbr[446+16*i]; b != 0 && b != 0x80 {
			// A boot sector of a file system has the same signature.
			return errors.New("there is none: sector 0 is some other boot sector")
		}
		switch {
		case e.kind == 0 || e.size == 0:
		case isExtended(e.kind):
			extended = e
		default:
			t.Partitions = append(t.Partitions, e.partition(i+1, 0))
		}
	}
	if extended.size == 0 {
		return nil
	}
	return t.readLogical(r, extended)
}

// readLogical follows the chain of extended boot records. It only ever goes
// forward, so there is no loop in it. Like Linux, it gives numbers to partitions
// and none to empty records.
func (t *Table) readLogical(r io.ReaderAt, extended mbrEntry) error {
	at, number := extended.first, 5
	for range maxRecords {
		b, err := readSectors(r, at, 1)
		if err != nil {
			return fmt.Errorf("partition %d: %w", number, err)
		}
		if b[510] != 0x55 || b[511] != 0xAA {
			return fmt.Errorf("partition %d: the boot record at sector %d has no signature", number, at)
		}
		e := mbrEntries(b)
		if e[0].kind != 0 && e[0].size > 0 {
			t.Partitions = append(t.Partitions, e[0].partition(number, at))
			number++
		}
		if e[1].kind == 0 || e[1].size == 0 {
			return nil
		}
		next := extended.first + e[1].first
		if !isExtended(e[1].kind) || next <= at || next >= extended.first+extended.size {
			return fmt.Errorf("partition %d: the next boot record is said to be at sector %d", number, next)
		}
		at = next
	}
	return fmt.Errorf("more than %d logical partitions", maxRecords)
}

func isExtended(kind byte) bool { return kind == 0x05 || kind == 0x0F || kind == 0x85 }

// partition is what the entry of a record at sector base says.
func (e mbrEntry) partition(number int, base int64) Partition {
	p := Partition{
		Number:   number,
		Type:     fmt.Sprintf("0x%02x", e.kind),
		Offset:   (base + e.first) * sector,
		Size:     e.size * sector,
		Bootable: e.active,
	}
	for _, typ := range mbrTypes {
		if typ.kind == e.kind {
			p.Type = typ.name
		}
	}
	return p
}
