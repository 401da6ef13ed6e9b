package storage

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
)

// A GPT (UEFI specification 2.10, section 5.3) is a header in sector 1, an array
// of entries behind it, and a copy of both at the end of the disk, array first.
const (
	gptMagic     = "EFI PART"
	gptEntrySize = 128
	gptMaxEntry  = 128
)

// gpt is the valid one of the two copies, and what is known of the other.
type gpt struct {
	header  []byte // one sector
	entries []byte
	primary bool // the primary copy is valid; this is it
}

var le = binary.LittleEndian

func readGPT(r io.ReaderAt, size int64) (*gpt, error) {
	g, err := readGPTCopy(r, size, 1)
	if err == nil {
		g.primary = true
		return g, nil
	}
	// A cut between the sectors of the primary copy: the other one was complete
	// before that began.
	if g, berr := readGPTCopy(r, size, size/sector-1); berr == nil {
		return g, nil
	}
	return nil, err
}

// readGPTCopy reads and verifies the copy whose header lies in sector lba.
func readGPTCopy(r io.ReaderAt, size, lba int64) (*gpt, error) {
	last := size/sector - 1
	if lba < 1 || lba > last {
		return nil, errNoTable
	}
	h := make([]byte, sector)
	if _, err := r.ReadAt(h, lba*sector); err != nil {
		return nil, fmt.Errorf("reading the GPT header in sector %d: %w", lba, err)
	}
	if string(h[:8]) != gptMagic {
		return nil, errNoTable
	}
	n := le.Uint32(h[12:])
	if n < 92 || n > sector || headerSum(h) != le.Uint32(h[16:]) {
		return nil, fmt.Errorf("GPT header in sector %d: wrong checksum", lba)
	}
	at, count := le.Uint64(h[72:]), le.Uint32(h[80:])
	if le.Uint64(h[24:]) != uint64(lba) || le.Uint32(h[84:]) != gptEntrySize || count == 0 || count > gptMaxEntry ||
		at < 2 || at > uint64(last) {
		return nil, fmt.Errorf("GPT header in sector %d is not of Fogwright's kind", lba)
	}
	e := make([]byte, count*gptEntrySize)
	if _, err := r.ReadAt(e, int64(at)*sector); err != nil {
		return nil, fmt.Errorf("reading the GPT entries in sector %d: %w", at, err)
	}
	if crc32.ChecksumIEEE(e) != le.Uint32(h[88:]) {
		return nil, fmt.Errorf("GPT entries in sector %d: wrong checksum", at)
	}
	g := &gpt{header: h, entries: e}
	for i := range count {
		if first, end := g.span(int(i)); end != 0 && (first < 2 || end < first || end > 1<<54) {
			return nil, fmt.Errorf("GPT partition %d: sectors %d to %d make no sense", i+1, first, end)
		}
	}
	return g, nil
}

// headerSum is the header's checksum, computed with its own field as zero.
func headerSum(h []byte) uint32 {
	c := slices.Clone(h[:le.Uint32(h[12:])])
	clear(c[16:20])
	return crc32.ChecksumIEEE(c)
}

// span gives the first and last sector of entry i, counted from 0. Both are 0
// when the entry is unused.
func (g *gpt) span(i int) (first, last uint64) {
	e := g.entries[i*gptEntrySize:]
	if bytes.Equal(e[:16], make([]byte, 16)) {
		return 0, 0
	}
	return le.Uint64(e[32:]), le.Uint64(e[40:])
}

func (g *gpt) table() *table {
	t := &table{kind: "gpt", id: guidText(g.header[56:72]), parts: map[int]extent{}}
	for i := range len(g.entries) / gptEntrySize {
		if first, last := g.span(i); last != 0 {
			t.parts[i+1] = extent{int64(first) * sector, int64(last-first+1) * sector}
		}
	}
	return t
}

// guidText writes a GUID as people do: its first three fields are little-endian.
func guidText(b []byte) string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

