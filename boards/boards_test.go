package boards

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func TestBuiltinBoardsAreValid(t *testing.T) {
	want := []string{"orangepi-pc", "pc-amd64", "pc-arm64", "rpi3", "rpi4"}
	var got []string
	for _, name := range Names() {
		if _, err := Open(name); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(name, FileName)); err != nil {
			t.Errorf("%s is embedded, but: %v", name, err)
		}
		got = append(got, name)
	}
	for _, w := range want {
		if !strings.Contains(strings.Join(got, " "), w) {
			t.Errorf("board %s is missing among %v", w, got)
		}
	}
}

// A board is a folder and nothing else, wherever it lies.
func TestFolderOutsideIsABoard(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "my-board")
	if err := os.CopyFS(dir, os.DirFS("testdata/mini")); err != nil {
		t.Fatal(err)
	}
	b, err := Find(dir)
	if err != nil {
		t.Fatal(err)
	}
	if b.Name != "my-board" || b.Budget.Slot != 32*MiB || b.Disk.Start != MiB {
		t.Errorf("got name %q, slot budget %s, start %s", b.Name, b.Budget.Slot, b.Disk.Start)
	}
	loader, err := fs.ReadFile(b.FS, b.Boot.Blobs[0].Path)
	if err != nil || !strings.HasPrefix(string(loader), "loader") {
		t.Errorf("the board's own file: %q, %v", loader, err)
	}
	want := filepath.Join(dir, FileName) + ":12:12"
	if got := b.Position("kernel.modules[0]"); got != want {
		t.Errorf("Position = %q, want %q", got, want)
	}
}

func TestFindNamesTheNearest(t *testing.T) {
	_, err := Find("pc-amd46")
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), `did you mean "pc-amd64"`) {
		t.Errorf("got %v", err)
	}
	if _, err := Find("./no/such/folder"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// mini is testdata/mini with some text replaced.
func mini(t testing.TB, oldnew ...string) []byte {
	text, err := os.ReadFile("testdata/mini/board.toml")
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(string(text), oldnew[i]) {
			t.Fatalf("testdata/mini has no %q", oldnew[i])
		}
	}
	return []byte(strings.NewReplacer(oldnew...).Replace(string(text)))
}

