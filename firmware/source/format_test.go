package source

import (
	"archive/tar"
	"bytes"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// run runs a foreign tool of Debian's package dpkg.
func run(t *testing.T, name string, args ...string) ([]byte, error) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: install Debian's package dpkg", err)
	}
	return exec.Command(path, args...).CombinedOutput()
}

// versionSamples are in no order; every pair is a test.
func versionSamples() []string {
	return []string{"1", "1.0", "1.0-1", "1.0-1+b9", "1.0-1+deb13u1", "1.0-1~deb12u1", "1.0~rc1-1", "1.0~~-1", "0:1.0-1", "1:0.9",
		"1.0a-1", "1.0+git20260101-1", "1.0.0-1", "01.00-01", "2-1-1", "6.12.107-1", "6.12.9-1", "1.0-0", "1:1.37.0-6+b9"}
}

// dpkg is the judge of what is newer.
func TestCompareAsDpkg(t *testing.T) {
	v := versionSamples()
	for i, a := range v {
		// Every neighbour and every third other: 100 runs of dpkg, half a second.
		for j, b := range v[i:] {
			if j > 1 && (i+j)%3 != 0 {
				continue
			}
			op := "eq"
			if c := Compare(a, b); c < 0 {
				op = "lt"
			} else if c > 0 {
				op = "gt"
			}
			if c, d := Compare(a, b), Compare(b, a); (c < 0) != (d > 0) || (c == 0) != (d == 0) {
				t.Errorf("Compare(%q, %q) = %d, the other way round %d", a, b, c, d)
			}
			if out, err := run(t, "dpkg", "--compare-versions", a, op, b); err != nil {
				t.Errorf("we say %q %s %q, dpkg does not: %v %s", a, op, b, err, out)
			}
		}
	}
}

// Packages made by dpkg-deb itself, in every compression, are read as they are.
func TestReadsDpkgDeb(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"DEBIAN/control":        "Package: hello\nVersion: 1:1.0-1\nArchitecture: amd64\nMaintainer: a <a@example.org>\nDescription: d\n",
		"usr/bin/hello":         "#!/bin/sh\n",
		"usr/share/doc/" + long: "long name",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("hello", filepath.Join(dir, "usr/bin/hi")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "usr/bin/hello"), filepath.Join(dir, "usr/bin/hard")); err != nil {
		t.Fatal(err)
	}
	for _, z := range []string{"xz", "zstd", "gzip", "none"} {
		file := filepath.Join(t.TempDir(), "hello.deb")
		if out, err := run(t, "dpkg-deb", "--root-owner-group", "-Z"+z, "--build", dir, file); err != nil {
			t.Fatalf("dpkg-deb: %v\n%s", err, out)
		}
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		i, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		d, err := openDeb(f, i.Size())
		if err != nil {
			t.Fatalf("-Z%s: %v", z, err)
		}
		if err := d.isFor(Entry{Resolved: "hello", Version: "1:1.0-1", PackageArch: "amd64"}); err != nil {
			t.Errorf("-Z%s: %v", z, err)
		}
		fsys := unpacked(t, d)
		for name, want := range map[string]string{"usr/bin/hello": "#!/bin/sh\n", "usr/bin/hi": "#!/bin/sh\n", "usr/bin/hard": "#!/bin/sh\n", "usr/share/doc/" + long: "long name"} {
			if b, err := fs.ReadFile(fsys, name); err != nil || string(b) != want {
				t.Errorf("-Z%s: %s: got %q, %v", z, name, b, err)
			}
		}
		if err := fstest.TestFS(fsys, "usr/bin/hello", "usr/bin/hi", "usr/share/doc/"+long); err != nil {
			t.Errorf("-Z%s: %v", z, err)
		}
	}
}

// long does not fit into a tar header, so it takes an entry of its own.
var long = strings.Repeat("long-", 40) + "name"

func unpacked(t *testing.T, d *deb) *tarFS {
	t.Helper()
	path := filepath.Join(t.TempDir(), "data.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := d.copyData(f, 1<<20); err != nil {
		t.Fatal(err)
	}
	return indexed(t, path)
}

func indexed(t *testing.T, path string) *tarFS {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	nodes, err := indexTar(f)
	if err != nil {
		t.Fatal(err)
	}
	return newTarFS(path, nodes)
}

