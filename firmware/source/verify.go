package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Change is a package whose resolution changed. Old or New is nil when it came or went.
type Change struct {
	Old, New *Entry
}

// Changes lists what differs between l and next, in the order of a lock.
func (l *Lock) Changes(next *Lock) []Change {
	both := &Lock{}
	for _, side := range []*Lock{l, next} {
		if side != nil {
			for _, e := range side.Entries {
				both = both.with(e)
			}
		}
	}
	var all []Change
	for _, ref := range both.Refs() {
		var c Change
		if e, ok := l.Find(ref); ok {
			c.Old = &e
		}
		if e, ok := next.Find(ref); ok {
			c.New = &e
		}
		if c.Old == nil || c.New == nil || *c.Old != *c.New {
			all = append(all, c)
		}
	}
	return all
}

// Report is what [Store.Verify] found.
type Report struct {
	Files int   // in the cache, hashed
	Bytes int64 // in them
	// Damaged are the files whose bytes had changed. They are gone from the
	// cache now; the next build fetches them again.
	Damaged []string
	// Unlisted are locked packages of versions that the archive's index does
	// not list any more, so nothing signed can be compared with them.
	Unlisted []Entry
	// Outdated are locked packages of which there is a newer signed version.
	Outdated []Change
}

// Verify hashes every file in the cache and, unless offline, compares the lock
// with the archive's signed indexes. Damage, and a locked hash that is not the
// signed one, are ErrMismatch; being outdated is not an error. The report holds
// as far as it came, whatever the error.
func (s *Store) Verify(ctx context.Context) (*Report, error) {
	r := &Report{}
	all := []error{s.verifyCache(ctx, r)}
	if !s.cfg.Offline && s.cfg.Lock != nil {
		for _, e := range s.cfg.Lock.Entries {
			if err := s.verifyEntry(ctx, e, r); err != nil {
				all = append(all, fmt.Errorf("verifying package %v: %w", e.Ref, err))
			}
		}
	}
	return r, errors.Join(all...)
}

func (s *Store) verifyEntry(ctx context.Context, e Entry, r *Report) error {
	x, err := s.index(ctx, e.Suite, e.Arch)
	if err != nil {
		return err
	}
	st, archive, err := x.newest(e.Resolved, e.Version)
	switch {
	case errors.Is(err, ErrNotFound):
		r.Unlisted = append(r.Unlisted, e)
	case err != nil:
		return err
	default:
		signed, err := x.entry(e.Name, st, archive)
		if err != nil {
			return err
		}
		if signed.SHA256 != e.SHA256 || signed.Size != e.Size {
			return fmt.Errorf("%w: the lock has %d bytes with SHA-256 %s for version %s, the archive signs %d bytes with %s: do not build with this lock",
				ErrMismatch, e.Size, e.SHA256, e.Version, signed.Size, signed.SHA256)
		}
	}
	newest, err := x.resolve(e.Name)
	if err != nil {
		return err
	}
	if Compare(newest.Version, e.Version) > 0 {
		r.Outdated = append(r.Outdated, Change{Old: &e, New: &newest})
	}
	return nil
}

// verifyCache hashes all objects and drops the damaged ones.
func (s *Store) verifyCache(ctx context.Context, r *Report) error {
	files, err := os.ReadDir(filepath.Join(s.cache.dir, "objects"))
	if err != nil {
		return fmt.Errorf("verifying the package cache: %w", err)
	}
	var all []error
	for _, f := range files {
		sha, ext, ok := strings.Cut(f.Name(), ".")
		if !ok || !isSHA256(sha) || (ext != "deb" && ext != "xz") {
			continue
		}
		if err := s.verifyObject(ctx, sha, "."+ext, r); err != nil {
			all = append(all, fmt.Errorf("verifying the package cache: %w", err))
		}
	}
	return errors.Join(all...)
}

func (s *Store) verifyObject(ctx context.Context, sha, ext string, r *Report) error {
	unlock, err := s.lock(ctx, sha, sha+ext)
	if err != nil {
		return err
	}
	defer unlock()
	want := map[string]string{ext: sha}
	if m := s.cache.load(sha); m != nil && ext == ".deb" {
		want[".tar"] = m.Tar.SHA256
	}
	for ext, want := range want {
		path := s.cache.object(sha, ext)
		i, err := os.Stat(path)
		if err != nil {
			return err
		}
		got, err := hashFile(path)
		if err != nil {
			return err
		}
		r.Files, r.Bytes = r.Files+1, r.Bytes+i.Size()
		if got == want {
			continue
		}
		r.Damaged = append(r.Damaged, path)
		err = fmt.Errorf("%w: %q has SHA-256 %s: removed, the next build fetches it again", ErrMismatch, path, got)
		return errors.Join(err, s.cache.drop(sha, ext))
	}
	return nil
}

// drop removes a damaged file and what stands for its being whole: that first.
func (c *cache) drop(sha, ext string) error {
	for _, x := range []string{".json", ext} {
		if err := os.Remove(c.object(sha, x)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
