package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// once is a value that is made by the first who asks. A failure is kept too, so
// that ten packages of one broken index do not try its mirror ten times over; only
// somebody's cancelling is not the next one's failure.
type once[T any] struct {
	mu   sync.Mutex
	done bool
	v    T
	err  error
}

func (o *once[T]) get(ctx context.Context, fill func() (T, error)) (T, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.done {
		o.v, o.err = fill()
		o.done = ctx.Err() == nil
	}
	return o.v, o.err
}

func slot[T any](mu *sync.Mutex, m map[string]*once[T], key string) *once[T] {
	mu.Lock()
	defer mu.Unlock()
	if m[key] == nil {
		m[key] = &once[T]{}
	}
	return m[key]
}

// archive is one suite of one archive: a folder with an InRelease file.
type archive struct {
	kind  string // ArchiveMain or ArchiveSecurity
	suite string
	root  *url.URL
}

func (s *Store) archives(suite string) []archive {
	a := []archive{
		{ArchiveMain, suite, s.mirrors.main},
		{ArchiveMain, suite + "-updates", s.mirrors.main},
		{ArchiveSecurity, suite + "-security", s.mirrors.security},
	}
	if s.cfg.WithoutSecurity {
		return a[:2]
	}
	return a
}

// resolvedLife is how long a resolution outside the lock is used again before the
// index is asked anew: long enough for an afternoon of builds of one's own board,
// short enough for security updates.
const resolvedLife = 24 * time.Hour

// resolve finds the newest signed package for ref, or repeats the answer of an
// earlier build: within resolvedLife, or of any age when offline.
func (s *Store) resolve(ctx context.Context, ref Ref) (Entry, error) {
	path := filepath.Join(s.cache.dir, "resolved.lock")
	if s.cfg.WithoutSecurity {
		path = filepath.Join(s.cache.dir, "resolved-without-security.lock")
	}
	if i, err := os.Stat(path); err == nil && (s.cfg.Offline || s.cfg.Now().Sub(i.ModTime()) < resolvedLife) {
		if old, err := ReadLock(path); err == nil {
			locked, _ := s.cfg.Lock.Find(ref) // no entry: older than all
			if e, ok := old.Find(ref); ok && Compare(e.Version, locked.Version) >= 0 {
				return e, nil
			}
		}
	}
	if s.cfg.Offline {
		return Entry{}, fmt.Errorf("%w: nothing resolves it; build once with the network, or run `fogwright sources fetch`", ErrOffline)
	}
	e, err := s.newest(ctx, ref)
	if err != nil {
		return Entry{}, err
	}
	return e, s.remember(ctx, path, e)
}

// remember adds e to the file of resolutions. Entries share the file's age: one
// that has grown too old is started anew.
func (s *Store) remember(ctx context.Context, path string, e Entry) error {
	unlock, err := s.lock(ctx, "resolved", "the list of resolved packages")
	if err != nil {
		return err
	}
	defer unlock()
	var old *Lock
	mtime := s.cfg.Now()
	if i, err := os.Stat(path); err == nil && s.cfg.Now().Sub(i.ModTime()) < resolvedLife {
		if old, err = ReadLock(path); err == nil {
			mtime = i.ModTime()
		}
	}
	if err := s.cache.write(path, func(f *os.File) error {
		_, err := f.Write(old.with(e).Bytes())
		return err
	}); err != nil {
		return err
	}
	return os.Chtimes(path, mtime, mtime)
}

