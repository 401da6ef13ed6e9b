package disk

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const mib = 1 << 20

// gptTable and mbrTable are a box's five partitions.
func gptTable() Table {
	t := Table{Kind: GPT, ID: "f0690000-1111-5222-8333-0123456789ab", Size: 200 * mib}
	off := int64(mib)
	for i, name := range []string{"factory", "slot-a", "slot-b", "state", "data"} {
		p := Partition{Number: i + 1, Name: name, Type: TypeLinux, Offset: off, Size: int64(10+i) * mib,
			GUID: fmt.Sprintf("f0690000-1111-5222-8333-00000000000%d", i+1)}
		off += p.Size
		t.Partitions = append(t.Partitions, p)
	}
	t.Partitions[0].Type = TypeFAT
	t.Partitions[1].Type = TypeESP
	t.Partitions[1].Bootable = true
	return t
}

func mbrTable() Table {
	return Table{Kind: MBR, ID: "f0690abc", Size: 200 * mib, Partitions: []Partition{
		{Number: 1, Type: TypeFAT, Offset: 4 * mib, Size: 16 * mib, Bootable: true},
		{Number: 2, Type: TypeFAT, Offset: 20 * mib, Size: 30 * mib},
		{Number: 3, Type: TypeFAT, Offset: 50 * mib, Size: 30 * mib},
		{Number: 5, Type: TypeLinux, Offset: 81 * mib, Size: 40 * mib},
		{Number: 6, Type: TypeLinux, Offset: 122 * mib, Size: 60 * mib},
	}}
}

// sfdiskTable is what sfdisk --json says.
type sfdiskTable struct {
	PartitionTable struct {
		Label, ID  string
		Partitions []struct {
			Node             string
			Start, Size      int64
			Type, UUID, Name string
			Bootable         bool
			Attrs            string
		}
	}
}

func sfdiskJSON(t *testing.T, img string) sfdiskTable {
	t.Helper()
	var out sfdiskTable
	text := judge(t, "fdisk", "sfdisk", "--json", img)
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatalf("sfdisk --json: %v\n%s", err, text)
	}
	return out
}

func TestTableIsJudged(t *testing.T) {
	for _, tt := range []struct {
		table Table
		label string
		types map[string]string // as sfdisk calls them
	}{
		{gptTable(), "gpt", map[string]string{
			TypeFAT: "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", TypeESP: "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", TypeLinux: "0FC63DAF-8483-4772-8E79-3D69D8477DE4"}},
		{mbrTable(), "dos", map[string]string{TypeFAT: "c", TypeLinux: "83"}},
	} {
		t.Run(tt.label, func(t *testing.T) {
			s, err := tt.table.Build()
			if err != nil {
				t.Fatal(err)
			}
			img := writeTemp(t, s)
			out := judge(t, "fdisk", "sfdisk", "--verify", img)
			if !strings.Contains(out, "No errors detected") {
				t.Errorf("sfdisk --verify:\n%s", out)
			}
			if tt.label == "gpt" {
				out = judge(t, "gdisk", "sgdisk", "-v", img)
				if !strings.Contains(out, "No problems found") || strings.Contains(strings.ToLower(out), "caution") {
					t.Errorf("sgdisk -v:\n%s", out)
				}
			}
			got := sfdiskJSON(t, img).PartitionTable
			if id := strings.ToLower(strings.TrimPrefix(got.ID, "0x")); got.Label != tt.label || id != tt.table.ID {
				t.Errorf("sfdisk: label %q, id %q; want %q, %q", got.Label, id, tt.label, tt.table.ID)
			}
			found := 0
			for _, p := range got.Partitions {
				for _, want := range tt.table.Partitions {
					if p.Node != fmt.Sprint(img, want.Number) {
						continue
					}
					found++
					boot := p.Bootable || strings.Contains(p.Attrs, "LegacyBIOSBootable")
					if p.Start*sector != want.Offset || p.Size*sector != want.Size || p.Type != tt.types[want.Type] ||
						p.Name != want.Name || strings.ToLower(p.UUID) != want.GUID && want.GUID != "" || boot != want.Bootable {
						t.Errorf("sfdisk: %+v; want %+v", p, want)
					}
				}
			}
			if found != 5 {
				t.Errorf("sfdisk finds %d of 5: %+v", found, got.Partitions)
			}
			back, err := ReadTable(s, s.Size())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&tt.table, back); diff != "" {
				t.Errorf("read back (-want +got):\n%s", diff)
			}
		})
	}
}

