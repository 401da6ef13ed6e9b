package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/ulikunitz/xz"
)

// ko makes the smallest ELF object that has a .modinfo section.
func ko(t testing.TB, info ...string) []byte {
	t.Helper()
	modinfo := []byte(strings.Join(info, "\x00") + "\x00")
	names := []byte("\x00.modinfo\x00.shstrtab\x00")
	const headers = 64
	section := func(name, kind uint32, offset, size int) []byte {
		var b bytes.Buffer
		for _, v := range []any{name, kind, uint64(0), uint64(0), uint64(offset), uint64(size), uint32(0), uint32(0), uint64(1), uint64(0)} {
			binary.Write(&b, binary.LittleEndian, v)
		}
		return b.Bytes()
	}
	var b bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01")
	b.Write(make([]byte, 9))
	table := headers + len(modinfo) + len(names)
	for _, v := range []any{uint16(1), uint16(62), uint32(1), uint64(0), uint64(0), uint64(table), uint32(0), uint16(64), uint16(0), uint16(0), uint16(64), uint16(3), uint16(2)} {
		binary.Write(&b, binary.LittleEndian, v)
	}
	b.Write(modinfo)
	b.Write(names)
	b.Write(section(0, 0, 0, 0))
	b.Write(section(1, 1, headers, len(modinfo)))
	b.Write(section(10, 3, headers+len(modinfo), len(names)))
	return b.Bytes()
}

func xzed(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// tree is a kernel package as Debian lays one out.
func tree(t testing.TB) fstest.MapFS {
	file := func(b []byte) *fstest.MapFile { return &fstest.MapFile{Data: b} }
	const m = "usr/lib/modules/6.12.1-test/"
	return fstest.MapFS{
		"boot/vmlinuz-6.12.1-test":                         file([]byte("image")),
		"usr/lib/linux-image-6.12.1-test/vendor/board.dtb": file([]byte("dtb")),
		"usr/lib/linux-image-6.12.1-test/flat.dtb":         file([]byte("flat")),
		m + "modules.builtin":                              file([]byte("kernel/drivers/virtio/virtio.ko\n")),
		m + "modules.builtin.modinfo":                      file([]byte("crc32c_generic.alias=crypto-crc32c\x00virtio.license=GPL\x00")),
		m + "kernel/fs/ext4/ext4.ko.xz":                    file(xzed(t, ko(t, "depends=jbd2,mbcache", "softdep=pre: crypto-crc32c post: late", "alias=fs-ext4"))),
		m + "kernel/fs/jbd2/jbd2.ko.xz":                    file(xzed(t, ko(t, "depends="))),
		m + "kernel/fs/mbcache.ko.xz":                      file(xzed(t, ko(t, "license=GPL"))),
		m + "kernel/drivers/net/virtio_net.ko.xz":          file(xzed(t, ko(t, "depends=net-failover,virtio", "alias=virtio:d00000001v*"))),
		m + "kernel/net/net_failover.ko":                   file(ko(t, "depends=failover")),
		m + "kernel/net/failover.ko":                       file(ko(t, "softdep=pre: net-failover")), // a circle of soft and hard
		m + "kernel/lib/wishful.ko":                        file(ko(t, "softdep=pre: the-wish nobody-has-this")),
		m + "kernel/lib/granter.ko":                        file(ko(t, "alias=the-wish")),
		m + "kernel/drivers/broken/broken.ko":              file([]byte("not an object")),
		m + "kernel/drivers/orphan/orphan.ko":              file(ko(t, "depends=nowhere")),
	}
}

func open(t testing.TB, fsys fstest.MapFS) *Package {
	t.Helper()
	p, err := Open(fsys)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func order(modules []Module) []string {
	var names []string
	for _, m := range modules {
		names = append(names, m.Name)
	}
	return names
}

func TestModulesInLoadOrder(t *testing.T) {
	p := open(t, tree(t))
	if p.Release != "6.12.1-test" {
		t.Errorf("Release = %q", p.Release)
	}
	for _, tt := range []struct {
		name   string
		wanted []string
		want   []string
	}{
		{"dependencies come first", []string{"ext4"}, []string{"jbd2", "mbcache", "ext4"}},
		{"order of the list is kept", []string{"mbcache", "ext4"}, []string{"mbcache", "jbd2", "ext4"}},
		{"hyphen or underscore; built in is free", []string{"virtio", "virtio-net"}, []string{"failover", "net_failover", "virtio_net"}},
		{"a wish by alias comes first too", []string{"wishful", "granter"}, []string{"granter", "wishful"}},
		{"nothing wanted", nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := p.Modules(tt.wanted)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, order(got)); diff != "" {
				t.Errorf("load order (-want +got):\n%s", diff)
			}
		})
	}
}

