package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// mkTorrent has transmission write the torrent file of path.
func mkTorrent(t *testing.T, path, announce string) (file, hash string) {
	t.Helper()
	file = path + ".torrent"
	tool(t, "transmission-cli", ".", "transmission-create", "-o", file, "-t", announce, "-s", "256", path)
	out := tool(t, "transmission-cli", ".", "transmission-show", file)
	m := regexp.MustCompile(`Hash(?: v1)?: ([0-9a-f]{40})`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("transmission-show does not tell the info hash:\n%s", out)
	}
	return file, m[1]
}

func aria2(t *testing.T, torrent string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	tool(t, "aria2", dir, "aria2c", "--no-conf", "--seed-time=0", "--enable-dht=false", "--enable-dht6=false",
		"--bt-enable-lpd=false", "--listen-port=7001-7099", "--bt-stop-timeout=60", "--console-log-level=warn",
		"--file-allocation=none", "--dir="+dir, torrent)
	return dir
}

// transmission fetches until its finish script has run, and is then stopped: it
// would go on seeding.
func transmission(t *testing.T, torrent string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	done := filepath.Join(t.TempDir(), "done")
	script := done + ".sh"
	if err := os.WriteFile(script, []byte("#!/bin/sh\ntouch "+done+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	config := t.TempDir()
	settings := `{"dht-enabled": false, "lpd-enabled": false, "utp-enabled": false}`
	if err := os.WriteFile(filepath.Join(config, "settings.json"), []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	cmd := exec.CommandContext(ctx, need(t, "transmission-cli", "transmission-cli"),
		"--config-dir", config, "--download-dir", dir, "--finish", script, "--port", "7100", "--no-portmap", torrent)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		if _, err := os.Stat(done); err == nil {
			stop()
			<-ended
			return dir
		}
		select {
		case err := <-ended:
			said := out.String()
			t.Fatalf("transmission-cli: %v\n%s", err, said[max(0, len(said)-2000):])
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// The story of the package: an origin, a box, and peers who fetch when the origin
// is gone, before and after the box restarts.
func TestShare(t *testing.T) {
	t.Parallel()
	shelf := t.TempDir()
	film := filepath.Join(shelf, "film.bin")
	content(t, film, 64<<20)
	album := filepath.Join(shelf, "album")
	content(t, filepath.Join(album, "one.bin"), 16<<20+12345)
	content(t, filepath.Join(album, "sub", "two.bin"), 777)

	announce, _ := serve(t, &tracker{})
	origin, stopOrigin := serve(t, http.FileServer(http.Dir(shelf)))
	filmTorrent, filmHash := mkTorrent(t, film, announce+"/announce")
	albumTorrent, albumHash := mkTorrent(t, album, announce+"/announce")

	data := t.TempDir()
	cfg := Config{Content: []Content{
		{Torrent: origin + "/film.bin.torrent", InfoHash: filmHash, WebSeeds: []string{origin + "/film.bin"}},
		{Torrent: origin + "/album.torrent", WebSeeds: []string{origin + "/"}},
		{Torrent: origin + "/film.bin.torrent", InfoHash: strings.Repeat("0", 40)},
		{Torrent: origin + "/missing.torrent"},
	}}
	box := start(t, data, cfg)
	whole := func(r Report) bool {
		return r.Sharing && len(r.Content) == 4 && r.Content[0].Have == 64<<20 && r.Content[1].Have == 16<<20+12345+777
	}
	r := box.await("film and album are whole", whole)
	if got := r.Content[0].InfoHash; got != filmHash {
		t.Errorf("info hash of the film: got %s, want %s", got, filmHash)
	}
	if got := r.Content[1].InfoHash; got != albumHash {
		t.Errorf("info hash of the album: got %s, want %s", got, albumHash)
	}
	wantIn(t, "wrong info hash", r.Content[2].Error, strings.Repeat("0", 40)+" is pinned")
	wantIn(t, "missing torrent file", r.Content[3].Error, "404")
	onlyOnePort(t, box.cmd.Process.Pid)

	stopOrigin()
	t.Run("peers", func(t *testing.T) {
		t.Run("transmission", func(t *testing.T) {
			t.Parallel()
			dir := transmission(t, albumTorrent)
			same(t, filepath.Join(album, "one.bin"), filepath.Join(dir, "album", "one.bin"))
			same(t, filepath.Join(album, "sub", "two.bin"), filepath.Join(dir, "album", "sub", "two.bin"))
		})
		t.Run("aria2", func(t *testing.T) {
			t.Parallel()
			same(t, film, filepath.Join(aria2(t, filmTorrent), "film.bin"))
		})
	})
	box.await("every byte served is counted", func(r Report) bool { return r.BytesServed >= 64<<20+16<<20 })
	if got, limit := rss(t, box.cmd.Process.Pid), 40<<10; got > limit && !raceDetector {
		t.Errorf("resident memory after serving: got %d KiB, want at most %d", got, limit)
	}

	if err := box.stop(); err != nil {
		t.Errorf("stopping on SIGTERM: %v", err)
	}
	box = start(t, data, cfg)
	r = box.await("film and album are whole after a restart without the origin", whole)
	if r.BytesDownloaded != 0 {
		t.Errorf("bytes downloaded after the restart: got %d, want 0", r.BytesDownloaded)
	}
	same(t, film, filepath.Join(aria2(t, filmTorrent), "film.bin"))
	handshake(t, "tcp6", "[::1]:6881", filmHash)
	handshake(t, "tcp4", "127.0.0.1:6881", albumHash)
}

// kill -9 in the middle costs at most what was not flushed, and never gives a
// wrong byte.
func TestKilledWhileFetching(t *testing.T) {
	t.Parallel()
	shelf := t.TempDir()
	film := filepath.Join(shelf, "film.bin")
	content(t, film, 16<<20)
	announce, _ := serve(t, &tracker{})
	torrent, hash := mkTorrent(t, film, announce)
	// The origin stops in the middle of its first answer.
	half := make(chan struct{})
	var once sync.Once
	files := http.FileServer(http.Dir(shelf))
	origin, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/film.bin" {
			once.Do(func() {
				b, _ := os.ReadFile(film)
				w.Header().Set("Content-Length", strconv.Itoa(len(b)))
				w.Write(b[:len(b)/2])
				close(half)
				<-r.Context().Done()
			})
			if r.Context().Err() != nil {
				return
			}
		}
		files.ServeHTTP(w, r)
	}))
	cfg := Config{ListenPort: 6882, Content: []Content{{Torrent: origin + "/film.bin.torrent", InfoHash: hash, WebSeeds: []string{origin + "/film.bin"}}}}
	data := t.TempDir()
	box := start(t, data, cfg)
	<-half
	box.cmd.Process.Kill()
	<-box.done
	box.done <- nil
	box = start(t, data, cfg)
	box.await("the film is whole", func(r Report) bool { return r.Sharing })
	same(t, film, filepath.Join(aria2(t, torrent), "film.bin"))
}

func same(t *testing.T, want, got string) {
	t.Helper()
	if digest(t, want) != digest(t, got) {
		t.Errorf("%s differs from %s", got, want)
	}
}

func wantIn(t *testing.T, what, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("%s: got %q, want it to contain %q", what, got, want)
	}
}

