package main

import (
	"crypto/sha1"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anacrolix/torrent/bencode"
)

type dict = map[string]any

// info is a good info dictionary of one file of two pieces, with changes.
func info(changes dict) dict {
	d := dict{"name": "film.bin", "piece length": 1 << 18, "length": 1<<18 + 1, "pieces": strings.Repeat("x", 40)}
	for k, v := range changes {
		if d[k] = v; v == nil {
			delete(d, k)
		}
	}
	return d
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := bencode.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func file(length int64, path ...string) dict { return dict{"length": length, "path": path} }

func TestHostileTorrents(t *testing.T) {
	files := func(f ...dict) dict { return info(dict{"length": nil, "files": f}) }
	for _, test := range []struct {
		name string
		info dict
		want string
	}{
		{"traversal in the name", info(dict{"name": "../../etc/passwd"}), "unsafe file name"},
		{"dots for a name", info(dict{"name": ".."}), "unsafe file name"},
		{"no name", info(dict{"name": ""}), "unsafe file name"},
		{"traversal in the better name", info(dict{"name.utf-8": "/etc"}), "unsafe file name"},
		{"escape sequence in the name", info(dict{"name": "\x1b[2J"}), "unsafe file name"},
		{"not UTF-8", info(dict{"name": "\xff"}), "unsafe file name"},
		{"endless name", info(dict{"name": strings.Repeat("n", 256)}), "unsafe file name"},
		{"traversal in a path", files(file(1<<18+1, "a", "..", "b")), "unsafe file name"},
		{"absolute path", files(file(1<<18+1, "/etc/passwd")), "unsafe file name"},
		{"backslashes", files(file(1<<18+1, `..\b`)), "unsafe file name"},
		{"no path", files(file(1 << 19)), "without a path"},
		{"zero length", info(dict{"length": 0, "pieces": ""}), "zero bytes"},
		{"zero files' length", files(file(0, "a"), file(0, "b")), "zero bytes"},
		{"negative length", info(dict{"length": -1}), "impossible length"},
		{"overflowing lengths", files(file(1<<62, "a"), file(1<<62, "b")), "impossible length"},
		{"length and files", info(dict{"files": []dict{file(1, "a")}}), "both"},
		{"huge piece count", info(dict{"length": int64(maxPieces+1) << 18, "pieces": strings.Repeat("x", 20*(maxPieces+1))}), "at most 65536 pieces"},
		{"half a hash", info(dict{"pieces": strings.Repeat("x", 39)}), "must be 20 for each"},
		{"too few hashes", info(dict{"length": 1 << 40}), "take 4194304"},
		{"tiny pieces", info(dict{"piece length": 1}), "pieces of 1 bytes"},
		{"no piece length", info(dict{"piece length": nil}), "pieces of 0 bytes"},
		{"huge pieces", info(dict{"piece length": 1 << 40}), "are possible"},
		{"more than the owner allows", info(dict{"length": 3 << 18, "pieces": strings.Repeat("x", 60)}), "at most 524288"},
		{"version 2", info(dict{"meta version": 2}), "version 2"},
		{"many files", info(dict{"length": nil, "files": make([]dict, maxFiles+1)}), "8193 files"},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := encode(t, dict{"info": test.info})
			_, err := parseTorrent(text, "", 2<<18)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want an error about %q", err, test.want)
			}
			if h := fmt.Sprintf("%x", sha1.Sum(encode(t, test.info))); !strings.Contains(err.Error(), h) {
				t.Errorf("%q does not say which torrent it is, %s", err, h)
			}
		})
	}
}

func TestNotTorrents(t *testing.T) {
	for name, text := range map[string]string{
		"empty":               "",
		"a web page":          "<!doctype html>",
		"no info":             "de",
		"info is a number":    "d4:infoi1ee",
		"cut off":             "d4:infod4:name",
		"something follows":   "d4:infodee0:",
		"long string":         "d4:info999999999:xe",
		"longer than int":     "99999999999999999999:",
		"endless number":      "i" + strings.Repeat("1", 100) + "e",
		"closes too often":    "e",
		"nested a million":    "d1:a" + strings.Repeat("l", 1<<20),
		"nested dictionaries": strings.Repeat("d1:a", 1<<20),
		"more than 4 MiB":     strings.Repeat("x", maxTorrentFile+1),
	} {
		if f, err := parseTorrent([]byte(text), "", 0); err == nil {
			t.Errorf("%s: got %+v, want an error", name, f)
		}
	}
}

