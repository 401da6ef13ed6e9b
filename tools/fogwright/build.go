package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/fogwright/fogwright/boards"
	"github.com/fogwright/fogwright/firmware"
	"github.com/fogwright/fogwright/firmware/release"
	"github.com/fogwright/fogwright/firmware/source"
	"github.com/fogwright/fogwright/firmware/userland"
	"github.com/fogwright/fogwright/initramfs/site"
)

// version is what a firmware is called when nobody says otherwise.
const version = "0.1.0"

func buildCommand() *command {
	return &command{
		name: "build", summary: "build the firmware of a board",
		usage: "-board NAME|FOLDER [-out DIR] [flags]",
		about: `Writes into the output folder, each file only when it is whole:
  NAME.img            the disk, sparse: dd or bmaptool it to a card, or boot it
  NAME.img.zst        the same, compressed
  NAME.bmap           block map for bmaptool
  NAME.slot           the slot image that updates carry
  NAME.sbom.cdx.json  bill of materials (CycloneDX)
  NAME.manifest.json  what was built out of what, with hashes; written last`,
		examples: [][2]string{
			{"fogwright build -board orangepi-pc -out out", "a card for an Orange Pi PC"},
			{"fogwright build -board ./my-board -variant dev", "a board of your own, with a shell on the serial console"},
			{"fogwright build -board rpi3 -site site.toml", "with your own configuration on the factory partition"},
			{"bmaptool copy out/rpi3.img.zst /dev/sdX", "flash it (look twice at the device's name)"},
		},
		run: func(fs *flag.FlagSet) runner {
			o := &buildOptions{}
			o.add(fs)
			out := fs.String("out", "out", "write the outputs to this `folder`")
			asJSON := fs.Bool("json", false, "print the manifest on standard output, and progress as JSON lines on standard error")
			return func(ctx context.Context, args []string, s stdio) error {
				if err := noArgs("build", args); err != nil {
					return err
				}
				show := &progress{w: s.err, terminal: s.terminal, json: *asJSON}
				start := time.Now()
				m, err := o.build(ctx, *out, show)
				if err != nil {
					return err
				}
				if *asJSON {
					e := json.NewEncoder(s.out)
					e.SetIndent("", "  ")
					return e.Encode(m)
				}
				fmt.Fprintf(s.out, "\n%s %s (%s) in %s:\n", m.Board, m.Version, m.Variant, time.Since(start).Round(10*time.Millisecond))
				for _, f := range m.Files {
					fmt.Fprintf(s.out, "  %-12s %s\n", mib(f.Size), filepath.Join(*out, f.Name))
				}
				fmt.Fprintf(s.out, "  %-12s %s\n", "", filepath.Join(*out, release.ManifestFile(m.Name)))
				return nil
			}
		},
	}
}

// buildOptions are the flags that every building command shares.
type buildOptions struct {
	board, variant, version, site, source, cache string
	packages                                     packageOptions
}

// packageOptions say where packages come from.
type packageOptions struct {
	mirror, security string
	offline, locked  bool
	withoutSecurity  bool
}

func (o *packageOptions) add(fs *flag.FlagSet) {
	fs.StringVar(&o.mirror, "mirror", "", "`URL` of a Debian archive (else FOGWRIGHT_MIRROR, else this machine's apt configuration)")
	fs.StringVar(&o.security, "security-mirror", "", "`URL` of Debian's security archive (else FOGWRIGHT_SECURITY_MIRROR, else as for -mirror)")
	fs.BoolVar(&o.withoutSecurity, "without-security", false, "resolve without the security archive, for a mirror that has none or a broken one: the result may lack fixes")
	fs.BoolVar(&o.offline, "offline", false, "use the cache only, touch no network")
	fs.BoolVar(&o.locked, "locked", false, "fail when a locked package has left the mirror, rather than take its successor")
}

func (o *buildOptions) add(fs *flag.FlagSet) {
	fs.StringVar(&o.board, "board", "", "board `name`, or the path of a board's folder (see fogwright boards)")
	fs.StringVar(&o.variant, "variant", firmware.Release, "`release` has no shell; dev has one on the serial console")
	fs.StringVar(&o.version, "version", version, "`version` of this firmware")
	fs.StringVar(&o.site, "site", "", "put this site.toml `file` on the factory partition")
	fs.StringVar(&o.source, "source", "", "Fogwright's source `folder` (else the checkout that you are in)")
	fs.StringVar(&o.cache, "cache", "", "`folder` for downloads and compiled programs (else the user's cache folder)")
	o.packages.add(fs)
}

// config is where packages come from and where they are kept.
func (p *packageOptions) config(sourceDir, cache string) (source.Config, error) {
	lock, err := source.ReadLock(filepath.Join(sourceDir, "boards", "packages.lock"))
	if err != nil {
		return source.Config{}, err
	}
	return source.Config{
		CacheDir: cache, Mirror: p.mirror, SecurityMirror: p.security,
		Offline: p.offline, Locked: p.locked, Lock: lock, WithoutSecurity: p.withoutSecurity,
	}, nil
}

// plan turns the flags into a build's plan.
func (o *buildOptions) plan(ctx context.Context, out string) (firmware.Plan, error) {
	if o.board == "" {
		return firmware.Plan{}, usagef("build", "-board is missing: a name from `fogwright boards`, or a board's folder")
	}
	var p firmware.Plan
	b, err := boards.Find(o.board)
	if err != nil {
		return p, err
	}
	p = firmware.Plan{Board: b, Variant: o.variant, Version: o.version, Out: out}
	if o.site != "" {
		if p.Site, err = readSite(o.site); err != nil {
			return p, err
		}
	}
	if p.Epoch, err = sourceDateEpoch(); err != nil {
		return p, err
	}
	if p.Source, p.Cache, err = folders(ctx, o.source, o.cache); err != nil {
		return p, err
	}
	p.Packages, err = o.packages.config(p.Source, p.Cache)
	return p, err
}

func (o *buildOptions) build(ctx context.Context, out string, show *progress) (*release.Manifest, error) {
	p, err := o.plan(ctx, out)
	if err != nil {
		return nil, err
	}
	p.Progress = show.event
	return firmware.Build(ctx, p)
}

// folders finds the source tree and the cache.
func folders(ctx context.Context, src, cache string) (string, string, error) {
	if src == "" {
		var err error
		if src, err = userland.ModuleDir(ctx); err != nil {
			return "", "", err
		}
	}
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return "", "", fmt.Errorf("finding a cache folder (name one with -cache): %w", err)
		}
		cache = filepath.Join(dir, "fogwright")
	}
	return src, cache, nil
}

// readSite reads and checks a site.toml before anything is built with it.
func readSite(file string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	_, err = site.Parse(file, text)
	return text, err
}

// sourceDateEpoch reads the environment variable of that name
// (https://reproducible-builds.org/specs/source-date-epoch/); zero when unset.
func sourceDateEpoch() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Time{}, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH=%q is not a number of seconds since 1970", text)
	}
	return time.Unix(n, 0).UTC(), nil
}
