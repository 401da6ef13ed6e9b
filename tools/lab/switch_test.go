package lab

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// probe devices of the switch tests: each keeps what it gets.
type device struct {
	mac  MAC
	port *Port

	mu  sync.Mutex
	got []string
}

func newDevice(sw *Switch, n byte) *device {
	d := &device{mac: MAC{2, 0, 0, 0, 0, n}}
	d.port = sw.Plug(fmt.Sprint(n), func(f []byte, _ bool) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.got = append(d.got, string(f[etherHeader:]))
	})
	return d
}

func (d *device) received() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.got)
}

func (d *device) send(to MAC, payload string) {
	f := append(append(to[:], d.mac[:]...), 0x88, 0xb5) // local experimental (IEEE 802)
	d.port.Send(append(f, payload...))
}

var everyone = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// settle sends a last broadcast from d to the others and waits until each has it:
// what came before has come by then.
func settle(t *testing.T, from *device, to ...*device) {
	t.Helper()
	from.send(everyone, "last")
	for _, d := range to {
		if err := until(patience(t), func() bool { return slices.Contains(d.received(), "last") }); err != nil {
			t.Fatalf("a broadcast did not reach device %s: %v", d.port.Name, err)
		}
	}
}

func TestSwitch(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(a, b, c *device)
		want [3][]string // that a, b and c received, besides the last broadcast
	}{
		{"unknown goes everywhere", func(a, b, c *device) { a.send(b.mac, "1") },
			[3][]string{nil, {"1"}, {"1"}}},
		{"learned goes to one", func(a, b, c *device) { b.send(everyone, "0"); a.send(b.mac, "1") },
			[3][]string{{"0"}, {"1"}, {"0"}}},
		{"never back", func(a, b, c *device) { a.send(b.mac, "0"); a.send(a.mac, "1") },
			[3][]string{nil, {"0"}, {"0"}}},
		{"a moved device is found", func(a, b, c *device) {
			b.send(everyone, "0")
			b.mac, c.mac = c.mac, b.mac // c speaks with b's old address
			c.send(everyone, "1")
			a.send(c.mac, "2")
		}, [3][]string{{"0", "1"}, {"1"}, {"0", "2"}}},
		{"a group address is no source", func(a, b, c *device) {
			a.mac = everyone
			a.send(b.mac, "0")
			b.send(everyone, "1")
		}, [3][]string{{"1"}, {"0"}, {"0", "1"}}},
		{"pulled at the sender", func(a, b, c *device) {
			a.port.SetCable(false)
			a.send(b.mac, "1")
			a.port.SetCable(true)
		}, [3][]string{nil, nil, nil}},
		{"runt", func(a, b, c *device) { a.port.Send(make([]byte, etherHeader-1)) },
			[3][]string{nil, nil, nil}},
		{"giant", func(a, b, c *device) { a.port.Send(make([]byte, maxFrame+1)) },
			[3][]string{nil, nil, nil}},
		{"lost", func(a, b, c *device) {
			c.port.SetFault(func(dir Direction, f []byte) (time.Duration, bool) {
				return 0, dir == ToDevice && string(f[etherHeader:]) == "1"
			})
			a.send(everyone, "1")
			a.send(everyone, "2")
		}, [3][]string{nil, {"1", "2"}, {"2"}}},
		{"late, in order", func(a, b, c *device) {
			a.port.SetFault(func(dir Direction, f []byte) (time.Duration, bool) { return 5 * time.Millisecond, false })
			for i := range 4 {
				a.send(everyone, fmt.Sprint(i))
			}
		}, [3][]string{nil, {"0", "1", "2", "3"}, {"0", "1", "2", "3"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sw := NewSwitch()
			defer sw.Close()
			d := [3]*device{newDevice(sw, 1), newDevice(sw, 2), newDevice(sw, 3)}
			c.do(d[0], d[1], d[2])
			settle(t, d[0], d[1], d[2])
			for i := range d {
				var got []string
				for _, s := range d[i].received() {
					if s != "last" {
						got = append(got, s)
					}
				}
				if diff := cmp.Diff(c.want[i], got); diff != "" {
					t.Errorf("device %d (-want +got):\n%s", i+1, diff)
				}
			}
		})
	}
}

func TestDelayIsAtLeastWhatWasAsked(t *testing.T) {
	sw := NewSwitch()
	defer sw.Close()
	a, b := newDevice(sw, 1), newDevice(sw, 2)
	const late = 20 * time.Millisecond
	b.port.SetFault(func(Direction, []byte) (time.Duration, bool) { return late, false })
	start := time.Now()
	settle(t, a, b)
	if took := time.Since(start); took < late {
		t.Errorf("a frame came after %v, want at least %v", took, late)
	}
	b.port.SetFault(nil)
}

func TestCountersAndLearningAreBounded(t *testing.T) {
	sw := NewSwitch()
	defer sw.Close()
	a, b := newDevice(sw, 1), newDevice(sw, 2)
	a.mac[1] = 9 // none of b's
	for i := range maxLearned + 100 {
		binary.BigEndian.PutUint32(a.mac[2:], uint32(i)) // a liar
		a.send(b.mac, "x")
		if err := until(patience(t), func() bool { return len(b.port.queue) < queueLen/2 }); err != nil {
			t.Fatal(err)
		}
	}
	settle(t, a, b)
	sw.mu.RLock()
	learned := len(sw.learned)
	sw.mu.RUnlock()
	if learned > maxLearned {
		t.Errorf("the switch learned %d addresses, want at most %d", learned, maxLearned)
	}
	const n = maxLearned + 101
	want := Counters{InFrames: n, InBytes: n*15 + 3}
	if diff := cmp.Diff(want, b.port.Counters()); diff != "" {
		t.Errorf("counters of the receiver (-want +got):\n%s", diff)
	}
	want = Counters{OutFrames: n, OutBytes: n*15 + 3}
	if diff := cmp.Diff(want, a.port.Counters()); diff != "" {
		t.Errorf("counters of the sender (-want +got):\n%s", diff)
	}
	a.port.SetCable(false)
	a.send(b.mac, "x")
	if got := a.port.Counters().Dropped; got != 1 {
		t.Errorf("a pulled cable dropped %d frames, want 1", got)
	}
}
