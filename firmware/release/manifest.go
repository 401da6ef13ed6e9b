// Package release describes what a build made: the manifest, by which anybody can
// check that a folder of outputs is whole and unchanged, and the bill of materials,
// which says what is inside.
//
// The builder writes both; people, flashing stations and the release tools read
// them. Neither is signed: a manifest proves that files belong together and arrived
// undamaged, not who made them. Signing releases is the business of the updates.
//
// The manifest is written last and atomically. A manifest that can be read names
// outputs that were complete when it was written, and [Verify] finds what has
// happened to them since. A builder that is about to replace outputs takes the old
// manifest away first ([Withdraw]), so a build that is killed half-way leaves no
// manifest and with that nothing that looks complete.
package release

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// Schema is the version of the manifest's form. A reader refuses any other.
const Schema = 1

// Manifest is NAME.manifest.json. Sizes and offsets are bytes, hashes are SHA-256 in
// lower-case hexadecimal.
type Manifest struct {
	Schema  int    `json:"schema"`
	Name    string `json:"name"` // of the outputs, and so of this file
	Board   string `json:"board"`
	Arch    string `json:"arch"`    // Go's name
	Variant string `json:"variant"` // release or dev
	Version string `json:"version"` // of this firmware
	// Built is the time that the build was told (SOURCE_DATE_EPOCH), in UTC.
	Built time.Time `json:"built"`
	// Go is the version of the compiler, Kernel the release of the kernel.
	Go     string `json:"go"`
	Kernel string `json:"kernel"`
	// Modules are the kernel modules in the order of loading.
	Modules []string `json:"modules"`
	Disk    Disk     `json:"disk"`
	// Slot is the hash of the slot image, what an update of this release must
	// leave in the slot. It is also the hash of the file NAME.slot.
	Slot string `json:"slot_sha256"`
	// Files are the outputs, without the manifest.
	Files    []File    `json:"files"`
	Packages []Package `json:"packages"`
}

// Disk is the layout of the disk image.
type Disk struct {
	Table      string      `json:"table"` // gpt or mbr
	ID         string      `json:"id"`
	Size       int64       `json:"size"`
	Partitions []Partition `json:"partitions"`
}

// Partition is one partition of the disk image.
type Partition struct {
	Number int    `json:"number"`
	Name   string `json:"name"`
	Offset int64  `json:"offset"`
	Size   int64  `json:"size"`
}

