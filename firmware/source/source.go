// Package source brings upstream packages to the build: named, verified, cached
// and locked.
//
// # The parties
//
// The Debian archive publishes packages and signs what it publishes. A mirror
// hands out copies and is not trusted: not to be honest, not to be fresh, not to
// be there. The package lock (boards/packages.lock) is a file of this repository:
// it says which exact .deb each board is built from, and is trusted as the code
// beside it. The cache is a folder of whoever runs the build, and is trusted not
// to be written by others. The rest of the builder gets read-only file systems.
//
// # What is believed, and why
//
// A locked package is believed because its SHA-256 and size are those in the lock;
// no index is needed, and no signature. Whatever the lock does not settle goes
// through the archive's signed index, link by link, each of SHA-256 and size:
//
//	OpenPGP key (keys/, in the program) -> InRelease -> Packages.xz -> .deb
//
// An InRelease counts only when it is of the suite asked for, not past its
// Valid-Until, not from the future and not older than one already seen. (A point
// release, trixie itself, states no Valid-Until; its updates and security suites
// do, and without all three nothing resolves.) The newest version over SUITE,
// SUITE-updates and SUITE-security wins. No package is ever replaced by an older one.
//
// When a locked version has left the mirror, the newest signed one takes its place,
// loudly: an [EventWarning], and [Package.Replaces]. So does a package that the lock
// does not name at all ([Package.Locked] is false). [Config.Locked] makes both
// errors.
//
// # The cache
//
// Files appear in it whole, or not at all: written aside, flushed, renamed. Many
// builds may use one cache; each object has a lock of the kernel's. A warm build
// does not hash a hundred megabytes again: it trusts a file whose size and
// modification time (to the nanosecond) are those of the moment of verification.
// That finds accidents, not somebody who can write to the cache, who could as well
// write to the Go build cache beside it. [Store.Verify] hashes everything again.
//
// Go's xz is slow (5 s for a kernel), so each package's data.tar is kept
// decompressed, with an index, and [Package.FS] reads straight from it.
package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"golang.org/x/sync/errgroup"
)

// What can be wrong with an archive, a mirror, a package or a request. Errors of
// this package wrap one of these where they can.
var (
	ErrSignature  = errors.New("the signature is not the archive's")
	ErrExpired    = errors.New("the index is not for today")
	ErrWrongSuite = errors.New("the index is for another suite")
	ErrDowngrade  = errors.New("older than what is known already")
	ErrMismatch   = errors.New("not the file that was announced")
	ErrUnsafe     = errors.New("unsafe package contents")
	ErrTooLarge   = errors.New("too large")
	ErrStalled    = errors.New("the transfer stalls")
	ErrNotFound   = errors.New("not found")
	ErrOffline    = errors.New("not in the cache, and offline")
	ErrLocked     = errors.New("the lock does not allow it")
)

// EventKind tells what an [Event] is about.
type EventKind string

// The kinds of events.
const (
	EventProgress   EventKind = "progress"   // Bytes of Total are here, at Rate
	EventDownloaded EventKind = "downloaded" // a file is whole
	EventUnpacked   EventKind = "unpacked"   // a package is decompressed and ready
	EventRetry      EventKind = "retry"      // Message: what failed; it is tried again
	EventWaiting    EventKind = "waiting"    // another build works on the same file
	EventWarning    EventKind = "warning"    // Message: the person should know
)

// Event is news from work under way.
type Event struct {
	Kind    EventKind
	Name    string  // of the package or index
	Message string  // a sentence, for retry, waiting and warning
	Bytes   int64   // so far
	Total   int64   // -1: unknown
	Rate    float64 // bytes per second
}

// StallPolicy is the least that a transfer must bring: Bytes in every Window.
type StallPolicy struct {
	Window time.Duration
	Bytes  int64
}

