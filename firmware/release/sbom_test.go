package release

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"
)

func goTool(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, &stderr)
	}
	return strings.TrimSpace(string(out))
}

// program is testdata/program, compiled as the builder compiles: stripped.
var program = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "program")
	if out, err := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "./testdata/program").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	return os.ReadFile(path)
})

func bill(t *testing.T) Bill {
	t.Helper()
	b, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return Bill{
		Name: "pc-amd64", Board: "pc-amd64", Arch: "amd64", Variant: "release", Version: "1.2.3+dev",
		Built: time.Unix(1700000000, 0), Licence: "Apache-2.0", Distro: "debian-13",
		Programs:    []Program{{"box", bytes.NewReader(b)}, {"edgecache", bytes.NewReader(b)}},
		Packages:    packages(),
		ModuleCache: os.DirFS(goTool(t, "env", "GOMODCACHE")),
	}
}

func packages() []Package {
	return []Package{
		{
			Name: "linux-image-6.12.1+deb13-amd64", Version: "6.12.1-1", Arch: "amd64",
			Source: "linux-signed-amd64", SourceVersion: "6.12.1+1",
			SHA256:    strings.Repeat("ab", 32),
			Copyright: []byte("Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: GPL-2\n Text.\n\nFiles: x\nLicense: GPL-2 or BSD-2-clause\n\nFiles: y\nLicense: Expat\n\nLicense: GPL-2\n License: not this\n"),
		},
		{Name: "busybox-static", Version: "1:1.37.0-6+b9", Arch: "amd64", SHA256: strings.Repeat("cd", 32), Copyright: []byte("This package was debianized by hand.\n")},
	}
}

func sbom(t *testing.T, b Bill) []byte {
	t.Helper()
	out, err := SBOM(b)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// schemas is the folder with CycloneDX's own schemas, which its Go module carries.
func schemas(t *testing.T) string {
	return filepath.Join(goTool(t, "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go"), "schema")
}

func validate(t *testing.T, text []byte) (string, error) {
	t.Helper()
	// Debian's Python, which has Debian's packages.
	cmd := exec.Command("/usr/bin/python3", "testdata/validate.py", schemas(t))
	cmd.Stdin = bytes.NewReader(text)
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "Error") {
		t.Fatalf("%s (install python3-jsonschema): %v\n%s", cmd, err, out)
	}
	return string(out), err
}

// CycloneDX's official JSON schema is the judge, and it does judge.
func TestSBOMFitsSchema(t *testing.T) {
	text := sbom(t, bill(t))
	if out, err := validate(t, text); err != nil {
		t.Errorf("the schema refuses our bill of materials: %v\n%s", err, out)
	}
	for _, tc := range []struct{ old, new string }{
		{`"type": "firmware"`, `"type": "software"`},
		{`"id": "GPL-2.0-only"`, `"id": "GPL-2"`},
		{`"urn:uuid:`, `"uuid:`},
	} {
		bad := strings.Replace(string(text), tc.old, tc.new, 1)
		if bad == string(text) {
			t.Fatalf("the bill of materials has no %s", tc.old)
		}
		if out, err := validate(t, []byte(bad)); err == nil {
			t.Errorf("the schema accepts %s\n%s", tc.new, out)
		}
	}
}

func TestSBOMIsDeterministic(t *testing.T) {
	b := bill(t)
	first := sbom(t, b)
	slices.Reverse(b.Packages)
	slices.Reverse(b.Programs)
	b.Built = b.Built.In(time.FixedZone("", 3600))
	if diff := cmp.Diff(string(first), string(sbom(t, b))); diff != "" {
		t.Errorf("the order of programs and packages, or the time zone, matters (-first +second):\n%s", diff)
	}
	b.Version = "1.2.4"
	serial := regexp.MustCompile(`urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`)
	one, two := serial.FindString(string(first)), serial.FindString(string(sbom(t, b)))
	if one == "" || one == two {
		t.Errorf("serial numbers of two versions are %q and %q", one, two)
	}
}

