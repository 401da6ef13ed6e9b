package storage

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl numbers that x/sys does not name: linux/blkpg.h and
// Documentation/filesystems/ext4/overview.rst (EXT4_IOC_RESIZE_FS is
// _IOW('f', 16, __u64) on every architecture here).
const (
	blkpg                = 0x1269
	blkpgResizePartition = 3
	ext4IocResizeFS      = 0x40086610
)

// blkpgPartition is struct blkpg_partition.
type blkpgPartition struct {
	start, length int64 // bytes
	pno           int32
	devname       [64]byte
	volname       [64]byte
	_             [4]byte
}

// blkpgArg is struct blkpg_ioctl_arg.
type blkpgArg struct {
	op, flags, datalen int32
	data               unsafe.Pointer
}

// resizePartition tells the kernel that a partition has grown. It may be in use.
func resizePartition(disk string, number int, e extent) error {
	f, err := os.OpenFile(disk, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	p := blkpgPartition{start: e.start, length: e.size, pno: int32(number)}
	a := blkpgArg{op: blkpgResizePartition, datalen: int32(unsafe.Sizeof(p)), data: unsafe.Pointer(&p)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), blkpg, uintptr(unsafe.Pointer(&a))); errno != 0 {
		return fmt.Errorf("telling the kernel of partition %d of %s: %w", number, disk, errno)
	}
	return nil
}

// resizeExt4 grows a mounted ext4 to so many blocks.
func resizeExt4(mount string, blocks int64) error {
	f, err := os.Open(mount)
	if err != nil {
		return err
	}
	defer f.Close()
	n := uint64(blocks)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ext4IocResizeFS, uintptr(unsafe.Pointer(&n))); errno != 0 {
		return fmt.Errorf("growing the file system on %s to %d blocks: %w", mount, blocks, errno)
	}
	return nil
}

// usage is the size of a mounted file system and what is free of it, in bytes.
func usage(mount string) (size, free int64) {
	var s unix.Statfs_t
	if unix.Statfs(mount, &s) != nil {
		return 0, 0
	}
	return int64(s.Blocks) * int64(s.Bsize), int64(s.Bavail) * int64(s.Bsize)
}
