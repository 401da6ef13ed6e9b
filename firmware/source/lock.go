package source

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Ref asks for a package: the newest signed one of that name.
type Ref struct {
	Suite string // Debian code name: trixie
	Arch  string // Debian architecture: amd64, arm64, armhf
	Name  string // binary package: linux-image-amd64
}

// String is "linux-image-amd64:amd64 (trixie)".
func (r Ref) String() string { return r.Name + ":" + r.Arch + " (" + r.Suite + ")" }

func (r Ref) compare(o Ref) int {
	return cmp.Or(cmp.Compare(r.Suite, o.Suite), cmp.Compare(r.Name, o.Name), cmp.Compare(r.Arch, o.Arch))
}

// Archives that a package may come from.
const (
	ArchiveMain     = "main"     // SUITE and SUITE-updates
	ArchiveSecurity = "security" // SUITE-security
)

// Entry is one resolved package: exactly which .deb a [Ref] stands for.
type Entry struct {
	Ref
	Resolved      string // the package that Name led to; the same unless Name is a kernel meta package
	PackageArch   string // its own architecture: Ref.Arch, or all
	Version       string // Debian version
	Source        string // source package
	SourceVersion string
	Archive       string // ArchiveMain or ArchiveSecurity
	Filename      string // below the archive's root: pool/main/...
	Size          int64  // of the .deb, bytes
	InstalledSize int64  // of its contents, KiB, as its maintainer states it
	SHA256        string // of the .deb, 64 lower-case hexadecimal digits
}

// check says everything that is wrong with e.
func (e *Entry) check() error {
	var all []error
	bad := func(format string, a ...any) { all = append(all, fmt.Errorf(format, a...)) }
	if err := e.Ref.check(); err != nil {
		all = append(all, err)
	}
	if !isName(e.Resolved) {
		bad("Resolved %q is not a package name", e.Resolved)
	}
	if !isName(e.Source) {
		bad("Source %q is not a package name", e.Source)
	}
	if e.PackageArch != e.Arch && e.PackageArch != "all" {
		bad("Package-Architecture %q is neither %s nor all", e.PackageArch, e.Arch)
	}
	if !isVersion(e.Version) {
		bad("Version %q is not a Debian version", e.Version)
	}
	if !isVersion(e.SourceVersion) {
		bad("Source-Version %q is not a Debian version", e.SourceVersion)
	}
	if e.Archive != ArchiveMain && e.Archive != ArchiveSecurity {
		bad("Archive %q is neither %s nor %s", e.Archive, ArchiveMain, ArchiveSecurity)
	}
	if !strings.HasPrefix(e.Filename, "pool/") || path.Clean(e.Filename) != e.Filename || strings.ContainsAny(e.Filename, "\\?# \t") {
		bad("Filename %q is not a path below pool/", e.Filename)
	}
	if e.Size <= 0 || e.Size > maxDeb {
		bad("Size %d is not between 1 and %d bytes", e.Size, int64(maxDeb))
	}
	if e.InstalledSize < 0 || e.InstalledSize > maxTar>>10 {
		bad("Installed-Size %d is not between 0 and %d KiB", e.InstalledSize, int64(maxTar>>10))
	}
	if !isSHA256(e.SHA256) {
		bad("SHA256 %q is not 64 lower-case hexadecimal digits", e.SHA256)
	}
	return errors.Join(all...)
}

func (r Ref) check() error {
	var all []error
	if !isName(r.Name) {
		all = append(all, fmt.Errorf("%q is not a package name", r.Name))
	}
	if !isName(r.Suite) {
		all = append(all, fmt.Errorf("suite %q is not a suite name such as trixie", r.Suite))
	}
	if !isName(r.Arch) || r.Arch == "all" {
		all = append(all, fmt.Errorf("architecture %q is not a Debian architecture such as amd64, arm64, armhf", r.Arch))
	}
	return errors.Join(all...)
}

// Lock says which exact package every board's build uses. It is a file of the
// repository, so it is trusted as the program itself is.
type Lock struct {
	Entries []Entry // sorted by suite, name, architecture; no Ref twice
}

// Find returns the entry for ref.
func (l *Lock) Find(ref Ref) (Entry, bool) {
	if l == nil {
		return Entry{}, false
	}
	i, ok := slices.BinarySearchFunc(l.Entries, ref, func(e Entry, r Ref) int { return e.Ref.compare(r) })
	if !ok {
		return Entry{}, false
	}
	return l.Entries[i], true
}

// Refs are the packages that the lock is about.
func (l *Lock) Refs() []Ref {
	var refs []Ref
	if l != nil {
		for _, e := range l.Entries {
			refs = append(refs, e.Ref)
		}
	}
	return refs
}

// with returns a lock that has e in the place of what it had for e.Ref.
func (l *Lock) with(e Entry) *Lock {
	n := &Lock{Entries: []Entry{e}}
	if l != nil {
		for _, old := range l.Entries {
			if old.Ref != e.Ref {
				n.Entries = append(n.Entries, old)
			}
		}
	}
	n.sort()
	return n
}

