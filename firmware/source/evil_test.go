package source

import (
	"archive/tar"
	"bytes"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

func flipKeepingTime(t *testing.T, path string) {
	t.Helper()
	i, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, i.ModTime(), i.ModTime()); err != nil {
		t.Fatal(err)
	}
}

const (
	inRelease = "/debian/dists/trixie/InRelease"
	security  = "/debian-security/dists/trixie-security/InRelease"
)

// evilIndex runs a fetch that needs the index, against an archive that something
// was done to.
func evilIndex(t *testing.T, do func(*testArchive), want error, says string) {
	t.Helper()
	a := newArchive(t)
	a.publish("debian", "trixie", []testDeb{hello("1.0-1")})
	do(a)
	cfg := a.config()
	_, err := fetchOne(t.Context(), t, cfg, helloRef)
	wantRefused(t, cfg, err, want, says)
}

func TestBadSignature(t *testing.T) {
	evilIndex(t, func(a *testArchive) {
		a.put(inRelease, bytes.Replace(a.files[inRelease], []byte("Origin: Debian"), []byte("Origin: Debiaη"), 1))
	}, ErrSignature, inRelease)
}

func TestUnsignedTextAroundRelease(t *testing.T) {
	evilIndex(t, func(a *testArchive) { a.put(inRelease, append([]byte("Suite: trixie\n"), a.files[inRelease]...)) }, ErrSignature, "not one OpenPGP")
	evilIndex(t, func(a *testArchive) { a.put(inRelease, append(a.files[inRelease], "\nSuite: trixie\n"...)) }, ErrSignature, "not one OpenPGP")
}

func TestPortalPage(t *testing.T) {
	evilIndex(t, func(a *testArchive) { a.put(inRelease, []byte("<html>Welcome to our hotel")) }, ErrSignature, "portal")
}

func TestUnknownKey(t *testing.T) {
	evilIndex(t, func(a *testArchive) {
		real := a.key
		a.key = newKey(t)
		a.publish("debian", "trixie", []testDeb{hello("1.0-1")})
		a.key = real
	}, ErrSignature, "none of the archive's keys")
}

func TestExpiredIndex(t *testing.T) {
	evilIndex(t, func(a *testArchive) {
		a.publishDated("debian-security", "trixie-security", nil, dates{now.Add(-8 * 24 * time.Hour), now.Add(-24 * time.Hour)})
	}, ErrExpired, "valid until 2026-05-31T12:00:00Z")
}

func TestIndexFromTheFuture(t *testing.T) {
	evilIndex(t, func(a *testArchive) { a.publishDated("debian", "trixie", nil, dates{date: now.Add(time.Hour)}) }, ErrExpired, "clock")
}

// Another suite's index, rightly signed, in the place of this one.
func TestWrongSuiteIndex(t *testing.T) {
	evilIndex(t, func(a *testArchive) { a.put(security, a.files[inRelease]) }, ErrWrongSuite, "it is for trixie")
}

// Yesterday's index, rightly signed, after today's was seen.
func TestReplayedIndex(t *testing.T) {
	a := newArchive(t)
	a.publish("debian", "trixie", []testDeb{hello("1.0-2")})
	cfg := a.config()
	if _, err := open(t, cfg).Update(t.Context(), []Ref{helloRef}); err != nil {
		t.Fatal(err)
	}
	a.publishDated("debian", "trixie", []testDeb{hello("1.0-1")}, dates{date: now.Add(-48 * time.Hour)})
	_, err := fetchOne(t.Context(), t, cfg, helloRef)
	wantRefused(t, cfg, err, ErrDowngrade, "seen before")
}

// The locked version is gone and all that the mirror has is older.
func TestVersionDowngrade(t *testing.T) {
	a := newArchive(t)
	a.publish("debian", "trixie", []testDeb{hello("1.0-2")})
	cfg := a.config()
	cfg.Lock = lockOf(t, cfg, helloRef)
	a.remove("/debian/" + hello("1.0-2").pool())
	a.publish("debian", "trixie", []testDeb{hello("1.0-1")})
	_, err := fetchOne(t.Context(), t, cfg, helloRef)
	wantRefused(t, cfg, err, ErrDowngrade, "the lock has version 1.0-2")
	l, err := open(t, cfg).Update(t.Context(), []Ref{helloRef})
	wantRefused(t, cfg, err, ErrDowngrade, "the lock has version 1.0-2")
	if e, _ := l.Find(helloRef); e.Version != "1.0-2" {
		t.Errorf("the lock to write has %s", e.Version)
	}
}

