package firmware

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/fogwright/fogwright/boards"
	"github.com/fogwright/fogwright/firmware/kernel"
	"github.com/fogwright/fogwright/firmware/source"
	"github.com/fogwright/fogwright/firmware/userland"
)

// Suite is the Debian release that everything upstream comes from.
const Suite = "trixie"

// certificates is the package of the public certificate authorities, for workloads
// that fetch over TLS.
const certificates = "ca-certificates"

// Needs lists the packages that a board is built from: the refs of
// firmware/source, without repetition.
func Needs(b *boards.Board) []source.Ref {
	names := []string{b.Kernel.Package}
	for _, blob := range b.Boot.Blobs {
		names = append(names, blob.Package)
	}
	for _, f := range boardFiles(b) {
		names = append(names, f.Package)
	}
	return append(refs(b, names), certificatesRef())
}

// certificatesRef is the same for every board: the package is for all
// architectures, so any one's index lists it, and one entry of the lock is enough.
func certificatesRef() source.Ref {
	return source.Ref{Suite: Suite, Arch: "amd64", Name: certificates}
}

// NeedsToRun lists the packages that QEMU needs further to run the board: its EFI
// firmware.
func NeedsToRun(b *boards.Board) []source.Ref {
	if b.QEMU == nil {
		return nil
	}
	var names []string
	for _, f := range []*boards.File{b.QEMU.Firmware, b.QEMU.Variables} {
		if f != nil {
			names = append(names, f.Package)
		}
	}
	return refs(b, names)
}

func boardFiles(b *boards.Board) []boards.File {
	files := slices.Concat(b.Boot.Files, b.Boot.SlotFiles)
	if b.Boot.Stub != nil {
		files = append(files, *b.Boot.Stub)
	}
	return files
}

func refs(b *boards.Board, names []string) []source.Ref {
	slices.Sort(names)
	var all []source.Ref
	for _, n := range slices.Compact(names) {
		if n != "" { // a file of the board's own folder
			all = append(all, source.Ref{Suite: Suite, Arch: debianArch(b.Arch), Name: n})
		}
	}
	return all
}

// debianArch is Debian's name of a Go architecture
// (https://wiki.debian.org/ArchitectureSpecificsMemo).
func debianArch(goarch string) string {
	if goarch == "arm" {
		return "armhf"
	}
	return goarch
}

// fetch brings the packages.
func (b *build) fetch(ctx context.Context) (string, error) {
	cfg := b.Packages
	cfg.Progress = func(e source.Event) { b.report.event(SourceEvent(e)) }
	store, err := source.Open(cfg)
	if err != nil {
		return "", err
	}
	list, err := store.Fetch(ctx, Needs(b.Board))
	if err != nil {
		return "", err
	}
	b.packages = map[string]*source.Package{}
	for _, p := range list {
		b.packages[p.Name] = p
	}
	return fmt.Sprintf("%d packages, every one checked against the archive's signature", len(list)), nil
}

// SourceEvent says in the build's words what the source stage reports.
func SourceEvent(e source.Event) Event {
	text := e.Name
	if e.Message != "" {
		text += ": " + e.Message
	}
	return Event{Stage: "sources", Text: text, Bytes: e.Bytes, Total: e.Total, Warning: e.Kind == source.EventWarning}
}

// file reads one file out of a package, or out of the board's folder.
func (b *build) file(pkg, name string) ([]byte, error) {
	var from fs.FS = b.Board.FS
	if pkg != "" {
		p := b.packages[pkg]
		if p == nil {
			return nil, fmt.Errorf("package %s was not fetched", pkg)
		}
		from = p.FS()
	}
	data, err := fs.ReadFile(from, name)
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", name, cmp.Or(pkg, "the board's folder"), err)
	}
	return data, nil
}

// takeKernel opens the kernel package and takes image and modules out of it.
func (b *build) takeKernel(context.Context) (string, error) {
	k, err := kernel.Open(b.packages[b.Board.Kernel.Package].FS())
	if err != nil {
		return "", err
	}
	b.kernel = k
	if b.image, err = k.Image(); err != nil {
		return "", err
	}
	if b.modules, err = k.Modules(b.Board.Kernel.Modules); err != nil {
		return "", b.locate(err)
	}
	if b.Board.Boot.Chain != boards.UEFI { // no Secure Boot, so nothing to sign for
		for i := range b.modules {
			b.modules[i].Data = kernel.Unsigned(b.modules[i].Data)
		}
	}
	if b.Epoch.IsZero() {
		info, err := fs.Stat(b.packages[b.Board.Kernel.Package].FS(), "boot/vmlinuz-"+k.Release)
		if err != nil {
			return "", err
		}
		b.Epoch = info.ModTime().UTC()
	}
	return fmt.Sprintf("%s, %d modules", k.Release, len(b.modules)), nil
}

// locate puts the position in board.toml in front of each unknown module.
func (b *build) locate(err error) error {
	list, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return err
	}
	var lines []string
	for _, e := range list.Unwrap() {
		if u, ok := e.(*kernel.UnknownModule); ok && u.Index >= 0 {
			lines = append(lines, b.Board.Position(fmt.Sprintf("kernel.modules[%d]", u.Index))+": "+u.Error())
		} else {
			lines = append(lines, e.Error())
		}
	}
	return fmt.Errorf("%s", strings.Join(lines, "\n"))
}

// programs are what was compiled.
type programs struct {
	box       *userland.Program
	workloads map[string]*userland.Program // by name
	toolchain userland.Toolchain
}

