package lab

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"time"
)

// Capture is a running packet capture of one port.
type Capture struct {
	port *Port

	mu  sync.Mutex
	w   io.Writer
	err error
}

// Capture writes every frame that passes the port from now on, both ways, to w in
// pcap format (draft-ietf-opsawg-pcap, times in nanoseconds), which tshark and
// tcpdump read. A port has one capture at a time; a new one ends the old one.
func (p *Port) Capture(w io.Writer) *Capture {
	h := make([]byte, 0, 24)
	h = binary.LittleEndian.AppendUint32(h, 0xa1b23c4d) // magic: nanoseconds
	h = binary.LittleEndian.AppendUint16(h, 2)          // version 2.4
	h = binary.LittleEndian.AppendUint16(h, 4)
	h = binary.LittleEndian.AppendUint64(h, 0) // reserved
	h = binary.LittleEndian.AppendUint32(h, maxFrame)
	h = binary.LittleEndian.AppendUint32(h, 1) // LINKTYPE_ETHERNET
	c := &Capture{port: p, w: w}
	_, c.err = w.Write(h)
	p.capture.Store(c)
	return c
}

func (c *Capture) write(frame []byte) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.w == nil {
		return
	}
	b := make([]byte, 0, 16+len(frame))
	b = binary.LittleEndian.AppendUint32(b, uint32(now.Unix()))
	b = binary.LittleEndian.AppendUint32(b, uint32(now.Nanosecond()))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frame)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frame)))
	_, c.err = c.w.Write(append(b, frame...)) // one write: a cut file ends at a packet
}

// Stop ends the capture: nothing is written after it returns. It says what went
// wrong while writing.
func (c *Capture) Stop() error {
	c.port.capture.CompareAndSwap(c, nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.w = nil
	if c.err != nil {
		return fmt.Errorf("capturing packets of port %q: %w", c.port.Name, c.err)
	}
	return nil
}