func TestModulesTables(t *testing.T) {
	got, err := open(t, tree(t)).Modules([]string{"ext4"})
	if err != nil {
		t.Fatal(err)
	}
	wantDep := "kernel/fs/jbd2/jbd2.ko:\nkernel/fs/mbcache.ko:\nkernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/fs/mbcache.ko\n"
	if diff := cmp.Diff(wantDep, string(DepTable(got))); diff != "" {
		t.Errorf("modules.dep (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff("alias fs-ext4 ext4\n", string(AliasTable(got))); diff != "" {
		t.Errorf("modules.alias (-want +got):\n%s", diff)
	}
}

func TestModulesDepIsBelieved(t *testing.T) {
	fsys := tree(t)
	fsys["usr/lib/modules/6.12.1-test/modules.dep"] = &fstest.MapFile{Data: []byte("kernel/fs/ext4/ext4.ko.xz: kernel/fs/mbcache.ko.xz\n")}
	got, err := open(t, fsys).Modules([]string{"ext4"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"mbcache", "ext4"}, order(got)); diff != "" {
		t.Errorf("load order (-want +got):\n%s", diff)
	}
}

func TestModulesUnknownAllAtOnce(t *testing.T) {
	_, err := open(t, tree(t)).Modules([]string{"ext3", "ext4", "zzz"})
	if err == nil {
		t.Fatal("unknown modules were accepted")
	}
	for _, want := range []string{`no module "ext3" (is it "ext4"?)`, `no module "zzz"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
	var unknown *UnknownModule
	if !errors.As(err, &unknown) || unknown.Index != 0 {
		t.Errorf("error is not an *UnknownModule of index 0: %#v", unknown)
	}
	_, err = open(t, tree(t)).Modules([]string{"orphan"})
	if err == nil || !strings.Contains(err.Error(), `no module "nowhere", which "orphan" needs`) {
		t.Errorf("missing dependency: %v", err)
	}
	if _, err = open(t, tree(t)).Modules([]string{"broken"}); err == nil || !strings.Contains(err.Error(), "module broken: not an ELF file") {
		t.Errorf("broken module: %v", err)
	}
}

func TestUnsigned(t *testing.T) {
	signed := func(size string) string { return "MODULE" + "sig" + strings.Repeat("\x00", 8) + size + signatureMark }
	for _, tt := range []struct{ name, module, want string }{
		{"signed", signed("\x00\x00\x00\x03"), "MODULE"},
		{"not signed", "MODULE", "MODULE"},
		{"longer than the file", signed("\x00\x00\x00\x0a"), signed("\x00\x00\x00\x0a")},
		{"much longer", signed("\xff\xff\xff\xff"), signed("\xff\xff\xff\xff")},
		{"mark only", signatureMark, signatureMark},
		{"empty", "", ""},
	} {
		if got := string(Unsigned([]byte(tt.module))); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestDeviceTree(t *testing.T) {
	p := open(t, tree(t))
	for name, want := range map[string]string{"vendor/board.dtb": "dtb", "vendor/flat.dtb": "flat"} {
		got, err := p.DeviceTree(name)
		if err != nil || string(got) != want {
			t.Errorf("DeviceTree(%q) = %q, %v", name, got, err)
		}
	}
	if _, err := p.DeviceTree("vendor/none.dtb"); err == nil {
		t.Error("a missing device tree was found")
	}
}

func TestOpenRefuses(t *testing.T) {
	two := tree(t)
	two["boot/vmlinuz-6.12.2"] = &fstest.MapFile{}
	for name, fsys := range map[string]fstest.MapFS{
		"no kernel":   {},
		"two kernels": two,
		"no modules":  {"boot/vmlinuz-1": &fstest.MapFile{}},
		"bad modules.dep": func() fstest.MapFS {
			f := tree(t)
			f["usr/lib/modules/6.12.1-test/modules.dep"] = &fstest.MapFile{Data: []byte("gibberish")}
			return f
		}(),
	} {
		if _, err := Open(fsys); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

func FuzzParseDep(f *testing.F) {
	f.Add([]byte("kernel/a.ko: kernel/b.ko\nkernel/b.ko:\n"))
	f.Add([]byte("kernel/a.ko.xz kernel/b.ko"))
	f.Add([]byte("#\n\n:::"))
	f.Fuzz(func(t *testing.T, text []byte) {
		deps, err := ParseDep(text)
		if err == nil && deps == nil {
			t.Error("no table and no error")
		}
	})
}

func FuzzModInfo(f *testing.F) {
	f.Add(ko(f, "depends=a,b", "alias=pci:*"))
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, module []byte) {
		ModInfo(module)
		if got := Unsigned(module); len(got) > len(module) {
			t.Errorf("grew from %d to %d bytes", len(module), len(got))
		}
	})
}
