package release

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"runtime/debug"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// Bill is what a bill of materials is made from.
type Bill struct {
	Name, Board, Arch, Variant, Version string
	// Built is the time that the build was told (SOURCE_DATE_EPOCH).
	Built time.Time
	// Licence is the SPDX identifier of Fogwright's own licence.
	Licence  string
	Programs []Program
	Packages []Package
	// Distro is the distribution of the packages as package URLs write it,
	// "debian-13".
	Distro string
	// ModuleCache is Go's module cache (go env GOMODCACHE), where the modules'
	// licence files are.
	ModuleCache fs.FS
}

// Program is one compiled Go program of the firmware.
type Program struct {
	Name   string      // as people know it: box, edgecache
	Binary io.ReaderAt // with its build information (which -s -w leaves in)
}

// SBOM makes the bill of materials: CycloneDX 1.6 as JSON, with the Go modules of
// every program and the Debian packages. The same bill gives the same bytes; the
// serial number is derived from them. A program that does not tell its modules, or a
// module that is not in the cache, is an error: a bill with holes is worse than none.
func SBOM(b Bill) ([]byte, error) {
	bom, err := b.bom()
	if err != nil {
		return nil, fmt.Errorf("making bill of materials of %q: %w", b.Name, err)
	}
	first, err := encode(bom)
	if err != nil {
		return nil, fmt.Errorf("making bill of materials of %q: %w", b.Name, err)
	}
	bom.SerialNumber = serial(first)
	out, err := encode(bom)
	if err != nil {
		return nil, fmt.Errorf("making bill of materials of %q: %w", b.Name, err)
	}
	return out, nil
}

func encode(bom *cdx.BOM) ([]byte, error) {
	var out bytes.Buffer
	e := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false)
	err := e.EncodeVersion(bom, cdx.SpecVersion1_6)
	return out.Bytes(), err
}

// serial is a UUID of version 8 (RFC 9562, section 5.8: bits of one's own making)
// from the content's hash.
func serial(content []byte) string {
	h := sha256.Sum256(content)
	h[6] = h[6]&0x0f | 0x80
	h[8] = h[8]&0x3f | 0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

func (b *Bill) bom() (*cdx.BOM, error) {
	bom := cdx.NewBOM()
	ref := "firmware:" + b.Name
	bom.Metadata = &cdx.Metadata{
		Timestamp:  b.Built.UTC().Format(time.RFC3339),
		Lifecycles: &[]cdx.Lifecycle{{Phase: cdx.LifecyclePhaseBuild}},
		Tools: &cdx.ToolsChoice{Components: &[]cdx.Component{
			{Type: cdx.ComponentTypeApplication, Name: "fogwright", Version: b.Version},
		}},
		Component: &cdx.Component{
			BOMRef: ref, Type: cdx.ComponentTypeFirmware,
			Name: b.Name, Version: b.Version,
			Description: "Fogwright firmware for the board " + b.Board,
			Properties: &[]cdx.Property{
				{Name: "fogwright:arch", Value: b.Arch},
				{Name: "fogwright:board", Value: b.Board},
				{Name: "fogwright:variant", Value: b.Variant},
			},
		},
	}
	inside := map[string]cdx.Component{} // by reference
	needs := map[string][]string{ref: nil}
	for _, p := range b.Programs {
		c, modules, err := b.program(p)
		if err != nil {
			return nil, fmt.Errorf("program %s: %w", p.Name, err)
		}
		inside[c.BOMRef] = c
		needs[ref] = append(needs[ref], c.BOMRef)
		for _, m := range modules {
			inside[m.BOMRef] = m
			needs[c.BOMRef] = append(needs[c.BOMRef], m.BOMRef)
		}
	}
	for _, p := range b.Packages {
		c := b.debian(p)
		inside[c.BOMRef] = c
		needs[ref] = append(needs[ref], c.BOMRef)
	}
	components := make([]cdx.Component, 0, len(inside))
	var graph []cdx.Dependency
	for _, r := range slices.Sorted(maps.Keys(inside)) {
		components = append(components, inside[r])
		if _, ok := needs[r]; !ok {
			needs[r] = nil // a component without an entry would count as unknown
		}
	}
	for _, r := range slices.Sorted(maps.Keys(needs)) {
		d := slices.Compact(slices.Sorted(slices.Values(needs[r])))
		graph = append(graph, cdx.Dependency{Ref: r, Dependencies: &d})
	}
	bom.Components, bom.Dependencies = &components, &graph
	return bom, nil
}

// program describes a program and the modules it is made of.
func (b *Bill) program(p Program) (cdx.Component, []cdx.Component, error) {
	info, err := buildinfo.Read(p.Binary)
	if err != nil {
		return cdx.Component{}, nil, err
	}
	self := cdx.Component{
		BOMRef: "program:" + p.Name, Type: cdx.ComponentTypeApplication,
		Name: p.Name, Version: b.Version,
		PackageURL: golang(info.Path, b.Version),
	}
	if b.Licence != "" {
		self.Licenses = &cdx.Licenses{{License: &cdx.License{ID: b.Licence}}}
	}
	goVersion := strings.TrimPrefix(info.GoVersion, "go")
	modules := []cdx.Component{{
		BOMRef: golang("std", goVersion), Type: cdx.ComponentTypeLibrary,
		Name: "std", Version: goVersion, PackageURL: golang("std", goVersion),
		Description: "Go's standard library and run time",
		Licenses:    &cdx.Licenses{{License: &cdx.License{ID: "BSD-3-Clause"}}},
	}}
	for _, m := range info.Deps {
		c, ours, err := b.module(m)
		if err != nil {
			return cdx.Component{}, nil, err
		}
		if !ours {
			modules = append(modules, c)
		}
	}
	return self, modules, nil
}

// module describes a Go module. A module that is replaced by a local folder is one
// of our own and part of the program.
func (b *Bill) module(m *debug.Module) (c cdx.Component, ours bool, err error) {
	if m.Replace != nil {
		m = m.Replace
	}
	if strings.HasPrefix(m.Path, ".") || strings.HasPrefix(m.Path, "/") {
		return c, true, nil
	}
	if b.ModuleCache == nil {
		return c, false, errors.New("no module cache given to read licences from")
	}
	licences, err := moduleLicences(b.ModuleCache, m.Path, m.Version)
	if err != nil {
		return c, false, fmt.Errorf("licence of module %s %s: %w", m.Path, m.Version, err)
	}
	url := golang(m.Path, m.Version)
	c = cdx.Component{
		BOMRef: url, Type: cdx.ComponentTypeLibrary,
		Name: m.Path, Version: m.Version, PackageURL: url,
		Licenses: orUnknown(licences),
	}
	// go.sum's "h1:" is the base64 of a SHA-256 over the module's files (Go
	// Modules Reference, "go.sum files"); CycloneDX wants hexadecimal.
	if sum, ok := strings.CutPrefix(m.Sum, "h1:"); ok {
		raw, err := base64.StdEncoding.DecodeString(sum)
		if err != nil || len(raw) != sha256.Size {
			return c, false, fmt.Errorf("module %s %s: sum %q is not a SHA-256", m.Path, m.Version, m.Sum)
		}
		c.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(raw)}}
		c.Properties = &[]cdx.Property{{Name: "fogwright:go:sum", Value: m.Sum}}
	}
	return c, false, nil
}

