package workload

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fogwright/fogwright/initramfs/site"
	"github.com/fogwright/fogwright/initramfs/state"
	"github.com/google/go-cmp/cmp"
)

// edgecache is a module of its own and cannot share our types; these two files are
// what both sides are tested against.
const (
	agreedConfig = "edgecache/testdata/config.json"
	agreedReport = "edgecache/testdata/report.json"
)

func TestConfigIsAsAgreed(t *testing.T) {
	w := EdgeCache("/factory", &site.Site{Content: []site.Content{
		{Torrent: "https://origin.example/film.torrent", InfoHash: strings.Repeat("0123456789", 4), WebSeeds: []string{"https://origin.example/film.bin"}},
		{Torrent: "http://origin.example/album.torrent"},
	}})
	got, err := w.configFile()
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(agreedConfig)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("the configuration differs from %s (-agreed +written):\n%s", agreedConfig, diff)
	}
}

func TestReportIsAsAgreed(t *testing.T) {
	text, err := os.ReadFile(agreedReport)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&state.Report{}); err != nil {
		t.Errorf("%s has what state.Report has not: %v", agreedReport, err)
	}
	got, err := ParseReport(text)
	if err != nil {
		t.Fatal(err)
	}
	want := &state.Report{
		Sharing: true, BytesServed: 33554432, BytesDownloaded: 16777216, Peers: 2,
		Content: []state.Content{
			{Name: "film.bin", InfoHash: strings.Repeat("0123456789", 4), Size: 16777216, Have: 16777216},
			{Name: "http://origin.example/album.torrent", Error: "the origin answers 404 Not Found"},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

func TestParseReport(t *testing.T) {
	for _, test := range []struct{ name, in, want string }{
		{"empty", ``, "not valid JSON"},
		{"two values", `{}{}`, "follows the end"},
		{"negative", `{"bytes_served":-1}`, "negative"},
		{"more than whole", `{"content":[{"size":1,"have":2}]}`, "2 of 1 bytes"},
		{"overflow", `{"bytes_served":99999999999999999999}`, "not valid JSON"},
		{"too many items", `{"content":[` + strings.Repeat(`{},`, maxContent) + `{}]}`, "257 items"},
		{"too long", strings.Repeat(" ", maxReport) + "{}", "more than"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := ParseReport([]byte(test.in))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error about %q", err, test.want)
			}
		})
	}
	r, err := ParseReport([]byte(`{"errors":["a\u001b[2Jb\nc` + strings.Repeat("ü", 200) + `"],"newer":1}`))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := r.Errors[0], "a?[2Jb?c"; !strings.HasPrefix(got, want) || len(got) > maxText {
		t.Errorf("text: got %q (%d bytes), want it to begin with %q and to be cut", got, len(got), want)
	}
}

func FuzzReport(f *testing.F) {
	agreed, err := os.ReadFile(agreedReport)
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{string(agreed), `{}`, `{"sharing":1}`, `[]`, `{"content":[{"name":"\u001b]0;x\u0007"}]}`, `{"errors":["\ud800"]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseReport(b)
		if err != nil {
			return
		}
		for _, e := range r.Errors {
			if len(e) > maxText || strings.ContainsAny(e, "\x1b\n\r\x07") {
				t.Errorf("unsafe text %q", e)
			}
		}
		for _, c := range r.Content {
			if c.Have < 0 || c.Have > c.Size || len(c.Name) > maxText {
				t.Errorf("unsafe item %+v", c)
			}
		}
	})
}

func TestRestart(t *testing.T) {
	r := Restart{}.withDefaults()
	for _, test := range []struct {
		crashes int
		want    time.Duration
		loop    bool
	}{
		{1, time.Second, false}, {2, 2 * time.Second, false}, {4, 8 * time.Second, false}, {5, 10 * time.Minute, true}, {1000, 10 * time.Minute, true},
	} {
		wait, loop := r.next(test.crashes)
		if wait < test.want/2 || wait > test.want*3/2 || loop != test.loop {
			t.Errorf("after %d crashes: got %v, %v, want about %v, %v", test.crashes, wait, loop, test.want, test.loop)
		}
	}
	r.Crashes = 100
	if wait, _ := r.next(99); wait > r.Max*3/2 {
		t.Errorf("after 99 crashes: got %v, want at most about %v", wait, r.Max)
	}
}
