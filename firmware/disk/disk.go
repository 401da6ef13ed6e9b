// Package disk makes and reads what lies on a box's flash medium, byte by byte:
// partition tables, FAT file systems and the image files that carry them.
//
// The builder hands over contents (loader blobs, files for a FAT) and places,
// and gets a whole disk as a [Sparse], written as a raw image, as a compressed
// one and with a block map for the flasher. The lab and the person with a card
// reader hand over an image, get files out of it and put files into its factory
// partition. The builder's inputs are believed. Images are not: somebody else
// may have written them, so the readers bound everything by the image's size.
//
// The same inputs always give the same bytes: nothing here looks at a clock, a
// random number or the number of processors. File contents are held by
// reference, not copied. ext4 is not made here: the box makes it on the empty
// state and data partitions when it boots for the first time.
package disk

import (
	"fmt"
)

// Image is a whole disk.
type Image struct {
	Table Table
	// Blobs lie outside of the partitions: loaders that a boot ROM reads.
	Blobs []Blob
	// Contents by partition number. A partition without is empty, and the
	// medium is wiped at its start when it is flashed.
	Contents map[int]*Sparse
}

// Blob is data at a fixed place of the disk.
type Blob struct {
	Name   string // for messages
	Offset int64  // bytes
	Data   []byte
}

// Flashing by block map leaves alone what is not mapped, so a used card would
// keep old data where the image has holes. That is right for free space and
// wrong where somebody looks for a signature: in front of the first partition
// (an old GPT), and at the start of an empty partition, where an old ext4 would
// be taken for the box's own. ext4 and all others that blkid knows, save RAID at
// the end, have theirs in the first 68 KiB.
const (
	wipeDisk      = gptFront
	wipePartition = 128 << 10
)

// Build puts the disk together. Everything that collides is in the error.
func (m Image) Build() (*Sparse, error) {
	s, err := m.Table.Build()
	if err != nil {
		return nil, fmt.Errorf("building disk: %w", err)
	}
	areas := append(m.Table.partitionAreas(), m.Table.ownAreas()...)
	for _, b := range m.Blobs {
		areas = append(areas, area{"blob " + b.Name, b.Offset, int64(len(b.Data))})
	}
	if err := collisions(areas, m.Table.Size); err != nil {
		return nil, fmt.Errorf("building disk: %w", err)
	}
	for _, b := range m.Blobs {
		if err := s.Place(b.Offset, b.Data); err != nil {
			return nil, fmt.Errorf("building disk: blob %s: %w", b.Name, err)
		}
	}
	for number := range m.Contents {
		if _, err := m.Table.Partition(number); err != nil {
			return nil, fmt.Errorf("building disk: content: %w", err)
		}
	}
	wipe := min(wipeDisk, s.size)
	for _, p := range m.Table.Partitions {
		if err := p.fill(s, m.Contents[p.Number]); err != nil {
			return nil, fmt.Errorf("building disk: partition %d: %w", p.Number, err)
		}
		wipe = min(wipe, p.Offset)
	}
	if err := s.wipe(0, wipe); err != nil {
		return nil, fmt.Errorf("building disk: %w", err)
	}
	return s, nil
}

// fill puts content, or emptiness, into the partition.
func (p Partition) fill(s, content *Sparse) error {
	if content == nil {
		return s.wipe(p.Offset, min(wipePartition, p.Size))
	}
	if content.size > p.Size {
		return fmt.Errorf("the content has %d bytes and the partition %d", content.size, p.Size)
	}
	return s.Insert(p.Offset, content)
}
