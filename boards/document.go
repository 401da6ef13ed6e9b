package boards

import (
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// value is one TOML value with the place where it stands. Exactly one of text,
// table and list is meaningful, by kind.
type value struct {
	key   int // byte offset of the key, or of the table's header
	at    int // byte offset of the value itself
	kind  unstable.Kind
	text  string // of a scalar
	table map[string]*value
	list  []*value
}

// document is a parsed file that remembers where everything stands.
type document struct {
	name  string
	lines []int // byte offset at which each line starts
	root  *value
}

// parse reads TOML text. The TOML decoder proper judges syntax, duplicate keys
// and redefined tables; the second pass over the syntax tree keeps positions,
// which the decoder forgets.
func parse(name string, text []byte) (*document, error) {
	d := &document{name: name, lines: []int{0}, root: newTable(0)}
	for i, c := range text {
		if c == '\n' {
			d.lines = append(d.lines, i+1)
		}
	}
	var plain map[string]any
	if err := toml.Unmarshal(text, &plain); err != nil {
		var bad *toml.DecodeError
		if errors.As(err, &bad) {
			row, col := bad.Position()
			return nil, fmt.Errorf("%s:%d:%d: %s", name, row, col, strings.TrimPrefix(err.Error(), "toml: "))
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var p unstable.Parser
	p.Reset(text)
	current := d.root
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			current = descend(d.root, e.Key(), e.Kind == unstable.ArrayTable)
		case unstable.KeyValue:
			d.assign(&p, current, e)
		}
	}
	if err := p.Error(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return d, nil
}

func newTable(at int) *value {
	return &value{key: at, at: at, kind: unstable.Table, table: map[string]*value{}}
}

// descend walks from a table along a key and makes what is missing. In a header
// of an array of tables the last part starts a new element.
func descend(t *value, key unstable.Iterator, array bool) *value {
	for key.Next() {
		k := key.Node()
		name, at := string(k.Data), int(k.Raw.Offset)
		next := t.table[name]
		switch {
		case array && key.IsLast():
			if next == nil || next.kind != unstable.Array {
				next = &value{key: at, at: at, kind: unstable.Array}
				t.table[name] = next
			}
			next.list = append(next.list, newTable(at))
		case next == nil:
			next = newTable(at)
			t.table[name] = next
		}
		if next.kind == unstable.Array && len(next.list) > 0 {
			next = next.list[len(next.list)-1]
		}
		if next.table == nil { // the decoder has refused this already
			next.table = map[string]*value{}
		}
		t = next
	}
	return t
}

// assign puts one key = value, whose key may be dotted, into a table.
func (d *document) assign(p *unstable.Parser, t *value, e *unstable.Node) {
	key := e.Key()
	for key.Next() {
		k := key.Node()
		name, at := string(k.Data), int(k.Raw.Offset)
		if key.IsLast() {
			v := d.value(p, e.Value(), at)
			v.key = at
			t.table[name] = v
			return
		}
		if t.table[name] == nil || t.table[name].table == nil {
			t.table[name] = newTable(at)
		}
		t = t.table[name]
	}
}

// value copies a node. The parser keeps no place for arrays and inline tables;
// those count as standing at their key.
func (d *document) value(p *unstable.Parser, n *unstable.Node, at int) *value {
	v := &value{key: at, at: at, kind: n.Kind}
	switch n.Kind {
	case unstable.Array:
		for it := n.Children(); it.Next(); {
			v.list = append(v.list, d.value(p, it.Node(), at))
		}
	case unstable.InlineTable:
		v.kind, v.table = unstable.Table, map[string]*value{}
		for it := n.Children(); it.Next(); {
			d.assign(p, v, it.Node())
		}
	case unstable.String:
		v.at, v.text = int(n.Raw.Offset), string(n.Data)
	default:
		v.at, v.text = int(p.Range(n.Data).Offset), string(n.Data)
	}
	return v
}

// place turns an offset into file:line:column; columns count bytes from 1.
func (d *document) place(offset int) string {
	line := sort.SearchInts(d.lines, offset+1) - 1
	return fmt.Sprintf("%s:%d:%d", d.name, line+1, offset-d.lines[line]+1)
}

// offset finds what a path such as boot.blob[1].offset names, or the nearest
// thing around it that is in the file.
func (d *document) offset(path string) int {
	v := d.root
	for _, part := range strings.FieldsFunc(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
		var next *value
		if v.kind == unstable.Array {
			var i int
			if _, err := fmt.Sscanf(part, "%d", &i); err == nil && i >= 0 && i < len(v.list) {
				next = v.list[i]
			}
		} else {
			next = v.table[part]
		}
		if next == nil {
			break
		}
		v = next
	}
	return v.at
}
