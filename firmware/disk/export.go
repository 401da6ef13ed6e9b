package disk

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Outputs names the files that Export writes. An empty name leaves that file out.
type Outputs struct {
	Image    string // raw, with holes
	Zstd     string // the same, compressed
	BlockMap string // which blocks of it have to be flashed, for bmaptool
}

// Written is the size and hash of one file that was written.
type Written struct {
	Size   int64
	SHA256 [sha256.Size]byte
}

// Exported tells about each of the Outputs; what was left out is zero.
type Exported struct{ Image, Zstd, BlockMap Written }

// Export writes the disk in all forms at once, on all processors: each chunk is
// read, hashed, compressed and written while it is at hand. Equal chunks are
// compressed once, so the second slot costs next to nothing. The files appear
// under their names when all of them are complete.
func (s *Sparse) Export(out Outputs) (Exported, error) {
	done, err := s.export(out)
	if err != nil {
		return Exported{}, fmt.Errorf("writing disk: %w", err)
	}
	return done, nil
}

func (s *Sparse) export(out Outputs) (done Exported, err error) {
	var files [3]*newFile // as in Outputs; nil: left out
	for i, name := range []string{out.Image, out.Zstd, out.BlockMap} {
		if name == "" {
			continue
		}
		if files[i], err = createFile(name); err != nil {
			return done, err
		}
		defer files[i].discard()
	}
	image, zstd, bmap := files[0], files[1], files[2]
	g, ctx := errgroup.WithContext(context.Background())
	e := newExport(s)
	if image != nil {
		if err := image.Truncate(s.size); err != nil {
			return done, err
		}
		e.image = image
		g.Go(func() error {
			done.Image = Written{s.size, s.SHA256()}
			return nil
		})
	}
	if zstd != nil {
		e.frames = make(map[[sha256.Size]byte]*frame)
		g.Go(func() (err error) {
			done.Zstd, err = e.writeFrames(ctx, zstd)
			return err
		})
	}
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error { return e.work(ctx) })
	}
	if err := g.Wait(); err != nil {
		return done, err
	}
	if bmap != nil {
		text := blockMap(s.size, e.chunks, e.sums)
		if _, err := bmap.Write(text); err != nil {
			return done, err
		}
		done.BlockMap = Written{int64(len(text)), sha256.Sum256(text)}
	}
	for _, f := range files {
		if f == nil {
			continue
		}
		if err := f.commit(); err != nil {
			return done, err
		}
	}
	return done, nil
}

// export is one run of Export.
type export struct {
	s      *Sparse
	chunks []chunk
	image  io.WriterAt // nil: not wanted

	next  atomic.Int64        // chunk that nobody works on yet
	sums  [][sha256.Size]byte // of the chunks
	ready []chan []byte       // gives each chunk's frame when it is there

	mu     sync.Mutex
	frames map[[sha256.Size]byte]*frame // by hash of the content; nil: not wanted
}

// frame is a compressed chunk, made by whoever needs it first.
type frame struct {
	once sync.Once
	data []byte
	err  error
}

func newExport(s *Sparse) *export {
	e := &export{s: s, chunks: s.chunks()}
	e.sums = make([][sha256.Size]byte, len(e.chunks))
	e.ready = make([]chan []byte, len(e.chunks))
	for i := range e.ready {
		e.ready[i] = make(chan []byte, 1)
	}
	return e
}

// work takes one chunk after another until there are none.
func (e *export) work(ctx context.Context) error {
	buf := make([]byte, chunkSize)
	for ctx.Err() == nil {
		i := int(e.next.Add(1) - 1)
		if i >= len(e.chunks) {
			return nil
		}
		p := buf[:e.chunks[i].size]
		e.s.read(p, e.chunks[i].off)
		e.sums[i] = sha256.Sum256(p)
		if e.image != nil {
			if err := writeSparse(e.image, p, e.chunks[i].off); err != nil {
				return err
			}
		}
		if e.frames != nil {
			data, err := e.frame(e.sums[i], p)
			if err != nil {
				return err
			}
			e.ready[i] <- data
		}
	}
	return nil
}

// frame compresses p, or waits for somebody who compresses the same.
func (e *export) frame(sum [sha256.Size]byte, p []byte) ([]byte, error) {
	e.mu.Lock()
	f := e.frames[sum]
	if f == nil {
		f = new(frame)
		e.frames[sum] = f
	}
	e.mu.Unlock()
	f.once.Do(func() { f.data, f.err = compress(p) })
	return f.data, f.err
}

// writeFrames writes the frames of chunks and holes in their order.
func (e *export) writeFrames(ctx context.Context, w io.Writer) (done Written, err error) {
	hash := sha256.New()
	write := func(p []byte) {
		if err == nil {
			hash.Write(p)
			done.Size += int64(len(p))
			_, err = w.Write(p)
		}
	}
	var pos int64
	for i, c := range e.chunks {
		if c.off > pos {
			write(zeroFrame(c.off - pos))
		}
		select {
		case data := <-e.ready[i]:
			write(data)
		case <-ctx.Done():
			return done, ctx.Err()
		}
		pos = c.off + c.size
	}
	if pos < e.s.size {
		write(zeroFrame(e.s.size - pos))
	}
	done.SHA256 = [sha256.Size]byte(hash.Sum(nil))
	return done, err
}