// Links are followed inside the package and nowhere else.
func TestLinksStayInside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.tar")
	b := makeTar(t, []tar.Header{reg("./etc/real"), {Name: "./usr/lib/", Typeflag: tar.TypeDir, Mode: 0o755}, reg("./usr/lib/z"),
		link("./lib", "usr/lib"), link("./a", "/etc/real"), link("./b", "etc/../etc/real"), link("./c", "a"),
		link("./out", "/etc/passwd"), link("./loop", "loop"), link("./z-a", "usr/lib/")},
		map[string]string{"./etc/real": "real", "./usr/lib/z": "z"})
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	fsys := indexed(t, path)
	for name, want := range map[string]string{"a": "real", "b": "real", "c": "real", "lib/z": "z", "z-a/z": "z"} {
		if b, err := fs.ReadFile(fsys, name); err != nil || string(b) != want {
			t.Errorf("%s: got %q, %v, want %q", name, b, err, want)
		}
	}
	for name, want := range map[string]string{"out": "/etc/passwd, which is not in this package", "loop": "too many", "etc/real/x": "not exist", "../x": "invalid", "nothing": "not exist"} {
		if _, err := fsys.Open(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
	if got, err := fsys.ReadLink("lib"); err != nil || got != "usr/lib" {
		t.Errorf("ReadLink: %q, %v", got, err)
	}
	if m, err := fs.Glob(fsys, "usr/*/z"); err != nil || !slices.Equal(m, []string{"usr/lib/z"}) {
		t.Errorf("Glob: %q, %v", m, err)
	}
}

func TestLockRoundTrip(t *testing.T) {
	e := Entry{Ref: helloRef, Resolved: "hello", PackageArch: "all", Version: "1:1.0-1", Source: "hello", SourceVersion: "1:1.0-1",
		Archive: ArchiveMain, Filename: "pool/main/h/hello/hello_1.0-1_all.deb", Size: 5, InstalledSize: 7, SHA256: strings.Repeat("0a", 32)}
	other := e
	other.Arch, other.PackageArch = "arm64", "arm64"
	want := (&Lock{}).with(other).with(e)
	got, err := ParseLock(want.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	good := string(want.Bytes())
	for _, tt := range []struct{ name, old, new, says string }{
		{"unknown field", "Resolved: hello", "Resolvd: hello", "line 10: unknown field Resolvd"},
		{"missing field", "Resolved: hello\n", "", "line 7: this paragraph has no field Resolved"},
		{"field twice", "Resolved: hello\n", "Resolved: hello\nResolved: hello\n", "twice"},
		{"not a number", "Size: 5", "Size: five", `Size "five" is not a whole number`},
		{"path", "Filename: pool/main", "Filename: pool/../main", "not a path below pool/"},
		{"hash", "SHA256: 0a", "SHA256: 0A", "64 lower-case"},
		{"package twice", "Architecture: arm64\n", "Architecture: amd64\n", "stands at line 7 already"},
		{"no such archive", "Archive: main", "Archive: mane", `Archive "mane"`},
	} {
		bad := strings.Replace(good, tt.old, tt.new, 1)
		if tt.name == "package twice" {
			bad = strings.ReplaceAll(good, "arm64", "amd64")
		}
		if _, err := ParseLock([]byte(bad)); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.says)
		}
	}
}

// The repository's own lock parses, is sorted and was written by this code.
func TestRepositoryLock(t *testing.T) {
	const path = "../../boards/packages.lock"
	l, err := ReadLock(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, l.Bytes()) {
		t.Errorf("%s is not as `fogwright sources update` writes it", path)
	}
}

// keys/README.md and the keys tell the same.
func TestKeysAreTheDocumentedOnes(t *testing.T) {
	ring, err := readKeys(nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("keys/README.md")
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for line := range strings.Lines(string(b)) {
		if cells := strings.Split(line, "|"); len(cells) == 5 && strings.Contains(cells[1], ".asc") {
			want = append(want, strings.ToLower(strings.TrimSpace(cells[2])))
		}
	}
	for _, e := range ring {
		got = append(got, hex.EncodeToString(e.PrimaryKey.Fingerprint))
	}
	slices.Sort(want)
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" || len(got) != 5 {
		t.Errorf("(-README +keys)\n%s", d)
	}
}