// Config says where packages come from and where they are kept. The zero value is
// good for a build.
type Config struct {
	CacheDir string // default: fogwright in the user's cache folder
	// Mirror and SecurityMirror are archive roots (https://host/debian).
	// Default: FOGWRIGHT_MIRROR and FOGWRIGHT_SECURITY_MIRROR, else what
	// the host's apt uses, else DefaultMirror and its neighbour.
	Mirror, SecurityMirror string
	// WithoutSecurity resolves without the security archive, for a mirror
	// that has none or a broken one. A warning says so.
	WithoutSecurity bool
	Offline         bool        // never use the network
	Locked          bool        // take exactly what Lock says, or fail
	Lock            *Lock       // nil: nothing is locked
	Progress        func(Event) // may be nil; calls do not overlap
	Keys            [][]byte    // OpenPGP public keys, binary or armored; nil: Debian's
	Stall           StallPolicy // default: 4 KiB in 20 s
	Retries         int         // tries of one transfer; default 5
	RetryWait       time.Duration
	Now             func() time.Time // default time.Now
}

// Store hands out packages. It is safe for concurrent use.
type Store struct {
	cfg     Config
	cache   *cache
	ring    openpgp.EntityList
	mirrors mirrors
	dl      *downloader

	mu       sync.Mutex // guards the two maps, which only grow
	releases map[string]*once[*release]
	indexes  map[string]*once[*index]
}

// Open makes the cache folder if it is not there, removes what crashed builds left
// in it, and chooses the mirrors. It uses no network.
func Open(cfg Config) (*Store, error) {
	if cfg.CacheDir == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("choosing a package cache: %w", err)
		}
		cfg.CacheDir = filepath.Join(dir, "fogwright")
	}
	if cfg.Stall == (StallPolicy{}) {
		cfg.Stall = StallPolicy{Window: 20 * time.Second, Bytes: 4 << 10}
	}
	if cfg.Retries == 0 {
		cfg.Retries = 5
	}
	if cfg.RetryWait == 0 {
		cfg.RetryWait = 500 * time.Millisecond
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	var mu sync.Mutex
	report := cfg.Progress
	cfg.Progress = func(e Event) {
		if report != nil {
			mu.Lock()
			defer mu.Unlock()
			report(e)
		}
	}
	apt := readApt(os.DirFS("/etc/apt"))
	m, err := chooseMirrors(cfg, os.Getenv, apt)
	if err != nil {
		return nil, err
	}
	ring, err := readKeys(cfg.Keys)
	if err != nil {
		return nil, err
	}
	c, err := openCache(filepath.Join(cfg.CacheDir, "packages"))
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = proxyFor(apt.proxy)
	transport.DisableCompression = true // sizes must be those of the files
	return &Store{
		cfg: cfg, cache: c, ring: ring, mirrors: m,
		dl: &downloader{
			client: &http.Client{Transport: transport}, stall: cfg.Stall,
			retries: cfg.Retries, wait: cfg.RetryWait, event: cfg.Progress,
		},
		releases: map[string]*once[*release]{},
		indexes:  map[string]*once[*index]{},
	}, nil
}

// Mirrors returns the addresses of the archive and the security archive in use.
func (s *Store) Mirrors() (main, security string) {
	return s.mirrors.main.String(), s.mirrors.security.String()
}

// Package is one verified package in the cache.
type Package struct {
	Entry
	// Locked tells whether the lock names exactly this package.
	Locked bool
	// Replaces is what the lock names instead, when that has left the mirror.
	Replaces *Entry

	fs *tarFS
}

// FS is what the package installs: its data.tar, read-only. Symbolic links are
// followed inside the package only; Open of one that leads elsewhere is
// fs.ErrNotExist. Files are io.ReaderAt and io.Seeker. The file system works as
// long as the cache folder is there.
func (p *Package) FS() fs.FS { return p.fs }

// parallel is how many packages are worked on at once.
const parallel = 4

