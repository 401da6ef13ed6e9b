package userland

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/u-root/mkuimage/cpio"
)

func sample() *Archive {
	a := &Archive{}
	a.Symlink("bin/netd", "/init")
	a.File("init", bytes.Repeat([]byte("x"), 5000), 0o755)
	a.File("etc/fogwright/board.json", []byte("{}\n"), 0o644)
	a.File("etc/empty", nil, 0o644)
	a.Directory("run", 0o755)
	a.Device("dev/console", 0o600, 5, 1)
	return a
}

// GNU cpio is the judge of what we write.
func TestArchiveIsReadByCpio(t *testing.T) {
	data, err := sample().Bytes()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	run := func(stdin []byte, args ...string) string {
		t.Helper()
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdin = bytes.NewReader(stdin)
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v (apt-get install cpio)", strings.Join(args, " "), err)
		}
		return string(out)
	}
	want := "bin\nbin/netd\ndev\ndev/console\netc\netc/empty\netc/fogwright\netc/fogwright/board.json\ninit\nrun\n"
	// The root folder comes again wherever a gap had to be filled.
	if diff := cmp.Diff(want, strings.ReplaceAll(run(data, "cpio", "-it", "--quiet"), ".\n", "")); diff != "" {
		t.Errorf("cpio -it (-want +got):\n%s", diff)
	}
	run(data, "cpio", "-idm", "--quiet", "--nonmatching", "dev*")
	if got := run(nil, "cat", "etc/fogwright/board.json"); got != "{}\n" {
		t.Errorf("board.json = %q", got)
	}
	if got := run(nil, "stat", "-c", "%s %a %Y", "init"); got != "5000 755 0\n" {
		t.Errorf("init = %q, want size 5000, mode 755, time 0", got)
	}
}

func TestArchiveDataIsPageAligned(t *testing.T) {
	data, err := sample().Bytes()
	if err != nil {
		t.Fatal(err)
	}
	records, err := ReadArchive(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for _, r := range records {
		if r.Mode&cpio.S_IFMT != cpio.S_IFREG || r.FileSize == 0 {
			continue
		}
		files++
		if r.FilePos%pageSize != 0 {
			t.Errorf("%s: data at offset %d, want a multiple of %d", r.Name, r.FilePos, pageSize)
		}
	}
	if files != 2 {
		t.Errorf("%d files with data, want 2", files)
	}
}

// Whatever gap is left before a file's data, and however often, it is filled.
func TestArchiveAlignsAfterAnySize(t *testing.T) {
	a := &Archive{}
	for i := range 3000 {
		a.File(fmt.Sprintf("lib/modules/some/long/path/for/a/module/%05d.ko", i), bytes.Repeat([]byte{1}, i*7+1), 0o644)
	}
	data, err := a.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(data)))
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for _, r := range records {
		if len(r.Name)+1 > pathMax {
			t.Fatalf("record %.60q has a name of %d bytes, which the kernel passes over", r.Name, len(r.Name))
		}
		if r.Mode&cpio.S_IFMT == cpio.S_IFREG {
			want := fmt.Sprintf("lib/modules/some/long/path/for/a/module/%05d.ko", files)
			if r.FilePos%pageSize != 0 || strings.TrimRight(r.Name, "\x00") != want {
				t.Fatalf("%.60q: data at offset %d", r.Name, r.FilePos)
			}
			files++
		}
	}
	if files != 3000 {
		t.Errorf("%d files, want 3000", files)
	}
}

func TestArchiveIsReproducible(t *testing.T) {
	first, err := sample().Bytes()
	if err != nil {
		t.Fatal(err)
	}
	shuffled := sample()
	for i, j := 0, len(shuffled.records)-1; i < j; i, j = i+1, j-1 {
		shuffled.records[i], shuffled.records[j] = shuffled.records[j], shuffled.records[i]
	}
	second, err := shuffled.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("the order of adding changes the archive")
	}
}

func TestArchiveRefuses(t *testing.T) {
	a := sample()
	a.File("init", []byte("another"), 0o755)
	if _, err := a.Bytes(); err == nil {
		t.Error("two different files of one name were accepted")
	}
	b := &Archive{}
	b.File(strings.Repeat("d/", 1500)+"f", []byte("x"), 0o644)
	if _, err := b.Bytes(); err == nil {
		t.Error("a name too long to align was accepted")
	}
}
