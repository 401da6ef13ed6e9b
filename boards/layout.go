package boards

import (
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// Table kinds.
const (
	GPT = "gpt"
	MBR = "mbr"
)

// Partition types, in words: the table's writer knows the numbers.
const (
	TypeFAT   = "fat"   // GPT: basic data; MBR: 0x0c
	TypeESP   = "esp"   // GPT: EFI system; MBR: 0x0c
	TypeLinux = "linux" // GPT: Linux file system; MBR: 0x83
)

// Layout is the disk of a board: what is where, and under which names.
type Layout struct {
	Table string // gpt or mbr
	// ID is the GPT's disk GUID in lower case, or the MBR's disk signature in
	// eight hexadecimal digits. It depends on the board's name only, so that a
	// box finds its disk after every update.
	ID   string
	Size int64 // bytes of the whole image
	// Partitions are factory, slot-a, slot-b, state and data.
	Partitions []Partition
	// Extended is MBR's fourth partition, which holds state and data; nil on
	// GPT. Its Number is 4 and it has no name.
	Extended *Partition
}

// Partition is one of them. Offset and Size are bytes.
type Partition struct {
	Name   string // factory, slot-a, slot-b, state, data
	Number int    // the kernel's: /dev/sda5, /dev/mmcblk0p5
	Type   string // fat, esp, linux
	GUID   string // of this partition, lower case; GPT only
	// Serial is the volume serial number for the FAT that lies in it.
	Serial uint32
	Offset int64
	Size   int64
}

// backupGPT is room for the second GPT at the end of the disk: 33 sectors, and
// the rest of the megabyte so that the disk stays a whole number of them.
const backupGPT = int64(MiB)

// Layout computes the disk from the sizes in board.toml. Everything starts on
// whole mebibytes, as every partitioning tool aligns by default.
func (b *Board) Layout() Layout {
	l := Layout{Table: b.Disk.Table, ID: b.DiskID()}
	esp := TypeFAT
	if b.Boot.Chain == UEFI {
		esp = TypeESP
	}
	at := int64(b.Disk.Start)
	add := func(name, kind string, number int, size Size) {
		id := nameUUID("board " + b.Name + " partition " + name)
		p := Partition{Name: name, Number: number, Type: kind, Offset: at, Size: int64(size)}
		if l.Table == GPT {
			p.GUID = formatUUID(id)
		}
		if kind != TypeLinux {
			p.Serial = binary.BigEndian.Uint32(id[:])
		}
		l.Partitions = append(l.Partitions, p)
		at += int64(size)
	}
	add("factory", TypeFAT, 1, b.Disk.Factory)
	add("slot-a", esp, 2, b.Disk.Slot)
	add("slot-b", esp, 3, b.Disk.Slot)
	if l.Table == GPT {
		add("state", TypeLinux, 4, b.Disk.State)
		add("data", TypeLinux, 5, b.Disk.Data)
		l.Size = at + backupGPT
		return l
	}
	l.Extended = &Partition{Number: 4, Type: "extended", Offset: at}
	at += int64(MiB) // each logical partition's own boot record, alone in its mebibyte
	add("state", TypeLinux, 5, b.Disk.State)
	at += int64(MiB)
	add("data", TypeLinux, 6, b.Disk.Data)
	l.Extended.Size = at - l.Extended.Offset
	l.Size = at
	return l
}

// DiskID names the board's disk: see [Layout].
func (b *Board) DiskID() string {
	id := nameUUID("board " + b.Name)
	if b.Disk.Table == MBR {
		id[0] |= 1 // a signature of zero means "none" to Linux
		return hex.EncodeToString(id[:4])
	}
	return formatUUID(id)
}

// namespace is Fogwright's own, drawn once at random, for name-based UUIDs.
var namespace = [16]byte{0x8e, 0x1d, 0x5b, 0x2a, 0x61, 0x0f, 0x4c, 0x37, 0x9b, 0x42, 0xd7, 0x3e, 0x0a, 0xf4, 0x96, 0xc5}

// nameUUID is a version 5 UUID (RFC 9562, section 5.5): SHA-1 over the namespace
// and a name.
func nameUUID(name string) (id [16]byte) {
	sum := sha1.Sum(append(namespace[:], name...))
	copy(id[:], sum[:])
	id[6] = id[6]&0x0f | 0x50
	id[8] = id[8]&0x3f | 0x80
	return id
}

func formatUUID(id [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