// Fetch brings the packages into the cache, verified, and returns them in the
// order of refs. From a warm cache it uses no network. The first failure stops it.
func (s *Store) Fetch(ctx context.Context, refs []Ref) ([]*Package, error) {
	packages := make([]*Package, len(refs))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, ref := range refs {
		g.Go(func() error {
			p, err := s.fetch(ctx, ref)
			if err != nil {
				return fmt.Errorf("fetching package %v: %w", ref, err)
			}
			packages[i] = p
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return packages, nil
}

func (s *Store) fetch(ctx context.Context, ref Ref) (*Package, error) {
	if err := ref.check(); err != nil {
		return nil, err
	}
	locked, ok := s.cfg.Lock.Find(ref)
	if !ok {
		if s.cfg.Locked {
			return nil, fmt.Errorf("%w: it does not name this package; run `fogwright sources update`", ErrLocked)
		}
		return s.fetchResolved(ctx, ref, nil)
	}
	m, err := s.obtain(ctx, locked)
	if err == nil {
		return s.newPackage(locked, m, true, nil), nil
	}
	if !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrOffline) {
		return nil, err
	}
	if s.cfg.Locked {
		return nil, fmt.Errorf("%w: version %s is not to be had: %w", ErrLocked, locked.Version, err)
	}
	return s.fetchResolved(ctx, ref, &locked)
}

// fetchResolved takes the newest signed package instead of the locked one that
// has left the mirror, or when nothing is locked (locked is nil).
func (s *Store) fetchResolved(ctx context.Context, ref Ref, locked *Entry) (*Package, error) {
	e, err := s.resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	m, err := s.obtain(ctx, e)
	if err != nil {
		return nil, err
	}
	warn := fmt.Sprintf("%v is not in the package lock: taking %s %s, the newest signed version", ref, e.Resolved, e.Version)
	if locked != nil {
		warn = fmt.Sprintf("%v is locked to version %s, which is not on the mirror any more: taking %s %s instead; run `fogwright sources update`",
			ref, locked.Version, e.Resolved, e.Version)
	}
	s.cfg.Progress(Event{Kind: EventWarning, Name: ref.Name, Message: warn})
	return s.newPackage(e, m, false, locked), nil
}

func (s *Store) newPackage(e Entry, m *meta, locked bool, replaces *Entry) *Package {
	return &Package{Entry: e, Locked: locked, Replaces: replaces, fs: newTarFS(s.cache.object(e.SHA256, ".tar"), m.Nodes)}
}

// obtain makes sure that exactly e is in the cache and whole.
func (s *Store) obtain(ctx context.Context, e Entry) (*meta, error) {
	if m := s.cache.load(e.SHA256); m != nil {
		return m, nil
	}
	unlock, err := s.lock(ctx, e.SHA256, e.Resolved)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if m := s.cache.load(e.SHA256); m != nil { // another build was faster
		return m, nil
	}
	for _, url := range s.addresses(e) {
		err = s.download(ctx, e.Resolved, url, s.cache.object(e.SHA256, ".deb"), sum{e.Size, e.SHA256})
		if !errors.Is(err, ErrNotFound) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	m, err := s.cache.unpack(e)
	if err != nil {
		return nil, fmt.Errorf("unpacking %s %s: %w", e.Resolved, e.Version, err)
	}
	s.cfg.Progress(Event{Kind: EventUnpacked, Name: e.Resolved, Bytes: m.Tar.Size, Total: m.Tar.Size})
	return m, nil
}

// addresses are where e may be. A point release takes the security archive's
// packages into the main one, byte for byte, and they leave the former later.
func (s *Store) addresses(e Entry) []string {
	if e.Archive == ArchiveMain {
		return []string{at(s.mirrors.main, e.Filename)}
	}
	moved := strings.Replace(e.Filename, "pool/updates/", "pool/", 1)
	return []string{at(s.mirrors.security, e.Filename), at(s.mirrors.main, moved)}
}

func (s *Store) lock(ctx context.Context, name, what string) (func(), error) {
	return s.cache.lock(ctx, name, func() {
		s.cfg.Progress(Event{Kind: EventWaiting, Name: what, Message: "another build is fetching " + what})
	})
}

// download makes sure that the file path holds what url should. The caller holds
// its lock.
func (s *Store) download(ctx context.Context, name, url, path string, want sum) error {
	if holds(path, want) {
		return nil
	}
	if s.cfg.Offline {
		return fmt.Errorf("%w: %s (from %s)", ErrOffline, name, url)
	}
	part := path + ".part"
	if err := s.dl.file(ctx, name, url, part, want); err != nil {
		return err
	}
	if err := syncFile(part); err != nil {
		return err
	}
	return publish(part, path)
}