// A mirror that is half updated, or serves another Packages file than it signs.
func TestPackagesFileNotTheSignedOne(t *testing.T) {
	evilIndex(t, func(a *testArchive) {
		for path := range a.files {
			if strings.Contains(path, "/debian/dists/trixie/main/binary-amd64/by-hash/") {
				delete(a.files, path)
			}
		}
		a.put("/debian/dists/trixie/main/binary-amd64/Packages.xz", []byte("something else"))
	}, ErrMismatch, "its own InRelease")
}

func TestNoSuchPackage(t *testing.T) {
	evilIndex(t, func(a *testArchive) { a.publish("debian", "trixie", nil) }, ErrNotFound, "no package hello for amd64 in trixie")
}

func TestNoSuchSuite(t *testing.T) {
	evilIndex(t, func(a *testArchive) { a.remove(security) }, ErrNotFound, "404")
}

// evilFile fetches a locked package whose file the mirror answers for with h.
func evilFile(t *testing.T, tune func(*Config), h func(whole []byte) http.HandlerFunc, want error, says string) {
	t.Helper()
	a := newArchive(t)
	d := hello("1.0-1")
	a.publish("debian", "trixie", []testDeb{d})
	cfg := a.config()
	cfg.Lock = lockOf(t, cfg, helloRef)
	if tune != nil {
		tune(&cfg)
	}
	a.answer("/debian/"+d.pool(), h(d.bytes(t)))
	_, err := fetchOne(t.Context(), t, cfg, helloRef)
	wantRefused(t, cfg, err, want, says)
}

func TestWrongHash(t *testing.T) {
	evilFile(t, nil, func(whole []byte) http.HandlerFunc {
		bad := bytes.Clone(whole)
		bad[len(bad)-1] ^= 1
		return func(w http.ResponseWriter, r *http.Request) { w.Write(bad) }
	}, ErrMismatch, "SHA-256")
}

func TestWrongLength(t *testing.T) {
	evilFile(t, nil, func(whole []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { w.Write(append(bytes.Clone(whole), 'x')) }
	}, ErrMismatch, "another length")
}

// A mirror that gives no length and does not stop.
func TestEndlessDownload(t *testing.T) {
	evilFile(t, nil, func(whole []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
				http.NewResponseController(w).Flush()
			}
		}
	}, ErrTooLarge, "more than was announced")
}

// The connection breaks, every time, at the same byte.
func TestTruncatedDownload(t *testing.T) {
	evilFile(t, nil, func(whole []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(whole)))
			if r.Method == http.MethodGet {
				w.Write(whole[:50])
				http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
		}
	}, io.ErrUnexpectedEOF, "after 3 tries")
	evilFile(t, nil, func(whole []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { // an early, clean end
			w.Write(whole[:50])
			http.NewResponseController(w).Flush()
		}
	}, ErrMismatch, "another length")
}

func TestServerError(t *testing.T) {
	evilFile(t, func(c *Config) { c.Locked = true }, func([]byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusForbidden) }
	}, statusError(http.StatusForbidden), "403 Forbidden")
}

// A byte now and then, and never the last one.
func TestSlowDrip(t *testing.T) {
	evilFile(t, func(c *Config) { c.Stall, c.Retries = StallPolicy{20 * time.Millisecond, 1 << 20}, 2 }, func(whole []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(whole)))
			if r.Method == http.MethodHead {
				return
			}
			for i := 0; i < len(whole)-1 && r.Context().Err() == nil; i++ {
				w.Write(whole[i : i+1])
				http.NewResponseController(w).Flush()
				time.Sleep(time.Millisecond)
			}
			<-r.Context().Done()
		}
	}, ErrStalled, "bytes in 20ms")
}

func TestSilentServer(t *testing.T) {
	evilFile(t, func(c *Config) { c.Stall, c.Retries = StallPolicy{20 * time.Millisecond, 1}, 2 }, func([]byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	}, ErrStalled, "0 bytes in 20ms")
}

