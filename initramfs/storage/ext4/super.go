package ext4

import (
	"encoding/binary"
	"hash/crc32"
	"math"
)

const (
	magic        = 0xef53
	superblockAt = 1024 // bytes from the start

	// COMPAT: has_journal, ext_attr, resize_inode, dir_index.
	compat = 0x4 | 0x8 | 0x10 | 0x20
	// INCOMPAT: filetype, extents, 64bit (for checksums of 32 bits on bitmaps),
	// flex_bg.
	incompat64bit = 0x80
	incompat      = 0x2 | 0x40 | incompat64bit | 0x200
	// RO_COMPAT: sparse_super, large_file, huge_file, dir_nlink, extra_isize,
	// metadata_csum.
	roCompat             = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400
	roCompatQuota        = 0x100
	roCompatProjectQuota = 0x2000
)

// record is an on-disk structure, little-endian.
type record []byte

func (r record) u8(at int, v uint8)   { r[at] = v }
func (r record) u16(at int, v uint16) { binary.LittleEndian.PutUint16(r[at:], v) }
func (r record) u32(at int, v uint32) { binary.LittleEndian.PutUint32(r[at:], v) }

// crc continues a CRC-32C as the kernel's crc32c() does: without the inversions at
// both ends, which Go's functions make.
func crc(seed uint32, b []byte) uint32 {
	return ^crc32.Update(^seed, crc32.MakeTable(crc32.Castagnoli), b)
}

func crc32of(seed, v uint32) uint32 {
	return crc(seed, binary.LittleEndian.AppendUint32(nil, v))
}

// superblock is the first block of a group that has a copy of it.
func (l *layout) superblock(group int64) []byte {
	block := make(record, BlockSize)
	s := block[:1024]
	if group == 0 {
		s = block[superblockAt : superblockAt+1024]
	}
	now := l.Time.Unix()
	inodes := l.groups * inodesPerGroup
	free, overhead := int64(0), l.journalBlocks
	for g := range l.groups {
		size, used := l.usage(g)
		free += size - used
		overhead += l.tables(g) + groupTables - g*blocksPerGroup
	}
	s.u32(0x00, uint32(inodes))
	s.u32(0x04, uint32(l.blocks))            // MaxSize is 2^26 of them
	s.u32(0x08, uint32(ceil(l.blocks, 100))) // for root; from 1 % up the kernel keeps the share when it grows
	s.u32(0x0c, uint32(free))
	s.u32(0x10, uint32(inodes-l.inodesUsed()))
	s.u32(0x18, 2) // log2(BlockSize) - 10
	s.u32(0x1c, 2) // the same for clusters
	s.u32(0x20, blocksPerGroup)
	s.u32(0x24, blocksPerGroup) // clusters
	s.u32(0x28, inodesPerGroup)
	s.u32(0x30, uint32(now))    // written
	s.u16(0x36, math.MaxUint16) // no check after so many mounts
	s.u16(0x38, magic)
	s.u16(0x3a, 1)           // cleanly unmounted
	s.u16(0x3c, 2)           // on errors: read-only
	s.u32(0x40, uint32(now)) // checked
	s.u32(0x4c, 1)           // dynamic revision
	s.u32(0x54, firstInode)
	s.u16(0x58, inodeSize)
	s.u16(0x5a, uint16(group))
	s.u32(0x5c, compat)
	s.u32(0x60, incompat)
	s.u32(0x64, l.roCompat())
	copy(s[0x68:0x78], l.UUID[:])
	copy(s[0x78:0x88], l.Label)
	s.u16(0xce, uint16(l.reserved))
	s.u32(0xe0, journalInode)
	copy(s[0xec:0xfc], l.HashSeed[:])
	s.u8(0xfc, 1) // directory hash: half MD4
	s.u8(0xfd, 1) // the journal's inode is copied below
	s.u16(0xfe, descriptorSize)
	s.u32(0x100, 0xc) // mount with user_xattr, acl
	s.u32(0x108, uint32(now))
	copy(s[0x10c:], l.extent(l.journal, l.journalBlocks))
	s.u32(0x10c+16*4, uint32(l.journalBlocks*BlockSize)) // behind 15 words, and the size's high half
	s.u16(0x15c, extraSize)                              // all inodes have at least,
	s.u16(0x15e, extraSize)                              // and should have
	s.u32(0x160, 1)                                      // names are hashed as signed characters
	s.u8(0x174, logGroupsPerFlex)
	s.u8(0x175, 1) // checksums are CRC-32C
	s.u32(0x248, uint32(overhead))
	if l.ProjectQuota {
		s.u32(0x26c, quotaInode)
	}
	for _, at := range []int{0x274, 0x276, 0x277} { // written, made, checked: the fifth byte
		s.u8(at, uint8(now>>32))
	}
	s.u32(0x3fc, crc(math.MaxUint32, s[:0x3fc]))
	return block
}

func (l *layout) roCompat() uint32 {
	if l.ProjectQuota {
		return roCompat | roCompatQuota | roCompatProjectQuota
	}
	return roCompat
}

// Flags of a group.
const (
	inodesUninitialised = 0x1
	blocksUninitialised = 0x2
)

// descriptorTable describes all groups. Block bitmaps are there for the first
// group and the last one, which ends before its bitmap does; the kernel works out
// the others. Inode bitmaps and inodes are there for the first group only.
func (l *layout) descriptorTable() []byte {
	table := make([]byte, l.descriptors*BlockSize)
	for g := range l.groups {
		d := record(table[g*descriptorSize:][:descriptorSize])
		at, inodesUsed := l.tables(g), int64(0)
		size, used := l.usage(g)
		d.u32(0x00, uint32(at))
		d.u32(0x04, uint32(at+1))
		d.u32(0x08, uint32(at+2))
		d.u16(0x0c, uint16(size-used))
		flags := uint16(inodesUninitialised | blocksUninitialised)
		if g == 0 || g == l.groups-1 {
			flags &^= blocksUninitialised
			sum := crc(l.seed, l.blockBitmap(g))
			d.u16(0x18, uint16(sum))
			d.u16(0x38, uint16(sum>>16))
		}
		if g == 0 {
			flags &^= inodesUninitialised
			inodesUsed = l.inodesUsed()
			sum := crc(l.seed, l.inodeBitmap()[:inodesPerGroup/8])
			d.u16(0x1a, uint16(sum))
			d.u16(0x3a, uint16(sum>>16))
			d.u16(0x10, 2) // directories
		}
		d.u16(0x0e, uint16(inodesPerGroup-inodesUsed))
		d.u16(0x1c, uint16(inodesPerGroup-inodesUsed)) // at the table's end, never used
		d.u16(0x12, flags)
		d.u16(0x1e, uint16(crc(crc32of(l.seed, uint32(g)), d)))
	}
	return table
}

func (l *layout) blockBitmap(group int64) []byte {
	size, used := l.usage(group)
	return bitmap(used, size)
}

func (l *layout) inodeBitmap() []byte { return bitmap(l.inodesUsed(), inodesPerGroup) }

// bitmap is a block of bits: the first are set for what is used, and those from
// size on for what does not exist.
func bitmap(used, size int64) []byte {
	b := make([]byte, BlockSize)
	for i := range int64(8 * BlockSize) {
		if i < used || i >= size {
			b[i/8] |= 1 << (i % 8)
		}
	}
	return b
}
