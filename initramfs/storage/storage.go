// Package storage is stored, the daemon that gives the box its file systems.
//
// It finds the box's own disk by the id that the builder wrote into the partition
// table and into the image, and by nothing else: another disk, whatever is on it,
// is read for its first sectors and never written. On that disk
//
//   - factory is the owner's (a FAT with site.toml and preloaded workloads). It is
//     mounted read-only, and the box never writes to it;
//   - slot-a and slot-b are the updater's and not touched here;
//   - state and data are the box's own ext4 file systems, made here when they are
//     blank and made again, with the evidence in the log, when they are damaged;
//   - data is the last partition and grows to the end of the disk, online.
//
// A cut at any moment leaves a disk that the next start of stored takes further:
// see growTable and ext4.Make for how. What is mounted, stored tells all
// others in state.StorageFile.
package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fogwright/fogwright/initramfs/state"
)

// Config says where things are. The zero value is the real box.
type Config struct {
	BoardFile string        // state.BoardFile
	StateDir  string        // state.Dir
	Root      string        // folder that holds factory, state and data; /
	Sys, Dev  string        // /sys and /dev
	MountInfo string        // /proc/self/mountinfo
	Wait      time.Duration // how long the disk may take to appear; 30 s
	Log       *slog.Logger  // text to standard error

	kernel kernel
}

// kernel is what is asked of the operating system, for tests to stand in.
type kernel struct {
	open            func(device string) (device, error) // to write to
	mount           func(device, point, fstype string, flags uintptr, options string) error
	unmount         func(point string) error
	resizePartition func(disk string, number int, e extent) error
	resizeExt4      func(mount string, blocks int64) error
}

// device is an open block device.
type device interface {
	io.ReaderAt
	medium
	io.Closer
}

func openDevice(name string) (device, error) { return os.OpenFile(name, os.O_RDWR, 0) }

func (c Config) withDefaults() Config {
	set := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	set(&c.BoardFile, state.BoardFile)
	set(&c.StateDir, state.Dir)
	set(&c.Root, "/")
	set(&c.Sys, "/sys")
	set(&c.Dev, "/dev")
	set(&c.MountInfo, "/proc/self/mountinfo")
	if c.Wait == 0 {
		c.Wait = 30 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	if c.kernel.mount == nil {
		c.kernel = kernel{openDevice, mount, unmount, resizePartition, resizeExt4}
	}
	return c
}

// Main mounts the box's file systems, keeps state.StorageFile true, and unmounts
// them when ctx ends. It fails when the disk does not appear; a file system that
// fails is told in the state file and does not keep the others from working.
func Main(ctx context.Context, cfg Config) error {
	c := cfg.withDefaults()
	var board state.Board
	if err := readBoard(c.BoardFile, &board); err != nil {
		return err
	}
	d := &daemon{Config: c, want: board.Disk, status: state.Storage{FileSystems: map[string]state.FileSystem{}}}
	if err := d.start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		d.status.Errors = append(d.status.Errors, err.Error())
		return errors.Join(err, d.publish())
	}
	defer d.stop()
	if err := d.publish(); err != nil {
		return err
	}
	// Free space is the one fact that changes on its own.
	tick := time.NewTicker(30 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := d.publish(); err != nil {
				c.Log.Error("publishing", "err", err)
			}
		}
	}
}

func readBoard(file string, into *state.Board) error {
	if err := state.Read(filepath.Dir(file), filepath.Base(file), into); err != nil {
		return fmt.Errorf("reading the board's description %q: %w", file, err)
	}
	return nil
}

// daemon is stored at work.
type daemon struct {
	Config
	want   state.Disk
	disk   *disk
	status state.Storage
	mounts []string // mounted by this process, in this order
}

// start brings everything up, in the order in which others wait for it: factory
// holds the configuration that the network daemon needs, growing can wait.
func (d *daemon) start(ctx context.Context) error {
	disk, err := d.wait(ctx, d.want)
	if err != nil {
		return err
	}
	d.disk, d.status.Disk = disk, disk.dev
	d.Log.Info("found the disk", "disk", disk.dev, "size", disk.size, "id", d.want.ID)
	d.record("factory", d.mountFactory())
	if err := d.publish(); err != nil {
		return err
	}
	for _, name := range []string{"state", "data"} {
		if ctx.Err() != nil {
			break
		}
		d.record(name, d.mountExt4(name))
	}
	d.status.Ready = true
	if err := d.publish(); err != nil {
		return err
	}
	if err := d.growDisk(); err != nil {
		d.fail(fmt.Errorf("growing data to the end of %s: %w", disk.dev, err))
	}
	for _, name := range []string{"state", "data"} {
		if err := d.growExt4(name); err != nil {
			d.fail(err)
		}
	}
	return nil
}

// stop unmounts in reverse order.
func (d *daemon) stop() {
	for i := len(d.mounts) - 1; i >= 0; i-- {
		if err := d.kernel.unmount(d.mounts[i]); err != nil {
			d.Log.Error("unmounting", "mount", d.mounts[i], "err", err)
		}
	}
	d.status.Ready = false
	d.status.FileSystems = map[string]state.FileSystem{}
	if err := d.publish(); err != nil {
		d.Log.Error("publishing", "err", err)
	}
}

// fail tells of something that the box lives with.
func (d *daemon) fail(err error) {
	d.Log.Error(err.Error())
	d.status.Errors = append(d.status.Errors, err.Error())
}

// record notes how mounting a file system went.
func (d *daemon) record(name string, err error) {
	if err == nil {
		return
	}
	err = fmt.Errorf("file system %s: %w", name, err)
	d.fail(err)
	fs := d.status.FileSystems[name]
	fs.Error = err.Error()
	d.status.FileSystems[name] = fs
}

func (d *daemon) publish() error {
	for name, fs := range d.status.FileSystems {
		if fs.Error == "" {
			fs.Size, fs.Free = usage(fs.Mount)
			d.status.FileSystems[name] = fs
		}
	}
	return state.Write(d.StateDir, state.StorageFile, d.status)
}
