package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cache is a folder of verified files. Its layout:
//
//	objects/SHA.deb   a package as it was published; SHA is its SHA-256
//	objects/SHA.tar   its data.tar, decompressed
//	objects/SHA.json  meta: written last, so it stands for "both are whole and verified"
//	objects/SHA.xz    an index
//	objects/*.part    downloads under way or cut short: for resuming only
//	objects/.*.tmp    files being written: rubbish after a crash
//	releases/         the last InRelease accepted of every suite
//	resolved*.lock    what was resolved without the lock file's help, for a day
//	locks/            flock(2) files, empty
type cache struct {
	dir string
}

// partLife is how long a download cut short is worth keeping, tmpLife how long
// the writing of one file can take.
const (
	partLife = 7 * 24 * time.Hour
	tmpLife  = 24 * time.Hour
)

func openCache(dir string) (*cache, error) {
	for _, sub := range []string{"objects", "releases", "locks"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("making the package cache: %w", err)
		}
	}
	c := &cache{dir: dir}
	return c, c.prune()
}

// prune removes what crashed builds left behind.
func (c *cache) prune() error {
	now := time.Now()
	for _, sub := range []string{"objects", "releases", "."} {
		files, err := os.ReadDir(filepath.Join(c.dir, sub))
		if err != nil {
			return fmt.Errorf("looking through the package cache: %w", err)
		}
		for _, f := range files {
			life := tmpLife
			switch {
			case strings.HasSuffix(f.Name(), ".part"):
				life = partLife
			case !strings.HasPrefix(f.Name(), ".") || !strings.HasSuffix(f.Name(), ".tmp"):
				continue
			}
			i, err := f.Info()
			if err == nil && now.Sub(i.ModTime()) > life {
				err = os.Remove(filepath.Join(c.dir, sub, f.Name()))
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // another build was faster
				return fmt.Errorf("cleaning the package cache: %w", err)
			}
		}
	}
	return nil
}

func (c *cache) object(sha, ext string) string { return filepath.Join(c.dir, "objects", sha+ext) }

// lock takes the lock called name, waiting for other builds; waiting is called
// once if there is one. The kernel drops the lock when its holder dies.
func (c *cache) lock(ctx context.Context, name string, waiting func()) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(c.dir, "locks", name), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking %q in the package cache: %w", name, err)
	}
	for first := true; ; first = false {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("locking %q in the package cache: %w", name, err)
		}
		if first {
			waiting()
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// write makes a file appear whole or not at all, whenever the machine stops. fill
// may read back what it wrote.
func (c *cache) write(path string, fill func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // in vain after the rename
	err = fill(f)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return publish(f.Name(), path)
}

// publish renames a flushed file into place and flushes the folder.
func publish(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(to))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// meta says that an object is verified, what the witnesses are, and what is in it.
type meta struct {
	Format int     `json:"format"`
	Deb    witness `json:"deb"`
	Tar    witness `json:"tar"`
	Nodes  []node  `json:"nodes"`
}

// metaFormat changes when meta does: older ones are then made anew.
const metaFormat = 1

// witness is a file as it was right after it was verified.
type witness struct {
	Size   int64  `json:"size"`
	MTime  int64  `json:"mtime"` // nanoseconds since 1970
	SHA256 string `json:"sha256"`
}

func witnessOf(path, sha string) (witness, error) {
	i, err := os.Stat(path)
	if err != nil {
		return witness{}, err
	}
	return witness{i.Size(), i.ModTime().UnixNano(), sha}, nil
}

// load returns the meta of an object that is whole and untouched since it was
// verified, or nil.
func (c *cache) load(sha string) *meta {
	b, err := os.ReadFile(c.object(sha, ".json"))
	if err != nil {
		return nil
	}
	m := &meta{}
	if json.Unmarshal(b, m) != nil || m.Format != metaFormat {
		return nil
	}
	for ext, want := range map[string]witness{".deb": m.Deb, ".tar": m.Tar} {
		got, err := witnessOf(c.object(sha, ext), want.SHA256)
		if err != nil || got != want {
			return nil
		}
	}
	return m
}

// hashFile is the SHA-256 of a file.
func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// holds tells whether the file path has exactly the wanted bytes; it reads them all.
func holds(path string, want sum) bool {
	i, err := os.Stat(path)
	if err != nil || i.Size() != want.size {
		return false
	}
	got, err := hashFile(path)
	return err == nil && got == want.sha256
}

// unpack checks the package file of e, decompresses its contents and, last of
// all, writes its meta. The caller holds e's lock and has verified the file.
func (c *cache) unpack(e Entry) (*meta, error) {
	path := c.object(e.SHA256, ".deb")
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d, err := openDeb(f, e.Size)
	if err != nil {
		return nil, err
	}
	if err := d.isFor(e); err != nil {
		return nil, err
	}
	m := &meta{Format: metaFormat}
	h := sha256.New()
	err = c.write(c.object(e.SHA256, ".tar"), func(t *os.File) error {
		if err := d.copyData(io.MultiWriter(t, h), tarLimit(e.InstalledSize)); err != nil {
			return err
		}
		if _, err := t.Seek(0, io.SeekStart); err != nil {
			return err
		}
		m.Nodes, err = indexTar(t)
		return err
	})
	if err != nil {
		return nil, err
	}
	if m.Deb, err = witnessOf(path, e.SHA256); err != nil {
		return nil, err
	}
	if m.Tar, err = witnessOf(c.object(e.SHA256, ".tar"), hex.EncodeToString(h.Sum(nil))); err != nil {
		return nil, err
	}
	return m, c.write(c.object(e.SHA256, ".json"), func(j *os.File) error { return json.NewEncoder(j).Encode(m) })
}
