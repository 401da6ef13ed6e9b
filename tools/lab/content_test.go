package lab

import (
	"bytes"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestContentIsTheSameFromAnywhere(t *testing.T) {
	c := Content{Name: "c", Size: 100_003, Seed: 42}
	whole, err := io.ReadAll(c.Reader())
	if err != nil || int64(len(whole)) != c.Size {
		t.Fatalf("read %d bytes, %v; want %d", len(whole), err, c.Size)
	}
	for _, off := range []int64{0, 1, 15, 16, 17, 4096, 99_999, 100_002} {
		r := c.Reader()
		if _, err := r.Seek(off, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		part, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(part, whole[off:]) {
			t.Errorf("from %d on: %d bytes that differ, %v", off, len(part), err)
		}
	}
	if other := (Content{Name: "c", Size: c.Size, Seed: 43}); other.SHA256() == c.SHA256() {
		t.Error("two seeds give the same bytes")
	}
	if (Content{Size: 1 << 16, Seed: 1}).SHA256() != (Content{Size: 1 << 16, Seed: 1}).SHA256() {
		t.Error("one seed gives different bytes")
	}
}

func TestTorrentIsReadByTransmission(t *testing.T) {
	file := filepath.Join(t.TempDir(), "film.torrent")
	if err := os.WriteFile(file, film.Torrent("http://tracker.example/announce", "http://origin.example/film.bin"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(patience(t), "transmission-show", file).CombinedOutput()
	if err != nil {
		t.Fatalf("transmission-show (apt install transmission-cli): %v: %s", err, out)
	}
	for _, want := range []string{
		"Name: film.bin", film.InfoHash(), "Piece Count: 65", "Piece Size: 256.0 KiB",
		"http://tracker.example/announce", "http://origin.example/film.bin",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("transmission-show says nothing of %q:\n%s", want, out)
		}
	}
}

// aria2 fetches on the real computer: from the loopback site as web seed, after
// asking its tracker.
func TestAria2FetchesFromSite(t *testing.T) {
	t.Parallel()
	home := newHome(t, Options{})
	var site *Site
	base, err := home.Serve("127.0.0.1:0", func(base string) http.Handler { site = NewSite(base, film); return site })
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	out, err := exec.CommandContext(patience(t), "aria2c", "--no-conf", "--dir="+dir, "--seed-time=0", "--enable-dht=false",
		"--bt-enable-lpd=false", "--listen-port=6881-6999", "--file-allocation=none", base+"/film.bin.torrent").CombinedOutput()
	if err != nil {
		t.Fatalf("aria2c (apt install aria2): %v: %s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "film.bin"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := io.ReadAll(film.Reader())
	if err != nil || !bytes.Equal(b, want) {
		t.Errorf("aria2 has %d other bytes, want %d; %v", len(b), len(want), err)
	}
	if site.Tracker.Announced() == 0 || site.Served() < film.Size {
		t.Errorf("the tracker was asked %d times and %d bytes were served; want some, and %d", site.Tracker.Announced(), site.Served(), film.Size)
	}
}

func TestTrackerAnswer(t *testing.T) {
	v4, v6 := netip.MustParseAddrPort("192.168.77.100:6881"), netip.MustParseAddrPort("[2001:db8::1]:258")
	for _, c := range []struct {
		name  string
		peers []netip.AddrPort
		want  string
	}{
		{"nobody", nil, "d8:intervali30e12:min intervali5e5:peers0:e"},
		{"IPv4", []netip.AddrPort{v4}, "d8:intervali30e12:min intervali5e5:peers6:\xc0\xa8Md\x1a\xe1e"},
		{"both", []netip.AddrPort{v6, v4}, "d8:intervali30e12:min intervali5e5:peers6:\xc0\xa8Md\x1a\xe1" +
			"6:peers618: \x01\r\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x01\x02e"},
	} {
		if diff := cmp.Diff(c.want, string(trackerAnswer(c.peers))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}
