package firmware

import (
	"context"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"

	"github.com/fogwright/fogwright/boards"
	"github.com/fogwright/fogwright/firmware/disk"
)

// siteFile is the owner's configuration on the factory partition.
const siteFile = "site.toml"

// makeDisk puts the whole disk together and writes it in all its forms.
func (b *build) makeDisk(context.Context) (string, error) {
	factory, err := b.factory()
	if err != nil {
		return "", err
	}
	l := b.Board.Layout()
	image := disk.Image{
		Table:    disk.Table{Kind: l.Table, ID: l.ID, Size: l.Size},
		Contents: map[int]*disk.Sparse{},
	}
	for _, p := range l.Partitions {
		image.Table.Partitions = append(image.Table.Partitions, disk.Partition{
			Number: p.Number, Name: p.Name, Type: p.Type, GUID: p.GUID, Offset: p.Offset, Size: p.Size,
			// U-Boot's own search begins at the partition marked bootable.
			Bootable: l.Table == boards.MBR && p.Name == "factory",
		})
		switch p.Name {
		case "factory":
			image.Contents[p.Number] = factory
		case "slot-a", "slot-b":
			image.Contents[p.Number] = b.slot
		}
	}
	for _, blob := range b.Board.Boot.Blobs {
		data, err := b.file(blob.Package, blob.Path)
		if err != nil {
			return "", err
		}
		if int64(len(data)) > int64(blob.Size) {
			return "", fmt.Errorf("%s has %d bytes and the board reserves %d", blob.Path, len(data), blob.Size)
		}
		image.Blobs = append(image.Blobs, disk.Blob{Name: path.Base(blob.Path), Offset: int64(blob.Offset), Data: data})
	}
	if b.disk, err = image.Build(); err != nil {
		return "", err
	}
	return b.write()
}

// factory makes the factory partition: loader, configuration, workloads.
func (b *build) factory() (*disk.Sparse, error) {
	files, err := b.loaderFiles()
	if err != nil {
		return nil, err
	}
	if b.Site != nil {
		files = append(files, disk.File{Path: siteFile, Data: b.Site})
	}
	for _, name := range slices.Sorted(maps.Keys(b.programs.workloads)) {
		files = append(files, disk.File{Path: "workloads/" + name, Data: b.programs.workloads[name].Data})
	}
	p := b.partition("factory")
	return disk.FAT{Label: "FACTORY", Serial: p.Serial, Size: p.Size, Time: b.Epoch, Files: files}.Build()
}

// write writes image, compressed image, block map and slot into the temporary
// folder.
func (b *build) write() (string, error) {
	at := func(suffix string) string { return filepath.Join(b.temp, b.Board.Name+suffix) }
	done, err := b.disk.Export(disk.Outputs{Image: at(".img"), Zstd: at(".img.zst"), BlockMap: at(".bmap")})
	if err != nil {
		return "", err
	}
	b.output(".img", done.Image)
	b.output(".img.zst", done.Zstd)
	b.output(".bmap", done.BlockMap)
	slot, err := b.slot.Export(disk.Outputs{Image: at(".slot")})
	if err != nil {
		return "", err
	}
	b.output(".slot", slot.Image)
	return fmt.Sprintf("disk of %.0f MiB, %.0f MiB compressed", float64(done.Image.Size)/(1<<20), float64(done.Zstd.Size)/(1<<20)), nil
}
