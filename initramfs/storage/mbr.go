package storage

import (
	"encoding/hex"
	"fmt"
	"io"
	"slices"
)

// maxLogical bounds the walk along the chain of logical partitions; Fogwright
// makes two.
const maxLogical = 16

// mbr is a master boot record with the chain of extended boot records that its
// extended partition starts. Each record has four entries at byte 446: type at
// +4, first sector at +8, number of sectors at +12, little-endian. In an extended
// record the first entry is the logical partition, from this record on; the
// second is the next record, from the start of the extended partition on.
type mbr struct {
	sector   []byte
	extended int // index of its entry, -1: none
	records  []record
}

// record is an extended boot record.
type record struct {
	at     int64 // sector
	sector []byte
}

func entry(s []byte, i int) (kind byte, first, count int64) {
	e := s[446+16*i:]
	return e[4], int64(le.Uint32(e[8:])), int64(le.Uint32(e[12:]))
}

func setCount(s []byte, i int, count int64) {
	le.PutUint32(s[446+16*i+12:], uint32(count))
}

func isExtended(kind byte) bool { return kind == 0x05 || kind == 0x0f || kind == 0x85 }

func readRecord(r io.ReaderAt, size, at int64) ([]byte, error) {
	s := make([]byte, sector)
	if at < 0 || (at+1)*sector > size {
		return nil, fmt.Errorf("boot record in sector %d lies outside the disk", at)
	}
	if _, err := r.ReadAt(s, at*sector); err != nil {
		return nil, fmt.Errorf("reading the boot record in sector %d: %w", at, err)
	}
	if s[510] != 0x55 || s[511] != 0xaa {
		return nil, errNoTable
	}
	return s, nil
}

func readMBR(r io.ReaderAt, size int64) (*mbr, error) {
	s, err := readRecord(r, size, 0)
	if err != nil {
		return nil, err
	}
	m := &mbr{sector: s, extended: -1}
	for i := range 4 {
		kind, first, _ := entry(s, i)
		if kind == 0xee { // the protective entry of a GPT
			return nil, errNoTable
		}
		if !isExtended(kind) || m.extended >= 0 {
			continue
		}
		m.extended = i
		if err := m.walk(r, size, first); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// walk reads the chain of records. It only ever goes forward, so it ends.
func (m *mbr) walk(r io.ReaderAt, size, base int64) error {
	at := base
	for range maxLogical {
		s, err := readRecord(r, size, at)
		if err != nil {
			return fmt.Errorf("extended partition: %w", err)
		}
		m.records = append(m.records, record{at, s})
		kind, next, _ := entry(s, 1)
		if !isExtended(kind) {
			return nil
		}
		if base+next <= at {
			return fmt.Errorf("extended partition: the record in sector %d points back to %d", at, base+next)
		}
		at = base + next
	}
	return fmt.Errorf("extended partition: more than %d logical partitions", maxLogical)
}

func (m *mbr) table() *table {
	id := slices.Clone(m.sector[440:444])
	slices.Reverse(id) // a little-endian number
	t := &table{kind: "mbr", id: hex.EncodeToString(id), parts: map[int]extent{}}
	for i := range 4 {
		if kind, first, count := entry(m.sector, i); kind != 0 && i != m.extended {
			t.parts[i+1] = extent{first * sector, count * sector}
		}
	}
	for i, r := range m.records {
		if kind, first, count := entry(r.sector, 0); kind != 0 {
			t.parts[5+i] = extent{(r.at + first) * sector, count * sector}
		}
	}
	return t
}

// growMBR enlarges from the outside in: the extended partition, the link to the
// last record, the logical partition itself. Each is one sector and each prefix
// is a valid table, in which what contains is never smaller than its content.
func growMBR(r io.ReaderAt, size int64, n int) ([]write, error) {
	m, err := readMBR(r, size)
	if err != nil {
		return nil, err
	}
	if err := m.table().isLast(n); err != nil {
		return nil, err
	}
	if n != 4+len(m.records) || n < 5 {
		return nil, fmt.Errorf("partition %d is not the last logical one", n)
	}
	// 32-bit counts of sectors end at 2 TiB.
	end := min(size, 1<<32*sector-align) / align * align / sector
	var writes []write
	grow := func(at int64, s []byte, i int, start int64) {
		_, _, count := entry(s, i)
		if end-start <= count {
			return
		}
		changed := slices.Clone(s)
		setCount(changed, i, end-start)
		writes = append(writes, write{at * sector, changed})
	}
	last := m.records[len(m.records)-1]
	grow(0, m.sector, m.extended, m.records[0].at)
	if len(m.records) > 1 {
		before := m.records[len(m.records)-2]
		grow(before.at, before.sector, 1, last.at)
	}
	_, first, _ := entry(last.sector, 0)
	grow(last.at, last.sector, 0, last.at+first)
	return writes, nil
}
