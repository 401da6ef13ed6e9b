package main

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"
)

// steps turns a box's console into named steps with times: what the loaders, the
// kernel and init say when they have come so far.
type steps struct {
	w io.Writer

	mu      sync.Mutex
	began   time.Time
	partial strings.Builder // a line without its end
	seen    map[string]bool
}

// milestones are what the console says, and what that means. The first that
// matches a line counts, once per boot.
var milestones = []struct {
	re   *regexp.Regexp
	name string
}{
	{regexp.MustCompile(`^U-Boot SPL`), "SPL"},
	{regexp.MustCompile(`^U-Boot 2`), "U-Boot"},
	{regexp.MustCompile(`^BdsDxe: starting`), "EFI firmware starts the slot"},
	{regexp.MustCompile(`^EFI stub:`), "kernel's EFI stub"},
	{regexp.MustCompile(`^fogwright: booting (slot [ab])`), "boot script: $1"},
	{regexp.MustCompile(`^Starting kernel`), "kernel"},
	{regexp.MustCompile(`^Booting Linux|^Linux version`), "kernel"},
	{regexp.MustCompile(`^fogwright: phase (\S+) failed(.*)`), "phase $1 FAILED$2"},
	{regexp.MustCompile(`^fogwright: phase (\S+) ok (\S+)`), "phase $1 ($2)"},
	{regexp.MustCompile(`^fogwright: service (\S+) started`), "service $1"},
	{regexp.MustCompile(`^fogwright: ready`), "ready"},
}

func newSteps(w io.Writer) *steps { return &steps{w: w, began: time.Now(), seen: map[string]bool{}} }

// stamp is what the kernel puts before each of its lines; init speaks through it.
var stamp = regexp.MustCompile(`^\[ *[0-9]+\.[0-9]+\] `)

// start sets the time that steps are counted from.
func (s *steps) start(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.began = t
}

// Write takes the console's bytes as they come.
func (s *steps) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range p {
		if c != '\n' {
			if s.partial.Len() < 4096 {
				s.partial.WriteByte(c)
			}
			continue
		}
		s.console(strings.TrimSpace(plain(s.partial.String())))
		s.partial.Reset()
	}
	return len(p), nil
}

func (s *steps) console(line string) {
	line = stamp.ReplaceAllString(line, "")
	for _, m := range milestones {
		match := m.re.FindStringSubmatchIndex(line)
		if match == nil {
			continue
		}
		name := string(m.re.ExpandString(nil, m.name, line, match))
		if !s.seen[name] {
			s.seen[name] = true
			s.print(name)
		}
		return
	}
}

// line prints a step of the caller's.
func (s *steps) line(format string, a ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.print(fmt.Sprintf(format, a...))
}

func (s *steps) print(text string) {
	fmt.Fprintf(s.w, "%7.2f s  %s\n", time.Since(s.began).Seconds(), text)
}

// escapes are a terminal's control sequences (ECMA-48), which EFI firmware prints
// between any two words.
var escapes = regexp.MustCompile(`\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>c]|[\x00-\x08\x0b-\x1f\x7f]`)

func plain(text string) string { return escapes.ReplaceAllString(text, "") }