func TestFaults(t *testing.T) {
	folder := fstest.MapFS{"loader.bin": {Data: []byte("x")}}
	tests := []struct {
		name    string
		replace []string
		want    []string // each stands in one line of the error, in this order
	}{
		{"all is well", nil, nil},
		{"syntax", []string{"goarm = 7", "goarm = = 7"}, []string{"b.toml:5:9: "}},
		{"key twice", []string{"goarm = 7", "goarm = 7\ngoarm = 7"}, []string{"b.toml:"}},
		{"unknown keys, all at once",
			[]string{"goarm =", "goarn =", "[disk]", "[disk]\ntabel = 1", "offset = ", "ofset = "},
			[]string{`5:1: unknown key "goarn"; did you mean "goarm"?`,
				`24:1: unknown key "boot.blob[0].ofset"; did you mean "offset"?`,
				`28:1: unknown key "disk.tabel"; did you mean "table"?`}},
		{"unknown key like nothing", []string{"goarm = 7", "goarm = 7\nx = 1"}, []string{`6:1: unknown key "x"; known here: arch, boot`}},
		{"types", []string{`"ext4"`, "4", `"256MiB"`, "[1]", "goarm = 7", `goarm = "7"`},
			[]string{"5:9: goarm is text, want a whole number", "6:1: memory is an array, want a size",
				"12:12: kernel.modules[0] is a number, want text", "disk.state is an array", "disk.data is an array"}},
		{"sizes", []string{`"512KiB"`, `"512kB"`, `"16MiB"`, "-1"},
			[]string{`25:8: boot.blob[0].size: "512kB" is not a size`, `29:11: disk.factory: "-1" is not a size`}},
		{"identity", []string{`"arm"`, `"mips"`, `"built"`, `"perfect"`},
			[]string{`4:8: arch: "mips" is none of amd64, arm64, arm`, `5:9: goarm: is 7, but arch is "mips"`, `7:10: status: "perfect"`}},
		{"goarm", []string{"goarm = 7", "goarm = 6"}, []string{"5:9: goarm: is 6, want 7"}},
		{"booted needs qemu", []string{`"built"`, `"booted"`}, []string{"7:10: status: is booted, but there is no [qemu]"}},
		{"kernel", []string{`"linux-image-armmp"`, `"Linux Image"`, `["ext4"]`, `["a-b", "a_b", "x/y.ko"]`, `"console=ttyS0"`, `"quiet"`},
			[]string{`11:11: kernel.package: "Linux Image" is not a Debian package name`,
				`12:19: kernel.modules[1]: "a_b" is there already, as kernel.modules[0]`,
				`12:26: kernel.modules[2]: "x/y.ko" is not a module name`,
				"13:1: kernel.args: have no console="}},
		{"paths", []string{`"sun8i-h3-orangepi-one.dtb"`, "\"../x.dtb\"\ndelete = [\"soc\"]", `"loader.bin"`, `"other.bin"`},
			[]string{`16:8: kernel.device_tree[0].path: "../x.dtb" is not a clean`, `17:1`, `boot.blob[0].path: "other.bin" is not in the board's folder`}},
		{"chain", []string{`"uboot"`, `"grub"`}, []string{`19:9: boot.chain: "grub" is none of uefi, uboot, rpi`, "boot.device: belongs to the uboot chain"}},
		{"uefi", []string{`"uboot"`, `"uefi"`},
			[]string{"kernel.device_tree: is of no use", "boot.stub: is missing", "boot.chain: is uefi, which is built for", "boot.device: belongs to"}},
		{"blob over the table", []string{`"8KiB"`, "0"}, []string{"24:10: boot.blob[0].offset: bytes 0 to 524288 overlap the partition table (sector 0), bytes 0 to 512"}},
		{"blob under gpt", []string{`"mbr"`, `"gpt"`}, []string{"24:10: boot.blob[0].offset: bytes 8192 to 532480 overlap the partition table (34 sectors)"}},
		{"blob into the partition", []string{`"512KiB"`, `"1024KiB"`}, []string{"24:10: boot.blob[0].offset: bytes 8192 to 1056768 overlap the first partition, bytes 1048576 to the end"}},
		{"blobs over each other", []string{"[disk]", "[[boot.blob]]\npath = \"loader.bin\"\noffset = \"512KiB\"\nsize = 512\n[disk]"},
			[]string{"29:10: boot.blob[1].offset: bytes 524288 to 524800 overlap boot.blob[0]"}},
		{"partitions", []string{`"32MiB"`, `"1MiB"`, `"256MiB"`, `"100MiB"`, `"16MiB"`, `"16777217"`},
			[]string{"memory: 100MiB", "29:11: disk.factory: 16777217 is not a whole number of MiB", "30:8: disk.slot: 1MiB is less than 4MiB",
				"31:9: disk.state: 100MiB is less than 256MiB", "32:8: disk.data: 100MiB", "35:18: budget.max_slot_bytes: 32MiB is more than the slot partition holds: disk.slot is 1MiB"}},
		{"qemu", []string{"[budget]", "[qemu]\nmachine = \"x\"\nboot = \"net\"\nconsole = 1\ncontrol = \"1\"\ncpus = 0\n[budget]"},
			[]string{"34:2: qemu.disk: is missing", "34:2: qemu.nic: is missing", `36:8: qemu.boot: "net"`, "38:11: qemu.control: and qemu.console are both serial port 1", "39:8: qemu.cpus"}},
		{"budget", []string{`"96MiB"`, `"1GiB"`, "seconds = 60", "seconds = 0"}, []string{"36:22: budget.max_idle_ram_bytes", "37:20: budget.max_boot_seconds"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("b", "b.toml", mini(t, tt.replace...), folder)
			var got []string
			if err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if len(got) != len(tt.want) {
				t.Fatalf("got %d faults, want %d:\n%v", len(got), len(tt.want), err)
			}
			for i, w := range tt.want {
				if !strings.Contains(got[i], w) {
					t.Errorf("fault %d: got  %s\nwant %s", i, got[i], w)
				}
			}
		})
	}
}

func TestBadFolderName(t *testing.T) {
	_, err := Parse("My Board", "b.toml", mini(t), os.DirFS("testdata/mini"))
	if err == nil || !strings.HasPrefix(err.Error(), `b.toml:1:1: the folder's name "My Board"`) {
		t.Errorf("got %v", err)
	}
}

func TestLayout(t *testing.T) {
	for _, name := range Names() {
		b, err := Open(name)
		if err != nil {
			t.Fatal(err)
		}
		l := b.Layout()
		t.Run(name, func(t *testing.T) { checkLayout(t, b, l) })
	}
}

func checkLayout(t *testing.T, b *Board, l Layout) {
	want := map[string]map[string]int{
		GPT: {"factory": 1, "slot-a": 2, "slot-b": 3, "state": 4, "data": 5},
		MBR: {"factory": 1, "slot-a": 2, "slot-b": 3, "state": 5, "data": 6},
	}[l.Table]
	got := map[string]int{}
	end, seen := int64(b.Disk.Start), map[string]bool{}
	for _, p := range l.Partitions {
		got[p.Name] = p.Number
		if p.Offset%int64(MiB) != 0 || p.Size%int64(MiB) != 0 {
			t.Errorf("%s is not aligned: %d + %d", p.Name, p.Offset, p.Size)
		}
		gap := int64(0)
		if l.Table == MBR && p.Number >= 5 {
			gap = int64(MiB) // its extended boot record
		}
		if p.Offset != end+gap {
			t.Errorf("%s starts at %d, want %d", p.Name, p.Offset, end+gap)
		}
		end = p.Offset + p.Size
		id := fmt.Sprint(p.GUID, p.Serial)
		if id != "0" && seen[id] {
			t.Errorf("%s has an id like another's: %s", p.Name, id)
		}
		seen[id] = true
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("numbers (-want +got):\n%s", diff)
	}
	if l.Table == MBR {
		if l.Extended.Offset+l.Extended.Size != end || l.Size != end {
			t.Errorf("extended partition %+v and disk %d do not end with data at %d", *l.Extended, l.Size, end)
		}
		if raw, err := hex.DecodeString(l.ID); err != nil || len(raw) != 4 {
			t.Errorf("disk signature %q", l.ID)
		}
	}
}

// The box looks for its disk by this name after every update: it must not change.
func TestDiskIDIsStable(t *testing.T) {
	want := map[string]string{
		"orangepi-pc": "6b5958d3",
		"pc-amd64":    "2b187f41-9660-5523-ad07-b6098bc2d903",
		"pc-arm64":    "07a19964-3f17-5e08-bae6-5f831718729d",
		"rpi3":        "ffd43e4e",
		"rpi4":        "27452564",
	}
	for name, id := range want {
		b, err := Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := b.DiskID(); got != id {
			t.Errorf("DiskID(%s) = %q, want %q", name, got, id)
		}
	}
}

func TestSizeText(t *testing.T) {
	for text, want := range map[string]Size{"0": 0, "512": 512, "8KiB": 8192, "1016KiB": 1016 * KiB, "64MiB": 64 * MiB, "2GiB": 2 * GiB} {
		got, err := ParseSize(text)
		if err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", text, got, err, want)
		}
		if got.String() != text {
			t.Errorf("String() = %q, want %q", got, text)
		}
	}
	for _, bad := range []string{"", "KiB", "8 kB", "1.5MiB", "0x10", "9000000000GiB", "-1"} {
		if got, err := ParseSize(bad); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", bad, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range Names() {
		text, err := fs.ReadFile(builtin, name+"/"+FileName)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add(mini(f))
	f.Add([]byte("a.b.c = 1\n[a]\nb.d = {x.y=[1,[2]], z = {}}\n[[boot.blob]]\n[[boot.blob.x]]"))
	f.Add([]byte("kernel = 1\n[disk]\nstart=0b1\nslot='''\nx'''\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := Parse("b", "b.toml", text, fstest.MapFS{})
		if err != nil {
			if !strings.HasPrefix(err.Error(), "b.toml:") {
				t.Errorf("no position: %v", err)
			}
			return
		}
		b.Layout()
		b.Position("kernel.modules[0]")
	})
}
