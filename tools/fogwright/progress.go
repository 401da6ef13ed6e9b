package main

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/fogwright/fogwright/firmware"
)

// progress shows a build's events: a line that redraws itself on a terminal, plain
// lines elsewhere, one JSON object per line for machines.
type progress struct {
	mu       sync.Mutex
	w        io.Writer
	terminal bool
	json     bool
	live     bool // a line without its end stands on the terminal
	last     time.Time
}

// redraw is how often the live line changes at most.
const redraw = 100 * time.Millisecond

func (p *progress) event(e firmware.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.json:
		json.NewEncoder(p.w).Encode(e)
	case e.Warning:
		p.line("%-10s WARNING: %s", e.Stage, e.Text)
	case e.Done:
		p.line("%-10s %s  %s", e.Stage, e.Text, e.Took.Round(10*time.Millisecond))
	case p.terminal && time.Since(p.last) >= redraw:
		p.last = time.Now()
		p.live = true
		fmt.Fprintf(p.w, "\r\x1b[K%-10s %s%s", e.Stage, e.Text, share(e.Bytes, e.Total))
	}
}

// line prints a whole line, over the live one if there is one.
func (p *progress) line(format string, a ...any) {
	if p.live {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.live = false
	}
	fmt.Fprintf(p.w, format+"\n", a...)
}

// share is how much of a transfer is done: "  12.3 of 45.6 MB".
func share(done, total int64) string {
	if total <= 0 {
		return ""
	}
	return fmt.Sprintf("  %.1f of %.1f MB", float64(done)/1e6, float64(total)/1e6)
}

// mib is a size for people.
func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