// evilDeb fetches a package that the archive has signed and that is evil.
func evilDeb(t *testing.T, d testDeb, want error, says string) {
	t.Helper()
	a := newArchive(t)
	d.name, d.version, d.arch = "hello", "1.0-1", "amd64"
	a.publish("debian", "trixie", []testDeb{d})
	cfg := a.config()
	_, err := fetchOne(t.Context(), t, cfg, helloRef)
	wantRefused(t, cfg, err, want, says)
}

func reg(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644} }
func link(name, to string) tar.Header {
	return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink}
}

func TestPathTraversal(t *testing.T) {
	for _, name := range []string{"../etc/passwd", "./../etc/passwd", "./usr/../../etc/passwd", "/etc/passwd", "./usr//x", "./usr/./x", "./a\\b"} {
		evilDeb(t, testDeb{files: []tar.Header{reg(name)}}, ErrUnsafe, "leads out of the package")
	}
}

func TestLinkOutOfTree(t *testing.T) {
	evilDeb(t, testDeb{files: []tar.Header{link("./usr/x", "../../etc/passwd")}}, ErrUnsafe, `the link "usr/x" -> "../../etc/passwd" leads out`)
	evilDeb(t, testDeb{files: []tar.Header{{Name: "./x", Linkname: "../etc/passwd", Typeflag: tar.TypeLink}}}, ErrUnsafe, "leads out")
	evilDeb(t, testDeb{files: []tar.Header{{Name: "./x", Linkname: "/etc/passwd", Typeflag: tar.TypeLink}}}, ErrUnsafe, "leads out")
	evilDeb(t, testDeb{files: []tar.Header{{Name: "./x", Linkname: "./y", Typeflag: tar.TypeLink}}}, ErrUnsafe, "no file before it")
}

func TestFileBelowLink(t *testing.T) {
	evilDeb(t, testDeb{files: []tar.Header{link("./usr", "/etc"), reg("./usr/passwd")}}, ErrUnsafe, `"usr/passwd" lies below "usr"`)
}

func TestDuplicateEntry(t *testing.T) {
	evilDeb(t, testDeb{files: []tar.Header{reg("./x"), reg("./x")}}, ErrUnsafe, "twice")
}

func TestDeviceNode(t *testing.T) {
	evilDeb(t, testDeb{files: []tar.Header{{Name: "./dev/sda", Typeflag: tar.TypeBlock}}}, ErrUnsafe, "neither file, folder nor link")
}

func TestDecompressionBomb(t *testing.T) {
	evilDeb(t, testDeb{installed: 1, files: []tar.Header{reg("./x")}, content: map[string]string{"./x": strings.Repeat("x", 2<<20)}}, ErrTooLarge, "decompresses to more than")
}

func TestIndexBomb(t *testing.T) {
	b := compress(t, ".xz", bytes.Repeat([]byte("Package: x\n"), 1000))
	if _, err := unpackIndex(bytes.NewReader(b), sum{size: 10999}); err == nil || !strings.Contains(err.Error(), "more than 10999 bytes") {
		t.Errorf("got %v", err)
	}
}

func TestLyingControl(t *testing.T) {
	control := makeTar(t, []tar.Header{reg("./control")}, map[string]string{"./control": "Package: goodbye\nVersion: 1.0-1\nArchitecture: amd64\n"})
	evilDeb(t, testDeb{raw: makeDeb(t, ".gz", control, makeTar(t, nil, nil))}, ErrMismatch, "goodbye")
}

// Every way of cutting a rightly signed package short is an error, and none is a panic.
func TestTruncatedDeb(t *testing.T) {
	whole := hello("1.0-1").bytes(t)
	for n := 0; n < len(whole)-1; n += 7 { // the last byte may be padding
		d, err := openDeb(bytes.NewReader(whole[:n]), int64(n))
		if err == nil {
			err = d.copyData(&bytes.Buffer{}, 1<<20)
		}
		if err == nil {
			t.Errorf("%d of %d bytes: no error", n, len(whole))
		}
	}
	evilDebRaw(t, whole[:len(whole)/2], "cut short")
}

func evilDebRaw(t *testing.T, raw []byte, says string) {
	t.Helper()
	a := newArchive(t)
	d := testDeb{name: "hello", version: "1.0-1", arch: "amd64", raw: raw}
	a.publish("debian", "trixie", []testDeb{d})
	cfg := a.config()
	_, err := fetchOne(t.Context(), t, cfg, helloRef)
	if err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("got %v, want an error that says %q", err, says)
	}
}
