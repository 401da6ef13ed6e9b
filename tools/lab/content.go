package lab

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
)

// pieceLength of the torrents: 256 KiB.
const pieceLength = 256 << 10

// Content is a file that does not exist anywhere: its bytes follow from its seed,
// at any offset, so every part of a test can know them.
type Content struct {
	Name string // a file name
	Size int64  // bytes
	Seed uint64
}

// Reader reads the content. It is for one user at a time.
func (c Content) Reader() io.ReadSeeker { return io.NewSectionReader(c.readerAt(), 0, c.Size) }

type contentReader struct{ block cipher.Block }

// readerAt makes the bytes: AES-128 in counter mode, because it can start
// anywhere and outruns the network.
func (c Content) readerAt() io.ReaderAt {
	key := make([]byte, 16)
	binary.BigEndian.PutUint64(key, c.Seed)
	block, _ := aes.NewCipher(key) // fails for wrong key lengths only
	return contentReader{block}
}

// ReadAt implements io.ReaderAt; the content has no end here.
func (r contentReader) ReadAt(p []byte, off int64) (int, error) {
	iv := make([]byte, aes.BlockSize)
	binary.BigEndian.PutUint64(iv[8:], uint64(off/aes.BlockSize))
	s := cipher.NewCTR(r.block, iv)
	var skip [aes.BlockSize]byte
	s.XORKeyStream(skip[:off%aes.BlockSize], skip[:off%aes.BlockSize])
	clear(p)
	s.XORKeyStream(p, p)
	return len(p), nil
}

// SHA256 of the whole content, in hexadecimal.
func (c Content) SHA256() string {
	h := sha256.New()
	io.Copy(h, c.Reader()) // neither can fail
	return hex.EncodeToString(h.Sum(nil))
}

// info is the torrent's info dictionary (BEP 3).
func (c Content) info() map[string]any {
	var pieces []byte
	r := c.Reader()
	for left := c.Size; left > 0; left -= pieceLength {
		h := sha1.New()
		io.CopyN(h, r, min(left, pieceLength))
		pieces = h.Sum(pieces)
	}
	return map[string]any{
		"name":         c.Name,
		"length":       c.Size,
		"piece length": int64(pieceLength),
		"pieces":       string(pieces),
	}
}

// Torrent is a .torrent file for the content (BEP 3). announce is a tracker's
// URL, webSeeds are URLs of the file itself (BEP 19); both may be empty.
func (c Content) Torrent(announce string, webSeeds ...string) []byte {
	t := map[string]any{"info": c.info()}
	if announce != "" {
		t["announce"] = announce
	}
	if len(webSeeds) > 0 {
		var l []any
		for _, s := range webSeeds {
			l = append(l, s)
		}
		t["url-list"] = l
	}
	return bencode(nil, t)
}

// InfoHash names the torrent: 40 hexadecimal digits.
func (c Content) InfoHash() string {
	h := sha1.Sum(bencode(nil, c.info()))
	return hex.EncodeToString(h[:])
}

// bencode appends v: string, int64, []any or map[string]any of those (BEP 3). Our
// own values only, so another type is a mistake in this package.
func bencode(b []byte, v any) []byte {
	switch v := v.(type) {
	case string:
		b = append(strconv.AppendInt(b, int64(len(v)), 10), ':')
		return append(b, v...)
	case int64:
		return append(strconv.AppendInt(append(b, 'i'), v, 10), 'e')
	case []any:
		b = append(b, 'l')
		for _, e := range v {
			b = bencode(b, e)
		}
		return append(b, 'e')
	case map[string]any:
		b = append(b, 'd')
		for _, k := range slices.Sorted(maps.Keys(v)) {
			b = bencode(bencode(b, k), v[k])
		}
		return append(b, 'e')
	}
	return append(b, fmt.Sprintf("!%T", v)...)
}