// debian describes a Debian package. Its source package stands as the ancestor that
// it is derived from.
func (b *Bill) debian(p Package) cdx.Component {
	url := deb(p.Name, p.Version, p.Arch, b.Distro)
	c := cdx.Component{
		BOMRef: url, Type: cdx.ComponentTypeLibrary,
		Name: p.Name, Version: p.Version, PackageURL: url,
		Supplier: &cdx.OrganizationalEntity{Name: "Debian"},
		Licenses: orUnknown(copyrightLicences(p.Copyright)),
		Hashes:   &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: p.SHA256}},
	}
	if p.Source != "" {
		version := cmp.Or(p.SourceVersion, p.Version)
		c.Pedigree = &cdx.Pedigree{Ancestors: &[]cdx.Component{{
			Type: cdx.ComponentTypeLibrary, Name: p.Source, Version: version,
			PackageURL: deb(p.Source, version, "source", b.Distro),
		}}}
	}
	return c
}

// orUnknown says so where no licence was recognised, instead of leaving it out.
func orUnknown(l cdx.Licenses) *cdx.Licenses {
	if len(l) == 0 {
		l = cdx.Licenses{{License: &cdx.License{Name: "not recognised: see the component's own licence file"}}}
	}
	return &l
}

// golang is the package URL of a Go module or package
// (https://github.com/package-url/purl-spec, types "golang" and "deb").
func golang(path, version string) string {
	segments := strings.Split(strings.ToLower(path), "/")
	for i, s := range segments {
		segments[i] = escapeURL(s)
	}
	return "pkg:golang/" + strings.Join(segments, "/") + "@" + escapeURL(version)
}

func deb(name, version, arch, distro string) string {
	url := "pkg:deb/debian/" + escapeURL(strings.ToLower(name)) + "@" + escapeURL(version) + "?arch=" + escapeURL(arch)
	if distro != "" {
		url += "&distro=" + escapeURL(distro)
	}
	return url
}

// escapeURL percent-encodes as package URLs want it: all but letters, digits and
// "-._~:".
func escapeURL(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', strings.IndexByte("-._~:", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
