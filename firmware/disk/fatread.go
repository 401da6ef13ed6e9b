package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf16"
)

// errFAT is what everything that is wrong with a FAT file system wraps.
var errFAT = errors.New("damaged FAT file system")

func damaged(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errFAT}, a...)...)
}

// fatReader reads a file system that anybody may have written. Offsets and
// sizes are bytes.
type fatReader struct {
	r            io.ReaderAt
	bits         int
	rootOffset   int64 // FAT12 and FAT16
	rootSize     int64
	rootCluster  uint32 // FAT32
	data         int64  // where cluster 2 begins
	clusterBytes int64
	clusters     int64
	table        []byte
	used         []bool // clusters that were read; each may be read once
	out          *FAT
}

// ReadFAT reads a whole FAT12, FAT16 or FAT32 file system of at most size bytes,
// ours or anybody's. Nothing in it is believed: every cluster belongs to one
// file only, so what comes back is never more than size bytes of data. Files are
// in the order of the folders; folders without files are listed with a slash at
// the end. Time is that of the first entry, Label that of the root folder.
func ReadFAT(r io.ReaderAt, size int64) (*FAT, error) {
	f := &fatReader{r: r, out: &FAT{}}
	err := f.boot(size)
	if err == nil {
		err = f.root()
	}
	if err != nil {
		return nil, fmt.Errorf("reading FAT: %w", err)
	}
	return f.out, nil
}

// bytes fills p from off.
func (f *fatReader) bytes(p []byte, off int64) error {
	n, err := f.r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return damaged("it ends at %d, inside of what is at %d", off+int64(n), off)
	}
	return err
}

// boot reads the boot sector and the allocation table.
func (f *fatReader) boot(size int64) error {
	b := make([]byte, sector)
	if err := f.bytes(b, 0); err != nil {
		return err
	}
	le := binary.LittleEndian
	sectorBytes, perCluster := int64(le.Uint16(b[11:])), int64(b[13])
	reserved, tables, rootEntries := int64(le.Uint16(b[14:])), int64(b[16]), int64(le.Uint16(b[17:]))
	total, fatSectors := int64(le.Uint16(b[19:])), int64(le.Uint16(b[22:]))
	ext := b[36:]
	if total == 0 {
		total = int64(le.Uint32(b[32:]))
	}
	if fatSectors == 0 { // Linux, too, goes by this (fs/fat/inode.c)
		fatSectors, f.bits, ext = int64(le.Uint32(b[36:])), 32, b[64:]
	}
	start := reserved + tables*fatSectors
	switch {
	case le.Uint16(b[510:]) != 0xAA55 || b[0] != 0xEB && b[0] != 0xE9:
		return damaged("no boot sector")
	case sectorBytes < 512 || sectorBytes > 4096 || sectorBytes&(sectorBytes-1) != 0:
		return damaged("sectors of %d bytes", sectorBytes)
	case perCluster == 0 || perCluster&(perCluster-1) != 0:
		return damaged("clusters of %d sectors", perCluster)
	case reserved == 0 || tables == 0 || fatSectors == 0:
		return damaged("%d reserved sectors, %d tables of %d sectors", reserved, tables, fatSectors)
	case total > size/sectorBytes:
		return damaged("%d sectors of %d bytes in %d bytes", total, sectorBytes, size)
	}
	f.rootOffset, f.rootSize = start*sectorBytes, rootEntries*entrySize
	start += ceil(f.rootSize, sectorBytes)
	if start > total {
		return damaged("data begins at sector %d of %d", start, total)
	}
	f.data, f.clusterBytes, f.clusters = start*sectorBytes, perCluster*sectorBytes, (total-start)/perCluster
	if f.bits == 0 {
		f.bits = 16
		if f.clusters <= 4084 {
			f.bits = 12
		}
	}
	f.clusters = max(0, min(f.clusters, fatSectors*sectorBytes*8/int64(f.bits)-2))
	f.rootCluster = le.Uint32(b[44:])
	if ext[2] == 0x29 {
		f.out.Serial = le.Uint32(ext[3:])
	}
	f.out.Size = total * sectorBytes
	f.used = make([]bool, f.clusters)
	f.table = make([]byte, ceil((f.clusters+2)*int64(f.bits), 8))
	return f.bytes(f.table, reserved*sectorBytes)
}

// next is what the allocation table says behind cluster.
func (f *fatReader) next(cluster uint32) (following uint32, last bool) {
	le := binary.LittleEndian
	switch f.bits {
	case 12:
		i := cluster + cluster/2
		v := uint32(le.Uint16(f.table[i:])) >> (cluster % 2 * 4) & 0xFFF
		return v, v >= 0xFF8
	case 16:
		v := uint32(le.Uint16(f.table[cluster*2:]))
		return v, v >= 0xFFF8
	default:
		v := le.Uint32(f.table[cluster*4:]) & 0x0FFFFFFF
		return v, v >= 0x0FFFFFF8
	}
}

