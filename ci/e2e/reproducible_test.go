//go:build e2e

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fogwright/fogwright/boards"
	"github.com/fogwright/fogwright/firmware"
)

// Two builds of every board, out of two source trees in different folders and with
// different caches for what is compiled, give identical bytes.
func TestReproducible(t *testing.T) {
	first, second := checkout(t, "first"), checkout(t, filepath.Join("a", "longer", "second"))
	for _, name := range boards.Names() {
		t.Run(name, func(t *testing.T) {
			want := buildIn(t, first, name)
			got := buildIn(t, second, name)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("the files of two builds differ (-first +second):\n%s", diff)
			}
		})
	}
}

// checkout copies the working tree's files to a new folder.
func checkout(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	copyTree := `git ls-files -co --exclude-standard -z | xargs -0 cp --parents -t "$0"`
	cmd := exec.Command("sh", "-c", copyTree, dir)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("copying the source tree: %v\n%s", err, out)
	}
	return dir
}

// buildIn builds a board out of the tree in dir and returns the hashes of all its
// outputs.
func buildIn(t *testing.T, dir, board string) map[string]string {
	t.Helper()
	p := plan(t, filepath.Join(dir, "boards", board), firmware.Release, filepath.Join(dir, "out"))
	p.Source, p.Cache = dir, filepath.Join(dir, "cache")
	if _, err := firmware.Build(context.Background(), p); err != nil {
		t.Fatal(err)
	}
	return hashes(t, p.Out, board)
}

// suffixes of a board's outputs.
var suffixes = []string{".img", ".img.zst", ".bmap", ".slot", ".manifest.json", ".sbom.cdx.json"}

func hashes(t *testing.T, dir, board string) map[string]string {
	t.Helper()
	sums := map[string]string{}
	for _, s := range suffixes {
		sums[s] = tool(t, "sha256sum", "--zero", filepath.Join(dir, board+s))[:64]
	}
	return sums
}
