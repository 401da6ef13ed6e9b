package main

import (
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/anacrolix/torrent/bencode"
	"github.com/anacrolix/torrent/metainfo"
)

// What a .torrent file may ask of a box with 512 MiB of memory. The library keeps
// about 300 bytes for each piece and 200 for each file.
const (
	maxTorrentFile = 4 << 20
	maxPieces      = 1 << 16
	maxFiles       = 1 << 13
	minPieceLength = 1 << 14 // one block, BEP 3
	maxPieceLength = 1 << 25
	maxURLs        = 16 // trackers, and web seeds; neither is covered by the info hash
	maxDepth       = 32 // of nested bencoding; a real torrent has 5
)

// torrentFile is a .torrent file that passed every check.
type torrentFile struct {
	hash      metainfo.Hash
	infoBytes []byte
	info      metainfo.Info
	size      int64
	trackers  []string // http and https only
	webSeeds  []string
}

// parseTorrent reads a .torrent file (BEP 3). pin is the info hash in hexadecimal
// that it must have, or empty. maxSize bounds its content in bytes; 0 does not.
func parseTorrent(text []byte, pin string, maxSize int64) (*torrentFile, error) {
	if len(text) > maxTorrentFile {
		return nil, fmt.Errorf("the torrent file has more than %d bytes", maxTorrentFile)
	}
	// The library decodes recursively; nesting a million deep would overflow
	// its stack, which no recover catches.
	if err := scanBencode(text); err != nil {
		return nil, fmt.Errorf("not a torrent file: %w", err)
	}
	var mi metainfo.MetaInfo
	if err := bencode.Unmarshal(text, &mi); err != nil {
		return nil, fmt.Errorf("not a torrent file: %w", err)
	}
	hash := metainfo.Hash(sha1.Sum(mi.InfoBytes))
	if pin != "" && !strings.EqualFold(pin, hex.EncodeToString(hash[:])) {
		return nil, fmt.Errorf("info hash is %x, but %s is pinned", hash, strings.ToLower(pin))
	}
	info, err := mi.UnmarshalInfo()
	if err != nil {
		return nil, fmt.Errorf("torrent %x: decoding info: %w", hash, err)
	}
	size, err := checkInfo(&info, maxSize)
	if err != nil {
		return nil, fmt.Errorf("torrent %x: %w", hash, err)
	}
	return &torrentFile{
		hash:      hash,
		infoBytes: mi.InfoBytes,
		info:      info,
		size:      size,
		trackers:  onlyHTTP(mi.UpvertedAnnounceList().DistinctValues()),
		webSeeds:  onlyHTTP(mi.UrlList),
	}, nil
}

// checkInfo returns the size of all content.
func checkInfo(info *metainfo.Info, maxSize int64) (int64, error) {
	if info.MetaVersion != 0 && info.MetaVersion != 1 {
		return 0, fmt.Errorf("it is of version %d (BEP 52); this node shares version 1", info.MetaVersion)
	}
	if info.PieceLength < minPieceLength || info.PieceLength > maxPieceLength {
		return 0, fmt.Errorf("pieces of %d bytes; %d to %d are possible", info.PieceLength, minPieceLength, maxPieceLength)
	}
	n := len(info.Pieces) / sha1.Size
	if n > maxPieces || len(info.Pieces)%sha1.Size != 0 {
		return 0, fmt.Errorf("%d bytes of piece hashes: must be 20 for each of at most %d pieces", len(info.Pieces), maxPieces)
	}
	if len(info.Files) > maxFiles {
		return 0, fmt.Errorf("%d files; at most %d are possible", len(info.Files), maxFiles)
	}
	if len(info.Files) > 0 && info.Length != 0 {
		return 0, errors.New("it has both a length and files; BEP 3 allows one of them")
	}
	size, err := checkFiles(info)
	if err != nil {
		return 0, err
	}
	if want := (size + info.PieceLength - 1) / info.PieceLength; int64(n) != want {
		return 0, fmt.Errorf("%d piece hashes where %d bytes in pieces of %d take %d", n, size, info.PieceLength, want)
	}
	if maxSize > 0 && size > maxSize {
		return 0, fmt.Errorf("%d bytes of content; this box takes at most %d for one item", size, maxSize)
	}
	return size, nil
}

// checkFiles checks names and lengths and returns their sum. Names never reach
// the disk, but they go into web seed URLs and into the report.
func checkFiles(info *metainfo.Info) (int64, error) {
	if err := checkName(info.BestName()); err != nil {
		return 0, err
	}
	size := int64(0)
	for _, f := range info.UpvertedFiles() {
		if f.Length < 0 || size+f.Length < size {
			return 0, fmt.Errorf("file %q has an impossible length of %d bytes", f.DisplayPath(info), f.Length)
		}
		size += f.Length
		if len(info.Files) > 0 && len(f.BestPath()) == 0 {
			return 0, errors.New("a file without a path")
		}
		for _, part := range f.BestPath() {
			if err := checkName(part); err != nil {
				return 0, err
			}
		}
	}
	if size == 0 {
		return 0, errors.New("it has no content: zero bytes")
	}
	return size, nil
}

func checkName(s string) error {
	switch {
	case s == "" || s == "." || s == "..", len(s) > 255, !utf8.ValidString(s), strings.ContainsAny(s, "/\\"),
		strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("unsafe file name %q", s)
	}
	return nil
}

// onlyHTTP keeps the first few web URLs. Trackers over UDP and WebSockets would
// need sockets that this program promises not to have.
func onlyHTTP(urls []string) []string {
	var keep []string
	for _, u := range urls {
		if isHTTP(u) && len(keep) < maxURLs && !slices.Contains(keep, u) {
			keep = append(keep, u)
		}
	}
	return keep
}

// scanBencode checks that b is one well-formed bencoded value, nested at most
// maxDepth deep, with nothing after it.
func scanBencode(b []byte) error {
	depth := 0
	for i := 0; i < len(b); {
		at := i
		switch c := b[i]; {
		case c == 'd' || c == 'l':
			depth++
			i++
		case c == 'e':
			depth--
			i++
		case c == 'i':
			end := slices.Index(b[i:], 'e')
			if end < 0 || end > 20 {
				return fmt.Errorf("byte %d: a number without end", at)
			}
			i += end + 1
		case '0' <= c && c <= '9':
			colon := slices.Index(b[i:min(len(b), i+10)], ':')
			if colon < 0 {
				return fmt.Errorf("byte %d: a string without length", at)
			}
			n, err := strconv.Atoi(string(b[i : i+colon]))
			if err != nil || n > len(b)-i-colon-1 {
				return fmt.Errorf("byte %d: a string longer than the file", at)
			}
			i += colon + 1 + n
		default:
			return fmt.Errorf("byte %d: %q begins no bencoded value", at, c)
		}
		if depth > maxDepth || depth < 0 {
			return fmt.Errorf("byte %d: nested wrongly or more than %d deep", at, maxDepth)
		}
		if depth == 0 {
			if i != len(b) {
				return fmt.Errorf("byte %d: something follows the end", i)
			}
			return nil
		}
	}
	return errors.New("it ends too early")
}
