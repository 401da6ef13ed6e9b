package source

import (
	"bytes"
	"fmt"
	"iter"
	"strings"
)

// stanza is one paragraph of a deb822(5) file: what InRelease, Packages, control
// and *.sources files are made of, and our lock.
type stanza struct {
	line   int // of the first field
	fields []field
}

type field struct {
	name, value string
	line        int
}

// get returns the value of the field called name (deb822 names ignore case), or "".
// Continuation lines are joined with newlines, without their leading blank.
func (s *stanza) get(name string) string {
	for _, f := range s.fields {
		if strings.EqualFold(f.name, name) {
			return f.value
		}
	}
	return ""
}

// rawStanzas yields the paragraphs of b unparsed, each with the number of its
// first line. The slices share b's memory: a Packages file has 68,000 paragraphs,
// of which a build wants a handful.
func rawStanzas(b []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		for line := 1; len(b) > 0; {
			end := len(b)
			next := end
			if i := bytes.Index(b, []byte("\n\n")); i >= 0 {
				end, next = i+1, i+2
			}
			raw := b[:end]
			if len(bytes.TrimSpace(raw)) > 0 && !yield(line, raw) {
				return
			}
			line += bytes.Count(b[:next], []byte("\n"))
			b = b[next:]
		}
	}
}

// parseStanza parses one paragraph that starts at the given line. A field may
// appear once only (deb822: "a paragraph must not contain more than one instance
// of a particular field name").
func parseStanza(raw []byte, line int) (*stanza, error) {
	s := &stanza{line: line}
	seen := map[string]bool{}
	for text := range strings.Lines(string(raw)) {
		l := strings.TrimRight(text, " \t\r\n")
		n := line
		line++
		switch {
		case l == "" || l[0] == '#':
			continue
		case l[0] == ' ' || l[0] == '\t':
			if len(s.fields) == 0 {
				return nil, fmt.Errorf("line %d: a continuation line without a field before it", n)
			}
			f := &s.fields[len(s.fields)-1]
			f.value += "\n" + strings.TrimLeft(l, " \t")
			continue
		}
		name, value, ok := strings.Cut(l, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return nil, fmt.Errorf("line %d: %.60q is not of the form Field: value", n, l)
		}
		key := strings.ToLower(name)
		if seen[key] {
			return nil, fmt.Errorf("line %d: field %s stands here twice", n, name)
		}
		seen[key] = true
		s.fields = append(s.fields, field{name: name, value: strings.TrimLeft(value, " \t"), line: n})
	}
	if len(s.fields) == 0 {
		return nil, fmt.Errorf("line %d: no field", s.line)
	}
	s.line = s.fields[0].line
	return s, nil
}
