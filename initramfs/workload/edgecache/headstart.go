package main

import (
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/anacrolix/torrent/metainfo"
)

// headStart is how long a new item is read straight from its origin before the
// BitTorrent client takes over. The client looks for web seeds only every five
// seconds (a constant of the library), which is long for a small file; large
// content goes on in the swarm, where boxes that fetch the same take from each
// other and not all from the origin.
const (
	headStart      = 5 * time.Second
	headStartPiece = 4 << 20 // the longest piece that is held in memory for it
)

// fetchAhead reads the content of t in order from the first of seeds (BEP 19),
// beginning with the first piece that s has not got. It stops at the first
// fault: a piece counts only when its SHA-1 is right, and what is missing is the
// client's to fetch. It returns how many bytes it added.
func fetchAhead(ctx context.Context, client *http.Client, s *store, t *torrentFile, seeds []string) (added int64, err error) {
	first := s.firstMissing(t.info.NumPieces())
	if len(seeds) == 0 || t.info.PieceLength > headStartPiece || first < 0 {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, headStart)
	defer cancel()
	in := &originReader{ctx: ctx, client: client, seed: seeds[0], t: t, skip: int64(first) * t.info.PieceLength}
	defer in.Close()
	buf := make([]byte, t.info.PieceLength)
	for i := first; i < t.info.NumPieces(); i++ {
		length := min(t.info.PieceLength, t.size-int64(i)*t.info.PieceLength)
		if _, err := io.ReadFull(in, buf[:length]); err != nil {
			return added, fmt.Errorf("reading piece %d from %s: %w", i, seeds[0], err)
		}
		want := t.info.Pieces[i*sha1.Size : (i+1)*sha1.Size]
		if got := sha1.Sum(buf[:length]); string(got[:]) != string(want) {
			return added, fmt.Errorf("piece %d from %s: its SHA-1 is %x, must be %x", i, seeds[0], got, want)
		}
		p := piece{s: s, index: i, offset: int64(i) * t.info.PieceLength, length: length}
		if _, err := p.WriteAt(buf[:length], 0); err != nil {
			return added, fmt.Errorf("writing content: %w", err)
		}
		if err := p.mark(true); err != nil {
			return added, err
		}
		added += length
	}
	return added, nil
}

// originReader is the content of a torrent, all files end to end, without its
// first skip bytes.
type originReader struct {
	ctx    context.Context
	client *http.Client
	seed   string
	t      *torrentFile
	skip   int64
	next   int // file
	body   io.ReadCloser
	left   int64 // of body
}

func (o *originReader) Read(b []byte) (int, error) {
	for o.left == 0 {
		if err := o.open(); err != nil {
			return 0, err
		}
	}
	n, err := o.body.Read(b[:min(int64(len(b)), o.left)])
	o.left -= int64(n)
	if err == io.EOF {
		if err = nil; o.left > 0 {
			err = io.ErrUnexpectedEOF
		}
	}
	return n, err
}

// open goes on to the next file.
func (o *originReader) open() error {
	if err := o.Close(); err != nil {
		return err
	}
	files := o.t.info.UpvertedFiles()
	if o.next >= len(files) {
		return io.EOF
	}
	f := files[o.next]
	o.next++
	if o.skip >= f.Length {
		o.skip -= f.Length
		return nil
	}
	offset := o.skip
	o.skip = 0
	req, err := http.NewRequestWithContext(o.ctx, http.MethodGet, seedURL(o.seed, &o.t.info, f), nil)
	if err != nil {
		return err
	}
	want := http.StatusOK
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
		want = http.StatusPartialContent
	}
	resp, err := o.client.Do(req)
	if err != nil {
		return err
	}
	if resp.StatusCode != want {
		return errors.Join(fmt.Errorf("the origin answers %s", resp.Status), resp.Body.Close())
	}
	o.body, o.left = resp.Body, f.Length-offset
	return nil
}

func (o *originReader) Close() error {
	if o.body == nil {
		return nil
	}
	err := o.body.Close()
	o.body = nil
	return err
}

// seedURL is where BEP 19 puts f: the seed itself for a single file, unless it ends
// with a slash; else the torrent's name and the file's path below it.
func seedURL(seed string, info *metainfo.Info, f metainfo.FileInfo) string {
	if len(info.Files) == 0 && !strings.HasSuffix(seed, "/") {
		return seed
	}
	u := strings.TrimSuffix(seed, "/") + "/" + url.PathEscape(info.BestName())
	for _, part := range f.BestPath() {
		u += "/" + url.PathEscape(part)
	}
	return u
}
