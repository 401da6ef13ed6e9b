package storage

import (
	"fmt"
	"os"

	"github.com/fogwright/fogwright/initramfs/storage/ext4"
)

// growDisk makes the data partition reach the end of the disk, in the table and
// in the kernel. Done already is done.
func (d *daemon) growDisk() error {
	number := d.want.Partitions["data"]
	f, err := d.kernel.open(d.disk.dev)
	if err != nil {
		return err
	}
	defer f.Close()
	for range 3 { // a repair may come first
		writes, err := growTable(f, d.disk.size, d.want.Table, number)
		if err != nil {
			return err
		}
		if len(writes) == 0 {
			break
		}
		if err := apply(f, writes); err != nil {
			return err
		}
		d.Log.Info("wrote the partition table", "disk", d.disk.dev, "writes", len(writes))
	}
	t, err := readTable(f, d.disk.size, d.want.Table)
	if err != nil {
		return err
	}
	node, ok := d.disk.nodes["data"]
	part := t.parts[number]
	if !ok || d.nodeSize(node) == part.size {
		return nil
	}
	return d.kernel.resizePartition(d.disk.dev, number, part)
}

// growExt4 makes a mounted ext4 fill its partition, while it is in use.
func (d *daemon) growExt4(name string) error {
	fs, ok := d.status.FileSystems[name]
	if !ok || fs.Error != "" {
		return nil
	}
	f, err := os.Open(fs.Device)
	if err != nil {
		return err
	}
	defer f.Close()
	s, ok := ext4.Read(f)
	if !ok {
		return fmt.Errorf("growing %s: %s has lost its superblock", name, fs.Device)
	}
	room := ext4.Fit(d.nodeSize(fs.Device)) / s.BlockSize
	if room <= s.Blocks {
		return nil
	}
	if err := d.kernel.resizeExt4(fs.Mount, room); err != nil {
		return err
	}
	fs.GrownBy = (room - s.Blocks) * s.BlockSize
	d.status.FileSystems[name] = fs
	d.Log.Info("grew a file system", "name", name, "by", fs.GrownBy)
	return nil
}
