package lab

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// cable is a network cable to a QEMU machine: a Unix socket where QEMU's
// "-netdev stream" sends and takes frames, each after four bytes of length in
// network order (QEMU, net/stream.c and net_fill_rstate in net/net.c).
type cable struct {
	l    net.Listener
	port *Port

	mu     sync.Mutex
	conn   net.Conn
	w      *bufio.Writer
	closed bool
	done   chan struct{}
}

// newCable listens at path for the machine and plugs its cable in.
func newCable(sw *Switch, name, path string) (*cable, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("network cable of %q: %w", name, err)
	}
	c := &cable{l: l, done: make(chan struct{})}
	c.port = sw.Plug(name, c.write)
	go c.run()
	return c, nil
}

// run serves one machine after the other.
func (c *cable) run() {
	defer close(c.done)
	for {
		conn, err := c.l.Accept()
		if err != nil {
			return
		}
		c.mu.Lock()
		c.conn, c.w = conn, bufio.NewWriterSize(conn, 64<<10)
		if c.closed {
			conn.Close()
		}
		c.mu.Unlock()
		// A broken stream is a machine that went away: the cable hangs.
		readFrames(bufio.NewReaderSize(conn, 256<<10), c.port.Send)
		c.mu.Lock()
		conn.Close()
		c.conn, c.w = nil, nil
		c.mu.Unlock()
	}
}

// readFrames calls each with every frame until the stream ends. Each frame is new
// memory.
func readFrames(r io.Reader, each func([]byte)) error {
	var length [4]byte
	for {
		if _, err := io.ReadFull(r, length[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(length[:])
		if n > maxFrame {
			return fmt.Errorf("a frame of %d bytes: this is no stream of Ethernet frames", n)
		}
		frame := make([]byte, n)
		if _, err := io.ReadFull(r, frame); err != nil {
			return err
		}
		each(frame)
	}
}

// write sends a frame to the machine. It may wait for a machine that is slow,
// because its port's queue is what drops.
func (c *cable) write(frame []byte, more bool) {
	c.mu.Lock()
	w, conn := c.w, c.conn
	c.mu.Unlock()
	if w == nil {
		return
	}
	var length [4]byte
	binary.BigEndian.PutUint32(length[:], uint32(len(frame)))
	w.Write(length[:]) // bufio keeps the first error for Flush
	_, err := w.Write(frame)
	if err == nil && !more {
		err = w.Flush()
	}
	if err != nil {
		conn.Close()
	}
}

// Close pulls the cable out of the switch.
func (c *cable) Close() {
	c.mu.Lock()
	c.closed = true
	if c.conn != nil {
		c.conn.Close()
	}
	c.mu.Unlock()
	c.l.Close()
	<-c.done
	c.port.Unplug()
}