// File is one output.
type File struct {
	Name   string `json:"name"` // in the manifest's own folder
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Package is one Debian package that went into the build, or of which parts did.
type Package struct {
	Name          string `json:"name"`
	Version       string `json:"version"`
	Arch          string `json:"arch"` // Debian's name
	Source        string `json:"source"`
	SourceVersion string `json:"source_version"`
	SHA256        string `json:"sha256"` // of the .deb
	// Copyright is the text of the package's copyright file, for [SBOM].
	Copyright []byte `json:"-"`
}

// ManifestFile is the manifest's file name for outputs called name, and SBOMFile
// that of the bill of materials.
func ManifestFile(name string) string { return name + ".manifest.json" }

// SBOMFile is the bill of materials' file name for outputs called name.
func SBOMFile(name string) string { return name + ".sbom.cdx.json" }

// Hash returns the files of dir called names, in that order, with sizes and hashes.
func Hash(ctx context.Context, dir string, names ...string) ([]File, error) {
	files := make([]File, len(names))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, name := range names {
		g.Go(func() (err error) {
			files[i], err = hashFile(ctx, dir, name)
			return err
		})
	}
	return files, g.Wait()
}

func hashFile(ctx context.Context, dir, name string) (File, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return File{}, fmt.Errorf("hashing output: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return File{}, fmt.Errorf("hashing output %q: not a regular file", f.Name())
	}
	h := sha256.New()
	var size int64
	for {
		if err := ctx.Err(); err != nil {
			return File{}, err
		}
		n, err := io.CopyN(h, f, 16<<20)
		size += n
		if errors.Is(err, io.EOF) {
			return File{Name: name, Size: size, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
		}
		if err != nil {
			return File{}, fmt.Errorf("hashing output: %w", err)
		}
	}
}

// Withdraw removes the manifest of outputs called name from dir, if there is one,
// durably: after it the outputs do not look complete.
func Withdraw(dir, name string) error {
	err := os.Remove(filepath.Join(dir, ManifestFile(name)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("withdrawing manifest of %q: %w", name, err)
	}
	return nil
}

// Write writes the manifest into dir, atomically and durably. Everything that it
// names must be there already. Files and packages are written in order of their
// names, so equal builds give equal manifests.
func (m *Manifest) Write(dir string) error {
	w := *m
	w.Schema = Schema
	w.Built = m.Built.UTC().Truncate(time.Second)
	w.Files = slices.SortedFunc(slices.Values(m.Files), func(a, b File) int { return cmp.Compare(a.Name, b.Name) })
	w.Packages = slices.SortedFunc(slices.Values(m.Packages), comparePackages)
	fail := func(err error) error { return fmt.Errorf("writing manifest of %q: %w", m.Name, err) }
	if err := w.check(); err != nil {
		return fail(err)
	}
	b, err := json.MarshalIndent(&w, "", "  ")
	if err != nil {
		return fail(err)
	}
	f, err := os.CreateTemp(dir, "."+ManifestFile(m.Name)+".*")
	if err != nil {
		return fail(err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, ManifestFile(m.Name)))
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

func comparePackages(a, b Package) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Arch, b.Arch), cmp.Compare(a.Version, b.Version))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Read reads the manifest of outputs called name in dir. A folder without one is
// fs.ErrNotExist: the outputs are missing, or their build did not end.
func Read(dir, name string) (*Manifest, error) {
	path := filepath.Join(dir, ManifestFile(name))
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading manifest: %w", err)
	}
	m, err := parse(b)
	if err == nil && m.Name != name {
		err = fmt.Errorf("it is for outputs called %q", m.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("reading manifest %q: %w", path, err)
	}
	return m, nil
}

func parse(b []byte) (*Manifest, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	m := new(Manifest)
	if err := d.Decode(m); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the manifest in its file")
	}
	return m, m.check()
}

// Names are those of plain files in one folder. A manifest may come from anywhere,
// and "../x" must not make Verify read elsewhere.
var (
	safeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+~-]*$`)
	hash     = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

func (m *Manifest) check() error {
	var all []error
	bad := func(format string, a ...any) { all = append(all, fmt.Errorf(format, a...)) }
	if m.Schema != Schema {
		bad("schema %d is not %d: it is from another version of fogwright", m.Schema, Schema)
	}
	if !safeName.MatchString(m.Name) {
		bad("name %q cannot be a file name", m.Name)
	}
	if m.Board == "" || m.Version == "" || m.Arch == "" {
		bad("board %q, version %q or arch %q is empty", m.Board, m.Version, m.Arch)
	}
	if !hash.MatchString(m.Slot) {
		bad("slot hash %q is not a SHA-256", m.Slot)
	}
	if len(m.Files) == 0 {
		bad("it names no files")
	}
	seen := map[string]bool{ManifestFile(m.Name): true}
	for _, f := range m.Files {
		if !safeName.MatchString(f.Name) || f.Size < 0 || !hash.MatchString(f.SHA256) {
			bad("file %q with size %d and hash %q is malformed", f.Name, f.Size, f.SHA256)
		}
		if seen[f.Name] {
			bad("file %q is named twice, or is the manifest", f.Name)
		}
		seen[f.Name] = true
	}
	for _, p := range m.Packages {
		if p.Name == "" || p.Version == "" || !hash.MatchString(p.SHA256) {
			bad("package %q %q with hash %q is malformed", p.Name, p.Version, p.SHA256)
		}
	}
	return errors.Join(all...)
}

// Verify checks that dir holds the outputs called name, whole and unchanged: it
// reads every file that the manifest names. The error says everything that is wrong.
func Verify(ctx context.Context, dir, name string) error {
	m, err := Read(dir, name)
	if err != nil {
		return err
	}
	faults := make([]error, len(m.Files))
	g := new(errgroup.Group)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, want := range m.Files {
		g.Go(func() error {
			faults[i] = verifyFile(ctx, dir, want)
			return nil
		})
	}
	g.Wait()
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("verifying outputs %q in %q: %w", name, dir, err)
	}
	return nil
}

func verifyFile(ctx context.Context, dir string, want File) error {
	// The size is cheap and tells truncation from damage.
	info, err := os.Lstat(filepath.Join(dir, want.Name))
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", want.Name)
	}
	if info.Size() != want.Size {
		return fmt.Errorf("%s has %d bytes, the manifest says %d: build it again", want.Name, info.Size(), want.Size)
	}
	got, err := hashFile(ctx, dir, want.Name)
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%s has SHA-256 %s, the manifest says %s: it was changed or damaged, build it again", want.Name, got.SHA256, want.SHA256)
	}
	return nil
}