func TestTorrent(t *testing.T) {
	d := info(nil)
	hash := fmt.Sprintf("%x", sha1.Sum(encode(t, d)))
	text := encode(t, dict{
		"info":     d,
		"announce": "udp://ignored.example:6969",
		"announce-list": [][]string{
			{"udp://tracker.example:6969", "http://tracker.example/announce"},
			{"wss://tracker.example", "https://other.example/announce", "http://tracker.example/announce"},
		},
		"url-list": []string{"ftp://origin.example/film.bin", "http://origin.example/film.bin"},
	})
	f, err := parseTorrent(text, strings.ToUpper(hash), 0)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintln(f.hash, f.size, f.trackers, f.webSeeds)
	want := fmt.Sprintln(hash, 1<<18+1, "[http://tracker.example/announce https://other.example/announce]", "[http://origin.example/film.bin]")
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	other := strings.Repeat("0", 40)
	if _, err := parseTorrent(text, other, 0); err == nil || !strings.Contains(err.Error(), hash) || !strings.Contains(err.Error(), other) {
		t.Errorf("wrong pin: got %v, want an error with both hashes", err)
	}
}

func FuzzTorrent(f *testing.F) {
	for _, d := range []dict{
		{"info": info(nil)},
		{"info": info(nil), "announce": "http://t.example/a", "url-list": "http://o.example/"},
		{"info": info(dict{"length": nil, "files": []dict{file(1<<18, "a"), file(1, "b", "c")}})},
		{"info": info(dict{"name": "../x"})},
		{"info": info(dict{"length": -1})},
		{"info": info(dict{"meta version": 2, "file tree": dict{"a": dict{"": dict{"length": 1}}}})},
	} {
		f.Add(encode(f, d))
	}
	f.Add([]byte("d1:al"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseTorrent(b, "", 1<<40)
		if err != nil {
			return
		}
		if got.size <= 0 || got.size > 1<<40 || got.info.NumPieces() > maxPieces || len(got.trackers) > maxURLs || len(got.webSeeds) > maxURLs {
			t.Errorf("accepted %+v", got)
		}
		last := got.info.Piece(got.info.NumPieces() - 1)
		if end := last.Offset() + last.Length(); end != got.size {
			t.Errorf("pieces end at %d, content at %d", end, got.size)
		}
		for _, file := range got.info.UpvertedFiles() {
			path := filepath.Join(append([]string{"/root", got.info.BestName()}, file.BestPath()...)...)
			if !strings.HasPrefix(path, "/root/") {
				t.Errorf("path %q leaves its folder", path)
			}
		}
	})
}

func TestConfig(t *testing.T) {
	agreed, err := os.ReadFile("testdata/config.json") // what workd writes
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseConfig(agreed)
	if err != nil {
		t.Fatal(err)
	}
	if c.ListenPort != 6881 || c.MaxConnections != 64 || len(c.Content) != 2 || len(c.Content[0].WebSeeds) != 1 {
		t.Errorf("got %+v", c)
	}
	for _, item := range c.Content {
		if err := item.check(); err != nil {
			t.Error(err)
		}
	}
	for text, want := range map[string]string{
		`{"listen_port": 65536}`:  "listen_port is 65536",
		`{"max_upload_rate": -1}`: "max_upload_rate is -1",
		`{"memory_bytes": 1}`:     "memory_bytes is 1",
		`[]`:                      "decoding JSON",
		`{"content":[` + strings.Repeat("{},", maxItems) + `{}]}`: "content items is 257",
	} {
		if _, err := ParseConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: got %v, want an error about %q", text, err, want)
		}
	}
	bad := Content{Torrent: "ftp://x/y", InfoHash: "abc", WebSeeds: []string{"http://"}}
	err = bad.check()
	for _, want := range []string{"ftp://x/y", "abc", `"http://"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to name %s", err, want)
		}
	}
}
