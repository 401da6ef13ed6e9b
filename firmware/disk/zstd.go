package disk

import (
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// A compressed image is a series of zstd frames (RFC 8878, section 3.1): one for
// each chunk of data and one for each hole. Every decoder takes frames one after
// another for one stream, and so they can be made in parallel without the number
// of processors showing in the bytes.

// compress makes one frame of data. A new encoder each time: a used one keeps a
// state that depends on what it did before.
func compress(data []byte) ([]byte, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault),
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(chunkSize), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	defer enc.Close()
	return enc.EncodeAll(data, make([]byte, 0, len(data)/2)), nil
}

// zeroFrame is a frame of n zeros. Its blocks say "this byte, so many times",
// four bytes for each 128 KiB, and it takes no time to make or to read.
func zeroFrame(n int64) []byte {
	const (
		maxBlock = 128 << 10 // RFC 8878, 3.1.1.2.4
		rle      = 1
	)
	b := binary.LittleEndian.AppendUint32(nil, 0xFD2FB528)
	b = append(b, 0xC0)                                // content size in 8 bytes, a window, no checksum
	b = append(b, 7<<3)                                // a window of 2^(10+7) bytes
	b = binary.LittleEndian.AppendUint64(b, uint64(n)) // content size
	for {
		size := min(n, maxBlock)
		n -= size
		head := uint32(size)<<3 | rle<<1
		if n == 0 {
			head |= 1 // the last block
		}
		b = append(b, byte(head), byte(head>>8), byte(head>>16), 0)
		if n == 0 {
			return b
		}
	}
}
