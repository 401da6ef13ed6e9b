package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/fogwright/fogwright/boards"
	"github.com/fogwright/fogwright/firmware"
	"github.com/fogwright/fogwright/firmware/source"
)

func sourcesCommand() *command {
	return &command{name: "sources", summary: "work on the upstream packages", sub: []*command{
		{
			name: "update", summary: "lock the newest signed package versions", usage: "[flags]",
			about: `Resolves every package that any board names through the archive's signed indexes,
security updates included, and writes boards/packages.lock. Commit the result.`,
			examples: [][2]string{{"fogwright sources update && git diff boards/packages.lock", "see what would change"}},
			run: sourcesRunner(func(ctx context.Context, store *source.Store, dir string, s stdio) error {
				refs, err := allRefs()
				if err != nil {
					return err
				}
				path := filepath.Join(dir, "boards", "packages.lock")
				old, err := source.ReadLock(path)
				if err != nil {
					return err
				}
				// What could not be resolved keeps its old entry; the rest is
				// worth having, and the failure is told all the same.
				lock, failed := store.Update(ctx, refs)
				if lock == nil {
					return failed
				}
				if err := replaceFile(path, lock.Bytes()); err != nil {
					return err
				}
				for _, c := range old.Changes(lock) {
					fmt.Fprintln(s.out, change(c))
				}
				fmt.Fprintf(s.out, "%d packages locked in %s\n", len(lock.Entries), path)
				return failed
			}),
		},
		{
			name: "fetch", summary: "fill the cache, so that builds need no network", usage: "[flags]",
			examples: [][2]string{{"fogwright sources fetch && fogwright build -offline -board rpi4", "build on a train"}},
			run: sourcesRunner(func(ctx context.Context, store *source.Store, _ string, s stdio) error {
				refs, err := allRefs()
				if err != nil {
					return err
				}
				packages, err := store.Fetch(ctx, refs)
				if err != nil {
					return err
				}
				fmt.Fprintf(s.out, "%d packages in the cache, verified\n", len(packages))
				return nil
			}),
		},
		{
			name: "verify", summary: "hash the whole cache again, and hold the lock against the signed indexes", usage: "[flags]",
			run: sourcesRunner(func(ctx context.Context, store *source.Store, _ string, s stdio) error {
				r, err := store.Verify(ctx)
				for _, c := range r.Outdated {
					fmt.Fprintf(s.out, "outdated: %s\n", change(c))
				}
				for _, e := range r.Unlisted {
					fmt.Fprintf(s.out, "no longer on the mirror: %s %s\n", e.Resolved, e.Version)
				}
				if err != nil {
					return err
				}
				fmt.Fprintln(s.out, "cache and lock are as the archive signed them")
				return nil
			}),
		},
	}}
}

func sourcesRunner(do func(context.Context, *source.Store, string, stdio) error) func(*flag.FlagSet) runner {
	return func(fs *flag.FlagSet) runner {
		var o packageOptions
		o.add(fs)
		dir := fs.String("source", "", "Fogwright's source `folder` (else the checkout that you are in)")
		cache := fs.String("cache", "", "`folder` for downloads (else the user's cache folder)")
		return func(ctx context.Context, args []string, s stdio) error {
			if err := noArgs("sources", args); err != nil {
				return err
			}
			src, cacheDir, err := folders(ctx, *dir, *cache)
			if err != nil {
				return err
			}
			cfg, err := o.config(src, cacheDir)
			if err != nil {
				return err
			}
			show := &progress{w: s.err, terminal: s.terminal}
			cfg.Progress = func(e source.Event) { show.event(firmware.SourceEvent(e)) }
			store, err := source.Open(cfg)
			if err != nil {
				return err
			}
			return do(ctx, store, src, s)
		}
	}
}

// change says what became of a locked package.
func change(c source.Change) string {
	switch {
	case c.Old == nil:
		return fmt.Sprintf("%v: new, %s", c.New.Ref, c.New.Version)
	case c.New == nil:
		return fmt.Sprintf("%v: gone, was %s", c.Old.Ref, c.Old.Version)
	}
	return fmt.Sprintf("%v: %s -> %s", c.New.Ref, c.Old.Version, c.New.Version)
}

// allRefs lists what any board needs, to be built and to be run.
func allRefs() ([]source.Ref, error) {
	var all []source.Ref
	for _, name := range boards.Names() {
		b, err := boards.Open(name)
		if err != nil {
			return nil, err
		}
		for _, ref := range slices.Concat(firmware.Needs(b), firmware.NeedsToRun(b)) {
			if !slices.Contains(all, ref) {
				all = append(all, ref)
			}
		}
	}
	return all, nil
}

// replaceFile replaces a file whole.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}
