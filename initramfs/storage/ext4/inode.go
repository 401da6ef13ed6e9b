package ext4

import (
	"encoding/binary"
)

// Inode numbers. firstInode is the first that is not reserved, and lost+found has
// it, as everywhere.
const (
	rootInode      = 2
	resizeInode    = 7
	journalInode   = 8
	firstInode     = 11
	lostFoundInode = firstInode
	quotaInode     = 12

	extraSize = 32 // bytes in use of an inode behind the classical 128
)

const (
	extentsFlag   = 0x80000
	immutableFlag = 0x10
)

func (l *layout) inodesUsed() int64 {
	if l.ProjectQuota {
		return quotaInode
	}
	return lostFoundInode
}

// inode is one file. blocks counts all its blocks, size is in bytes.
type inode struct {
	number       uint32
	mode, links  uint16
	size, blocks int64
	flags        uint32
	content      []byte // of the 60 bytes that say where the content is
}

// inodes is the first block of the inode table.
func (l *layout) inodes() []byte {
	const directory, file = 0o040000, 0o100000
	all := []inode{
		{rootInode, directory | 0o755, 3, BlockSize, 1, extentsFlag, l.extent(l.root, 1)},
		{lostFoundInode, directory | 0o700, 2, BlockSize, 1, extentsFlag, l.extent(l.lostFound, 1)},
		{journalInode, file | 0o600, 1, l.journalBlocks * BlockSize, l.journalBlocks, extentsFlag, l.extent(l.journal, l.journalBlocks)},
		l.resizeFile(),
	}
	if l.ProjectQuota {
		all = append(all, inode{quotaInode, file | 0o600, 1, quotaSize, quotaBlocks, extentsFlag | immutableFlag, l.extent(l.quota, quotaBlocks)})
	}
	table := make([]byte, BlockSize)
	for _, i := range all {
		l.putInode(table[(i.number-1)*inodeSize:][:inodeSize], i)
	}
	return table
}

func (l *layout) putInode(r record, i inode) {
	now := l.Time.Unix()
	r.u16(0x00, i.mode)
	r.u32(0x04, uint32(i.size))
	r.u32(0x6c, uint32(i.size>>32))
	r.u16(0x1a, i.links)
	r.u32(0x1c, uint32(i.blocks*BlockSize/512))
	r.u32(0x20, i.flags)
	copy(r[0x28:0x64], i.content)
	r.u16(0x80, extraSize)
	for _, at := range []int{0x08, 0x0c, 0x10, 0x90} { // access, change, modification, creation
		r.u32(at, uint32(now))
	}
	// The 32 bits above are signed; these say how often 2^32 is to be added.
	epoch := uint32((now - int64(int32(now))) >> 32)
	for _, at := range []int{0x84, 0x88, 0x8c, 0x94} {
		r.u32(at, epoch)
	}
	sum := crc(l.inodeSeed(i.number), r)
	r.u16(0x7c, uint16(sum))
	r.u16(0x82, uint16(sum>>16))
}

// inodeSeed begins the checksums of an inode and of its directory blocks: the file
// system's, the inode's number and its generation, which is 0.
func (l *layout) inodeSeed(number uint32) uint32 {
	return crc32of(crc32of(l.seed, number), 0)
}

// extent says that a file's content is in count blocks from start on, at most
// 32768: the root of an extent tree with one leaf.
func (l *layout) extent(start, count int64) []byte {
	e := make(record, 60)
	e.u16(0, 0xf30a)
	e.u16(2, 1) // of
	e.u16(4, 4) // entries
	e.u16(16, uint16(count))
	e.u32(20, uint32(start))
	return e
}

// rootDirectory has lost+found in it: e2fsck puts there what it finds without a name.
func (l *layout) rootDirectory() []byte {
	return l.directory(rootInode, []entry{{rootInode, "."}, {rootInode, ".."}, {lostFoundInode, "lost+found"}})
}

func (l *layout) lostFoundDirectory() []byte {
	return l.directory(lostFoundInode, []entry{{lostFoundInode, "."}, {rootInode, ".."}})
}

// entry is a folder in a directory.
type entry struct {
	inode uint32
	name  string
}

// directory is a directory's one block. The last entry covers all that is left,
// up to the tail with the checksum.
func (l *layout) directory(number uint32, entries []entry) []byte {
	const tail = 12
	b, at := make(record, BlockSize), 0
	for i, e := range entries {
		length := (8 + len(e.name) + 3) / 4 * 4
		if i == len(entries)-1 {
			length = BlockSize - tail - at
		}
		b.u32(at, e.inode)
		b.u16(at+4, uint16(length))
		b.u8(at+6, uint8(len(e.name)))
		b.u8(at+7, 2) // a directory
		copy(b[at+8:], e.name)
		at += length
	}
	b.u16(at+4, tail)
	b.u8(at+7, 0xde) // a tail
	b.u32(at+8, crc(l.inodeSeed(number), b[:at]))
	return b
}

// The resize inode holds the blocks that are reserved for group descriptors, in
// the way of ext2: its doubly indirect block points to those of group 0, by their
// place in the descriptor table, and each of these points to its copies in the
// other groups. (Its size, too, is as mke2fs and the kernel expect it.)
func (l *layout) resizeFile() inode {
	const pointers = BlockSize / 4
	content := make(record, 60)
	content.u32(13*4, uint32(l.resize))
	copies := int64(len(l.copies()))
	return inode{
		number: resizeInode, mode: 0o100600, links: 1,
		size:    (12 + pointers + pointers*pointers) * BlockSize,
		blocks:  1 + l.reserved*(1+copies),
		content: content,
	}
}

func (l *layout) resizeBlock() []byte {
	b := make(record, BlockSize)
	for i := range l.reserved {
		b.u32(int(4*(l.descriptors+i)), uint32(1+l.descriptors+i))
	}
	return b
}

func (l *layout) reservedBlock(i int64) []byte {
	b := make(record, BlockSize)
	for n, group := range l.copies() {
		b.u32(4*n, uint32(group*blocksPerGroup+1+l.descriptors+i))
	}
	return b
}

// copies are the groups with a copy of the superblock, but for group 0.
func (l *layout) copies() (groups []int64) {
	for g := int64(1); g < l.groups; g++ {
		if hasCopy(g) {
			groups = append(groups, g)
		}
	}
	return groups
}

// journalSuperblock says that the journal is empty (JBD2, big-endian). The blocks
// behind it may hold anything, an earlier journal even. The kernel replays from
// there only what bears the next number and a checksum that begins with the
// journal's id; mke2fs leaves the id zero and zeroes the journal instead. Both
// come from the file system's own id here.
func (l *layout) journalSuperblock() []byte {
	b := make([]byte, BlockSize)
	be := binary.BigEndian
	be.PutUint32(b[0x00:], 0xc03b3998)
	be.PutUint32(b[0x04:], 4) // superblock, version 2
	be.PutUint32(b[0x0c:], BlockSize)
	be.PutUint32(b[0x10:], uint32(l.journalBlocks))
	be.PutUint32(b[0x14:], 1)        // first block of the log
	be.PutUint32(b[0x18:], l.seed|1) // first transaction, not 0
	copy(b[0x30:], l.UUID[:])
	be.PutUint32(b[0x40:], 1) // users
	return b
}
