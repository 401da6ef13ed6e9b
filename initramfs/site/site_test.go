package site

import (
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const whole = `hostname = "shelf"
ntp = ["192.0.2.1", "time.example.net", "2001:db8::1"]

[control]
uart = "/dev/ttyS1"
baud = 9600

[[content]]
torrent = "https://example.org/a.torrent"
info_hash = "0123456789abcdef0123456789ABCDEF01234567"
web_seeds = ["http://example.org/a"]

[[content]]
torrent = "http://[2001:db8::1]:8080/b.torrent"
`

func TestParse(t *testing.T) {
	got, err := Parse(File, []byte(whole))
	want := &Site{
		Hostname: "shelf",
		NTP:      []string{"192.0.2.1", "time.example.net", "2001:db8::1"},
		Control:  Control{UART: "/dev/ttyS1", Baud: 9600},
		Content: []Content{
			{Torrent: "https://example.org/a.torrent", InfoHash: "0123456789abcdef0123456789ABCDEF01234567", WebSeeds: []string{"http://example.org/a"}},
			{Torrent: "http://[2001:db8::1]:8080/b.torrent"},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v; site (-want +got):\n%s", err, diff)
	}
	if got, err := Parse(File, nil); err != nil || !reflect.DeepEqual(got, Default()) {
		t.Errorf("an empty file: %+v, %v; want the default", got, err)
	}
}

func TestFaults(t *testing.T) {
	const u = `torrent = "http://h/x.torrent"`
	tests := []struct {
		name, text string
		want       string // the whole error
		usable     bool   // a Site is returned
	}{
		{"host name", "\n  hostname = \"-x\"", `site.toml:2:3: hostname "-x" is not a host name (RFC 1123: letters, digits and inner hyphens, up to 63)`, true},
		{"host name too long", "hostname = \"" + strings.Repeat("x", 64) + `"`, `site.toml:1:1: hostname "` + strings.Repeat("x", 64) + `" is not a host name (RFC 1123: letters, digits and inner hyphens, up to 63)`, true},
		{"time server", "ntp = [\"192.0.2.1\",\n \"a b\"]", `site.toml:2:2: ntp[1] "a b" is neither an address nor a host name`, true},
		{"uart", "[control]\nuart = \"/dev/sda\"", `site.toml:2:1: control.uart "/dev/sda" is not a serial device such as /dev/ttyS1`, true},
		{"uart elsewhere", "control.uart = \"/dev/tty/../sda\"", `site.toml:1:1: control.uart "/dev/tty/../sda" is not a serial device such as /dev/ttyS1`, true},
		{"baud", "control = { baud = -1 }", `site.toml:1:13: control.baud -1 is not a speed; 115200 is usual`, true},
		{"baud too fast", "[control]\nbaud = 5000000", `site.toml:2:1: control.baud 5000000 is not a speed; 115200 is usual`, true},
		{"no torrent", "[[content]]\n" + u + "\n[[content]]\nweb_seeds = []", `site.toml:3:3: content[1] has no torrent, the URL of a .torrent file`, true},
		{"torrent", "[[content]]\ntorrent = \"ftp://h/x\"", `site.toml:2:1: content[0].torrent "ftp://h/x" is not an http or https URL`, true},
		{"info hash", "[[content]]\n" + u + "\ninfo_hash = \"12\"", `site.toml:3:1: content[0].info_hash "12" is not 40 hexadecimal digits`, true},
		{"web seed", "[[content]]\n" + u + "\nweb_seeds = [\"http://h/\", \"h\"]", `site.toml:3:27: content[0].web_seeds[1] "h" is not an http or https URL`, true},
		{"inline", "content = [{" + u + "}, {torrent = \"x\"}]", `site.toml:1:47: content[1].torrent "x" is not an http or https URL`, true},
		{"several", "hostname = \"_\"\n[control]\nbaud = -1", "site.toml:1:1: hostname \"_\" is not a host name (RFC 1123: letters, digits and inner hyphens, up to 63)\n" +
			"site.toml:3:1: control.baud -1 is not a speed; 115200 is usual", true},
		{"unknown keys", "hostnam = \"x\"\n[control]\nuart = \"/dev/ttyS0\"\npassword = \"x\"", "site.toml:1:1: unknown key \"hostnam\"; is \"hostname\" meant?\n" +
			"site.toml:4:1: unknown key \"control.password\"", false},
		{"wrong type", "\nhostname = 5", "", false},
		{"not TOML", "hostname", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Parse(File, []byte(tt.text))
			if err == nil {
				t.Fatal("no error")
			}
			if tt.want == "" {
				if !regexp.MustCompile(`^site\.toml:\d+:\d+: `).MatchString(err.Error()) {
					t.Errorf("error without a position: %v", err)
				}
			} else if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if (s != nil) != tt.usable {
				t.Errorf("site %+v, want one: %v", s, tt.usable)
			}
		})
	}
}

// The suggestions must know every key that there is.
func TestSuggestionKnowsAllKeys(t *testing.T) {
	var keys []string
	var walk func(prefix string, typ reflect.Type)
	walk = func(prefix string, typ reflect.Type) {
		for f := range typ.Fields() {
			key := prefix + f.Tag.Get("toml")
			keys = append(keys, key)
			if in := f.Type; in.Kind() == reflect.Struct {
				walk(key+".", in)
			} else if in.Kind() == reflect.Slice && in.Elem().Kind() == reflect.Struct {
				walk(key+".", in.Elem())
			}
		}
	}
	walk("", reflect.TypeFor[Site]())
	for _, k := range keys {
		if got, want := suggestion(k+"x"), `; is "`+k+`" meant?`; got != want {
			t.Errorf("for %sx: %q, want %q", k, got, want)
		}
	}
	if got := suggestion("completely-else"); got != "" {
		t.Errorf("a suggestion for nothing near: %q", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte("control.baud = -1\ncontent = [{torrent = 'x', web_seeds = ['']}, {}]"))
	f.Add([]byte("[[content]]\n[control]\nuart=''"))
	position := regexp.MustCompile(`^site\.toml(:[1-9]\d*:[1-9]\d*)?: `)
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Parse(File, text)
		if err == nil && s == nil {
			t.Fatal("neither a site nor an error")
		}
		if err != nil && !position.MatchString(err.Error()) {
			t.Errorf("error without a position: %v", err)
		}
	})
}