// chain reads at most limit bytes of the clusters from first on. A chain that
// is a loop or shared with another file stops at the first cluster seen before.
func (f *fatReader) chain(first uint32, limit int64) ([]byte, error) {
	var data []byte
	cluster, last := first, false
	for int64(len(data)) < limit && !last {
		start, count := cluster, int64(0)
		// As many clusters as follow each other on the medium.
		for {
			if cluster < 2 || int64(cluster-2) >= f.clusters {
				return nil, damaged("cluster %d of %d", cluster, f.clusters)
			}
			if f.used[cluster-2] {
				return nil, damaged("cluster %d is used twice", cluster)
			}
			f.used[cluster-2] = true
			count++
			cluster, last = f.next(cluster)
			if last || cluster != start+uint32(count) || int64(len(data))+count*f.clusterBytes >= limit {
				break
			}
		}
		n := min(count*f.clusterBytes, limit-int64(len(data)))
		have := len(data)
		data = append(data, make([]byte, n)...)
		if err := f.bytes(data[have:], f.data+int64(start-2)*f.clusterBytes); err != nil {
			return nil, err
		}
	}
	return data, nil
}

// root reads everything from the root on.
func (f *fatReader) root() error {
	var b []byte
	var err error
	if f.bits == 32 {
		b, err = f.chain(f.rootCluster, maxEntries*entrySize)
	} else {
		b = make([]byte, f.rootSize)
		err = f.bytes(b, f.rootOffset)
	}
	if err != nil {
		return fmt.Errorf("root folder: %w", err)
	}
	return f.folder(b, "", 1)
}

// entry is one file or folder as its parent lists it.
type entry struct {
	name  string
	dir   bool
	first uint32
	size  int64
}

// folder reads what b, the content of a folder, lists.
func (f *fatReader) folder(b []byte, path string, depth int) error {
	if depth > maxDepth {
		return damaged("folder %q is more than %d deep", path, maxDepth)
	}
	for _, e := range f.entries(b, path == "") {
		if err := checkName(e.name); err != nil {
			return damaged("folder %q: %w", path, err)
		}
		limit := e.size
		if e.dir {
			limit = maxEntries * entrySize
		}
		data := []byte{}
		if limit > 0 && (e.first != 0 || e.dir) {
			var err error
			if data, err = f.chain(e.first, limit); err != nil {
				return fmt.Errorf("%q: %w", path+e.name, err)
			}
		}
		if !e.dir {
			if int64(len(data)) != e.size {
				return damaged("%q has %d bytes of %d", path+e.name, len(data), e.size)
			}
			f.out.Files = append(f.out.Files, File{path + e.name, data})
			continue
		}
		before := len(f.out.Files)
		if err := f.folder(data, path+e.name+"/", depth+1); err != nil {
			return err
		}
		if len(f.out.Files) == before {
			f.out.Files = append(f.out.Files, File{Path: path + e.name + "/"})
		}
	}
	return nil
}

// entries decodes a folder. Deleted entries, the folder itself and its parent
// are left out; the volume's label and time are noted.
func (f *fatReader) entries(b []byte, root bool) []entry {
	le := binary.LittleEndian
	var all []entry
	var long longName
	for ; len(b) >= entrySize && b[0] != 0; b = b[entrySize:] {
		e, attr := b[:entrySize], b[11]
		short := [11]byte(e)
		if e[0] == 0xE5 {
			long = longName{}
			continue
		}
		if attr&0x3F == attrLong {
			long.add(e)
			continue
		}
		name := long.of(short)
		long = longName{}
		if f.out.Time.IsZero() && le.Uint16(e[24:]) != 0 {
			f.out.Time = fromFATTime(le.Uint16(e[24:]), le.Uint16(e[22:]))
		}
		if attr&attrVolume != 0 {
			if root && f.out.Label == "" {
				f.out.Label = strings.TrimRight(string(short[:]), " ")
			}
			continue
		}
		if name == "" {
			name = unpack(short, e[12])
		}
		if name == "." || name == ".." {
			continue
		}
		first := uint32(le.Uint16(e[26:]))
		if f.bits == 32 {
			first |= uint32(le.Uint16(e[20:])) << 16
		}
		all = append(all, entry{name, attr&attrDir != 0, first, int64(le.Uint32(e[28:]))})
	}
	return all
}

// longName collects the entries of one long name, which come last piece first.
type longName struct {
	units []uint16
	want  int // number of the piece that comes next; 0: complete
	sum   byte
}

func (l *longName) add(e []byte) {
	n := int(e[0] &^ 0x40)
	if e[0]&0x40 != 0 && n <= 20 { // 20 pieces hold 255 units
		*l = longName{units: make([]uint16, n*longUnits), want: n, sum: e[13]}
	}
	if n == 0 || n != l.want || e[13] != l.sum {
		*l = longName{}
		return
	}
	for i := range longUnits {
		l.units[(n-1)*longUnits+i] = binary.LittleEndian.Uint16(e[unitAt(i):])
	}
	l.want--
}

// of is the name if it is complete and belongs to that short entry.
func (l *longName) of(short [11]byte) string {
	if len(l.units) == 0 || l.want != 0 || l.sum != checksum(short) {
		return ""
	}
	units := l.units
	for i, u := range units {
		if u == 0 {
			units = units[:i]
			break
		}
	}
	return string(utf16.Decode(units))
}

// fromFATTime is the inverse of fatTime.
func fromFATTime(date, clock uint16) time.Time {
	return time.Date(1980+int(date>>9), time.Month(date>>5&15), int(date&31),
		int(clock>>11), int(clock>>5&63), int(clock&31)*2, 0, time.UTC)
}
