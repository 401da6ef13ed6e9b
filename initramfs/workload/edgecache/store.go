package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"
	"os"
	"path/filepath"
	"sync"

	"github.com/anacrolix/torrent/metainfo"
	"github.com/anacrolix/torrent/storage"
	"golang.org/x/sys/unix"
)

// store keeps one item's content in KEY.data, all its files end to end as BEP 3
// orders them, and which pieces of it are checked in KEY.have.
//
// The library's own file store is not used: it names files as the torrent says,
// maps them into memory (279 MB resident seen) and remembers finished pieces in a
// database of its own. Here a piece is in KEY.have only after its bytes were
// flushed, so a power cut costs at most the pieces of the last few seconds, and a
// restart hashes nothing.
type store struct {
	dir, key string
	hash     metainfo.Hash
	data     *os.File

	mu    sync.RWMutex
	have  []byte // a bit for each piece, the first in the highest bit (as BEP 3's bitfield)
	dirty bool

	flushing sync.Mutex
}

// reserve stays free on the data file system: logs, updates and the other
// workloads live there too.
const reserve = 16 << 20

// openStore opens or makes the store of t in dir and reserves the space for all of
// its content at once, so that it fails here and not in the middle.
func openStore(dir, key string, t *torrentFile) (_ *store, err error) {
	s := &store{dir: dir, key: key, hash: t.hash}
	s.data, err = os.OpenFile(s.path("data"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	defer func() {
		if err != nil {
			s.data.Close()
		}
	}()
	if err := s.allocate(t.size); err != nil {
		return nil, err
	}
	s.have = make([]byte, (t.info.NumPieces()+7)/8)
	saved, err := os.ReadFile(s.path("have"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	// A record that is damaged or of other content counts for nothing: the
	// content is fetched again.
	if have, ok := s.decodeHave(saved); ok && len(have) == len(s.have) {
		s.have = have
	}
	return s, nil
}

func (s *store) path(suffix string) string { return filepath.Join(s.dir, s.key+"."+suffix) }

// allocate makes KEY.data size bytes long, all of them backed by the disk.
func (s *store) allocate(size int64) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(s.data.Fd()), &st); err != nil {
		return fmt.Errorf("opening the store: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(s.data.Fd()), &fs); err != nil {
		return fmt.Errorf("reading the free space: %w", err)
	}
	need, free := size-st.Blocks*512, int64(fs.Bavail)*int64(fs.Bsize)
	if need > 0 && need+reserve > free {
		return fmt.Errorf("not enough space: the content takes %d bytes more and %d must stay free, but only %d are", need, reserve, free)
	}
	if st.Size != size {
		if err := s.data.Truncate(size); err != nil {
			return fmt.Errorf("reserving %d bytes: %w", size, err)
		}
	}
	if need <= 0 {
		return nil
	}
	err := unix.Fallocate(int(s.data.Fd()), 0, 0, size)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("reserving %d bytes: %w", size, err)
	}
	return nil
}

// KEY.have is the info hash, the bit field and a CRC-32 of both.
func (s *store) encodeHave() []byte {
	b := append(s.hash[:len(s.hash):len(s.hash)], s.have...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

func (s *store) decodeHave(b []byte) ([]byte, bool) {
	n := len(b) - crc32.Size
	if n < len(s.hash) || !bytes.Equal(b[:len(s.hash)], s.hash[:]) ||
		binary.BigEndian.Uint32(b[n:]) != crc32.ChecksumIEEE(b[:n]) {
		return nil, false
	}
	return b[len(s.hash):n:n], true
}

// flush makes durable what is finished: content first, then the record of it.
func (s *store) flush() error {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	s.mu.Lock()
	record, dirty := s.encodeHave(), s.dirty
	s.dirty = false
	s.mu.Unlock()
	if !dirty {
		return nil
	}
	err := s.data.Sync()
	if err == nil {
		err = replaceFile(s.path("have"), record, true)
	}
	if err != nil {
		s.mu.Lock()
		s.dirty = true
		s.mu.Unlock()
		return fmt.Errorf("flushing the store: %w", err)
	}
	return nil
}

func (s *store) close() error { return errors.Join(s.flush(), s.data.Close()) }

// OpenTorrent is storage.ClientImpl: it hands this store to the library.
func (s *store) OpenTorrent(_ context.Context, info *metainfo.Info, hash metainfo.Hash) (storage.TorrentImpl, error) {
	if hash != s.hash {
		return storage.TorrentImpl{}, fmt.Errorf("this store is for %x, not %x", s.hash, hash)
	}
	return storage.TorrentImpl{
		Piece: func(p metainfo.Piece) storage.PieceImpl {
			return piece{s: s, index: p.Index(), offset: p.Offset(), length: p.Length()}
		},
		Close: func() error { return nil }, // the node closes it, after the library let go
	}, nil
}

// piece is storage.PieceImpl.
type piece struct {
	s              *store
	index          int
	offset, length int64
}

func (p piece) ReadAt(b []byte, off int64) (int, error) {
	return io.NewSectionReader(p.s.data, p.offset, p.length).ReadAt(b, off)
}

func (p piece) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(b)) > p.length {
		return 0, io.ErrShortWrite
	}
	return p.s.data.WriteAt(b, p.offset+off)
}

func (p piece) MarkComplete() error    { return p.mark(true) }
func (p piece) MarkNotComplete() error { return p.mark(false) }

func (p piece) mark(complete bool) error {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	at, bit := &p.s.have[p.index/8], byte(0x80)>>(p.index%8)
	if old := *at; complete {
		*at |= bit
		p.s.dirty = p.s.dirty || old != *at
	} else {
		*at &^= bit
		p.s.dirty = p.s.dirty || old != *at
	}
	return nil
}

// Completion is always known: what is not on record is fetched, never hashed.
func (p piece) Completion() storage.Completion {
	p.s.mu.RLock()
	defer p.s.mu.RUnlock()
	return storage.Completion{Ok: true, Complete: p.s.have[p.index/8]&(0x80>>(p.index%8)) != 0}
}

// haveBytes is how much of size bytes in pieces of pieceLength is checked.
func (s *store) haveBytes(pieceLength, size int64) int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n := int64(0)
	for _, b := range s.have {
		n += int64(bits.OnesCount8(b))
	}
	n *= pieceLength
	last := int((size - 1) / pieceLength)
	if s.have[last/8]&(0x80>>(last%8)) != 0 {
		n -= int64(last+1)*pieceLength - size // the last piece is shorter
	}
	return n
}

// firstMissing is the first of n pieces that is not checked, or -1.
func (s *store) firstMissing(n int) int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for i := range n {
		if s.have[i/8]&(0x80>>(i%8)) == 0 {
			return i
		}
	}
	return -1
}
