package disk

import (
	"encoding/binary"
	"fmt"
	"time"
	"unicode/utf16"
)

// Attributes of a directory entry.
const (
	attrVolume  = 0x08
	attrDir     = 0x10
	attrArchive = 0x20
	attrLong    = 0x0F
)

// fatWriter holds what is being built.
type fatWriter struct {
	FAT
	geometry
	table []byte // one copy of the allocation table
	next  uint32 // first free cluster
}

func (g geometry) clusterBytes() int64 { return g.perCluster * sector }

// offset of a cluster in bytes.
func (g geometry) offset(cluster uint32) int64 {
	return (g.data() + int64(cluster-2)*g.perCluster) * sector
}

// write gives everything its clusters, then writes it: folders in front, so
// that a loader reads them in one go, then the files.
func (w *fatWriter) write(root *node, size int64) (*Sparse, error) {
	s := NewSparse(size)
	w.next = 2
	w.set(0, 0x0FFFFF00|0xF8) // the media byte
	w.set(1, 0x0FFFFFFF)      // clean, no errors
	w.allocate(root, true)
	w.allocate(root, false)

	meta := make([]byte, w.data()*sector)
	w.bootSectors(meta, root)
	copy(meta[w.reserved*sector:], w.table)
	copy(meta[(w.reserved+w.fatSectors)*sector:], w.table)
	if w.bits != 32 {
		copy(meta[(w.reserved+2*w.fatSectors)*sector:], w.folder(root))
	}
	if err := s.Place(0, meta); err != nil {
		return nil, err
	}
	return s, w.place(s, root)
}

// allocate gives all folders, or all files, at n and below their clusters.
func (w *fatWriter) allocate(n *node, dirs bool) {
	bytes := int64(len(n.data))
	if n.dir {
		bytes = n.entries("") * entrySize
		if n.parent == nil {
			bytes = n.entries(w.Label) * entrySize
		}
	}
	inFront := n.parent == nil && w.bits != 32 // the root has its own place
	if n.dir == dirs && !inFront {
		count := ceil(bytes, w.clusterBytes())
		if n.parent == nil {
			count = max(1, count) // an empty root still has to be somewhere
		}
		if count > 0 {
			n.first = w.next
			w.chain(uint32(count))
		}
	}
	for _, c := range n.children {
		w.allocate(c, dirs)
	}
}

// chain takes the next count clusters.
func (w *fatWriter) chain(count uint32) {
	for last := w.next + count - 1; w.next < last; w.next++ {
		w.set(w.next, w.next+1)
	}
	w.set(w.next, 0x0FFFFFFF)
	w.next++
}

// set writes one entry of the allocation table; values are cut to its width.
func (w *fatWriter) set(cluster, value uint32) {
	switch w.bits {
	case 12:
		i := cluster + cluster/2
		v := binary.LittleEndian.Uint16(w.table[i:])
		if cluster%2 == 0 {
			v = v&0xF000 | uint16(value&0xFFF)
		} else {
			v = v&0x000F | uint16(value&0xFFF)<<4
		}
		binary.LittleEndian.PutUint16(w.table[i:], v)
	case 16:
		binary.LittleEndian.PutUint16(w.table[cluster*2:], uint16(value))
	default:
		binary.LittleEndian.PutUint32(w.table[cluster*4:], value)
	}
}

// place puts folders and file contents where allocate said.
func (w *fatWriter) place(s *Sparse, n *node) error {
	if n.first != 0 {
		data := n.data
		if n.dir {
			data = w.folder(n)
		}
		if err := s.Place(w.offset(n.first), data); err != nil {
			return fmt.Errorf("%q: %w", n.name, err)
		}
	}
	for _, c := range n.children {
		if err := w.place(s, c); err != nil {
			return err
		}
	}
	return nil
}

