// Package journal keeps the newest log lines of a running box in memory.
//
// The daemons write (init reads their standard output and error, line by line),
// and so does the kernel; whoever may use the control channel reads. The writers
// are not trusted: a line is cut at [MaxLine], control characters are made
// visible, and the whole journal stays under a fixed number of bytes by dropping
// the oldest lines. Nothing is ever written to flash.
package journal

import (
	"bufio"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/fogwright/fogwright/initramfs/state"
)

const (
	// MaxLine is the longest line kept, in bytes; the rest of it is dropped.
	MaxLine = 2048
	// overhead is what an entry costs beside its text: the struct itself.
	overhead = 64
)

// Journal is a bounded list of lines. It is safe for concurrent use.
type Journal struct {
	now   func() float64
	limit int

	mu      sync.Mutex
	entries []state.LogEntry // oldest first
	size    int
	seq     uint64
	changed chan struct{} // closed and replaced by every Append
}

// New makes a journal of at most limit bytes. now gives an entry its time.
func New(limit int, now func() float64) *Journal {
	return &Journal{now: now, limit: limit, changed: make(chan struct{})}
}

// Append adds one line said by service.
func (j *Journal) Append(service, text string) {
	text = Clean(text)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.seq++
	j.entries = append(j.entries, state.LogEntry{Seq: j.seq, Time: j.now(), Service: service, Text: text})
	j.size += len(text) + overhead
	drop := 0
	for j.size > j.limit && drop < len(j.entries)-1 {
		j.size -= len(j.entries[drop].Text) + overhead
		j.entries[drop] = state.LogEntry{} // the text's memory, now
		drop++
	}
	j.entries = j.entries[drop:] // append moves them to the front when it grows
	close(j.changed)
	j.changed = make(chan struct{})
}

// Since returns up to max entries of service (of all when empty) with a sequence
// number above seq, the number to ask from next, and a channel that is closed
// when there is more. max <= 0 means all. A seq that was not given out yet is one of
// an earlier boot, and means 0.
func (j *Journal) Since(seq uint64, service string, max int) (got []state.LogEntry, next uint64, more <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if seq > j.seq {
		seq = 0
	}
	next = seq
	for _, e := range j.entries {
		if e.Seq <= seq {
			continue
		}
		if max > 0 && len(got) == max {
			return got, next, closed()
		}
		next = e.Seq
		if service == "" || e.Service == service {
			got = append(got, e)
		}
	}
	return got, next, j.changed
}

func closed() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// Capture appends every line that r gives, until r ends.
func (j *Journal) Capture(service string, r io.Reader) {
	b := bufio.NewReaderSize(r, MaxLine)
	for {
		line, err := b.ReadSlice('\n')
		if len(line) > 0 {
			j.Append(service, strings.TrimRight(string(line), "\r\n"))
		}
		for errors.Is(err, bufio.ErrBufferFull) { // the rest of a long line
			_, err = b.ReadSlice('\n')
		}
		if err != nil {
			return
		}
	}
}

// Clean makes a line that is safe to show on a terminal: at most MaxLine bytes,
// valid UTF-8, control characters as Go escapes.
func Clean(s string) string {
	if len(s) > MaxLine {
		s = s[:MaxLine]
	}
	ok := func(r rune) bool { return r == '\t' || unicode.IsPrint(r) }
	if utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !ok(r) }) < 0 {
		return strings.Clone(s)
	}
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		if ok(r) {
			b.WriteRune(r)
		} else {
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		}
	}
	return b.String()
}
