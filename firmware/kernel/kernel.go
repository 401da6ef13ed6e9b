// Package kernel takes out of a distribution's kernel package what one board
// needs of it: the kernel image, a chosen few modules with everything they depend
// on, and device trees.
//
// The board's author names modules; the package (verified by firmware/source) is
// the only source of facts about them; the builder gets bytes and the order to
// load them in. A name that the package does not know is an error here, on the
// host, and never a surprise on the box.
//
// Debian's kernel packages carry modules compressed with xz and leave modules.dep
// to be made by depmod at installation, so dependencies come from the modules
// themselves (the .modinfo section, see Documentation/kbuild/modules.rst and
// include/linux/module.h). A package that does carry a modules.dep is believed.
package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// Package is an opened kernel package.
type Package struct {
	Release string // as uname -r tells it: 6.12.117+deb13-armmp

	fsys    fs.FS
	modules string              // folder of the modules
	files   map[string]string   // module name -> path of its file below modules
	builtin map[string]struct{} // names built into the kernel, aliases of theirs too
	deps    map[string][]string // from modules.dep, nil when there is none
}

// Open reads the tables of the kernel package that lies unpacked in fsys.
func Open(fsys fs.FS) (*Package, error) {
	images, err := fs.Glob(fsys, "boot/vmlinuz-*")
	if err != nil {
		return nil, err
	}
	if len(images) != 1 {
		return nil, fmt.Errorf("kernel package has %d files boot/vmlinuz-*, want exactly one", len(images))
	}
	p := &Package{
		Release: strings.TrimPrefix(images[0], "boot/vmlinuz-"),
		fsys:    fsys,
		files:   map[string]string{},
		builtin: map[string]struct{}{},
	}
	for _, dir := range []string{"usr/lib/modules", "lib/modules"} {
		if _, err := fs.Stat(fsys, path.Join(dir, p.Release)); err == nil {
			p.modules = path.Join(dir, p.Release)
			break
		}
	}
	if p.modules == "" {
		return nil, fmt.Errorf("kernel %s: package has no modules folder", p.Release)
	}
	if err := p.index(); err != nil {
		return nil, fmt.Errorf("kernel %s: %w", p.Release, err)
	}
	return p, nil
}

// index reads which modules there are and which are built in.
func (p *Package) index() error {
	err := fs.WalkDir(p.fsys, path.Join(p.modules, "kernel"), func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := moduleName(file); name != "" && !d.IsDir() {
			p.files[name] = strings.TrimPrefix(file, p.modules+"/")
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel may have no modules at all
		return fmt.Errorf("listing modules: %w", err)
	}
	list, err := p.table("modules.builtin")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(list)) {
		if name := moduleName(strings.TrimSpace(line)); name != "" {
			p.builtin[name] = struct{}{}
		}
	}
	info, err := p.table("modules.builtin.modinfo")
	if err != nil {
		return err
	}
	// Entries here are MODULE.KEY=VALUE, and a module may be known under an
	// alias only: ext4 asks for crypto-crc32c, which crc32c_generic answers to.
	for entry := range strings.SplitSeq(string(info), "\x00") {
		if _, rest, ok := strings.Cut(entry, ".alias="); ok {
			p.builtin[canonical(rest)] = struct{}{}
		}
	}
	dep, err := p.table("modules.dep")
	if err != nil || dep == nil {
		return err
	}
	p.deps, err = ParseDep(dep)
	return err
}

// table reads one of the modules.* files; nil when the package has none.
func (p *Package) table(name string) ([]byte, error) {
	b, err := fs.ReadFile(p.fsys, path.Join(p.modules, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// Image is the bootable kernel image, as the package ships it.
func (p *Package) Image() ([]byte, error) {
	b, err := fs.ReadFile(p.fsys, "boot/vmlinuz-"+p.Release)
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", p.Release, err)
	}
	return b, nil
}

// DeviceTree is the device tree blob at name below the package's device tree
// folder, such as allwinner/sun8i-h3-orangepi-pc.dtb.
func (p *Package) DeviceTree(name string) ([]byte, error) {
	for _, dir := range []string{"usr/lib/linux-image-" + p.Release, "boot/dtbs/" + p.Release, "boot/dtb-" + p.Release} {
		b, err := fs.ReadFile(p.fsys, path.Join(dir, name))
		if err == nil {
			return b, nil
		}
		// Debian keeps the trees of 32-bit ARM flat, those of arm64 by vendor.
		if b, err = fs.ReadFile(p.fsys, path.Join(dir, path.Base(name))); err == nil {
			return b, nil
		}
	}
	return nil, fmt.Errorf("kernel %s: package has no device tree %q", p.Release, name)
}

// moduleName gives the kernel's name of the module in file (with '_' for '-'), or
// "" when file is no module.
func moduleName(file string) string {
	base := path.Base(file)
	for _, c := range compressions {
		if name, ok := strings.CutSuffix(base, ".ko"+c.suffix); ok {
			return canonical(name)
		}
	}
	return ""
}

// canonical spells a module's name as the kernel does.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }
