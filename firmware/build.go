// Package firmware builds a board's firmware: board + packages + userland in,
// images out.
//
// The board's folder says what goes in; firmware/source fetches it from a Debian
// archive and trusts nothing but the archive's signature; our own source tree gives
// the programs. Whoever can change one of the three decides what runs on the box,
// and the manifest that comes out names every one of them with its hash.
//
// Each stage is a package below this one and knows nothing of the others. Build
// joins them.
package firmware

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fogwright/fogwright/boards"
	"github.com/fogwright/fogwright/firmware/disk"
	"github.com/fogwright/fogwright/firmware/kernel"
	"github.com/fogwright/fogwright/firmware/release"
	"github.com/fogwright/fogwright/firmware/source"
	"github.com/fogwright/fogwright/firmware/userland"
)

// Variants of an image.
const (
	Release = "release" // neither a shell nor u-root's commands
	Dev     = "dev"     // both, on the serial console
)

// Plan is all that a build depends on. Equal plans give equal bytes.
type Plan struct {
	Board   *boards.Board
	Variant string // Release or Dev
	Version string // of this firmware, as the box will tell it
	Site    []byte // site.toml for the factory partition, already checked; nil: none
	Out     string // folder for the outputs, made when it is not there

	Source   string // root of Fogwright's own source tree
	Cache    string // folder for what can be made again
	Packages source.Config
	// Epoch dates everything in the image and is the earliest time the box
	// believes in; zero means the kernel package's date.
	Epoch time.Time

	Progress func(Event) // may be nil; called from one goroutine at a time
}

// Event is one step of a build, for whoever watches.
type Event struct {
	Stage   string        `json:"stage"`
	Text    string        `json:"text"`
	Bytes   int64         `json:"bytes,omitempty"` // so far
	Total   int64         `json:"total,omitempty"` // 0: unknown
	Done    bool          `json:"done,omitempty"`  // the stage is over
	Took    time.Duration `json:"took_ns,omitempty"`
	Warning bool          `json:"warning,omitempty"`
}

// build is one Build under way: what each stage leaves for the next.
type build struct {
	Plan
	report   reporter
	packages map[string]*source.Package // by name
	kernel   *kernel.Package
	image    []byte // kernel image
	modules  []kernel.Module
	programs programs
	initrd   []byte
	slot     *disk.Sparse
	disk     *disk.Sparse
	temp     string // folder in Out where the outputs grow
	outputs  []release.File
	manifest *release.Manifest
}

// Build carries out the plan. Outputs appear under their names in p.Out only when
// they are whole, and the manifest last: a complete manifest means that everything
// it names is there.
func Build(ctx context.Context, p Plan) (*release.Manifest, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	b := &build{Plan: p, report: reporter{to: p.Progress}}
	if err := os.MkdirAll(p.Out, 0o755); err != nil {
		return nil, fmt.Errorf("building %s: %w", p.Board.Name, err)
	}
	done, err := b.workshop()
	if err != nil {
		return nil, fmt.Errorf("building %s: %w", p.Board.Name, err)
	}
	defer done()

	// What is fetched and what is compiled do not wait for each other.
	first, fctx := errgroup.WithContext(ctx)
	first.Go(func() error {
		return b.stages(fctx, stage{"sources", b.fetch}, stage{"kernel", b.takeKernel})
	})
	first.Go(func() error {
		return b.stages(fctx, stage{"programs", b.compile})
	})
	if err := first.Wait(); err != nil {
		return nil, err
	}
	err = b.stages(ctx,
		stage{"initramfs", b.assemble},
		stage{"slot", b.makeSlot},
		stage{"image", b.makeDisk},
		stage{"release", b.describe},
	)
	if err != nil {
		return nil, err
	}
	return b.publish()
}

// workshop makes the folder in which the outputs grow, and returns what clears it
// up. One build of a board at a time works for one output folder: what a killed one
// has left can then be told from what is in use.
func (b *build) workshop() (func(), error) {
	prefix := filepath.Join(b.Out, "."+b.Board.Name+".building")
	unlock, err := userland.Lock(prefix)
	if err != nil {
		return nil, err
	}
	left, err := filepath.Glob(prefix + "-*")
	for _, dir := range left {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	if err == nil {
		b.temp, err = os.MkdirTemp(b.Out, filepath.Base(prefix)+"-")
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return func() {
		os.RemoveAll(b.temp)
		unlock()
	}, nil
}

// stage is one step: it says in a few words what it made.
type stage struct {
	name string
	run  func(context.Context) (string, error)
}

func (b *build) stages(ctx context.Context, list ...stage) error {
	for _, s := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		start := time.Now()
		text, err := s.run(ctx)
		if err != nil {
			return fmt.Errorf("building %s: %s: %w", b.Board.Name, s.name, err)
		}
		b.report.event(Event{Stage: s.name, Text: text, Done: true, Took: time.Since(start)})
	}
	return nil
}

func (p *Plan) check() error {
	switch {
	case p.Board == nil:
		return fmt.Errorf("building: no board")
	case p.Variant != Release && p.Variant != Dev:
		return fmt.Errorf("building %s: variant %q is neither %s nor %s", p.Board.Name, p.Variant, Release, Dev)
	case p.Version == "" || filepath.Base(p.Version) != p.Version:
		return fmt.Errorf("building %s: version %q cannot be part of a file name", p.Board.Name, p.Version)
	}
	return nil
}

// target is the processor that the board's programs are compiled for.
func (b *build) target() userland.Target {
	return userland.Target{Arch: b.Board.Arch, GOARM: b.Board.GOARM}
}
