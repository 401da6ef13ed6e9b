package ext4

import "encoding/binary"

// A quota file (linux/fs/quota/quotaio_v2.h, revision 1) has blocks of 1 KiB: a
// header, then a tree with one level for each byte of an id, then entries.
const (
	quotaBlock  = 1024
	quotaLevels = 4
	quotaSize   = (1 + quotaLevels + 1) * quotaBlock
	quotaBlocks = (quotaSize + BlockSize - 1) / BlockSize
	quotaMagic  = 0xd9c03f14 // of project quotas
	// quotaGrace is how long a soft limit may be exceeded, seconds: a week, as
	// everywhere.
	quotaGrace = 7 * 24 * 60 * 60
)

// quotaFile has one entry, for project 0, to which everything belongs that nobody
// assigned: root and lost+found.
func (l *layout) quotaFile() []byte {
	b := make(record, quotaBlocks*BlockSize)
	b.u32(0, quotaMagic)
	b.u32(4, 1)           // revision
	b.u32(8, quotaGrace)  // for space
	b.u32(12, quotaGrace) // for files
	b.u32(20, quotaSize/quotaBlock)
	const entries = 1 + quotaLevels // the last block
	b.u32(28, entries)              // has room
	for level := range quotaLevels {
		b.u32((1+level)*quotaBlock, uint32(level+2)) // id byte 0: the next block
	}
	b.u16(entries*quotaBlock+8, 1)           // entries in use
	e := b[entries*quotaBlock+16:]           // id 0, no limits
	binary.LittleEndian.PutUint64(e[24:], 2) // files
	binary.LittleEndian.PutUint64(e[48:], 2*BlockSize)
	return b
}