// growGPT first repairs a torn primary copy from the other one. Then it writes
// the copy at the disk's new end, and last the primary, in one piece with the
// protective MBR: sectors 0 to 7, a single page of any flash. A cut before that
// leaves the old table; a cut in the middle leaves the new copy at the end, which
// the kernel takes when it is told "gpt" and UEFI firmware takes anyway.
func growGPT(r io.ReaderAt, size int64, n int) ([]write, error) {
	g, err := readGPT(r, size)
	if err != nil {
		return nil, err
	}
	if !g.primary {
		return g.writePrimary(r, size)
	}
	if err := g.table().isLast(n); err != nil {
		return nil, err
	}
	sectors := size / sector
	tail := int64(len(g.entries)+sector-1) / sector // sectors of the array
	backup := sectors - 1
	usable := backup - tail - 1
	first, last := g.span(n - 1)
	end := (usable+1)*sector/align*align/sector - 1
	if int64(last) >= end { // it does not shrink, and an odd end stays
		end = int64(last)
	}
	if end > usable || int64(first) > end {
		return nil, fmt.Errorf("partition %d ends at sector %d, but the disk has only %d sectors", n, last, sectors)
	}
	grown := &gpt{header: slices.Clone(g.header), entries: slices.Clone(g.entries)}
	le.PutUint64(grown.entries[(n-1)*gptEntrySize+40:], uint64(end))
	le.PutUint64(grown.header[48:], uint64(usable))

	var writes []write
	second := grown.placed(backup, 1, backup-tail)
	old := make([]byte, len(second.entries)+sector)
	want := append(slices.Clone(second.entries), second.header...)
	if _, err := r.ReadAt(old, (backup-tail)*sector); err != nil {
		return nil, fmt.Errorf("reading the end of the disk: %w", err)
	}
	if !bytes.Equal(old, want) {
		writes = append(writes, write{(backup - tail) * sector, want})
	}
	primary, err := grown.placed(1, backup, int64(le.Uint64(g.header[72:]))).writePrimary(r, size)
	return append(writes, primary...), err
}

// placed is the same table with its header in sector at, the other header in
// sector other, and its entries from sector array on.
func (g *gpt) placed(at, other, array int64) *gpt {
	h := slices.Clone(g.header)
	le.PutUint64(h[24:], uint64(at))
	le.PutUint64(h[32:], uint64(other))
	le.PutUint64(h[72:], uint64(array))
	le.PutUint32(h[88:], crc32.ChecksumIEEE(g.entries))
	le.PutUint32(h[16:], headerSum(h))
	return &gpt{header: h, entries: g.entries, primary: at == 1}
}

// writePrimary plans the primary copy and the protective MBR: one write of the
// 4 KiB pages between the first and the last that change, or none.
func (g *gpt) writePrimary(r io.ReaderAt, size int64) ([]write, error) {
	array := int64(2)
	if g.primary {
		array = int64(le.Uint64(g.header[72:]))
	}
	p := g.placed(1, size/sector-1, array)
	length := array*sector + int64(len(p.entries))
	length = (length + 4095) / 4096 * 4096
	if length > align || length > size {
		return nil, fmt.Errorf("GPT entries at sector %d are not in front of the partitions", array)
	}
	old := make([]byte, length)
	if _, err := r.ReadAt(old, 0); err != nil {
		return nil, fmt.Errorf("reading the start of the disk: %w", err)
	}
	want := slices.Clone(old)
	if want[450] == 0xee { // the protective MBR's one entry covers the disk, if it can
		le.PutUint32(want[458:], uint32(min(size/sector-1, 0xffffffff)))
	}
	copy(want[sector:], p.header)
	copy(want[array*sector:], p.entries)
	first, last := int64(-1), int64(0)
	for at := int64(0); at < length; at += 4096 {
		if !bytes.Equal(old[at:at+4096], want[at:at+4096]) {
			if first < 0 {
				first = at
			}
			last = at + 4096
		}
	}
	if first < 0 {
		return nil, nil
	}
	return []write{{first, want[first:last]}}, nil
}
