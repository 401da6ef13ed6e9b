package lab

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// MAC is an Ethernet address.
type MAC [6]byte

// String is the usual form, 52:54:00:12:34:56.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

func (m MAC) multicast() bool { return m[0]&1 != 0 }

const (
	etherHeader = 14
	// maxFrame is more than any device here sends (MTU 1500, no offloads);
	// QEMU's own limit is 68 KiB with offloads.
	maxFrame = 9216
	// maxLearned bounds the table, so that a host that invents source addresses
	// costs floods and not memory. A home switch has 1,024 to 8,192.
	maxLearned = 4096
	// queueLen frames wait at a port before it drops, like a real switch. It is
	// more than a full TCP window of netstack (4 MiB), so that plain transfers
	// do not lose packets.
	queueLen = 4096
)

// Direction of a frame, as the device on the port sees it.
type Direction uint8

// The two directions.
const (
	FromDevice Direction = iota
	ToDevice
)

// Fault is what is wrong with a cable. It sees each frame of the port and says
// how long it is late, and whether it is lost. It must not keep or change frame,
// and is called from several goroutines.
type Fault func(dir Direction, frame []byte) (late time.Duration, lost bool)

// Counters of a port, frames and bytes as the device sees them: In was delivered
// to it, Out was sent by it. Dropped counts both ways: lost to a fault, a pulled
// cable, a full queue or an impossible size.
type Counters struct {
	InFrames, InBytes, OutFrames, OutBytes, Dropped int64
}

// Switch is an Ethernet switch that learns addresses.
type Switch struct {
	mu      sync.RWMutex
	ports   []*Port
	learned map[MAC]*Port
}

// NewSwitch makes a switch without ports.
func NewSwitch() *Switch { return &Switch{learned: map[MAC]*Port{}} }

// Port is one socket of a [Switch] with the cable in it.
type Port struct {
	Name string

	sw      *Switch
	deliver func(frame []byte, more bool)
	queue   chan queued
	stop    chan struct{}
	once    sync.Once
	stopped chan struct{}
	down    atomic.Bool
	fault   atomic.Pointer[Fault]
	capture atomic.Pointer[Capture]

	inFrames, inBytes, outFrames, outBytes, dropped atomic.Int64
}

type queued struct {
	frame []byte
	due   time.Time // zero: now
}

// Plug adds a port. deliver gets each frame for the device, one at a time; it
// must not keep or change the frame; more says that another one is waiting, so
// that a writer may put off flushing.
func (s *Switch) Plug(name string, deliver func(frame []byte, more bool)) *Port {
	p := &Port{
		Name: name, sw: s, deliver: deliver,
		queue: make(chan queued, queueLen), stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	s.mu.Lock()
	s.ports = append(s.ports[:len(s.ports):len(s.ports)], p)
	s.mu.Unlock()
	go p.run()
	return p
}

// Close unplugs every port.
func (s *Switch) Close() error {
	s.mu.RLock()
	ports := s.ports
	s.mu.RUnlock()
	for _, p := range ports {
		p.Unplug()
	}
	return nil
}

// Send takes a frame from the device. The frame belongs to the switch now.
func (p *Port) Send(frame []byte) {
	late, lost := p.inspect(FromDevice, frame)
	if lost || len(frame) < etherHeader || len(frame) > maxFrame {
		p.dropped.Add(1)
		return
	}
	p.outFrames.Add(1)
	p.outBytes.Add(int64(len(frame)))
	if c := p.capture.Load(); c != nil {
		c.write(frame)
	}
	q := queued{frame: frame}
	if late > 0 {
		q.due = time.Now().Add(late)
	}
	switch to := p.sw.lookup(p, MAC(frame[0:6]), MAC(frame[6:12])); to {
	case nil: // unknown or a group: everyone
	case p: // the device talks to itself: a switch never sends a frame back
		return
	default:
		to.enqueue(q)
		return
	}
	p.sw.mu.RLock()
	ports := p.sw.ports
	p.sw.mu.RUnlock()
	for _, to := range ports {
		if to != p {
			to.enqueue(q)
		}
	}
}

// lookup learns where src is and tells where dst is: nil means everywhere.
func (s *Switch) lookup(from *Port, dst, src MAC) *Port {
	s.mu.RLock()
	to, known := s.learned[dst], s.learned[src] == from
	s.mu.RUnlock()
	if !known && !src.multicast() {
		s.mu.Lock()
		if len(s.learned) >= maxLearned {
			clear(s.learned)
		}
		s.learned[src] = from
		s.mu.Unlock()
	}
	return to
}

func (p *Port) enqueue(q queued) {
	late, lost := p.inspect(ToDevice, q.frame)
	if lost {
		p.dropped.Add(1)
		return
	}
	if late > 0 {
		if q.due.IsZero() {
			q.due = time.Now()
		}
		q.due = q.due.Add(late)
	}
	select {
	case p.queue <- q:
	default:
		p.dropped.Add(1)
	}
}

func (p *Port) inspect(dir Direction, frame []byte) (late time.Duration, lost bool) {
	if p.down.Load() {
		return 0, true
	}
	if f := p.fault.Load(); f != nil {
		return (*f)(dir, frame)
	}
	return 0, false
}

// run hands frames to the device, in order.
func (p *Port) run() {
	defer close(p.stopped)
	for {
		select {
		case <-p.stop:
			return
		case q := <-p.queue:
			if !q.due.IsZero() && !p.sleep(time.Until(q.due)) {
				return
			}
			if p.down.Load() { // pulled while the frame was on its way
				p.dropped.Add(1)
				continue
			}
			p.inFrames.Add(1)
			p.inBytes.Add(int64(len(q.frame)))
			if c := p.capture.Load(); c != nil {
				c.write(q.frame)
			}
			p.deliver(q.frame, len(p.queue) > 0)
		}
	}
}

func (p *Port) sleep(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-p.stop:
		return false
	}
}

// Unplug takes the port out of its switch. deliver is not called after it
// returns; so it must not be called from deliver.
func (p *Port) Unplug() {
	p.once.Do(func() {
		s := p.sw
		s.mu.Lock()
		var rest []*Port
		for _, q := range s.ports {
			if q != p {
				rest = append(rest, q)
			}
		}
		s.ports = rest
		for m, q := range s.learned {
			if q == p {
				delete(s.learned, m)
			}
		}
		s.mu.Unlock()
		close(p.stop)
	})
	<-p.stopped
}

// SetCable pulls the network cable (false) or puts it back (true). The device
// does not notice; [Machine.SetCable] takes its carrier away, too.
func (p *Port) SetCable(in bool) { p.down.Store(!in) }

// SetFault makes the cable faulty; nil repairs it.
func (p *Port) SetFault(f Fault) {
	if f == nil {
		p.fault.Store(nil)
		return
	}
	p.fault.Store(&f)
}

// Counters of the port until now.
func (p *Port) Counters() Counters {
	return Counters{
		InFrames: p.inFrames.Load(), InBytes: p.inBytes.Load(),
		OutFrames: p.outFrames.Load(), OutBytes: p.outBytes.Load(),
		Dropped: p.dropped.Load(),
	}
}
