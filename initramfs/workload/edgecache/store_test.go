package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anacrolix/torrent/metainfo"
)

// threePieces is a torrent of three pieces, the last of one byte.
func threePieces() *torrentFile {
	return &torrentFile{
		hash: metainfo.Hash{1}, size: 2<<14 + 1,
		info: metainfo.Info{PieceLength: 1 << 14, Length: 2<<14 + 1, Pieces: make([]byte, 60), Name: "x"},
	}
}

func open(t *testing.T, dir string, f *torrentFile) *store {
	t.Helper()
	s, err := openStore(dir, "key", f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.data.Close() })
	return s
}

func pieceOf(t *testing.T, s *store, f *torrentFile, i int) (p interface {
	ReadAt([]byte, int64) (int, error)
	WriteAt([]byte, int64) (int, error)
	MarkComplete() error
	MarkNotComplete() error
}) {
	t.Helper()
	impl, err := s.OpenTorrent(context.Background(), &f.info, f.hash)
	if err != nil {
		t.Fatal(err)
	}
	return impl.Piece(f.info.Piece(i))
}

func have(s *store, f *torrentFile) int64 { return s.haveBytes(f.info.PieceLength, f.size) }

func TestStoreRemembersOnlyWhatWasFlushed(t *testing.T) {
	dir, f := t.TempDir(), threePieces()
	s := open(t, dir, f)
	for _, i := range []int{0, 2} {
		p := pieceOf(t, s, f, i)
		if _, err := p.WriteAt([]byte{byte(7 + i)}, 0); err != nil {
			t.Fatal(err)
		}
		if err := p.MarkComplete(); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := s.flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got, want := have(s, f), int64(1<<14+1); got != want {
		t.Errorf("before the power cut: got %d bytes, want %d", got, want)
	}
	s = open(t, dir, f) // without a close: the power went
	if got, want := have(s, f), int64(1<<14); got != want {
		t.Errorf("after the power cut: got %d bytes, want the %d that were flushed", got, want)
	}
	b := make([]byte, 1)
	if _, err := pieceOf(t, s, f, 0).ReadAt(b, 0); err != nil || b[0] != 7 {
		t.Errorf("content: got %v, %v, want 7", b, err)
	}
	if err := pieceOf(t, s, f, 0).MarkNotComplete(); err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	if got := have(open(t, dir, f), f); got != 0 {
		t.Errorf("after a piece was found bad: got %d bytes, want 0", got)
	}
}

func TestStoreDoubtsItsRecord(t *testing.T) {
	dir, f := t.TempDir(), threePieces()
	s := open(t, dir, f)
	if err := pieceOf(t, s, f, 1).MarkComplete(); err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(s.path("have"))
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[20] ^= 0xff
	other := threePieces()
	other.hash = metainfo.Hash{2}
	for _, test := range []struct {
		name   string
		record []byte
		of     *torrentFile
		want   int64
	}{
		{"good", good, f, 1 << 14}, {"empty", nil, f, 0}, {"cut", good[:22], f, 0}, {"flipped bits", flipped, f, 0}, {"other content", good, other, 0},
	} {
		if err := os.WriteFile(s.path("have"), test.record, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := have(open(t, dir, test.of), test.of); got != test.want {
			t.Errorf("%s: got %d bytes, want %d", test.name, got, test.want)
		}
	}
}

func TestStoreBounds(t *testing.T) {
	dir, f := t.TempDir(), threePieces()
	p := pieceOf(t, open(t, dir, f), f, 2)
	if _, err := p.WriteAt([]byte("ab"), 0); err == nil {
		t.Error("a write over the end of the last piece: got no error")
	}
	if n, _ := p.ReadAt(make([]byte, 2), 0); n != 1 {
		t.Errorf("a read over the end: got %d bytes, want 1", n)
	}
	f.size = 1 << 60
	if _, err := openStore(dir, "huge", f); err == nil || !strings.Contains(err.Error(), "not enough space") {
		t.Errorf("content larger than the disk: got %v", err)
	}
}

func TestFetchTorrent(t *testing.T) {
	origin, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/huge":
			for range maxTorrentFile/1024 + 1 {
				w.Write(make([]byte, 1024))
			}
		case "/short":
			w.Header().Set("Content-Length", "100")
			w.Write([]byte("d"))
		case "/silent":
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		default:
			http.NotFound(w, r)
		}
	}))
	client := &http.Client{Transport: newTransport(patient(50*time.Millisecond, 0))}
	for path, want := range map[string]string{
		"/huge": "more than 4194304 bytes", "/short": "unexpected EOF", "/silent": "timeout", "/loop": "redirects", "/missing": "404",
	} {
		if _, err := fetchTorrent(t.Context(), client, origin+path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error about %q", path, err, want)
		}
	}
	limited := &http.Client{Transport: newTransport(patient(time.Second, 1<<20))}
	if _, err := fetchTorrent(t.Context(), limited, origin+"/huge"); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("limited connection: got %v, want an error about its length", err)
	}
}

func TestReportIsAsAgreed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	w := &reportWriter{path: path}
	r := Report{
		Sharing: true, BytesServed: 32 << 20, BytesDownloaded: 16 << 20, Peers: 2,
		Content: []Item{
			{Name: "film.bin", InfoHash: strings.Repeat("0123456789", 4), Size: 16 << 20, Have: 16 << 20},
			{Name: "http://origin.example/album.torrent", Error: "the origin answers 404 Not Found"},
		},
	}
	if err := w.write(r); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/report.json") // what workd reads
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(got) || !bytes.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := w.write(r); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the same report was written twice")
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	kept := newItem(Content{Torrent: "http://origin.example/a.torrent"})
	gone := newItem(Content{Torrent: "http://origin.example/b.torrent"})
	for _, name := range []string{kept.key + ".data", kept.key + ".have", gone.key + ".data", gone.key + ".torrent", ".new-1", "stranger"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := (&node{dir: dir, items: []*item{kept}}).sweep(); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{kept.key + ".data", kept.key + ".have", "stranger"}
	for i := range left {
		left[i] = filepath.Base(left[i])
	}
	if fmt.Sprint(left) != fmt.Sprint(want) {
		t.Errorf("left: got %v, want %v", left, want)
	}
}

func TestBackoff(t *testing.T) {
	for attempt, want := range map[int]time.Duration{0: 2 * time.Second, 3: 16 * time.Second, 100: 30 * time.Minute} {
		if got := backoff(attempt); got < want/2 || got > want*3/2 {
			t.Errorf("attempt %d: got %v, want about %v", attempt, got, want)
		}
	}
}
