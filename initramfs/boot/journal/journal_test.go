package journal

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/fogwright/fogwright/initramfs/state"
)

func clock() float64 { return 1.5 }

func texts(all []state.LogEntry) []string {
	var out []string
	for _, e := range all {
		out = append(out, e.Service+": "+e.Text)
	}
	return out
}

func TestSince(t *testing.T) {
	j := New(1<<20, clock)
	for _, s := range []string{"a one", "b two", "a three"} {
		service, text, _ := strings.Cut(s, " ")
		j.Append(service, text)
	}
	tests := []struct {
		name    string
		seq     uint64
		service string
		max     int
		want    []string
		next    uint64
	}{
		{"everything", 0, "", 0, []string{"a: one", "b: two", "a: three"}, 3},
		{"one service", 0, "a", 0, []string{"a: one", "a: three"}, 3},
		{"after the first", 1, "", 0, []string{"b: two", "a: three"}, 3},
		{"in pieces", 0, "", 2, []string{"a: one", "b: two"}, 2},
		{"nothing new", 3, "", 0, nil, 3},
		{"a number of an earlier boot", 99, "", 0, []string{"a: one", "b: two", "a: three"}, 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, next, _ := j.Since(tt.seq, tt.service, tt.max)
			if diff := cmp.Diff(tt.want, texts(got)); diff != "" || next != tt.next {
				t.Errorf("next = %d, want %d; lines (-want +got):\n%s", next, tt.next, diff)
			}
		})
	}
}

func TestFollowWakesUp(t *testing.T) {
	j := New(1<<20, clock)
	_, next, more := j.Since(0, "", 0)
	select {
	case <-more:
		t.Fatal("woken up by nothing")
	default:
	}
	go j.Append("a", "new")
	<-more
	if got, _, _ := j.Since(next, "", 0); len(got) != 1 {
		t.Errorf("got %v, want the new line", got)
	}
}

// However much is written, the journal stays within its bytes and keeps the newest.
func TestBounded(t *testing.T) {
	const limit = 10_000
	j := New(limit, clock)
	for i := range 5000 {
		j.Append("noisy", fmt.Sprintf("line %d %s", i, strings.Repeat("x", i%300)))
	}
	all, _, _ := j.Since(0, "", 0)
	size := 0
	for i, e := range all {
		size += len(e.Text) + overhead
		if want := uint64(5000 - len(all) + i + 1); e.Seq != want {
			t.Fatalf("entry %d has number %d, want %d", i, e.Seq, want)
		}
	}
	if size > limit || size < limit/2 {
		t.Errorf("journal holds %d bytes, want up to %d", size, limit)
	}
}

func TestCapture(t *testing.T) {
	j := New(1<<20, clock)
	long := strings.Repeat("y", 3*MaxLine)
	j.Capture("s", strings.NewReader("first\r\n"+long+"\nred \x1b[31m\nbad \xff\nno newline at the end"))
	got, _, _ := j.Since(0, "", 0)
	want := []string{"s: first", "s: " + long[:MaxLine], `s: red \x1b[31m`, "s: bad \uFFFD", "s: no newline at the end"}
	if diff := cmp.Diff(want, texts(got)); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func TestParseKmsg(t *testing.T) {
	tests := []struct {
		name, record, text string
		kernel, ok         bool
	}{
		{"kernel", "6,339,5140900,-;NET: Registered protocol family 10\n SUBSYSTEM=net\n", "NET: Registered protocol family 10", true, true},
		{"a process wrote it", "13,340,5140901,-;fogwright: ready\n", "fogwright: ready", false, true},
		{"escapes", `6,1,2,-;gr\xc3\xbc\xc3\x9f \x`, `grüß \x`, true, true},
		{"no header", "hello", "", false, false},
		{"no number", "x,1,2,-;hello", "", false, false},
		{"empty", "", "", false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text, kernel, ok := ParseKmsg([]byte(tt.record))
			if text != tt.text || kernel != tt.kernel || ok != tt.ok {
				t.Errorf("got %q %v %v, want %q %v %v", text, kernel, ok, tt.text, tt.kernel, tt.ok)
			}
		})
	}
}

func FuzzParseKmsg(f *testing.F) {
	f.Add([]byte("6,339,5140900,-;text\\x0a\n A=b\n"))
	f.Add([]byte("6,,;"))
	f.Fuzz(func(t *testing.T, b []byte) {
		text, _, ok := ParseKmsg(b)
		if !ok && text != "" {
			t.Errorf("text %q of a record that is none", text)
		}
		if c := Clean(text); !utf8.ValidString(c) || strings.ContainsAny(c, "\n\r\x1b\x00") {
			t.Errorf("Clean leaves %q", c)
		}
	})
}