// TestReadForeignTable reads what sgdisk and sfdisk wrote.
func TestReadForeignTable(t *testing.T) {
	t.Parallel()
	img := func() string { return writeTemp(t, NewSparse(200*mib)) }
	for _, tt := range []struct {
		name  string
		write func(img string)
		want  Table
	}{
		{"sgdisk", func(img string) {
			judge(t, "gdisk", "sgdisk", "-U", "01234567-89ab-cdef-0123-456789abcdef", "-n", "3:2048:+1M", "-c", "3:größer", "-t", "3:8300",
				"-u", "3:aaaaaaaa-89ab-cdef-0123-456789abcdef", "-n", "1:8192:+2M", "-t", "1:8200", "-u", "1:bbbbbbbb-89ab-cdef-0123-456789abcdef", "-A", "1:set:2", img)
		}, Table{Kind: GPT, ID: "01234567-89ab-cdef-0123-456789abcdef", Size: 200 * mib, Partitions: []Partition{
			{Number: 1, Type: "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", GUID: "bbbbbbbb-89ab-cdef-0123-456789abcdef", Offset: 4 * mib, Size: 2 * mib, Bootable: true},
			{Number: 3, Name: "größer", Type: TypeLinux, GUID: "aaaaaaaa-89ab-cdef-0123-456789abcdef", Offset: mib, Size: mib},
		}}},
		{"sfdisk", func(img string) {
			script := filepath.Join(t.TempDir(), "script")
			s := NewSparse(0)
			text := "label: dos\nlabel-id: 0x0000beef\n" +
				"1 : start=2048, size=2048, type=6, bootable\n4 : start=8192, size=100000, type=5\n" +
				"5 : start=10240, size=2048, type=83\n6 : start=14336, size=2048, type=82\n7 : start=20480, size=4096, type=c\n"
			s.size = int64(len(text))
			if err := s.Place(0, []byte(text)); err != nil {
				t.Fatal(err)
			}
			if err := s.WriteFile(script); err != nil {
				t.Fatal(err)
			}
			judge(t, "dash", "sh", "-c", "PATH=$PATH:/usr/sbin:/sbin sfdisk "+img+" < "+script)
		}, Table{Kind: MBR, ID: "0000beef", Size: 200 * mib, Partitions: []Partition{
			{Number: 1, Type: "0x06", Offset: mib, Size: mib, Bootable: true},
			{Number: 5, Type: TypeLinux, Offset: 5 * mib, Size: mib},
			{Number: 6, Type: "0x82", Offset: 7 * mib, Size: mib},
			{Number: 7, Type: TypeFAT, Offset: 10 * mib, Size: 2 * mib},
		}}},
	} {
		path := img()
		tt.write(path)
		got, err := readTableFile(path)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if diff := cmp.Diff(&tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestTableRefuses(t *testing.T) {
	edit := func(table Table, f func(*Table)) Table {
		f(&table)
		return table
	}
	for _, tt := range []struct {
		name  string
		table Table
		want  string
	}{
		{"kind", edit(gptTable(), func(t *Table) { t.Kind = "apm" }), "neither"},
		{"gpt id", edit(gptTable(), func(t *Table) { t.ID = strings.ToUpper(t.ID) }), "not a GUID"},
		{"mbr id", edit(mbrTable(), func(t *Table) { t.ID = "00000000" }), "eight hexadecimal"},
		{"short mbr id", edit(mbrTable(), func(t *Table) { t.ID = "abc" }), "eight hexadecimal"},
		{"overlap", edit(gptTable(), func(t *Table) { t.Partitions[1].Offset -= sector }), "partition 1 (10485760 bytes at offset 1048576) overlaps partition 2"},
		{"over the end", edit(gptTable(), func(t *Table) { t.Partitions[4].Size = t.Size }), "leaves the disk"},
		{"over the copy", edit(gptTable(), func(t *Table) { t.Partitions[4].Size = t.Size - t.Partitions[4].Offset }), "overlaps the GPT's copy"},
		{"over the first", edit(gptTable(), func(t *Table) { t.Partitions[0].Offset = 4096 }), "the GPT"},
		{"over the MBR", edit(mbrTable(), func(t *Table) { t.Partitions[0].Offset = 0 }), "the MBR"},
		{"no room for the record", edit(mbrTable(), func(t *Table) { t.Partitions[3].Offset -= sector }), "boot record of partition 5"},
		{"same GUID", edit(gptTable(), func(t *Table) { t.Partitions[4].GUID = t.Partitions[3].GUID }), "of its own"},
		{"same number", edit(gptTable(), func(t *Table) { t.Partitions[4].Number = 1 }), "twice"},
		{"number 4", edit(mbrTable(), func(t *Table) { t.Partitions[3].Number = 4 }), "partition 4"},
		{"number 0", edit(gptTable(), func(t *Table) { t.Partitions[3].Number = 0 }), "from 1 to 128"},
		{"logical order", edit(mbrTable(), func(t *Table) { t.Partitions[3].Number, t.Partitions[4].Number = 6, 5 }), "in the order"},
		{"primary among logical", edit(mbrTable(), func(t *Table) { t.Partitions[0].Offset = 183 * mib; t.Partitions[3].Offset = 2 * mib }), ""},
		{"unaligned", edit(mbrTable(), func(t *Table) { t.Partitions[0].Size-- }), "multiples of 512"},
		{"type", edit(mbrTable(), func(t *Table) { t.Partitions[0].Type = "swap" }), "unknown type"},
		{"gpt type", edit(gptTable(), func(t *Table) { t.Partitions[0].Type = "swap" }), "unknown type"},
		{"name", edit(gptTable(), func(t *Table) { t.Partitions[0].Name = strings.Repeat("😀", 19) }), "36 UTF-16"},
		{"too small", edit(gptTable(), func(t *Table) { t.Size = 4096 }), "leaves the disk"},
	} {
		if _, err := tt.table.Build(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestReadTableRecovers(t *testing.T) {
	table := gptTable()
	s, err := table.Build()
	if err != nil {
		t.Fatal(err)
	}
	b := flat(t, s)
	b[sector+30]++ // the first header
	got, err := ReadTable(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&table, got); diff != "" {
		t.Errorf("from the copy (-want +got):\n%s", diff)
	}
	b[len(b)-1-20*sector]++ // the copy's entries
	if _, err := ReadTable(bytes.NewReader(b), int64(len(b))); err == nil {
		t.Error("both damaged: got no error")
	}
	for name, s := range map[string]*Sparse{"an empty disk": NewSparse(mib), "nothing": NewSparse(0)} {
		if _, err := ReadTable(s, s.Size()); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

// drawTable makes up a valid table.
func drawTable(t *rapid.T) Table {
	table := Table{Kind: rapid.SampledFrom([]string{GPT, MBR}).Draw(t, "kind"), Size: 1 << 40}
	table.ID = rapid.StringMatching(`[1-9a-f][0-9a-f]{7}`).Draw(t, "id")
	if table.Kind == GPT {
		table.ID += "-0000-0000-0000-000000000000"
	}
	at := int64(mib)
	for i := range rapid.IntRange(0, 12).Draw(t, "partitions") {
		at += ebrGap + sector*rapid.Int64Range(0, 1<<20).Draw(t, "gap")
		p := Partition{Number: i + 1, Offset: at, Size: sector * rapid.Int64Range(1, 1<<25).Draw(t, "size")}
		p.Type = rapid.SampledFrom([]string{TypeFAT, TypeESP, TypeLinux}).Draw(t, "type")
		p.Bootable = rapid.Bool().Draw(t, "bootable")
		if table.Kind == GPT {
			p.GUID = fmt.Sprintf("00000000-0000-0000-0000-%012x", i+1)
			p.Name = rapid.StringOfN(rapid.RuneFrom([]rune("abc 漢😀")), 0, 18, -1).Draw(t, "name")
		} else if i >= mbrPrimaries {
			p.Number++
		}
		at = p.end()
		table.Partitions = append(table.Partitions, p)
	}
	return table
}

func TestTableRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawTable(t)
		s, err := want.Build()
		if err != nil {
			t.Fatal(err)
		}
		got, err := ReadTable(s, s.Size())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&want, got); diff != "" {
			t.Fatalf("read back (-want +got):\n%s", diff)
		}
	})
}

// FuzzReadTable mends the checksums of a GPT, which chance would never find.
func FuzzReadTable(f *testing.F) {
	small := gptTable()
	small.Size, small.Partitions = 64<<10, small.Partitions[:1]
	small.Partitions[0].Offset, small.Partitions[0].Size = gptFront, sector
	s, err := small.Build()
	if err != nil {
		f.Fatal(err)
	}
	seed := flat(f, s)[:4*sector]
	binary.LittleEndian.PutUint32(seed[sector+80:], 8) // entries; the rest is empty
	f.Add(seed, s.Size())
	// An MBR with a chain of three records in the next sectors.
	mbr := append(record(), append(record(), append(record(), record()...)...)...)
	mbrEntry{kind: 0x0C, first: 100, size: 8, active: true}.put(mbr[446:], 100)
	mbrEntry{kind: mbrExtended, first: 1, size: 90}.put(mbr[462:], 1)
	for i := int64(1); i < 4; i++ {
		mbrEntry{kind: 0x83, first: 10 * i, size: 5}.put(mbr[i*sector+446:], 11*i)
		if i < 3 {
			mbrEntry{kind: 0x05, first: i, size: 20}.put(mbr[i*sector+462:], i+1)
		}
	}
	f.Add(mbr, int64(64<<10))
	if table, err := ReadTable(bytes.NewReader(append(mbr, make([]byte, 60<<10)...)), 62<<10); err != nil || len(table.Partitions) != 4 {
		f.Fatalf("the seed: got %+v, %v", table, err)
	}
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		if size < 0 || size > 1<<50 || len(b) < 2*sector {
			return
		}
		b = bytes.Clone(b)
		head, entries := b[sector:2*sector], b[2*sector:]
		le := binary.LittleEndian
		if n := int64(le.Uint32(head[80:])) * 128; n <= int64(len(entries)) {
			le.PutUint32(head[88:], crc32.ChecksumIEEE(entries[:n]))
		}
		clear(head[16:20])
		le.PutUint32(head[16:], crc32.ChecksumIEEE(head[:92]))
		s := NewSparse(max(size, int64(len(b))))
		if err := s.Place(0, b); err != nil {
			t.Fatal(err)
		}
		table, err := ReadTable(s, s.Size())
		if err != nil {
			return
		}
		for _, p := range table.Partitions {
			if p.Offset < 0 || p.Size <= 0 || p.Offset > s.Size() || p.Size > s.Size()-p.Offset {
				t.Fatalf("%+v leaves %d bytes", p, s.Size())
			}
		}
	})
}
