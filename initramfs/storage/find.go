package storage

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/fogwright/fogwright/initramfs/state"
)

// disk is the box's own disk.
type disk struct {
	name  string // mmcblk0
	dev   string // /dev/mmcblk0
	size  int64
	nodes map[string]string // partition's name in the board file -> /dev/mmcblk0p1
}

// wait looks for the board's disk until it is there with all its partitions, or
// until the time is up. Drivers probe in the background, USB and SD cards take
// seconds; looking costs one sector per disk.
func (c *Config) wait(ctx context.Context, want state.Disk) (*disk, error) {
	deadline := time.After(c.Wait)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		found, seen := c.find(want)
		if len(found) > 0 && len(found[0].nodes) == len(want.Partitions) {
			if len(found) > 1 {
				c.Log.Warn("several disks claim to be this box's; taking the first", "id", want.ID, "disks", names(found))
			}
			return found[0], nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		case <-deadline:
			return nil, fmt.Errorf("waiting %v for the disk with %s id %s and its partitions: not among [%s]; was this disk flashed with this board's image, and does the board load the disk's driver?",
				c.Wait, want.Table, want.ID, strings.Join(seen, " "))
		}
	}
}

func names(disks []*disk) (all []string) {
	for _, d := range disks {
		all = append(all, d.name)
	}
	return all
}

// find lists the disks that bear the wanted id, in the order of their names, and
// the names of all disks that it looked at.
func (c *Config) find(want state.Disk) (found []*disk, seen []string) {
	entries, err := os.ReadDir(filepath.Join(c.Sys, "class/block"))
	if err != nil {
		return nil, nil
	}
	for _, e := range entries {
		dir := filepath.Join(c.Sys, "class/block", e.Name())
		if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
			continue
		}
		size := c.number(e.Name(), "size") * sector
		if size <= 0 {
			continue // an empty card reader, an unused loop device
		}
		seen = append(seen, e.Name())
		d := &disk{name: e.Name(), dev: filepath.Join(c.Dev, e.Name()), size: size}
		if c.bears(d, want) {
			d.nodes = c.partitions(dir, want.Partitions)
			found = append(found, d)
		}
	}
	return found, seen
}

// bears tells whether a disk has the wanted table and id.
func (c *Config) bears(d *disk, want state.Disk) bool {
	f, err := os.Open(d.dev)
	if err != nil {
		return false
	}
	defer f.Close()
	t, err := readTable(f, d.size, want.Table)
	return err == nil && t.id == want.ID
}

// partitions maps names to device nodes, by the kernel's partition numbers.
func (c *Config) partitions(dir string, numbers map[string]int) map[string]string {
	byNumber := map[int]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if n := c.number(filepath.Base(dir)+"/"+e.Name(), "partition"); n > 0 {
			byNumber[int(n)] = filepath.Join(c.Dev, e.Name())
		}
	}
	nodes := map[string]string{}
	for name, n := range numbers {
		if node, ok := byNumber[n]; ok {
			if _, err := os.Stat(node); err == nil {
				nodes[name] = node
			}
		}
	}
	return nodes
}

// number reads a block device's attribute from sysfs; 0 when there is none.
func (c *Config) number(device, attribute string) int64 {
	b, err := os.ReadFile(filepath.Join(c.Sys, "class/block", device, attribute))
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// nodeSize is the size of a block device in bytes, as the kernel has it.
func (c *Config) nodeSize(node string) int64 {
	return c.number(filepath.Base(node), "size") * sector
}

// mounted tells whether a mount point is one already: stored was restarted.
func mounted(mountinfo, point string) bool {
	b, err := os.ReadFile(mountinfo)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		// proc_pid_mountinfo(5): the fifth field is the mount point.
		if f := strings.Fields(line); len(f) > 4 && f[4] == point {
			return true
		}
	}
	return false
}
