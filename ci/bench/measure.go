package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/fogwright/fogwright/boards"
	"github.com/fogwright/fogwright/firmware"
	"github.com/fogwright/fogwright/firmware/boot/uki"
	"github.com/fogwright/fogwright/firmware/disk"
	"github.com/fogwright/fogwright/firmware/source"
	"github.com/fogwright/fogwright/tools/rig"
)

type bench struct {
	runs    int
	out     string
	figures []Figure
	over    []string
}

// board measures one board.
func (b *bench) board(ctx context.Context, name string) error {
	board, err := boards.Open(name)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%s: building\n", name)
	plan, err := b.builds(ctx, board)
	if err != nil {
		return err
	}
	if err := b.sizes(plan); err != nil {
		return err
	}
	if board.QEMU == nil {
		return nil
	}
	return b.boots(ctx, plan)
}

// builds measures a build with nothing compiled or unpacked yet (downloads are
// there), and builds in which one line of a daemon has changed.
func (b *bench) builds(ctx context.Context, board *boards.Board) (firmware.Plan, error) {
	tree, err := os.MkdirTemp("", "fogwright-bench-")
	if err != nil {
		return firmware.Plan{}, err
	}
	defer os.RemoveAll(tree)
	// A tree of its own, so that the line that changes is not the user's.
	copyTree := exec.CommandContext(ctx, "sh", "-c", `git ls-files -co --exclude-standard -z | xargs -0 cp --parents -t "$0"`, tree)
	if text, err := copyTree.CombinedOutput(); err != nil {
		return firmware.Plan{}, fmt.Errorf("copying the source tree: %w: %s", err, text)
	}
	user, err := os.UserCacheDir()
	if err != nil {
		return firmware.Plan{}, err
	}
	lock, err := source.ReadLock(filepath.Join(tree, "boards", "packages.lock"))
	if err != nil {
		return firmware.Plan{}, err
	}
	p := firmware.Plan{
		Board: board, Variant: firmware.Release, Version: "bench", Out: b.out, Source: tree,
		Cache: filepath.Join(tree, ".cache"), Packages: source.Config{CacheDir: filepath.Join(user, "fogwright"), Lock: lock},
	}
	timed := func() (float64, error) {
		start := time.Now()
		_, err := firmware.Build(ctx, p)
		return time.Since(start).Seconds(), err
	}
	if _, err := timed(); err != nil { // brings the packages
		return p, err
	}
	// Cold: an empty Go build cache, and no program of the last build.
	goCache := filepath.Join(tree, ".gocache")
	old, had := os.LookupEnv("GOCACHE")
	os.Setenv("GOCACHE", goCache)
	os.RemoveAll(p.Cache)
	cold, err := timed()
	if had {
		os.Setenv("GOCACHE", old)
	} else {
		os.Unsetenv("GOCACHE")
	}
	if err != nil {
		return p, err
	}
	b.add(board.Name, "cold build", "s", 0, cold)
	var warm []float64
	for i := range b.runs + 1 {
		if err := changeLine(filepath.Join(tree, "initramfs", "network", "network.go"), i); err != nil {
			return p, err
		}
		s, err := timed()
		if err != nil {
			return p, err
		}
		warm = append(warm, s)
	}
	b.add(board.Name, "warm build, one line changed in netd", "s", 0, warm[1:]...)
	return p, nil
}

// changeLine changes a line of a daemon that is compiled in: a variable's value.
func changeLine(file string, n int) error {
	const mark = "\n// benchLine is what the benchmark changes.\nvar benchLine = "
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	text, _, _ = bytes.Cut(text, []byte(mark))
	text = fmt.Appendf(text, "%s%d\n\nfunc init() { benchLine++ }\n", mark, n)
	return os.WriteFile(file, text, 0o644)
}

func (b *bench) sizes(p firmware.Plan) error {
	name := p.Board.Name
	for _, f := range []struct {
		what, suffix string
		budget       boards.Size
	}{{"slot", ".slot", p.Board.Budget.Slot}, {"image, compressed", ".img.zst", 0}} {
		info, err := os.Stat(filepath.Join(p.Out, name+f.suffix))
		if err != nil {
			return err
		}
		b.add(name, f.what, "MiB", mib(int64(f.budget)), mib(info.Size()))
	}
	size, err := initramfs(p)
	if err != nil {
		return err
	}
	b.add(name, "initramfs", "MiB", 0, mib(size))
	return nil
}

// initramfs is the size of the archive in the first slot: a file of its own, or a
// section of the unified kernel image.
func initramfs(p firmware.Plan) (int64, error) {
	image := filepath.Join(p.Out, p.Board.Name+".img")
	files, err := disk.Files(image, 2)
	if err != nil {
		return 0, err
	}
	for _, f := range files {
		if f.Path == firmware.SlotInitrd {
			return int64(len(f.Data)), nil
		}
		sections, err := uki.Sections(f.Data)
		if err != nil {
			continue // not the image: device trees and the like
		}
		for _, s := range sections {
			if s.Name == ".initrd" {
				return int64(len(s.Data)), nil
			}
		}
	}
	return 0, fmt.Errorf("%s: the slot has no initramfs", image)
}

// boots measures time from power-on to having addresses and to sharing, and the
// memory in use when the box shares and idles.
func (b *bench) boots(ctx context.Context, p firmware.Plan) error {
	name := p.Board.Name
	var online, sharing, ram []float64
	for i := range b.runs + 1 {
		fmt.Fprintf(os.Stderr, "%s: boot %d of %d\n", name, i, b.runs)
		one, err := boot(ctx, p)
		if err != nil {
			return err
		}
		if i > 0 {
			online, sharing, ram = append(online, one.online), append(sharing, one.sharing), append(ram, one.ram)
		}
	}
	b.add(name, "power-on to address", "s", 0, online...)
	b.add(name, "power-on to sharing", "s", float64(p.Board.Budget.BootSeconds), sharing...)
	b.add(name, "RAM used when idle", "MiB", mib(int64(p.Board.Budget.IdleRAM)), ram...)
	return nil
}

type booted struct{ online, sharing, ram float64 }

func boot(ctx context.Context, p firmware.Plan) (one booted, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	box, err := rig.Start(ctx, rig.Options{Board: p.Board, Image: filepath.Join(p.Out, p.Board.Name+".img"), Packages: p.Packages})
	if err != nil {
		return one, err
	}
	defer box.Close()
	if _, err = box.Until(ctx, "online"); err != nil {
		return one, err
	}
	one.online = time.Since(box.PowerOn).Seconds()
	if _, err = box.Until(ctx, "sharing"); err != nil {
		return one, err
	}
	one.sharing = time.Since(box.PowerOn).Seconds()
	time.Sleep(5 * time.Second) // idle
	s, err := box.Control.Status(ctx)
	if err != nil {
		return one, err
	}
	one.ram = mib(s.Memory.Total - s.Memory.Available)
	return one, box.PowerOff(ctx)
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

func (b *bench) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "BOARD\tFIGURE\tMIN\tMEDIAN\tMAX\tUNIT\tBUDGET")
	for _, f := range b.figures {
		budget := ""
		if f.Budget > 0 {
			budget = fmt.Sprintf("%.0f", f.Budget)
		}
		fmt.Fprintf(t, "%s\t%s\t%.2f\t%.2f\t%.2f\t%s\t%s\n", f.Board, f.Name, f.Min, f.Median, f.Max, f.Unit, budget)
	}
	return t.Flush()
}
