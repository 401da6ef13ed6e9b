package source

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// now is the time of every test: signatures, dates and expiry hang on it.
var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// testArchive is an archive with its own key behind a real HTTP server: the three
// suites of trixie, for amd64.
type testArchive struct {
	t   *testing.T
	url string
	key *openpgp.Entity

	mu    sync.Mutex
	files map[string][]byte
	hits  map[string]int              // successful or not, by path
	odd   map[string]http.HandlerFunc // answers in the place of a file
}

func newArchive(t *testing.T) *testArchive {
	t.Helper()
	a := &testArchive{t: t, key: newKey(t), files: map[string][]byte{}, hits: map[string]int{}, odd: map[string]http.HandlerFunc{}}
	srv := httptest.NewServer(a)
	t.Cleanup(srv.Close)
	a.url = srv.URL
	a.publish("debian", "trixie", nil)
	a.publish("debian", "trixie-updates", nil)
	a.publish("debian-security", "trixie-security", nil)
	return a
}

func newKey(t *testing.T) *openpgp.Entity {
	t.Helper()
	key, err := openpgp.NewEntity("Test Archive", "", "archive@example.org", &packet.Config{
		Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return now.Add(-24 * time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *testArchive) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	b, ok := a.files[r.URL.Path]
	odd := a.odd[r.URL.Path]
	a.hits[r.Method+" "+r.URL.Path]++
	a.mu.Unlock()
	switch {
	case odd != nil:
		odd(w, r)
	case !ok:
		http.NotFound(w, r)
	default:
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	}
}

func (a *testArchive) put(path string, b []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.files[path] = b
}

func (a *testArchive) remove(path string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.files, path)
}

// answer serves path with h from now on.
func (a *testArchive) answer(path string, h http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.odd[path] = h
}

func (a *testArchive) count(request string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.hits[request]
}

func (a *testArchive) requests() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, h := range a.hits {
		n += h
	}
	return n
}

// testDeb is a package to publish.
type testDeb struct {
	name, version, arch string
	source, depends     string
	installed           int // KiB; 0: 100
	files               []tar.Header
	content             map[string]string // by name, of the regular files
	raw                 []byte            // the .deb itself, when it is not to be made of the rest
}

func (d testDeb) pool() string {
	return fmt.Sprintf("pool/main/%c/%s/%s_%s_%s.deb", d.name[0], d.name, d.name, strings.ReplaceAll(d.version, ":", "."), d.arch)
}

func (d testDeb) bytes(t testing.TB) []byte {
	t.Helper()
	if d.raw != nil {
		return d.raw
	}
	control := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\n", d.name, d.version, d.arch)
	return makeDeb(t, ".xz", makeTar(t, []tar.Header{{Name: "./control", Typeflag: tar.TypeReg}}, map[string]string{"./control": control}),
		makeTar(t, d.files, d.content))
}

// hello is a package with one file, /usr/share/hello/text.
func hello(version string) testDeb {
	return testDeb{name: "hello", version: version, arch: "amd64",
		files:   []tar.Header{{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "./usr/share/hello/text", Typeflag: tar.TypeReg, Mode: 0o644}},
		content: map[string]string{"./usr/share/hello/text": "hello " + version}}
}

func makeTar(t testing.TB, headers []tar.Header, content map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		h.Size = int64(len(content[h.Name]))
		h.Format = tar.FormatGNU // dpkg's
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content[h.Name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func makeDeb(t testing.TB, ext string, control, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	b.WriteString(arMagic)
	for _, m := range []struct {
		name string
		b    []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar" + ext, compress(t, ext, control)}, {"data.tar" + ext, compress(t, ext, data)}} {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.name, 0, 0, 0, "100644", len(m.b))
		b.Write(m.b)
		if len(m.b)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

func compress(t testing.TB, ext string, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch ext {
	case ".xz":
		w, err = xz.WriterConfig{DictCap: 1 << 16}.NewWriter(&out)
	case ".zst":
		w, err = zstd.NewWriter(&out)
	case ".gz":
		w = gzip.NewWriter(&out)
	default:
		return b
	}
	if err == nil {
		_, err = w.Write(b)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func sha(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// dates of a release; zero values mean fresh and without limit.
type dates struct{ date, until time.Time }

// publish signs a suite with these packages and puts all of it up.
func (a *testArchive) publish(root, suite string, debs []testDeb) {
	a.t.Helper()
	a.publishDated(root, suite, debs, dates{})
}

func (a *testArchive) publishDated(root, suite string, debs []testDeb, d dates) {
	a.t.Helper()
	if d.date.IsZero() {
		d.date = now.Add(-time.Hour)
	}
	var p strings.Builder
	for _, deb := range debs {
		b := deb.bytes(a.t)
		a.put("/"+root+"/"+deb.pool(), b)
		installed := deb.installed
		if installed == 0 {
			installed = 100
		}
		fmt.Fprintf(&p, "Package: %s\n", deb.name)
		if deb.source != "" {
			fmt.Fprintf(&p, "Source: %s\n", deb.source)
		}
		fmt.Fprintf(&p, "Version: %s\nInstalled-Size: %d\nArchitecture: %s\n", deb.version, installed, deb.arch)
		if deb.depends != "" {
			fmt.Fprintf(&p, "Depends: %s\n", deb.depends)
		}
		fmt.Fprintf(&p, "Description: a test package\n with two lines\nFilename: %s\nSize: %d\nSHA256: %s\n\n", deb.pool(), len(b), sha(b))
	}
	plain := []byte(p.String())
	packed := compress(a.t, ".xz", plain)
	dir := "/" + root + "/dists/" + suite + "/"
	a.put(dir+"main/binary-amd64/by-hash/SHA256/"+sha(packed), packed)
	var r strings.Builder
	fmt.Fprintf(&r, "Origin: Debian\nSuite: %s\nCodename: %s\nDate: %s\nAcquire-By-Hash: yes\n", strings.Replace(suite, "trixie", "stable", 1), suite, utc(d.date))
	if !d.until.IsZero() {
		fmt.Fprintf(&r, "Valid-Until: %s\n", utc(d.until))
	}
	fmt.Fprintf(&r, "SHA256:\n %s %d main/binary-amd64/Packages\n %s %d main/binary-amd64/Packages.xz\n", sha(plain), len(plain), sha(packed), len(packed))
	a.put(dir+"InRelease", a.sign(a.key, r.String()))
}

func utc(t time.Time) string { return t.UTC().Format("Mon, 02 Jan 2006 15:04:05") + " UTC" }

func (a *testArchive) sign(key *openpgp.Entity, text string) []byte {
	a.t.Helper()
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, key.PrivateKey, &packet.Config{Time: func() time.Time { return now.Add(-time.Hour) }})
	if err == nil {
		_, err = io.WriteString(w, text)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		a.t.Fatal(err)
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// config reaches the archive from an empty cache. Nothing in it waits long; the
// stall window is so wide that no slow machine trips over it.
func (a *testArchive) config() Config {
	a.t.Helper()
	var pub bytes.Buffer
	if err := a.key.Serialize(&pub); err != nil {
		a.t.Fatal(err)
	}
	return Config{CacheDir: a.t.TempDir(), Mirror: a.url + "/debian", SecurityMirror: a.url + "/debian-security", Keys: [][]byte{pub.Bytes()},
		Now: func() time.Time { return now }, RetryWait: time.Millisecond, Retries: 3, Stall: StallPolicy{Window: time.Minute, Bytes: 1}}
}

func open(t *testing.T, cfg Config) *Store {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var helloRef = Ref{Suite: "trixie", Arch: "amd64", Name: "hello"}

// lockOf resolves refs into a lock, as `fogwright sources update` does.
func lockOf(t *testing.T, cfg Config, refs ...Ref) *Lock {
	t.Helper()
	cfg.CacheDir = t.TempDir()
	l, err := open(t, cfg).Update(t.Context(), refs)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func fetchOne(ctx context.Context, t *testing.T, cfg Config, ref Ref) (*Package, error) {
	t.Helper()
	ps, err := open(t, cfg).Fetch(ctx, []Ref{ref})
	if err != nil {
		return nil, err
	}
	return ps[0], nil
}

// warnings collects the warnings of a run.
func warnings(cfg *Config) *[]string {
	var all []string
	cfg.Progress = func(e Event) {
		if e.Kind == EventWarning {
			all = append(all, e.Message)
		}
	}
	return &all
}

// wantRefused checks the error of a run and that it left nothing in the cache that
// looks complete and is not.
func wantRefused(t *testing.T, cfg Config, err, want error, says string) {
	t.Helper()
	if !errors.Is(err, want) || !strings.Contains(fmt.Sprint(err), says) {
		t.Errorf("got error %v\nwant one that is %q and says %q", err, want, says)
	}
	objects, gerr := filepath.Glob(filepath.Join(cfg.CacheDir, "packages/objects/*"))
	if gerr != nil {
		t.Fatal(gerr)
	}
	for _, o := range objects {
		name, ext, _ := strings.Cut(filepath.Base(o), ".")
		b, err := os.ReadFile(o)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case ext == "deb.part" || ext == "xz.part":
		case (ext == "deb" || ext == "xz") && sha(b) == name:
		default:
			t.Errorf("%s was left in the cache", o)
		}
	}
}