// bootSectors fills the reserved area (fatgen103, "boot sector and BPB").
func (w *fatWriter) bootSectors(b []byte, root *node) {
	le := binary.LittleEndian
	copy(b, "\xEB\x3C\x90MSWIN4.1") // the name that fatgen103 says to use
	le.PutUint16(b[11:], sector)
	b[13] = byte(w.perCluster)
	le.PutUint16(b[14:], uint16(w.reserved))
	b[16] = 2 // tables
	le.PutUint16(b[17:], uint16(w.rootEntries))
	if w.total < 1<<16 && w.bits != 32 {
		le.PutUint16(b[19:], uint16(w.total))
	} else {
		le.PutUint32(b[32:], uint32(w.total))
	}
	b[21] = 0xF8              // media: a fixed disk
	le.PutUint16(b[24:], 63)  // sectors a track, as every LBA disk says
	le.PutUint16(b[26:], 255) // heads
	ext := b[36:]             // the part that differs between the kinds
	if w.bits == 32 {
		b[1] = 0x58 // jump over the longer block
		le.PutUint32(b[36:], uint32(w.fatSectors))
		le.PutUint32(b[44:], root.first)
		le.PutUint16(b[48:], 1) // FSInfo
		le.PutUint16(b[50:], 6) // copy of the boot sectors
		ext = b[64:]
	} else {
		le.PutUint16(b[22:], uint16(w.fatSectors))
	}
	ext[0] = 0x80 // drive
	ext[2] = 0x29 // the next three are there
	le.PutUint32(ext[3:], w.Serial)
	label := w.Label
	if label == "" {
		label = "NO NAME"
	}
	copy(ext[7:], fmt.Sprintf("%-11s%-8s", label, fmt.Sprintf("FAT%d", w.bits)))
	le.PutUint16(b[510:], 0xAA55)
	if w.bits != 32 {
		return
	}
	info := b[sector:]
	le.PutUint32(info, 0x41615252)
	le.PutUint32(info[484:], 0x61417272)
	free := uint32(w.clusters) - (w.next - 2)
	le.PutUint32(info[488:], free)
	le.PutUint32(info[492:], w.next) // where to look for them
	if free == 0 {
		le.PutUint32(info[492:], 0xFFFFFFFF)
	}
	le.PutUint32(info[508:], 0xAA550000)
	le.PutUint32(b[2*sector+508:], 0xAA550000) // the third boot sector is empty
	copy(b[6*sector:9*sector], b[:3*sector])
}

// folder is the content of a folder's clusters.
func (w *fatWriter) folder(n *node) []byte {
	label := ""
	if n.parent == nil {
		label = w.Label
	}
	size := n.entries(label) * entrySize
	b := make([]byte, 0, max(1, ceil(size, w.clusterBytes()))*w.clusterBytes())
	if label != "" {
		b = w.entry(b, pack(label[:min(8, len(label))], label[min(8, len(label)):]), attrVolume, 0, 0)
	}
	if n.parent != nil {
		b = w.entry(b, pack(".", ""), attrDir, n.first, 0)
		up := n.parent.first
		if n.parent.parent == nil {
			up = 0 // the root is cluster 0 here, even where it has one
		}
		b = w.entry(b, pack("..", ""), attrDir, up, 0)
	}
	for _, c := range n.children {
		if needsLong(c.name, c.short) {
			b = appendLong(b, c.name, checksum(c.short))
		}
		attr := byte(attrArchive)
		if c.dir {
			attr = attrDir
		}
		b = w.entry(b, c.short, attr, c.first, uint32(len(c.data)))
	}
	return b[:cap(b)]
}

// entry appends one short entry.
func (w *fatWriter) entry(b []byte, short [11]byte, attr byte, first, size uint32) []byte {
	date, clock := fatTime(w.Time)
	var e [entrySize]byte
	le := binary.LittleEndian
	copy(e[:], short[:])
	e[11] = attr
	le.PutUint16(e[14:], clock) // created
	le.PutUint16(e[16:], date)
	le.PutUint16(e[18:], date) // read
	le.PutUint16(e[20:], uint16(first>>16))
	le.PutUint16(e[22:], clock) // written
	le.PutUint16(e[24:], date)
	le.PutUint16(e[26:], uint16(first))
	le.PutUint32(e[28:], size)
	return append(b, e[:]...)
}

// appendLong appends the entries of a long name, the last piece first.
func appendLong(b []byte, name string, sum byte) []byte {
	units := utf16.Encode([]rune(name))
	count := longEntries(name)
	for n := count; n > 0; n-- {
		var e [entrySize]byte
		e[0] = byte(n)
		if n == count {
			e[0] |= 0x40
		}
		e[11] = attrLong
		e[13] = sum
		for i := range longUnits {
			unit := uint16(0xFFFF) // behind the terminating zero
			switch at := (n-1)*longUnits + i; {
			case at < len(units):
				unit = units[at]
			case at == len(units):
				unit = 0
			}
			binary.LittleEndian.PutUint16(e[unitAt(i):], unit)
		}
		b = append(b, e[:]...)
	}
	return b
}

// The first and the last moment that FAT can say.
func fatEpoch() time.Time { return time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC) }
func fatEnd() time.Time   { return time.Date(2107, 12, 31, 23, 59, 58, 0, time.UTC) }

// fatTime packs a time. FAT means local time and does
// not say where; here it is always UTC, so that a build is the same everywhere.
func fatTime(t time.Time) (date, clock uint16) {
	t = t.UTC()
	if t.Before(fatEpoch()) {
		t = fatEpoch()
	} else if t.After(fatEnd()) {
		t = fatEnd()
	}
	date = uint16((t.Year()-1980)<<9 | int(t.Month())<<5 | t.Day())
	clock = uint16(t.Hour()<<11 | t.Minute()<<5 | t.Second()/2)
	return date, clock
}
