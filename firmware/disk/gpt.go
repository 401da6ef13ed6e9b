package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"regexp"
	"strings"
	"unicode/utf16"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/partition/gpt"
)

// A GPT of 128 entries takes the first 34 sectors, protective MBR included, and
// the last 33 (UEFI 2.10, 5.3).
const (
	gptFront = 34 * sector
	gptBack  = 33 * sector
)

// gptBootable is attribute bit 2, "legacy BIOS bootable" (UEFI 2.10, table 5.8).
// U-Boot looks for its files where it is set.
const gptBootable = 1 << 2

// gptTypes are the type GUIDs of our types of partition.
var gptTypes = [...]struct {
	name string
	guid gpt.Type
}{
	{TypeFAT, gpt.MicrosoftBasicData},
	{TypeESP, gpt.EFISystemPartition},
	{TypeLinux, gpt.LinuxFilesystem},
}

func isGUID(s string) bool {
	return regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString(s)
}

// buildGPT lets go-diskfs do it: sgdisk finds nothing wrong with its tables.
func (t *Table) buildGPT(s *Sparse) error {
	var faults []error
	out := &gpt.Table{GUID: t.ID, ProtectiveMBR: true, LogicalSectorSize: sector, PhysicalSectorSize: sector}
	guids := map[string]bool{t.ID: true}
	if !isGUID(t.ID) {
		faults = append(faults, fmt.Errorf("disk id %q is not a GUID in lower case", t.ID))
	}
	for _, p := range t.Partitions {
		e := &gpt.Partition{
			Index: p.Number,
			Start: uint64(p.Offset / sector),
			End:   uint64(p.end()/sector - 1),
			Size:  uint64(p.Size),
			Name:  p.Name,
			GUID:  p.GUID,
		}
		for _, typ := range gptTypes {
			if typ.name == p.Type {
				e.Type = typ.guid
			}
		}
		if p.Bootable {
			e.Attributes = gptBootable
		}
		switch {
		case p.Number < 1 || p.Number > 128:
			faults = append(faults, fmt.Errorf("partition number %d is not from 1 to 128", p.Number))
		case e.Type == "":
			faults = append(faults, fmt.Errorf("partition %d: unknown type %q", p.Number, p.Type))
		case !isGUID(p.GUID) || guids[p.GUID]:
			faults = append(faults, fmt.Errorf("partition %d: %q is not a GUID in lower case of its own", p.Number, p.GUID))
		case len(utf16.Encode([]rune(p.Name))) > 36:
			faults = append(faults, fmt.Errorf("partition %d: name %q is longer than 36 UTF-16 units", p.Number, p.Name))
		}
		guids[p.GUID] = true
		out.Partitions = append(out.Partitions, e)
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	return out.Write(sectorSink{s: s}, t.Size)
}

// sectorSink lets go-diskfs write into a Sparse. Of the file that it asks for,
// only WriteAt is used.
type sectorSink struct {
	backend.WritableFile
	s *Sparse
}

func (w sectorSink) WriteAt(p []byte, off int64) (int, error) {
	if err := w.s.Place(off, append([]byte(nil), p...)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// readGPT reads the first table, or the copy in the last sectors. go-diskfs
// would take the number of entries on trust.
func (t *Table) readGPT(r io.ReaderAt) error {
	err := t.readGPTAt(r, 1)
	if err != nil {
		if back := t.readGPTAt(r, t.Size/sector-1); back != nil {
			return fmt.Errorf("the GPT: %w; its copy: %w", err, back)
		}
	}
	return nil
}

func (t *Table) readGPTAt(r io.ReaderAt, lba int64) error {
	head, err := readSectors(r, lba, 1)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	sum := le.Uint32(head[16:])
	clear(head[16:20])
	entries, count, size := le.Uint64(head[72:]), le.Uint32(head[80:]), le.Uint32(head[84:])
	switch {
	case string(head[:8]) != "EFI PART":
		return errors.New("no signature")
	case le.Uint32(head[12:]) != 92 || crc32.ChecksumIEEE(head[:92]) != sum:
		return errors.New("header checksum is wrong")
	case le.Uint64(head[24:]) != uint64(lba):
		return fmt.Errorf("header at sector %d is for sector %d", lba, le.Uint64(head[24:]))
	case size != 128 || count > 1024:
		// 128 of 128 bytes is what everybody writes.
		return fmt.Errorf("%d entries of %d bytes", count, size)
	case entries > uint64(t.Size/sector):
		return fmt.Errorf("entries at sector %d leave the disk", entries)
	}
	b, err := readSectors(r, int64(entries), ceil(int64(count)*128, sector))
	if err != nil {
		return err
	}
	b = b[:count*128]
	if crc32.ChecksumIEEE(b) != le.Uint32(head[88:]) {
		return errors.New("checksum of the entries is wrong")
	}
	t.ID, t.Partitions = guidText(head[56:]), nil
	for n := 1; len(b) > 0; n, b = n+1, b[128:] {
		if isZero(b[:16]) {
			continue
		}
		p, err := t.gptEntry(n, b[:128])
		if err != nil {
			return err
		}
		t.Partitions = append(t.Partitions, p)
	}
	return nil
}

func (t *Table) gptEntry(number int, b []byte) (Partition, error) {
	le := binary.LittleEndian
	first, last := le.Uint64(b[32:]), le.Uint64(b[40:])
	if first > last || last >= uint64(t.Size/sector) {
		return Partition{}, fmt.Errorf("partition %d: sectors %d to %d of %d", number, first, last, t.Size/sector)
	}
	p := Partition{
		Number:   number,
		Type:     guidText(b),
		GUID:     guidText(b[16:]),
		Offset:   int64(first) * sector,
		Size:     int64(last-first+1) * sector,
		Bootable: le.Uint64(b[48:])&gptBootable != 0,
	}
	for _, typ := range gptTypes {
		if strings.EqualFold(string(typ.guid), p.Type) {
			p.Type = typ.name
		}
	}
	var name []uint16
	for i := 56; i < 128 && le.Uint16(b[i:]) != 0; i += 2 {
		name = append(name, le.Uint16(b[i:]))
	}
	p.Name = string(utf16.Decode(name))
	return p, nil
}

// guidText writes a GUID as people do: its first three numbers are little-endian
// on disk (UEFI 2.10, appendix A).
func guidText(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}
