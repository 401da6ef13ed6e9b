package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Kind is what a frame is for.
type Kind byte

// The kinds of frames.
const (
	Data   Kind = 1 // bytes of a stream, at Offset
	End    Kind = 2 // the sender's direction is complete; Offset is its length
	Cancel Kind = 3 // either side: forget this stream; the payload says why
	Alive  Kind = 4 // nothing new, but the stream is wanted; Offset as in Data
)

// MaxPayload is the most that a frame carries: on a UART of 115200 baud it takes
// 0.36 s, which is how long another stream may have to wait.
const MaxPayload = 4096

// Frame is one unit on the wire.
type Frame struct {
	Kind   Kind
	ID     uint64 // of the stream; random, chosen by the client
	Offset uint32 // of the payload's first byte in the stream, modulo 2^32
	// Payload is valid until the decoder is used again.
	Payload []byte
}

const (
	header  = 1 + 8 + 4
	trailer = 4
	maxBody = header + MaxPayload + trailer

	flag   = 0x7E // RFC 1662 section 3.1
	escape = 0x7D
	flip   = 0x20
)

// special bytes travel escaped (RFC 1662 section 4.2): the two of the framing, and
// XON and XOFF, which an adapter on the way may take for itself.
func special(b byte) bool { return b == flag || b == escape || b == 0x11 || b == 0x13 }

// castagnoli makes CRC-32C, RFC 3720 appendix B.4; the table is made once inside
// of hash/crc32.
func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// Append adds f's encoding to b. The flag stands at both ends, so that garbage in
// front, or a frame that broke off, costs no good frame.
func Append(b []byte, f Frame) []byte {
	body := make([]byte, 0, header+len(f.Payload)+trailer)
	body = append(body, byte(f.Kind))
	body = binary.LittleEndian.AppendUint64(body, f.ID)
	body = binary.LittleEndian.AppendUint32(body, f.Offset)
	body = append(body, f.Payload...)
	body = binary.LittleEndian.AppendUint32(body, checksum(body))
	b = append(b, flag)
	for _, c := range body {
		if special(c) {
			b = append(b, escape, c^flip)
		} else {
			b = append(b, c)
		}
	}
	return append(b, flag)
}

// ErrNoise is what the decoder says of bytes between two flags that are no frame.
var ErrNoise = errors.New("noise on the line")

// Decoder finds frames in a stream of bytes that may begin anywhere and contain
// anything.
type Decoder struct {
	body    []byte
	escaped bool
	skip    bool // this one is too long or broken
}

// Byte takes the next byte. It returns a frame when c completes one; an error,
// ErrNoise, when c ends something that was no frame.
func (d *Decoder) Byte(c byte) (f Frame, ok bool, err error) {
	switch {
	case c == flag:
		body, broken := d.body, d.skip || d.escaped
		d.body, d.skip, d.escaped = d.body[:0], false, false
		switch {
		case broken:
			return Frame{}, false, ErrNoise
		case len(body) == 0: // two flags between two frames
			return Frame{}, false, nil
		}
		f, err := parse(body)
		return f, err == nil, err
	case d.skip:
	case c == escape && !d.escaped:
		d.escaped = true
	case len(d.body) == maxBody:
		d.skip = true
	default:
		if d.escaped {
			c ^= flip
			d.escaped = false
		}
		d.body = append(d.body, c)
	}
	return Frame{}, false, nil
}

func parse(body []byte) (Frame, error) {
	n := len(body) - trailer
	if n < header {
		return Frame{}, fmt.Errorf("%w: %d bytes", ErrNoise, len(body))
	}
	if binary.LittleEndian.Uint32(body[n:]) != checksum(body[:n]) {
		return Frame{}, fmt.Errorf("%w: wrong checksum", ErrNoise)
	}
	f := Frame{
		Kind:    Kind(body[0]),
		ID:      binary.LittleEndian.Uint64(body[1:]),
		Offset:  binary.LittleEndian.Uint32(body[9:]),
		Payload: body[header:n],
	}
	if f.Kind < Data || f.Kind > Alive {
		return Frame{}, fmt.Errorf("%w: unknown kind %d", ErrNoise, f.Kind)
	}
	return f, nil
}
