package workload

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// logger prints what workloads say. init keeps it in its ring, where the daemons'
// own words must not be washed out by a chatterbox.
type logger struct {
	mu  sync.Mutex
	out io.Writer
}

const (
	lineBytes     = 1024
	linesPerBurst = 100
	burst         = time.Second // at most linesPerBurst lines in each
)

// pump copies lines from r, each with the name in front, until r ends. It returns
// the last line.
func (l *logger) pump(r io.Reader, name string) (last string) {
	in := bufio.NewReaderSize(r, lineBytes)
	var since time.Time
	printed, dropped := 0, 0
	for {
		part, err := in.ReadSlice('\n')
		line := strings.TrimRight(string(part), "\r\n")
		if err == bufio.ErrBufferFull {
			line += " …"
			err = skipLine(in)
		}
		if now := time.Now(); now.Sub(since) > burst {
			if dropped > 0 {
				l.print(name, fmt.Sprintf("(%d lines dropped)", dropped))
			}
			since, printed, dropped = now, 0, 0
		}
		if line != "" {
			last = plain(line)
			if printed++; printed <= linesPerBurst {
				l.print(name, printable(line))
			} else {
				dropped++
			}
		}
		if err != nil {
			if dropped > 0 {
				l.print(name, fmt.Sprintf("(%d lines dropped)", dropped))
			}
			return last
		}
	}
}

func (l *logger) print(name, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.out, "%s: %s\n", name, line)
}

// skipLine reads to the end of the line.
func skipLine(in *bufio.Reader) error {
	for {
		_, err := in.ReadSlice('\n')
		if err != bufio.ErrBufferFull {
			return err
		}
	}
}