func TestSBOMContents(t *testing.T) {
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(sbom(t, bill(t))), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	if got, want := bom.Metadata.Timestamp, "2023-11-14T22:13:20Z"; got != want {
		t.Errorf("timestamp %s, want the build's, %s", got, want)
	}
	byURL := map[string]cdx.Component{}
	for _, c := range *bom.Components {
		if c.Licenses == nil || len(*c.Licenses) == 0 {
			t.Errorf("%s has no licence", c.BOMRef)
		}
		byURL[c.PackageURL] = c
	}
	version := goTool(t, "list", "-m", "-f", "{{.Version}}", "github.com/CycloneDX/cyclonedx-go")
	for url, want := range map[string]string{
		"pkg:golang/github.com/cyclonedx/cyclonedx-go@" + version:                                 "Apache-2.0",
		"pkg:golang/github.com/google/go-cmp@v0.7.0":                                              "BSD-3-Clause",
		"pkg:golang/std@" + strings.TrimPrefix(goTool(t, "env", "GOVERSION"), "go"):               "BSD-3-Clause",
		"pkg:deb/debian/linux-image-6.12.1%2Bdeb13-amd64@6.12.1-1?arch=amd64&distro=debian-13":    "GPL-2 or BSD-2-clause|GPL-2.0-only|MIT",
		"pkg:deb/debian/busybox-static@1:1.37.0-6%2Bb9?arch=amd64&distro=debian-13":               "not recognised: see the component's own licence file",
		"pkg:golang/github.com/fogwright/fogwright/firmware/release/testdata/program@1.2.3%2Bdev": "Apache-2.0",
	} {
		c, ok := byURL[url]
		if !ok {
			t.Errorf("no component %s", url)
			continue
		}
		var got []string
		for _, l := range *c.Licenses {
			got = append(got, l.License.ID+l.License.Name)
		}
		if strings.Join(got, "|") != want {
			t.Errorf("%s: licences %q, want %q", url, got, want)
		}
	}
	linux := byURL["pkg:deb/debian/linux-image-6.12.1%2Bdeb13-amd64@6.12.1-1?arch=amd64&distro=debian-13"]
	if got, want := (*linux.Pedigree.Ancestors)[0].PackageURL, "pkg:deb/debian/linux-signed-amd64@6.12.1%2B1?arch=source&distro=debian-13"; got != want {
		t.Errorf("source package %s, want %s", got, want)
	}
	// The sum in go.sum and the hash are the same 32 bytes.
	cmpModule := byURL["pkg:golang/github.com/google/go-cmp@v0.7.0"]
	if got, want := (*cmpModule.Properties)[0].Value, "h1:wk8382ETsv4JYUZwIsn6YpYiWiBsYLSJiTsyBybVuN8="; got != want {
		t.Errorf("go-cmp: sum %s, want %s", got, want)
	}
	if got, want := (*cmpModule.Hashes)[0].Value, "c24f37f36113b2fe0961467022c9fa6296225a206c60b489893b320726d5b8df"; got != want {
		t.Errorf("go-cmp: hash %s, want %s", got, want)
	}
}

// Every reference in the dependency graph is to a component, and every component is
// reached from the firmware.
func TestSBOMGraph(t *testing.T) {
	var bom cdx.BOM
	if err := json.Unmarshal(sbom(t, bill(t)), &bom); err != nil {
		t.Fatal(err)
	}
	edges := map[string][]string{}
	for _, d := range *bom.Dependencies {
		if d.Dependencies != nil {
			edges[d.Ref] = *d.Dependencies
		}
	}
	reached := map[string]bool{}
	var walk func(string)
	walk = func(ref string) {
		if reached[ref] {
			return
		}
		reached[ref] = true
		for _, r := range edges[ref] {
			walk(r)
		}
	}
	walk(bom.Metadata.Component.BOMRef)
	for _, c := range *bom.Components {
		if !reached[c.BOMRef] {
			t.Errorf("%s is not reached from the firmware", c.BOMRef)
		}
		delete(reached, c.BOMRef)
	}
	delete(reached, bom.Metadata.Component.BOMRef)
	for r := range reached {
		t.Errorf("dependency %s is not a component", r)
	}
}

func TestSBOMRefuses(t *testing.T) {
	b := bill(t)
	b.Programs = []Program{{"box", strings.NewReader("#!/bin/sh\n")}}
	if _, err := SBOM(b); err == nil || !strings.Contains(err.Error(), "program box") {
		t.Errorf("a program that is a shell script: error %v", err)
	}
	b = bill(t)
	b.ModuleCache = os.DirFS(t.TempDir())
	if _, err := SBOM(b); err == nil || !strings.Contains(err.Error(), "licence of module") {
		t.Errorf("an empty module cache: error %v", err)
	}
}

// Every identifier that we can write is in SPDX's list.
func TestLicenceIdentifiers(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(schemas(t), "spdx.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Enum []string }
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, id := range list.Enum {
		known[id] = true
	}
	for name, id := range debianLicences() {
		if !known[id] {
			t.Errorf("Debian's %q becomes %q, which SPDX does not have", name, id)
		}
	}
	for _, f := range fingerprints() {
		if !known[f.id] {
			t.Errorf("SPDX does not have %q", f.id)
		}
	}
}
