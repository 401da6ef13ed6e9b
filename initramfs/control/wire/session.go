// Package wire carries connections over a raw line: a virtio-serial port or a UART.
//
// The parties are ctld on the box and a host program (fogwright ctl, a test). The
// line is poor: it has no notion of a connection, says nothing when somebody comes
// or goes, may be opened late or in the middle of something, and a UART loses and
// invents bytes. Neither side trusts what comes in; whoever holds the line may use
// the control channel, that is decided elsewhere.
//
// Frames (see [Frame]) are delimited and escaped as in RFC 1662 and checked by
// CRC-32C. Each belongs to a stream, a connection of two directions that carries
// one HTTP request and its response: the client makes up a random id and sends
// [Data]; the first one, at offset 0, opens the stream on the box; the box answers
// with Data and an [End]. Every frame says which offset it has in its direction,
// so a lost one is noticed and the stream is cancelled; nothing is sent again here,
// the client repeats requests that may be repeated. Both sides send [Alive] for
// their open streams, and give up one of which they have heard nothing for a while:
// that is how a vanished peer is noticed on a line that cannot tell.
package wire

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Limits of a session.
const (
	// MaxStreams is how many streams the box has open at a time.
	MaxStreams = 16
	// MaxRequest is what the box holds of a request that its handler has not
	// read; MaxBacklog is the same for a response on the host.
	MaxRequest = 64 << 10
	MaxBacklog = 4 << 20
)

// Options are a session's times. Zero means the default.
type Options struct {
	Beat   time.Duration // between two Alive frames; 3 s
	Silent time.Duration // after which a stream is given up; 15 s
}

func (o Options) withDefaults() Options {
	if o.Beat == 0 {
		o.Beat = 3 * time.Second
	}
	if o.Silent == 0 {
		o.Silent = 15 * time.Second
	}
	return o
}

// ErrClosed is what comes after the end of the line.
var ErrClosed = errors.New("the line is closed")

// Session is one side of a line.
type Session struct {
	line    io.ReadWriter
	opt     Options
	accept  chan net.Conn // nil on the host
	backlog int
	done    chan struct{}

	write sync.Mutex // one frame at a time

	mu      sync.Mutex
	streams map[uint64]*stream
	err     error
}

// Serve makes the box's side: every stream that the host opens comes out of
// Accept. The session ends, with all its streams, when the line's Read or Write
// fails; the caller opens the line anew.
func Serve(line io.ReadWriter, opt Options) *Session {
	return start(line, opt, make(chan net.Conn), MaxRequest)
}

// Client makes the host's side.
func Client(line io.ReadWriter, opt Options) *Session { return start(line, opt, nil, MaxBacklog) }

func start(line io.ReadWriter, opt Options, accept chan net.Conn, backlog int) *Session {
	s := &Session{
		line: line, opt: opt.withDefaults(), accept: accept, backlog: backlog,
		done: make(chan struct{}), streams: map[uint64]*stream{},
	}
	go s.read()
	go s.beat()
	return s
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Close ends the session and its streams. It does not close the line, so a Read
// of it may go on until the caller does.
func (s *Session) Close() error { s.end(ErrClosed); return nil }

// Accept waits for a stream; the session is a net.Listener.
func (s *Session) Accept() (net.Conn, error) {
	select {
	case c := <-s.accept:
		return c, nil
	case <-s.done:
		return nil, s.reason()
	}
}

// Addr implements net.Listener.
func (s *Session) Addr() net.Addr { return lineAddr{} }

type lineAddr struct{}

func (lineAddr) Network() string { return "line" }
func (lineAddr) String() string  { return "control line" }

// Open makes a new stream to the box. Nothing is sent before the first Write.
func (s *Session) Open() (net.Conn, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, fmt.Errorf("opening a stream: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, fmt.Errorf("opening a stream: %w", s.err)
	}
	return s.add(binary.LittleEndian.Uint64(b[:])), nil
}

// add makes a stream; s.mu is held.
func (s *Session) add(id uint64) net.Conn {
	user, line := net.Pipe()
	t := &stream{session: s, id: id, pipe: line, heard: time.Now(), in: make(chan struct{}, 1)}
	s.streams[id] = t
	go t.send()
	go t.deliver()
	return user
}

// read takes frames off the line until it fails.
func (s *Session) read() {
	buf := make([]byte, 4096)
	var d Decoder
	for {
		n, err := s.line.Read(buf)
		for _, c := range buf[:n] {
			// Noise needs no answer: a frame lost to it shows in the offsets.
			if f, ok, _ := d.Byte(c); ok {
				s.handle(f)
			}
		}
		if err != nil {
			s.end(fmt.Errorf("reading the line: %w", err))
			return
		}
		select {
		case <-s.done:
			return
		default:
		}
	}
}

// handle takes one frame.
func (s *Session) handle(f Frame) {
	s.mu.Lock()
	t := s.streams[f.ID]
	var opened net.Conn
	if t == nil && s.accept != nil && f.Kind == Data && f.Offset == 0 && len(s.streams) < MaxStreams {
		opened = s.add(f.ID)
		t = s.streams[f.ID]
	}
	s.mu.Unlock()
	switch {
	case t == nil && f.Kind == Cancel: // both knew
	case t == nil:
		// A stream of another time, or one too many: do not leave its owner
		// waiting. In a goroutine, for reading must not wait for writing:
		// two sides doing so would wait for ever.
		go s.send(Frame{Kind: Cancel, ID: f.ID, Payload: []byte("unknown stream, or too many")})
	default:
		t.take(f)
	}
	if opened != nil {
		go func() {
			select {
			case s.accept <- opened:
			case <-s.done:
				opened.Close()
			}
		}()
	}
}

// send puts one frame on the line.
func (s *Session) send(f Frame) error {
	b := Append(nil, f)
	s.write.Lock()
	defer s.write.Unlock()
	if err := s.reason(); err != nil {
		return err
	}
	if _, err := s.line.Write(b); err != nil {
		s.end(fmt.Errorf("writing the line: %w", err))
		return err
	}
	return nil
}

// beat tells the other side which streams are wanted, and gives up those of which
// it does not.
func (s *Session) beat() {
	tick := time.NewTicker(s.opt.Beat)
	defer tick.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-tick.C:
		}
		s.mu.Lock()
		all := make([]*stream, 0, len(s.streams))
		for _, t := range s.streams {
			all = append(all, t)
		}
		s.mu.Unlock()
		for _, t := range all {
			t.beat(s.opt.Silent)
		}
	}
}

func (s *Session) reason() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *Session) forget(t *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, t.id)
}

func (s *Session) end(err error) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.err = err
	all := s.streams
	s.streams = map[uint64]*stream{}
	s.mu.Unlock()
	close(s.done)
	for _, t := range all {
		t.drop()
	}
}
