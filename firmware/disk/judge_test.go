package disk

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// judge runs a foreign program, which comes from the Debian package pkg, and
// returns what it says. A verdict of "bad" ends the test.
func judge(t testing.TB, pkg, name string, args ...string) string {
	t.Helper()
	out, err := ask(t, pkg, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// ask is judge for a program that may say "bad".
func ask(t testing.TB, pkg, name string, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin", "/sbin"} { // not everybody's PATH
		if err != nil {
			path, err = exec.LookPath(filepath.Join(dir, name))
		}
	}
	if err != nil {
		t.Fatalf("%s is missing: apt-get install %s", name, pkg)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MTOOLSRC="+os.DevNull, "MTOOLS_SKIP_CHECK=0", "TZ=UTC")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// noise is n bytes that do not compress, the same for the same seed.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// listing is a list of files that is quick to compare and to read: path, size
// and hash in the order of the tree.
func listing(files []File) []string {
	var all []string
	for _, f := range sorted(files) {
		all = append(all, fmt.Sprintf("%s %d %.4x", f.Path, len(f.Data), sha256.Sum256(f.Data)))
	}
	return all
}

// writeTemp writes s into a new file.
func writeTemp(t testing.TB, s *Sparse) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := s.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// flat is everything that s holds.
func flat(t testing.TB, s *Sparse) []byte {
	t.Helper()
	b := make([]byte, s.Size())
	if n, err := s.ReadAt(b, 0); err != nil || n != len(b) {
		t.Fatalf("reading %d bytes: got %d, %v", len(b), n, err)
	}
	return b
}
