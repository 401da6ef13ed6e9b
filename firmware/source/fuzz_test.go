package source

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

func FuzzDeb(f *testing.F) {
	whole := hello("1.0-1").bytes(f)
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add(makeDeb(f, ".zst", nil, nil))
	f.Add(makeDeb(f, ".gz", makeTar(f, nil, nil), []byte("x")))
	f.Add([]byte(arMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := openDeb(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		if d.control.Size()+d.data.Size() > int64(len(b)) {
			t.Errorf("members of %d and %d bytes in %d", d.control.Size(), d.data.Size(), len(b))
		}
		_, _ = d.readControl()
		var out bytes.Buffer
		if err := d.copyData(&out, 1<<20); err == nil && out.Len() > 1<<20 {
			t.Errorf("%d bytes past a limit of 1 MiB", out.Len())
		}
	})
}

// What indexTar accepts is a well-formed tree whose files lie inside the archive.
func FuzzTar(f *testing.F) {
	for _, h := range [][]tar.Header{{reg("./a/b")}, {link("./a", "/b"), reg("./b")}, {link("./a", "../b")}, {reg("../a")}, {{Name: "./d/", Typeflag: tar.TypeDir}}} {
		f.Add(makeTar(f, h, nil))
	}
	f.Add(makeTar(f, []tar.Header{reg("./" + long), {Name: "./h", Linkname: "./" + long, Typeflag: tar.TypeLink}}, map[string]string{"./" + long: "x"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		nodes, err := indexTar(bytes.NewReader(b))
		if err != nil {
			return
		}
		for _, n := range nodes {
			if n.Mode.IsRegular() && (n.Offset < 0 || n.Size < 0 || n.Offset+n.Size > int64(len(b))) {
				t.Fatalf("%q lies at %d+%d of %d bytes", n.Name, n.Offset, n.Size, len(b))
			}
		}
		path := filepath.Join(t.TempDir(), "x.tar")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		fsys := newTarFS(path, nodes)
		for _, n := range nodes {
			if file, err := fsys.Open(n.Name); err == nil {
				if !n.Mode.IsDir() {
					_, _ = io.Copy(io.Discard, file)
				}
				file.Close()
			} else if n.Mode.IsRegular() || n.Mode.IsDir() {
				t.Errorf("opening %q: %v", n.Name, err)
			}
		}
	})
}

func FuzzStanza(f *testing.F) {
	f.Add("Package: x\nDepends: a,\n b (= 1),\n .\n\n\nPackage: y\n")
	f.Add("# comment\nTypes: deb\nURIs: http://x/debian\n")
	f.Add(" continued\n")
	f.Fuzz(func(t *testing.T, s string) {
		for line, raw := range rawStanzas([]byte(s)) {
			st, err := parseStanza(raw, line)
			if err != nil {
				continue
			}
			for _, fd := range st.fields {
				if st.get(fd.name) != fd.value {
					t.Errorf("field %q: get returns another value", fd.name)
				}
				if max := strings.Count(s, "\n") + 1; fd.line < 1 || fd.line > max {
					t.Errorf("field %q at line %d of %d", fd.name, fd.line, max)
				}
			}
		}
	})
}

// Whatever an index says, what comes out of it is a valid entry or an error.
func FuzzPackages(f *testing.F) {
	f.Add("Package: hello\nVersion: 1:1.0-1\nArchitecture: amd64\nSource: h (2)\nFilename: pool/main/h/h.deb\nSize: 3\nInstalled-Size: 4\nSHA256: "+strings.Repeat("a", 64)+"\n", "hello")
	f.Add("Package: linux-image-x\nVersion: 1\nDepends: linux-image-y (= 1)\n\nPackage: linux-image-y\nVersion: 1\nDepends: linux-image-x (= 1)\n", "linux-image-x")
	f.Fuzz(func(t *testing.T, s, name string) {
		x := &index{suite: "trixie", arch: "amd64", packages: map[string][]candidate{}}
		x.add(ArchiveMain, []byte(s))
		e, err := x.resolve(name)
		if err != nil {
			return
		}
		if err := e.check(); err != nil {
			t.Error(err)
		}
		l := (&Lock{}).with(e)
		if got, err := ParseLock(l.Bytes()); err != nil || got.Entries[0] != e {
			t.Errorf("does not survive the lock file: %+v, %v", e, err)
		}
	})
}

func FuzzRelease(f *testing.F) {
	f.Add([]byte("Suite: stable\nCodename: trixie\nDate: Sat, 12 Sep 2026 07:55:41 UTC\nValid-Until: Sat, 19 Sep 2026 7:55:41 +0000\nSHA256:\n " + strings.Repeat("a", 64) + " 12 main/binary-amd64/Packages.xz\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRelease(b)
		if err != nil {
			return
		}
		for path, s := range r.files {
			if s.size < 0 || !isSHA256(s.sha256) {
				t.Errorf("%q: %+v", path, s)
			}
		}
	})
}

func FuzzLock(f *testing.F) {
	b, err := os.ReadFile("../../boards/packages.lock")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:min(len(b), 3000)])
	f.Add([]byte("Package: x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ParseLock(b)
		if err != nil {
			return
		}
		again, err := ParseLock(l.Bytes())
		if err != nil || !bytes.Equal(again.Bytes(), l.Bytes()) {
			t.Errorf("writing and reading again: %v", err)
		}
	})
}

// Compare is a total order: what sorting and "newest" rest on.
func FuzzCompare(f *testing.F) {
	v := versionSamples()
	for i := range v {
		f.Add(v[i], v[(i+1)%len(v)], v[(i+2)%len(v)])
	}
	f.Fuzz(func(t *testing.T, a, b, c string) {
		if Compare(a, a) != 0 {
			t.Errorf("%q is not itself", a)
		}
		if ab, ba := Compare(a, b), Compare(b, a); (ab < 0) != (ba > 0) || (ab == 0) != (ba == 0) {
			t.Errorf("%q, %q: %d and %d", a, b, ab, ba)
		}
		if Compare(a, b) <= 0 && Compare(b, c) <= 0 && Compare(a, c) > 0 {
			t.Errorf("%q <= %q <= %q, but not the first and the last", a, b, c)
		}
	})
}

func FuzzApt(f *testing.F) {
	f.Add("deb [arch=amd64 signed-by=/x] http://m.example/debian trixie main\n", "Types: deb\nURIs: http://m.example/debian\nSuites: trixie\nComponents: main\n", "Acquire::http::Proxy \"http://p\";")
	f.Add("deb [", "Types: deb\nURIs: http://[::1\nSuites: trixie\nComponents: main\n", "Acquire::http::Proxy")
	f.Fuzz(func(t *testing.T, list, sources, conf string) {
		c := readApt(fstest.MapFS{"sources.list": {Data: []byte(list)}, "sources.list.d/x.sources": {Data: []byte(sources)}, "apt.conf": {Data: []byte(conf)}})
		for _, m := range []string{c.main, c.security} {
			if m == "" {
				continue
			}
			if !strings.HasPrefix(strings.ToLower(m), "http") {
				t.Errorf("mirror %q", m)
			}
		}
	})
}