func (l *Lock) sort() {
	slices.SortFunc(l.Entries, func(a, b Entry) int { return a.Ref.compare(b.Ref) })
}

const lockHeader = `# Which exact Debian package every board is built from. Written by
#   fogwright sources update
# from the archive's signed indexes; a build takes these and nothing else.
# One paragraph for each package that was asked for, sorted by suite, name and
# architecture. Sizes: Size in bytes, Installed-Size in KiB.
`

// lockFields are the fields of a paragraph, in their order.
func lockFields(e *Entry) []lockField {
	return []lockField{
		{"Package", &e.Name, nil}, {"Suite", &e.Suite, nil}, {"Architecture", &e.Arch, nil},
		{"Resolved", &e.Resolved, nil}, {"Package-Architecture", &e.PackageArch, nil},
		{"Version", &e.Version, nil}, {"Source", &e.Source, nil}, {"Source-Version", &e.SourceVersion, nil},
		{"Archive", &e.Archive, nil}, {"Filename", &e.Filename, nil},
		{"Size", nil, &e.Size}, {"Installed-Size", nil, &e.InstalledSize}, {"SHA256", &e.SHA256, nil},
	}
}

type lockField struct {
	name string
	text *string
	num  *int64
}

// Bytes is the lock file: deb822 paragraphs.
func (l *Lock) Bytes() []byte {
	var b bytes.Buffer
	b.WriteString(lockHeader)
	for _, e := range l.Entries {
		b.WriteByte('\n')
		for _, f := range lockFields(&e) {
			if f.num != nil {
				fmt.Fprintf(&b, "%s: %d\n", f.name, *f.num)
			} else {
				fmt.Fprintf(&b, "%s: %s\n", f.name, *f.text)
			}
		}
	}
	return b.Bytes()
}

// ReadLock reads the lock file at path. A file that is not there is fs.ErrNotExist.
func ReadLock(path string) (*Lock, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the package lock: %w", err)
	}
	l, err := ParseLock(b)
	if err != nil {
		return nil, fmt.Errorf("reading the package lock %q: %w", path, err)
	}
	return l, nil
}

// ParseLock is the inverse of [Lock.Bytes], strictly: an unknown, missing or
// repeated field and a repeated package are errors with the line.
func ParseLock(b []byte) (*Lock, error) {
	l := &Lock{}
	var all []error
	at := map[Ref]int{}
	for line, raw := range rawStanzas(b) {
		if onlyComments(raw) {
			continue
		}
		e, err := parseLockEntry(raw, line)
		if err != nil {
			all = append(all, err)
			continue
		}
		if first, ok := at[e.Ref]; ok {
			all = append(all, fmt.Errorf("line %d: %v stands at line %d already", line, e.Ref, first))
			continue
		}
		at[e.Ref] = line
		l.Entries = append(l.Entries, e)
	}
	if len(all) > 0 {
		return nil, errors.Join(all...)
	}
	l.sort()
	return l, nil
}

func onlyComments(raw []byte) bool {
	for l := range bytes.Lines(raw) {
		if l = bytes.TrimSpace(l); len(l) > 0 && l[0] != '#' {
			return false
		}
	}
	return true
}

func parseLockEntry(raw []byte, line int) (Entry, error) {
	var e Entry
	s, err := parseStanza(raw, line)
	if err != nil {
		return e, err
	}
	known := lockFields(&e)
	found := map[string]bool{}
	for _, f := range s.fields {
		i := slices.IndexFunc(known, func(k lockField) bool { return k.name == f.name })
		if i < 0 {
			return e, fmt.Errorf("line %d: unknown field %s", f.line, f.name)
		}
		found[f.name] = true
		if known[i].text != nil {
			*known[i].text = f.value
		} else if *known[i].num, err = strconv.ParseInt(f.value, 10, 64); err != nil {
			return e, fmt.Errorf("line %d: %s %q is not a whole number", f.line, f.name, f.value)
		}
	}
	for _, k := range known {
		if !found[k.name] {
			return e, fmt.Errorf("line %d: this paragraph has no field %s", s.line, k.name)
		}
	}
	if err := e.check(); err != nil {
		return e, fmt.Errorf("line %d: %w", s.line, err)
	}
	return e, nil
}

// isName tells whether s can be the name of a package, suite or architecture
// (Debian Policy 5.6.1, and no more than a file name can hold).
func isName(s string) bool {
	if len(s) < 2 || len(s) > 128 || s[0] == '-' || s[0] == '.' || s[0] == '+' {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789+-.") == ""
}

func isVersion(s string) bool {
	return s != "" && len(s) <= 256 && isDigit(s[0]) &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.:~") == ""
}

func isSHA256(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32 && s == strings.ToLower(s)
}
