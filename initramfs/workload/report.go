package workload

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/fogwright/fogwright/initramfs/state"
)

// What a report may have. Everything in it ends up in the box's status and on
// somebody's terminal.
const (
	maxReport  = 256 << 10
	maxContent = 256
	maxErrors  = 16
	maxText    = 300 // bytes of one string
)

// readReport reads a workload's report. The path is in the workload's hands: a
// link, a pipe or a device there must neither lead anywhere nor block. A report
// that is not there yet is nil.
func readReport(path string) (*state.Report, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening the report: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening the report: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("the report is not a file but %v", st.Mode().Type())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxReport+1))
	if err != nil {
		return nil, fmt.Errorf("reading the report: %w", err)
	}
	return ParseReport(b)
}

// ParseReport decodes what a workload states about itself and makes it safe to
// pass on: sizes are bounded, impossible numbers are refused, and texts lose
// everything that could steer a terminal. Unknown fields are ignored: the workload
// may be newer than the box.
func ParseReport(b []byte) (*state.Report, error) {
	if len(b) > maxReport {
		return nil, fmt.Errorf("the report has more than %d bytes", maxReport)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	var r state.Report
	if err := d.Decode(&r); err != nil {
		return nil, fmt.Errorf("the report is not valid JSON: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the end of the report")
	}
	if len(r.Content) > maxContent || len(r.Errors) > maxErrors {
		return nil, fmt.Errorf("the report has %d items and %d errors; at most %d and %d are taken", len(r.Content), len(r.Errors), maxContent, maxErrors)
	}
	if r.BytesServed < 0 || r.BytesDownloaded < 0 || r.Peers < 0 {
		return nil, errors.New("the report has a negative count")
	}
	for i := range r.Content {
		c := &r.Content[i]
		if c.Have < 0 || c.Have > c.Size {
			return nil, fmt.Errorf("the report claims %d of %d bytes of an item", c.Have, c.Size)
		}
		c.Name, c.InfoHash, c.Error = plain(c.Name), plain(c.InfoHash), plain(c.Error)
	}
	for i := range r.Errors {
		r.Errors[i] = plain(r.Errors[i])
	}
	return &r, nil
}

// printable replaces everything in s that could steer a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// plain returns s as at most maxText bytes of printable text.
func plain(s string) string {
	s = printable(s)
	if len(s) <= maxText {
		return s
	}
	s = s[:maxText-len("…")]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s + "…"
}