// index is the verified index of every archive of suite, for arch.
func (s *Store) index(ctx context.Context, suite, arch string) (*index, error) {
	return slot(&s.mu, s.indexes, suite+" "+arch).get(ctx, func() (*index, error) {
		archives := s.archives(suite)
		if s.cfg.WithoutSecurity {
			s.cfg.Progress(Event{Kind: EventWarning, Name: suite, Message: fmt.Sprintf("resolving %s packages of %s without the security archive: they may lack fixes", arch, suite)})
		}
		contents := make([][][]byte, len(archives))
		g, ctx := errgroup.WithContext(ctx)
		for i, a := range archives {
			g.Go(func() (err error) {
				contents[i], err = s.packagesOf(ctx, a, arch)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
		x := &index{suite: suite, arch: arch, packages: map[string][]candidate{}}
		for i, a := range archives {
			for _, b := range contents[i] {
				x.add(a.kind, b)
			}
		}
		return x, nil
	})
}

// packagesOf returns the Packages files of one archive.
func (s *Store) packagesOf(ctx context.Context, a archive, arch string) ([][]byte, error) {
	r, err := slot(&s.mu, s.releases, a.suite).get(ctx, func() (*release, error) { return s.release(ctx, a) })
	if err != nil {
		return nil, fmt.Errorf("reading the index of %s: %w", a.suite, err)
	}
	var all [][]byte
	for _, path := range r.packagesFiles(arch) {
		b, err := s.packages(ctx, a, r, path)
		if err != nil {
			return nil, fmt.Errorf("reading the index %s of %s: %w", path, a.suite, err)
		}
		all = append(all, b)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: %s has no packages for architecture %s", ErrNotFound, a.suite, arch)
	}
	return all, nil
}

// release fetches and verifies a's InRelease and keeps it: the next one may not
// be older.
func (s *Store) release(ctx context.Context, a archive) (*release, error) {
	address := at(a.root, "dists", a.suite, "InRelease")
	if s.cfg.Offline {
		return nil, fmt.Errorf("%w: %s", ErrOffline, address)
	}
	b, err := s.dl.bytes(ctx, a.suite+" InRelease", address, maxRelease)
	if err != nil {
		return nil, err
	}
	now := s.cfg.Now()
	r, err := verifyRelease(b, s.ring, now)
	if err == nil {
		err = r.fits(a.suite, now)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", address, err)
	}
	unlock, err := s.lock(ctx, a.suite+".release", a.suite+" InRelease")
	if err != nil {
		return nil, err
	}
	defer unlock()
	path := filepath.Join(s.cache.dir, "releases", a.suite+".InRelease")
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// One that does not verify (other keys, a damaged file) binds nobody.
	if seen, err := verifyRelease(old, s.ring, now); err == nil && r.date.Before(seen.date) {
		return nil, fmt.Errorf("%s: %w: it is dated %s, one of %s was seen before: the mirror is behind, or replays; choose another mirror",
			address, ErrDowngrade, r.date.Format(time.RFC3339), seen.date.Format(time.RFC3339))
	}
	return r, s.cache.write(path, func(f *os.File) error {
		_, err := f.Write(b)
		return err
	})
}

// packages fetches one Packages file, by its hash where the mirror offers that: a
// mirror that is being updated has the old one there still.
func (s *Store) packages(ctx context.Context, a archive, r *release, path string) ([]byte, error) {
	want := r.files[path+".xz"]
	if want.size > maxIndex {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, want.size)
	}
	name := a.suite + " " + path
	file := s.cache.object(want.sha256, ".xz")
	unlock, err := s.lock(ctx, want.sha256, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	err = ErrNotFound
	if r.byHash {
		err = s.download(ctx, name, at(a.root, "dists", a.suite, filepath.Dir(path), "by-hash/SHA256", want.sha256), file, want)
	}
	if errors.Is(err, ErrNotFound) {
		err = s.download(ctx, name, at(a.root, "dists", a.suite, path+".xz"), file, want)
	}
	if errors.Is(err, ErrMismatch) {
		return nil, fmt.Errorf("the mirror's files are not those that its own InRelease signs (it is being updated, or is broken; wait, or choose another): %w", err)
	}
	if err != nil {
		return nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return unpackIndex(f, r.files[path])
}

// Update resolves refs anew through the signed index and returns the lock to
// write. It downloads no package. What cannot be resolved keeps its paragraph of
// the present lock, if it has one, and is in the error: then both the lock and the
// error are there. A version older than the present lock's is such a failure
// (ErrDowngrade); delete the paragraph from the lock file to force it.
func (s *Store) Update(ctx context.Context, refs []Ref) (*Lock, error) {
	l := &Lock{}
	var failed []error
	for _, ref := range refs {
		e, err := s.newest(ctx, ref)
		if err != nil {
			failed = append(failed, fmt.Errorf("resolving package %v: %w", ref, err))
			var ok bool
			if e, ok = s.cfg.Lock.Find(ref); !ok {
				continue
			}
		}
		l = l.with(e)
	}
	return l, errors.Join(failed...)
}

// newest resolves ref through the index, never to something older than the lock has.
func (s *Store) newest(ctx context.Context, ref Ref) (Entry, error) {
	if err := ref.check(); err != nil {
		return Entry{}, err
	}
	x, err := s.index(ctx, ref.Suite, ref.Arch)
	if err != nil {
		return Entry{}, err
	}
	e, err := x.resolve(ref.Name)
	if err != nil {
		return Entry{}, err
	}
	if old, ok := s.cfg.Lock.Find(ref); ok && Compare(e.Version, old.Version) < 0 {
		return Entry{}, fmt.Errorf("%w: the lock has version %s, the newest signed one on the mirror is %s; choose a fresher mirror",
			ErrDowngrade, old.Version, e.Version)
	}
	return e, nil
}
