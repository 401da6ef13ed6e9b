package storage

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fogwright/fogwright/initramfs/state"
	"github.com/fogwright/fogwright/initramfs/storage/ext4"
)

const (
	// startSize is how much of a partition must be zero for it to count as never
	// used. The superblocks of nearly all that blkid knows are in there.
	startSize = 64 << 10

	// Workloads that the owner preloaded are run from factory: no noexec there.
	factoryFlags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV
	// The owner's PC wrote it; the kernel's default character sets may differ
	// from board to board.
	factoryOptions = "fmask=0022,dmask=0022,codepage=437,iocharset=ascii,utf8=1"
	// No access times: they would write to flash for every read.
	ownFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME
	// A damaged file system is left as it is until the next start makes it anew.
	ownOptions = "errors=remount-ro"
)

func (d *daemon) mountFactory() error {
	return d.mountAt("factory", "vfat", factoryFlags, factoryOptions)
}

// mountExt4 mounts state or data, and makes it before when there is none.
func (d *daemon) mountExt4(name string) error {
	node := d.disk.nodes[name]
	if mounted(d.MountInfo, filepath.Join(d.Root, name)) {
		return d.mountAt(name, "ext4", ownFlags, ownOptions)
	}
	blank, evidence, err := inspect(node)
	if err != nil {
		return err
	}
	if !blank && evidence == "" {
		err = d.mountAt(name, "ext4", ownFlags, ownOptions)
		if !damaged(err) {
			return err
		}
		evidence = err.Error()
	}
	if !blank {
		d.fail(fmt.Errorf("file system %s: making it anew, what was on %s is lost: %s", name, node, evidence))
	}
	if err := d.makeExt4(name, node); err != nil {
		return err
	}
	if err := d.mountAt(name, "ext4", ownFlags, ownOptions); err != nil {
		return err
	}
	fs := d.status.FileSystems[name]
	fs.Created = true
	d.status.FileSystems[name] = fs
	return nil
}

// inspect looks at the start of a partition before it is mounted. No evidence means
// that there is an ext4 superblock, or nothing at all.
func inspect(node string) (blank bool, evidence string, err error) {
	f, err := os.Open(node)
	if err != nil {
		return false, "", err
	}
	defer f.Close()
	b := make([]byte, startSize)
	if _, err := io.ReadFull(f, b); err != nil {
		return false, "", fmt.Errorf("reading the first %d bytes of %s: %w", len(b), node, err)
	}
	if bytes.Count(b, []byte{0}) == len(b) {
		return true, "", nil
	}
	if _, ok := ext4.Read(bytes.NewReader(b)); ok {
		return false, "", nil
	}
	return false, fmt.Sprintf("no ext4 superblock; the first %d KiB have SHA-256 %x and start with %x, the superblock's place with %x",
		len(b)>>10, sha256.Sum256(b), b[:32], b[1024:1024+64]), nil
}

// damaged tells the kernel's words for a file system that cannot be used from
// those for a disk that cannot be read, where making a new one helps nobody.
func damaged(err error) bool {
	return errors.Is(err, unix.EUCLEAN) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EBADMSG) || errors.Is(err, unix.EOVERFLOW)
}

// makeExt4 makes an empty file system as large as the partition, or as large as
// one is made: growing comes afterwards.
func (d *daemon) makeExt4(name, node string) error {
	start := time.Now()
	o := ext4.Options{
		Size: min(d.nodeSize(node), ext4.MaxSize), Label: name, Time: start,
		ProjectQuota: name == "data" && d.quotas(),
	}
	if err := randomise(o.UUID[:], o.HashSeed[:]); err != nil {
		return err
	}
	o.UUID[6], o.UUID[8] = o.UUID[6]&0x0f|0x40, o.UUID[8]&0x3f|0x80 // random: RFC 9562
	f, err := d.kernel.open(node)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := ext4.Make(f, o); err != nil {
		return fmt.Errorf("%s: %w", node, err)
	}
	d.Log.Info("made a file system", "name", name, "device", node, "size", o.Size, "quotas", o.ProjectQuota,
		"took", time.Since(start).Round(time.Millisecond))
	return nil
}

// randomise fills in what must differ from disk to disk but needs to be no secret.
// crypto/rand would wait for the kernel to have gathered entropy: at first boot, on
// a board without a random number generator, that took 15 s.
func randomise(all ...[]byte) error {
	for _, b := range all {
		if _, err := unix.Getrandom(b, unix.GRND_INSECURE); err != nil {
			return fmt.Errorf("getrandom: %w", err)
		}
	}
	return nil
}

// quotas tells whether this kernel can keep quotas. Without the module it does not
// even mount a file system that has them.
func (d *daemon) quotas() bool {
	_, err := os.Stat(filepath.Join(d.Sys, "module/quota_v2"))
	return err == nil
}

// mountAt mounts a partition on the folder of its name and notes that. One that
// an earlier life of stored has mounted is taken over.
func (d *daemon) mountAt(name, fstype string, flags uintptr, options string) error {
	node, point := d.disk.nodes[name], filepath.Join(d.Root, name)
	if err := os.MkdirAll(point, 0o755); err != nil {
		return err
	}
	if !mounted(d.MountInfo, point) {
		if err := d.kernel.mount(node, point, fstype, flags, options); err != nil {
			return fmt.Errorf("mounting %s on %s as %s: %w", node, point, fstype, err)
		}
	}
	d.mounts = append(d.mounts, point)
	d.status.FileSystems[name] = state.FileSystem{
		Device: node, Mount: point, Type: fstype, ReadOnly: flags&unix.MS_RDONLY != 0,
	}
	return nil
}

func mount(device, point, fstype string, flags uintptr, options string) error {
	return unix.Mount(device, point, fstype, flags, options)
}

// unmount waits a little for those who still use the file system. Init has
// stopped the workloads before, so what is left is a process that ignores it: it
// keeps its files, read-only, and the disk is clean.
func unmount(point string) error {
	err := unix.Unmount(point, 0)
	for range 20 {
		if err != unix.EBUSY {
			return err
		}
		time.Sleep(50 * time.Millisecond)
		err = unix.Unmount(point, 0)
	}
	if err == unix.EBUSY {
		unix.Sync()
		if rerr := unix.Mount("", point, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); rerr != nil {
			return fmt.Errorf("%w, nor can it be made read-only: %w", err, rerr)
		}
		return unix.Unmount(point, unix.MNT_DETACH)
	}
	return err
}
