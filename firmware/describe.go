package firmware

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/fogwright/fogwright/firmware/disk"
	"github.com/fogwright/fogwright/firmware/release"
)

// licence is Fogwright's own, as SPDX names it.
const licence = "Apache-2.0"

// describe writes the bill of materials beside the images and fills in the
// manifest, which is written when everything is in its place.
func (b *build) describe(context.Context) (string, error) {
	packages, err := b.billedPackages()
	if err != nil {
		return "", err
	}
	programs := []release.Program{{Name: "box", Binary: bytes.NewReader(b.programs.box.Data)}}
	for _, name := range slices.Sorted(maps.Keys(b.programs.workloads)) {
		programs = append(programs, release.Program{Name: name, Binary: bytes.NewReader(b.programs.workloads[name].Data)})
	}
	sbom, err := release.SBOM(release.Bill{
		Name: b.Board.Name, Board: b.Board.Name, Arch: b.Board.Arch, Variant: b.Variant, Version: b.Version,
		Built: b.Epoch, Licence: licence, Programs: programs, Packages: packages,
		Distro: "debian-13", ModuleCache: os.DirFS(b.programs.toolchain.ModuleCache),
	})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(b.temp, release.SBOMFile(b.Board.Name)), sbom, 0o644); err != nil {
		return "", err
	}
	bill, err := release.Hash(context.Background(), b.temp, release.SBOMFile(b.Board.Name))
	if err != nil {
		return "", err
	}
	b.outputs = append(b.outputs, bill...)
	b.manifest = b.fillManifest(packages)
	return fmt.Sprintf("%d files, %d packages", len(b.outputs)+1, len(packages)), nil
}

func (b *build) fillManifest(packages []release.Package) *release.Manifest {
	l := b.Board.Layout()
	slot := b.slot.SHA256()
	m := &release.Manifest{
		Name: b.Board.Name, Board: b.Board.Name, Arch: b.Board.Arch, Variant: b.Variant, Version: b.Version,
		Built: b.Epoch, Go: b.programs.toolchain.Version, Kernel: b.kernel.Release,
		Disk:     release.Disk{Table: l.Table, ID: l.ID, Size: l.Size},
		Slot:     hex.EncodeToString(slot[:]),
		Files:    b.outputs,
		Packages: packages,
	}
	for _, k := range b.modules {
		m.Modules = append(m.Modules, k.Name)
	}
	for _, p := range l.Partitions {
		m.Disk.Partitions = append(m.Disk.Partitions, release.Partition{Number: p.Number, Name: p.Name, Offset: p.Offset, Size: p.Size})
	}
	return m
}

// billedPackages are the packages with their copyright files.
func (b *build) billedPackages() ([]release.Package, error) {
	var all []release.Package
	for _, name := range slices.Sorted(maps.Keys(b.packages)) {
		p := b.packages[name]
		copyright, err := fs.ReadFile(p.FS(), "usr/share/doc/"+p.Resolved+"/copyright")
		if err != nil {
			return nil, fmt.Errorf("the licence of package %s: %w", p.Resolved, err)
		}
		all = append(all, release.Package{
			Name: p.Resolved, Version: p.Version, Arch: p.PackageArch,
			Source: p.Source, SourceVersion: p.SourceVersion, SHA256: p.SHA256, Copyright: copyright,
		})
	}
	return all, nil
}

// output notes a file that was written.
func (b *build) output(suffix string, w disk.Written) {
	b.outputs = append(b.outputs, release.File{Name: b.Board.Name + suffix, Size: w.Size, SHA256: hex.EncodeToString(w.SHA256[:])})
}

// publish moves the outputs to their names. The old manifest goes first and the
// new one comes last, so that a build that dies in between leaves nothing that
// looks complete.
func (b *build) publish() (*release.Manifest, error) {
	name := b.Board.Name
	if err := release.Withdraw(b.Out, name); err != nil {
		return nil, err
	}
	for _, f := range b.outputs {
		if err := os.Rename(filepath.Join(b.temp, f.Name), filepath.Join(b.Out, f.Name)); err != nil {
			return nil, fmt.Errorf("building %s: %w", name, err)
		}
	}
	if err := b.manifest.Write(b.Out); err != nil {
		return nil, err
	}
	return b.manifest, nil
}
