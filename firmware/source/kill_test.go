package source

import (
	"archive/tar"
	"context"
	"encoding/hex"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// childEnv makes the test program a builder: cache, mirrors and key, one per line.
const childEnv = "FOGWRIGHT_TEST_FETCH"

func TestMain(m *testing.M) {
	if v := os.Getenv(childEnv); v != "" {
		os.Exit(fetchChild(strings.Split(v, "\n")))
	}
	os.Exit(m.Run())
}

func fetchChild(arg []string) int {
	key, err := hex.DecodeString(arg[3])
	if err == nil {
		var s *Store
		s, err = Open(Config{CacheDir: arg[0], Mirror: arg[1], SecurityMirror: arg[2], Keys: [][]byte{key}, Now: func() time.Time { return now }})
		if err == nil {
			_, err = s.Fetch(context.Background(), []Ref{helloRef})
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// kill -9 at any moment leaves a cache in which everything that looks complete is,
// and from which the next build goes on.
func TestKilledBuildLeavesCacheWhole(t *testing.T) {
	a := newArchive(t)
	random := make([]byte, 1<<20)
	source := rand.NewChaCha8([32]byte{1})
	source.Read(random) // never fails
	d := hello("1.0-1")
	d.installed = 2048
	d.files = []tar.Header{reg("./big")}
	d.content = map[string]string{"./big": string(random)}
	control := makeTar(t, []tar.Header{reg("./control")}, map[string]string{"./control": "Package: hello\nVersion: 1.0-1\nArchitecture: amd64\n"})
	d.raw = makeDeb(t, ".gz", control, makeTar(t, d.files, d.content))
	a.publish("debian", "trixie", []testDeb{d})
	a.answer("/debian/"+d.pool(), func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(slowWriter{w}, r, "", time.Time{}, strings.NewReader(string(d.raw)))
	})
	cfg := a.config()
	for i := range 14 {
		cfg.CacheDir = t.TempDir()
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), childEnv+"="+strings.Join([]string{cfg.CacheDir, cfg.Mirror, cfg.SecurityMirror, hex.EncodeToString(cfg.Keys[0])}, "\n"))
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 8 * time.Millisecond)
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = c.Wait() // killed, or finished before
		wantWholeObjects(t, cfg.CacheDir)
		p, err := fetchOne(t.Context(), t, cfg, helloRef)
		if err != nil {
			t.Fatalf("after a kill: %v", err)
		}
		if b, err := fs.ReadFile(p.FS(), "big"); err != nil || string(b) != string(random) {
			t.Errorf("after a kill: %d bytes, %v", len(b), err)
		}
	}
}

// slowWriter makes a megabyte take some tens of milliseconds.
type slowWriter struct{ http.ResponseWriter }

func (w slowWriter) Write(b []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return w.ResponseWriter.Write(b)
}

// wantWholeObjects checks that what has a final name has its final contents.
func wantWholeObjects(t *testing.T, dir string) {
	t.Helper()
	objects, err := filepath.Glob(filepath.Join(dir, "packages/objects/*"))
	if err != nil {
		t.Fatal(err)
	}
	c := &cache{dir: filepath.Join(dir, "packages")}
	for _, o := range objects {
		name, ext, _ := strings.Cut(filepath.Base(o), ".")
		switch ext {
		case "deb", "xz":
			if got, err := hashFile(o); err != nil || got != name {
				t.Errorf("%s has SHA-256 %s, %v", o, got, err)
			}
		case "json":
			m := c.load(name)
			if m == nil {
				t.Errorf("%s looks complete and is not", o)
			} else if got, err := hashFile(c.object(name, ".tar")); err != nil || got != m.Tar.SHA256 {
				t.Errorf("%s: the contents have SHA-256 %s, %v, want %s", o, got, err, m.Tar.SHA256)
			}
		}
	}
}