func TestReadApt(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		want  aptConfig
	}{
		{"nothing", nil, aptConfig{}},
		{"one-line", map[string]string{"sources.list": "# comment\ndeb-src http://m.example/debian trixie main\ndeb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://m.example/debian trixie main contrib # x\ndeb http://s.example/debian-security trixie-security main\n"},
			aptConfig{main: "http://m.example/debian", security: "http://s.example/debian-security"}},
		{"deb822", map[string]string{"sources.list.d/debian.sources": "Types: deb deb-src\n# comment\nURIs: http://m.example/debian/\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\nTypes: deb\nURIs: http://m.example/debian-security\nSuites: bookworm-security\nComponents: main\n"},
			aptConfig{main: "http://m.example/debian/", security: "http://m.example/debian-security"}},
		{"Ubuntu", map[string]string{"sources.list.d/ubuntu.sources": "Types: deb\nURIs: http://m.example/ubuntu/\nSuites: noble noble-security\nComponents: main\n"}, aptConfig{}},
		{"others' archives for Debian", map[string]string{"sources.list.d/a.list": "deb http://docker.example/linux/debian trixie stable\ndeb http://archive.raspberrypi.example/debian trixie main\ndeb [signed-by=/x/ms.gpg] http://ms.example/debian trixie main\ndeb http://ms.example/debian/13/prod trixie main\ndeb cdrom:[x]/ trixie main\n"}, aptConfig{}},
		{"disabled, and a file that apt ignores", map[string]string{"sources.list.d/a.sources": "Enabled: no\nTypes: deb\nURIs: http://m.example/debian\nSuites: sid\nComponents: main\n", "sources.list.d/b.list.save": "deb http://m.example/debian sid main\n"}, aptConfig{}},
		{"an unusual path, but Debian's key", map[string]string{"sources.list": "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] https://m.example/cache/deb13 trixie main\n"}, aptConfig{main: "https://m.example/cache/deb13"}},
		{"proxy", map[string]string{"apt.conf.d/1": "Acquire::http::Proxy \"http://p.example:3142\";\n", "apt.conf.d/0": "Acquire::http::Proxy \"http://old.example\";\n"}, aptConfig{proxy: "http://p.example:3142"}},
		{"proxy off", map[string]string{"apt.conf.d/1": "Acquire::http::Proxy \"http://p.example:3142\";\n", "apt.conf": "Acquire::http::Proxy \"DIRECT\";\n"}, aptConfig{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			etc := fstest.MapFS{}
			for n, s := range tt.files {
				etc[n] = &fstest.MapFile{Data: []byte(s)}
			}
			if got := readApt(etc); got != tt.want {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestChooseMirrors(t *testing.T) {
	apt := aptConfig{main: "http://apt.example/debian", security: "http://apt.example/debian-security"}
	env := map[string]string{EnvMirror: "http://env.example/debian", EnvSecurityMirror: "http://env.example/sec"}
	tests := []struct {
		name           string
		cfg            Config
		env            map[string]string
		apt            aptConfig
		main, security string
	}{
		{"default", Config{}, nil, aptConfig{}, DefaultMirror, "https://ftp.debian.org/debian-security"},
		{"apt", Config{}, nil, apt, apt.main, apt.security},
		{"environment over apt", Config{}, env, apt, "http://env.example/debian", "http://env.example/sec"},
		{"configuration over all", Config{Mirror: "http://c.example/debian", SecurityMirror: "http://c.example/s"}, env, apt, "http://c.example/debian", "http://c.example/s"},
		{"the neighbour", Config{Mirror: "http://c.example/pub/debian/"}, nil, aptConfig{}, "http://c.example/pub/debian/", "http://c.example/pub/debian-security"},
	}
	for _, tt := range tests {
		m, err := chooseMirrors(tt.cfg, func(k string) string { return tt.env[k] }, tt.apt)
		if err != nil || m.main.String() != tt.main || m.security.String() != tt.security {
			t.Errorf("%s: got %v, %v, %v", tt.name, m.main, m.security, err)
		}
	}
	for _, bad := range []string{"ftp://x.example/debian", "debian", "file:///srv/debian", "http://x.example/?a"} {
		if _, err := chooseMirrors(Config{Mirror: bad}, func(string) string { return "" }, aptConfig{}); err == nil {
			t.Errorf("mirror %q: no error", bad)
		}
	}
}

// An index that Debian published verifies with the keys in the program, and not
// when one letter of it differs.
func TestDebianSignature(t *testing.T) {
	b, err := os.ReadFile("testdata/trixie-updates.InRelease")
	if err != nil {
		t.Fatal(err)
	}
	ring, err := readKeys(nil)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	r, err := verifyRelease(b, ring, at)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.fits("trixie-updates", at); err != nil {
		t.Error(err)
	}
	if got := r.packagesFiles("armhf"); len(got) != 2 {
		t.Errorf("got Packages files %q", got)
	}
	if err := r.fits("trixie-updates", at.AddDate(0, 0, 7)); !errors.Is(err, ErrExpired) {
		t.Errorf("a week later: %v", err)
	}
	if _, err := verifyRelease(bytes.Replace(b, []byte("13-updates"), []byte("14-updates"), 1), ring, at); !errors.Is(err, ErrSignature) {
		t.Errorf("changed: %v", err)
	}
}
