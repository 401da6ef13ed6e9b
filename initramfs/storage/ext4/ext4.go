// Package ext4 makes empty ext4 file systems.
//
// The box's storage daemon hands over a partition that it has judged to hold
// nothing worth keeping, and the Linux kernel mounts what lies on it afterwards.
// The kernel trusts what it reads as far as the checksums (metadata_csum) go; this
// package trusts nothing that it finds on the partition and reads none of it.
//
// What is made is what mke2fs makes on a Linux of today (4 KiB blocks, 256-byte
// inodes, a journal, extents, checksums over everything), with as little writing
// as the format allows: inode tables and most block bitmaps are marked as not yet
// initialised, which the checksums make safe, and the journal's blocks stay as
// they are, which its own id makes safe (see journalSuperblock). Some 200 KiB are
// written for a file system of any usual size. It grows online: room for the group
// descriptors of 256 GiB is reserved, and from there on the kernel switches to
// META_BG by itself.
//
// The format is that of Documentation/filesystems/ext4 in the kernel's source.
package ext4

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

const (
	// BlockSize of every file system made here, in bytes.
	BlockSize = 4096
	// MinSize of a file system, in bytes: a quarter of it is the journal.
	MinSize = 16 << 20
	// MaxSize of a file system when it is made, in bytes: as many group
	// descriptors as there are blocks for. The kernel grows it further.
	MaxSize = descriptorBlocks * descriptorsPerBlock * blocksPerGroup * BlockSize
)

// Options say what to make. Equal options make equal file systems.
type Options struct {
	Size int64 // of the partition in bytes, MinSize to MaxSize; see Fit
	// UUID names the file system, and keeps its checksums and its journal apart
	// from those of an earlier one in the same place: it must be a new one.
	UUID [16]byte
	// HashSeed makes the hashes in large directories hard to guess.
	HashSeed [16]byte
	Label    string    // up to 16 bytes
	Time     time.Time // when it is made
	// ProjectQuota keeps account of space and files per project. The kernel
	// mounts such a file system only with its module quota_v2.
	ProjectQuota bool
}

// Medium is a partition that is written to.
type Medium interface {
	io.WriterAt
	Sync() error // until all that was written is on the disk
}

// Make writes an empty file system. The superblock that was there is cleared
// before, and the new one written after everything else, so a cut at any moment
// leaves something that nobody takes for a file system, or the whole of it.
func Make(m Medium, o Options) error {
	l, err := newLayout(o)
	if err != nil {
		return err
	}
	body := l.body()
	first := make([]byte, BlockSize)
	steps := [][]run{{{0, first}}, body, {{0, l.superblock(0)}}}
	for _, runs := range steps {
		for _, r := range runs {
			if _, err := m.WriteAt(r.data, r.block*BlockSize); err != nil {
				return fmt.Errorf("writing an ext4 file system, block %d: %w", r.block, err)
			}
		}
		if err := m.Sync(); err != nil {
			return fmt.Errorf("flushing an ext4 file system: %w", err)
		}
	}
	return nil
}

// Info is what a superblock tells of a file system.
type Info struct {
	Blocks    int64
	BlockSize int64 // bytes
}

// Read finds an ext4 superblock on a partition; false when there is none, or when
// it makes no sense. Whether the file system is whole is for the kernel to say.
func Read(r io.ReaderAt) (Info, bool) {
	b := make([]byte, 1024)
	if _, err := r.ReadAt(b, superblockAt); err != nil {
		return Info{}, false
	}
	le := binary.LittleEndian
	shift := le.Uint32(b[0x18:])
	if le.Uint16(b[0x38:]) != magic || shift > 6 {
		return Info{}, false
	}
	blocks := uint64(le.Uint32(b[0x04:]))
	if le.Uint32(b[0x60:])&incompat64bit != 0 {
		blocks |= uint64(le.Uint32(b[0x150:])) << 32
	}
	if blocks == 0 || blocks >= 1<<47 { // 2^63 bytes and more with blocks of 64 KiB
		return Info{}, false
	}
	return Info{Blocks: int64(blocks), BlockSize: 1024 << shift}, true
}

// Fit is how many bytes of a partition a file system fills, made or grown: whole
// blocks, and no last group so small that its own tables find no room in it (the
// kernel leaves such a group out when it grows a file system, and says nothing).
func Fit(size int64) int64 {
	blocks := size / BlockSize
	if tail := blocks % blocksPerGroup; tail < smallestGroup {
		blocks -= tail
	}
	return blocks * BlockSize
}
