package boards

import (
	"errors"
	"fmt"
	"reflect"
	"sort"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// decode fills a struct from the document by its toml tags and tells every fault
// at once: unknown keys, with the nearest known one, and values of a wrong type.
func (d *document) decode(into any) error {
	var faults []fault
	d.fill(d.root, reflect.ValueOf(into).Elem(), "", &faults)
	return d.join(faults)
}

// fault is one thing that is wrong, and where in the file.
type fault struct {
	offset int
	text   string
}

// join sorts faults by position: an author works through a file from the top.
func (d *document) join(faults []fault) error {
	sort.SliceStable(faults, func(i, j int) bool { return faults[i].offset < faults[j].offset })
	var all []error
	for _, f := range faults {
		all = append(all, fmt.Errorf("%s: %s", d.place(f.offset), f.text))
	}
	return errors.Join(all...)
}

func (d *document) fill(v *value, into reflect.Value, path string, faults *[]fault) {
	bad := func(offset int, format string, a ...any) {
		*faults = append(*faults, fault{offset, fmt.Sprintf(format, a...)})
	}
	wrong := func(want string) { bad(v.at, "%s is %s, want %s", path, kindName(v.kind), want) }
	if into.Type() == reflect.TypeFor[Size]() {
		if v.kind != unstable.Integer && v.kind != unstable.String {
			wrong(`a size: bytes or text such as "64MiB"`)
			return
		}
		n, err := ParseSize(strings.ReplaceAll(v.text, "_", ""))
		if err != nil {
			bad(v.at, "%s: %v", path, err)
		}
		into.SetInt(int64(n))
		return
	}
	switch into.Kind() {
	case reflect.Pointer:
		into.Set(reflect.New(into.Type().Elem()))
		d.fill(v, into.Elem(), path, faults)
	case reflect.Struct:
		if v.kind != unstable.Table {
			wrong("a table")
			return
		}
		d.fillStruct(v, into, path, faults)
	case reflect.Slice:
		if v.kind != unstable.Array {
			wrong("an array")
			return
		}
		into.Set(reflect.MakeSlice(into.Type(), len(v.list), len(v.list)))
		for i, e := range v.list {
			d.fill(e, into.Index(i), fmt.Sprintf("%s[%d]", path, i), faults)
		}
	case reflect.String:
		if v.kind != unstable.String {
			wrong("text in quotes")
			return
		}
		into.SetString(v.text)
	case reflect.Int:
		n, err := strconv.ParseInt(v.text, 0, 32)
		if v.kind != unstable.Integer || err != nil {
			wrong("a whole number up to 2147483647")
			return
		}
		into.SetInt(n)
	}
}

func (d *document) fillStruct(v *value, into reflect.Value, path string, faults *[]fault) {
	fields := map[string]int{}
	var known []string
	for i := range into.NumField() {
		if tag := into.Type().Field(i).Tag.Get("toml"); tag != "" && tag != "-" {
			fields[tag] = i
			known = append(known, tag)
		}
	}
	for name, child := range v.table {
		full := strings.TrimPrefix(path+"."+name, ".")
		i, ok := fields[name]
		if !ok {
			*faults = append(*faults, fault{child.key, fmt.Sprintf("unknown key %q%s", full, suggestion(name, known))})
			continue
		}
		d.fill(child, into.Field(i), full, faults)
	}
}

// suggestion names the nearest of the known words, or all of them when none is
// near: half of a word wrong is a different word.
func suggestion(word string, known []string) string {
	sort.Strings(known)
	best, least := "", len(word)/2+1
	for _, k := range known {
		if n := distance(word, k); n < least {
			best, least = k, n
		}
	}
	if best != "" {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	return "; known here: " + strings.Join(known, ", ")
}

// distance is the number of letters to insert, remove or replace to make b of a
// (Levenshtein), in bytes. It is kept to short words: the cost is the product.
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			next := diagonal
			if a[i] != b[j] {
				next++
			}
			diagonal = row[j+1]
			row[j+1] = min(next, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

func kindName(k unstable.Kind) string {
	switch k {
	case unstable.String:
		return "text"
	case unstable.Bool:
		return "true or false"
	case unstable.Integer, unstable.Float:
		return "a number"
	case unstable.Array:
		return "an array"
	case unstable.Table:
		return "a table"
	}
	return "a date or time"
}
