package ext4

import (
	"fmt"
	"math"
)

const (
	blocksPerGroup      = 8 * BlockSize // as many as one bitmap has bits
	descriptorSize      = 64
	descriptorsPerBlock = BlockSize / descriptorSize
	// descriptorBlocks for group descriptors, used and reserved ones together:
	// 256 GiB. mke2fs reserves as much for a file system of 256 MiB.
	descriptorBlocks = 32
	inodeSize        = 256
	// inodesPerGroup: one for each 64 KiB. Inode tables are 0.4 % of the disk
	// so, which the kernel zeroes in the background; one for 16 KiB, as mke2fs
	// has it, would be four times as much to write on slow flash.
	inodesPerGroup = blocksPerGroup * BlockSize / (64 << 10)
	tableBlocks    = inodesPerGroup * inodeSize / BlockSize
	groupTables    = 2 + tableBlocks // two bitmaps and the inode table

	// smallestGroup is the least number of blocks for the last group: its copy
	// of the superblock and the descriptors, its tables, and 50 for content, as
	// mke2fs and resize2fs have it.
	smallestGroup = 1 + descriptorBlocks + groupTables + 50
	// logGroupsPerFlex: the kernel puts the tables of 2^4 groups together when it
	// grows the file system. Groups made here keep their own.
	logGroupsPerFlex = 4

	// journal sizes in blocks: 4 MiB is the least that the kernel takes
	// (JBD2_MIN_JOURNAL_BLOCKS), and it does not grow later.
	smallJournal = 1024
	largeJournal = 4096
	largeFrom    = 128 << 20 / BlockSize // blocks of a file system
)

// layout is where everything lies. Blocks are counted from the start of the file
// system. In group 0 the files follow its tables without a gap.
type layout struct {
	Options
	blocks, groups int64
	descriptors    int64 // blocks with group descriptors
	reserved       int64 // blocks reserved for more of them
	seed           uint32

	root, lostFound, resize, quota, journal int64
	journalBlocks, used                     int64 // used: blocks of group 0
}

func newLayout(o Options) (*layout, error) {
	if o.Size < MinSize || o.Size > MaxSize {
		return nil, fmt.Errorf("making an ext4 file system of %d bytes: it must have %d to %d", o.Size, MinSize, int64(MaxSize))
	}
	if len(o.Label) > 16 {
		return nil, fmt.Errorf("making an ext4 file system: label %q is longer than 16 bytes", o.Label)
	}
	if t := o.Time.Unix(); t < 0 || t >= 1<<34 {
		return nil, fmt.Errorf("making an ext4 file system: its time stamps cannot hold %v", o.Time)
	}
	l := &layout{Options: o, blocks: Fit(o.Size) / BlockSize}
	l.groups = ceil(l.blocks, blocksPerGroup)
	l.descriptors = ceil(l.groups, descriptorsPerBlock)
	l.reserved = descriptorBlocks - l.descriptors
	l.seed = crc(math.MaxUint32, o.UUID[:])
	l.root = l.tables(0) + groupTables
	l.lostFound = l.root + 1
	l.resize = l.lostFound + 1
	l.quota = l.resize + 1
	l.journal = l.quota
	if o.ProjectQuota {
		l.journal += quotaBlocks
	}
	l.journalBlocks = smallJournal
	if l.blocks >= largeFrom {
		l.journalBlocks = largeJournal
	}
	l.used = l.journal + l.journalBlocks
	return l, nil
}

func ceil(n, unit int64) int64 { return (n + unit - 1) / unit }

// hasCopy tells whether a group begins with a superblock and the descriptors
// (sparse_super): groups 0 and 1 and the powers of 3, 5 and 7.
func hasCopy(group int64) bool {
	if group <= 1 {
		return true
	}
	for _, base := range []int64{3, 5, 7} {
		power := base
		for power < group {
			power *= base
		}
		if power == group {
			return true
		}
	}
	return false
}

// tables is the first block of a group behind its copy of the superblock: its
// block bitmap, its inode bitmap and its inode table.
func (l *layout) tables(group int64) int64 {
	at := group * blocksPerGroup
	if hasCopy(group) {
		at += 1 + l.descriptors + l.reserved
	}
	return at
}

// usage is how many blocks a group has, and how many of them, all at its
// beginning, are in use.
func (l *layout) usage(group int64) (size, used int64) {
	start := group * blocksPerGroup
	size = min(blocksPerGroup, l.blocks-start)
	if group == 0 {
		return size, l.used
	}
	return size, l.tables(group) + groupTables - start
}

// run is adjacent blocks to write.
type run struct {
	block int64
	data  []byte
}

// body is everything but the first block.
func (l *layout) body() []run {
	table := l.descriptorTable()
	// Up to the first block of the inode table, which holds all inodes in use.
	head := append([]byte(nil), table...)
	for i := range l.reserved {
		head = append(head, l.reservedBlock(i)...)
	}
	head = append(head, l.blockBitmap(0)...)
	head = append(head, l.inodeBitmap()...)
	head = append(head, l.inodes()...)
	files := append(l.rootDirectory(), l.lostFoundDirectory()...)
	files = append(files, l.resizeBlock()...)
	if l.ProjectQuota {
		files = append(files, l.quotaFile()...)
	}
	files = append(files, l.journalSuperblock()...)
	runs := []run{{1, head}, {l.root, files}}
	for g := int64(1); g < l.groups; g++ {
		if hasCopy(g) {
			runs = append(runs, run{g * blocksPerGroup, append(l.superblock(g), table...)})
		}
	}
	if last := l.groups - 1; last > 0 {
		runs = append(runs, run{l.tables(last), l.blockBitmap(last)})
	}
	return runs
}