// preloaded are the workloads on the factory partition: names and source folders.
var preloaded = map[string]string{
	"edgecache": "initramfs/workload/edgecache",
}

// compile builds our own programs for the board's processor.
func (b *build) compile(ctx context.Context) (string, error) {
	c := userland.Compiler{Dir: b.Source, Cache: b.Cache}
	b.programs.workloads = map[string]*userland.Program{}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		b.programs.box, err = c.Compile(ctx, b.target(), "initramfs/cmd/box")
		return err
	})
	g.Go(func() error {
		for name, dir := range preloaded {
			p, err := c.Compile(ctx, b.target(), dir)
			if err != nil {
				return err
			}
			b.programs.workloads[name] = p
		}
		return nil
	})
	g.Go(func() (err error) {
		b.programs.toolchain, err = c.Toolchain(ctx)
		return err
	})
	if err := g.Wait(); err != nil {
		return "", err
	}
	return fmt.Sprintf("box %.1f MiB for %s, %d workload", float64(len(b.programs.box.Data))/(1<<20), b.target(), len(b.programs.workloads)), nil
}

// assemble makes the initramfs.
func (b *build) assemble(ctx context.Context) (string, error) {
	a := &userland.Archive{}
	a.Device("dev/console", 0o600, 5, 1) // the kernel opens it before devtmpfs is there
	a.Device("dev/null", 0o666, 1, 3)
	for _, dir := range []string{"proc", "sys", "run", "tmp", "factory", "state", "data"} {
		a.Directory(dir, 0o755)
	}
	a.File("init", b.programs.box.Data, 0o755)
	a.File("etc/fogwright/version", []byte(b.Version+"\n"), 0o444)
	certs, err := b.authorities()
	if err != nil {
		return "", err
	}
	a.File("etc/ssl/certs/ca-certificates.crt", certs, 0o444)
	root := path.Join("lib/modules", b.kernel.Release)
	facts, err := b.facts(root)
	if err != nil {
		return "", err
	}
	a.File("etc/fogwright/board.json", facts, 0o444)
	for _, m := range b.modules {
		a.File(path.Join(root, m.Path), m.Data, 0o444)
	}
	a.File(path.Join(root, "modules.dep"), kernel.DepTable(b.modules), 0o444)
	a.File(path.Join(root, "modules.alias"), kernel.AliasTable(b.modules), 0o444)
	if b.Variant == Dev {
		c := userland.Compiler{Dir: b.Source, Cache: b.Cache}
		b.report.event(Event{Stage: "initramfs", Text: "building u-root's shell and commands, once"})
		if err := c.AddDevTools(ctx, b.target(), a); err != nil {
			return "", err
		}
	}
	if b.initrd, err = a.Bytes(); err != nil {
		return "", err
	}
	return fmt.Sprintf("%.1f MiB", float64(len(b.initrd))/(1<<20)), nil
}

// authorities joins the public certificates into one file, as
// update-ca-certificates(8) does on a Debian machine.
func (b *build) authorities() ([]byte, error) {
	from := b.packages[certificates].FS()
	names, err := fs.Glob(from, "usr/share/ca-certificates/mozilla/*.crt")
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("package %s has no certificates", certificates)
	}
	var all bytes.Buffer
	for _, n := range names { // Glob sorts
		pem, err := fs.ReadFile(from, n)
		if err != nil {
			return nil, err
		}
		all.Write(bytes.TrimSpace(pem))
		all.WriteByte('\n')
	}
	return all.Bytes(), nil
}

// boxFacts is board.json. The box has its own copy of this type, initramfs/state's
// Board, since the builder never imports what it compiles; ci holds them together.
type boxFacts struct {
	Name      string      `json:"name"`
	Arch      string      `json:"arch"`
	Variant   string      `json:"variant"`
	Version   string      `json:"version"`
	BuildTime int64       `json:"build_time"`
	Modules   []boxModule `json:"modules"`
	Disk      boxDisk     `json:"disk"`
	Watchdog  int         `json:"watchdog"`
}

type boxModule struct {
	Path  string `json:"path"`
	Needs []int  `json:"needs,omitempty"`
}

type boxDisk struct {
	Table      string            `json:"table"`
	ID         string            `json:"id"`
	Partitions map[string]int    `json:"partitions"`
	GUIDs      map[string]string `json:"guids,omitempty"`
}

// facts writes board.json.
func (b *build) facts(moduleRoot string) ([]byte, error) {
	l := b.Board.Layout()
	f := boxFacts{
		Name: b.Board.Name, Arch: b.Board.Arch, Variant: b.Variant, Version: b.Version,
		BuildTime: b.Epoch.Unix(), Modules: []boxModule{}, Watchdog: b.Board.Kernel.Watchdog,
		Disk: boxDisk{Table: l.Table, ID: l.ID, Partitions: map[string]int{}, GUIDs: map[string]string{}},
	}
	place := map[string]int{}
	for i, m := range b.modules {
		place[m.Name] = i
		box := boxModule{Path: "/" + path.Join(moduleRoot, m.Path)}
		for _, name := range m.Deps {
			box.Needs = append(box.Needs, place[name])
		}
		f.Modules = append(f.Modules, box)
	}
	for _, p := range l.Partitions {
		f.Disk.Partitions[p.Name] = p.Number
		if p.GUID != "" {
			f.Disk.GUIDs[p.Name] = p.GUID
		}
	}
	out, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(out, '\n'), nil
}