// onlyOnePort reads the process's own sockets: a TCP socket that listens (state
// 0A) or a UDP or raw socket that is not connected (state 07) is a door.
func onlyOnePort(t *testing.T, pid int) {
	t.Helper()
	mine := map[string]bool{}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "socket:[") {
			mine[strings.Trim(to, "socket:[]")] = true
		}
	}
	var doors []string
	for _, proto := range []string{"tcp", "tcp6", "udp", "udp6", "raw", "raw6"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, proto))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(string(b), "\n")[1:] {
			if f := strings.Fields(line); len(f) > 9 && mine[f[9]] && (f[3] == "0A" || f[3] == "07") {
				doors = append(doors, proto+" "+f[1])
			}
		}
	}
	if want := "tcp6 00000000000000000000000000000000:1AE1"; len(doors) != 1 || doors[0] != want {
		t.Errorf("open sockets: got %q, want only %q", doors, want)
	}
}

func rss(t *testing.T, pid int) (kib int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(b)
	if m == nil {
		t.Fatal("no VmRSS")
	}
	kib, err = strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("resident: %d KiB", kib)
	return kib
}

// handshake speaks the first 68 bytes of BEP 3 and wants the same hash back.
func handshake(t *testing.T, network, address, hash string) {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	raw, err := hex.DecodeString(hash)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "\x13BitTorrent protocol%s%s-XX0000-abcdefghijkl", make([]byte, 8), raw)
	answer := make([]byte, 68)
	if _, err := io.ReadFull(c, answer); err != nil {
		t.Errorf("%s: no handshake: %v", address, err)
	} else if got := string(answer[28:48]); got != string(raw) {
		t.Errorf("%s: handshake for %x, want %s", address, got, hash)
	}
}
