package site

import (
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// positions finds where each key of a TOML text stands, by its path: "hostname",
// "ntp[1]", "content[0].torrent". The text has been decoded before, so it parses.
func positions(text []byte) map[string]unstable.Position {
	var p unstable.Parser
	p.Reset(text)
	at := map[string]unstable.Position{}
	note := func(path string, n *unstable.Node) {
		if n != nil && n.Raw.Length > 0 {
			at[path] = p.Shape(n.Raw).Start
		}
	}
	var value func(path string, v *unstable.Node)
	pair := func(prefix string, kv *unstable.Node) {
		key, first := keyOf(kv)
		note(prefix+key, first)
		value(prefix+key, kv.Value())
	}
	value = func(path string, v *unstable.Node) {
		children := v.Children()
		switch v.Kind {
		case unstable.Array:
			for i := 0; children.Next(); i++ {
				element := fmt.Sprintf("%s[%d]", path, i)
				at[element] = at[path] // an inline table has no place of its own
				note(element, children.Node())
				value(element, children.Node())
			}
		case unstable.InlineTable:
			for children.Next() {
				pair(path+".", children.Node())
			}
		}
	}
	prefix, count := "", map[string]int{}
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.KeyValue:
			pair(prefix, e)
		case unstable.Table:
			key, first := keyOf(e)
			note(key, first)
			prefix = key + "."
		case unstable.ArrayTable:
			key, first := keyOf(e)
			element := fmt.Sprintf("%s[%d]", key, count[key])
			count[key]++
			note(element, first)
			prefix = element + "."
		}
	}
	return at
}

// keyOf is an expression's dotted key and its first part.
func keyOf(e *unstable.Node) (path string, first *unstable.Node) {
	var parts []string
	for it := e.Key(); it.Next(); {
		if first == nil {
			first = it.Node()
		}
		parts = append(parts, string(it.Node().Data))
	}
	return strings.Join(parts, "."), first
}

// suggestion is "; is … meant?" with the known key that is nearest, or nothing when
// none is near.
func suggestion(key string) string {
	best, distance := "", 4
	for _, known := range []string{
		"hostname", "ntp", "control", "control.uart", "control.baud",
		"content", "content.torrent", "content.info_hash", "content.web_seeds",
	} {
		if d := editDistance(key, known); d < min(distance, len(known)) {
			best, distance = known, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; is %q meant?", best)
}

// editDistance counts the letters to insert, delete or replace (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(row[j+1]+1, row[j]+1, cost)
		}
	}
	return row[len(b)]
}
