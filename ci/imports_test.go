// Package ci proves what no single package can: that the house stands as designed,
// that images boot (ci/e2e) and what they cost (ci/bench).
package ci

import (
	"encoding/json"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/fogwright/fogwright/"

// allowed says, for a package prefix, which of our own packages it may import. The
// longest prefix that matches a package rules it.
//
// Data flows one way: boards describe, firmware builds, tools drive, ci proves; the
// box (initramfs) is compiled by firmware and imported by nobody who builds it.
var allowed = map[string][]string{
	"boards": {},

	"firmware":          {"boards", "firmware"},
	"firmware/source":   {},
	"firmware/kernel":   {},
	"firmware/userland": {},
	"firmware/boot":     {"firmware/boot"},
	"firmware/disk":     {},
	"firmware/release":  {},

	"initramfs":         {"initramfs", "ota/release", "ota/delta", "ota/slot", "ota/update"},
	"initramfs/state":   {},
	"initramfs/site":    {},
	"initramfs/network": {"initramfs/network", "initramfs/state", "initramfs/site"},
	"initramfs/storage": {"initramfs/storage", "initramfs/state"},

	// Host programs may know what passes between them and a box: the state's
	// types, the site file, the control channel.
	"tools": {"tools", "firmware", "boards", "ota", "initramfs/state", "initramfs/site", "initramfs/control"},

	"ci": {"ci", "tools", "firmware", "boards", "ota", "initramfs"},
}

// pkg is what `go list -json` tells of a package.
type pkg struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,TestImports,XTestImports"}, args...)...)
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func below(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

// rule finds the longest prefix in allowed that p lies below.
func rule(p string) (string, bool) {
	best, found := "", false
	for prefix := range allowed {
		if below(p, prefix) && len(prefix) >= len(best) {
			best, found = prefix, true
		}
	}
	return best, found
}

func TestImportsPointDown(t *testing.T) {
	packages := list(t, "-tags=e2e", "./...")
	if len(packages) < 15 {
		t.Fatalf("go list found only %d packages", len(packages))
	}
	for _, p := range packages {
		from := strings.TrimPrefix(p.ImportPath, module)
		prefix, ok := rule(from)
		if !ok {
			t.Errorf("%s lies outside the house: no rule in ci/imports_test.go covers it", from)
			continue
		}
		for _, imports := range [][]string{p.Imports, p.TestImports, p.XTestImports} {
			for _, i := range imports {
				to, ours := strings.CutPrefix(i, module)
				if !ours || to == from {
					continue
				}
				if !slices.ContainsFunc(allowed[prefix], func(a string) bool { return below(to, a) }) && !below(to, prefix) {
					t.Errorf("%s imports %s: packages below %q may import only %q", from, to, prefix, allowed[prefix])
				}
			}
		}
	}
}

// What runs on the box must not drag the builder's or the lab's libraries along.
func TestBoxStaysLean(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "./initramfs/cmd/box")
	cmd.Dir = ".."
	cmd.Env = append(cmd.Environ(), "GOOS=linux", "GOARCH=arm", "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list -deps: %v", err)
	}
	for _, forbidden := range []string{
		module + "boards", module + "firmware", module + "tools",
		"gvisor.dev/", "github.com/anacrolix/", "github.com/u-root/mkuimage", "github.com/ulikunitz/",
		"github.com/ProtonMail/", "github.com/CycloneDX/", "os/user", "plugin", "testing",
	} {
		for dep := range strings.Lines(string(out)) {
			if strings.HasPrefix(strings.TrimSpace(dep), forbidden) {
				t.Errorf("the box links %s", strings.TrimSpace(dep))
			}
		}
	}
}
