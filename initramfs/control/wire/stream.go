package wire

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// stream is one connection. Its user has the other end of pipe, a net.Pipe, which
// brings deadlines and all that net/http wants of a connection.
type stream struct {
	session *Session
	id      uint64
	pipe    net.Conn
	in      chan struct{} // there is something in queue, or ended

	// out is held while a frame of this stream is written, which may take
	// long; mu never is: reading must not wait for writing, or two sides
	// whose buffers are full wait for each other.
	out  sync.Mutex
	sent uint32

	mu       sync.Mutex
	queue    []byte // came in, not yet read by the user
	received uint32
	heard    time.Time
	ended    bool // the other side's direction is complete
	over     bool
}

// take takes one frame of this stream off the line.
func (t *stream) take(f Frame) {
	t.mu.Lock()
	t.heard = time.Now()
	var fault error
	switch {
	case f.Kind == Cancel:
		t.mu.Unlock()
		t.drop()
		return
	case f.Offset != t.received || t.ended:
		fault = fmt.Errorf("lost bytes: at %d, got a frame for %d", t.received, f.Offset)
	case len(t.queue)+len(f.Payload) > t.session.backlog:
		fault = fmt.Errorf("more than %d bytes that nobody reads", t.session.backlog)
	case f.Kind == Data:
		t.queue = append(t.queue, f.Payload...)
		t.received += uint32(len(f.Payload))
	case f.Kind == End:
		t.ended = true
	}
	t.mu.Unlock()
	if fault != nil {
		go t.cancel(fault)
		return
	}
	t.wake()
}

func (t *stream) wake() {
	select {
	case t.in <- struct{}{}:
	default:
	}
}

// deliver hands the queue to the user.
func (t *stream) deliver() {
	for {
		t.mu.Lock()
		b, ended := t.queue[:min(len(t.queue), MaxPayload)], t.ended
		t.mu.Unlock()
		switch {
		case len(b) > 0:
			if _, err := t.pipe.Write(b); err != nil {
				t.cancel(err)
				return
			}
			// Only now: what the user has not got counts.
			t.mu.Lock()
			t.queue = t.queue[len(b):]
			t.mu.Unlock()
		case ended:
			t.drop()
			return
		default:
			select {
			case <-t.in:
				if t.isOver() {
					return
				}
			case <-t.session.done:
				return
			}
		}
	}
}

// send puts what the user writes on the line; the user's Close is the End.
func (t *stream) send() {
	buf := make([]byte, MaxPayload)
	for {
		n, err := t.pipe.Read(buf)
		if n > 0 {
			if t.put(Data, buf[:n]) != nil {
				return
			}
		}
		switch {
		case err == nil:
		case !errors.Is(err, io.EOF) || t.isOver(): // dropped
			return
		case t.session.accept == nil:
			// A host that closes wants no more, whatever has come.
			t.cancel(errors.New("closed"))
			return
		default:
			_ = t.put(End, nil) // the session ends on an error by itself
			t.drop()
			return
		}
	}
}

// put sends a frame at the stream's offset.
func (t *stream) put(k Kind, b []byte) error {
	t.out.Lock()
	defer t.out.Unlock()
	if t.isOver() {
		return ErrClosed
	}
	err := t.session.send(Frame{Kind: k, ID: t.id, Offset: t.sent, Payload: b})
	t.sent += uint32(len(b))
	return err
}

func (t *stream) beat(silent time.Duration) {
	t.mu.Lock()
	quiet := time.Since(t.heard)
	t.mu.Unlock()
	if quiet > silent {
		t.cancel(errors.New("nothing heard"))
		return
	}
	if !t.out.TryLock() { // it is sending, which says as much
		return
	}
	begun := t.sent > 0 || t.session.accept != nil
	t.out.Unlock()
	if begun {
		_ = t.put(Alive, nil)
	}
}

// cancel tells the other side that the stream is over, and ends it here.
func (t *stream) cancel(why error) {
	if t.isOver() {
		return
	}
	t.drop()
	_ = t.session.send(Frame{Kind: Cancel, ID: t.id, Payload: []byte(why.Error())})
}

// drop ends the stream here.
func (t *stream) drop() {
	t.mu.Lock()
	t.over = true
	t.mu.Unlock()
	t.session.forget(t)
	t.pipe.Close()
	t.wake()
}

func (t *stream) isOver() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.over
}
