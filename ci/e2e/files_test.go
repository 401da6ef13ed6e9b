//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/fogwright/fogwright/firmware/disk"
)

func openFile(t testing.TB, path string) (*os.File, fs.FileInfo) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return f, info
}

// cut copies a partition out of a card into a file of its own, with its holes.
func cut(t testing.TB, card, to string, p disk.Partition) {
	t.Helper()
	in, _ := openFile(t, card)
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := out.Truncate(p.Size); err != nil {
		t.Fatal(err)
	}
	buf, zero := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < p.Size; {
		n, err := in.ReadAt(buf[:min(int64(len(buf)), p.Size-off)], p.Offset+off)
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if string(buf[:n]) != string(zero[:n]) {
			if _, err := out.WriteAt(buf[:n], off); err != nil {
				t.Fatal(err)
			}
		}
		off += int64(n)
	}
}

var blockCount = regexp.MustCompile(`(?m)^Block count: +(\d+)$`)

// wantBlocks: the ext4 file system is as large as its partition, but for less than
// a block group (128 MiB), which a resize may leave.
func wantBlocks(t testing.TB, dumpe2fs string, p disk.Partition) {
	t.Helper()
	m := blockCount.FindStringSubmatch(dumpe2fs)
	if m == nil {
		t.Fatalf("dumpe2fs tells no block count:\n%s", dumpe2fs)
	}
	blocks, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if missing := p.Size - blocks*4096; missing < 0 || missing >= 128<<20 {
		t.Error(fmt.Errorf("the file system has %d bytes and its partition %d", blocks*4096, p.Size))
	}
}
