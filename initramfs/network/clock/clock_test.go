package clock

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/beevik/ntp"
	"github.com/fogwright/fogwright/initramfs/state"
	"github.com/google/go-cmp/cmp"
)

var build = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// stopped is a clock that only moves when it is told to.
type stopped struct {
	now   time.Time
	sets  int
	slews []time.Duration
}

func (c *stopped) Now() time.Time        { return c.now }
func (c *stopped) Set(t time.Time) error { c.now = t; c.sets++; return nil }
func (c *stopped) Slew(offset, poll time.Duration) error {
	c.slews = append(c.slews, offset)
	return nil
}

// newTest makes a keeper of a clock at now, whose servers answer with the given
// offsets (an error for those not named).
func newTest(t *testing.T, now time.Time, offsets map[string]time.Duration) (*Keeper, *stopped) {
	c := &stopped{now: now}
	k := NewKeeper()
	k.System, k.Build = c, build
	k.RTC = func() (time.Time, error) { return time.Time{}, fs.ErrNotExist }
	k.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	k.Publish = func(s state.Time) {}
	k.Write = func(path string, b []byte) error { return os.WriteFile(path, b, 0o644) }
	k.Query = func(_ context.Context, server string) (Sample, error) {
		o, ok := offsets[server]
		if !ok {
			return Sample{}, errors.New("silence")
		}
		return Sample{Server: server, Offset: o, Distance: 20 * time.Millisecond}, nil
	}
	return k, c
}

func TestStart(t *testing.T) {
	const year = 365 * 24 * time.Hour
	tests := []struct {
		name     string
		now, rtc time.Time
		want     time.Time
		source   string
	}{
		{"no hardware clock, 1970", time.Unix(5, 0), time.Time{}, build, "floor"},
		{"good hardware clock", time.Unix(5, 0), build.Add(year), build.Add(year), "rtc"},
		{"kernel has read the hardware clock", build.Add(year), build.Add(year), build.Add(year), "rtc"},
		{"flat battery", time.Unix(5, 0), time.Unix(946684800, 0), build, "floor"},
		{"hardware clock in the far future", time.Unix(5, 0), build.Add(50 * year), build, "floor"},
		{"kernel believed the far future", build.Add(50 * year), build.Add(50 * year), build, "floor"},
		{"netd restarted", build.Add(year), time.Time{}, build.Add(year), "floor"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k, c := newTest(t, tt.now, nil)
			if !tt.rtc.IsZero() {
				k.RTC = func() (time.Time, error) { return tt.rtc, nil }
			}
			k.start()
			if !c.now.Equal(tt.want) || k.status.Source != tt.source || k.status.Synchronised {
				t.Errorf("clock %s %+v, want %s %s", c.now, k.status, tt.want, tt.source)
			}
		})
	}
}

func TestPersistedTime(t *testing.T) {
	tests := []struct {
		name, content string
		want          time.Time
	}{
		{"later than the build", fmt.Sprint(build.Add(time.Hour).Unix(), "\n"), build.Add(time.Hour)},
		{"earlier than the build", "1000000000\n", build},
		{"in the far future", "99999999999\n", build},
		{"garbage", "soon", build},
		{"empty", "", build},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k, c := newTest(t, time.Unix(5, 0), nil)
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, timeFile), []byte(tt.content), 0o644); err != nil {
				t.Fatal(err)
			}
			k.start()
			k.open(dir)
			if !c.now.Equal(tt.want) {
				t.Errorf("clock %s, want %s", c.now, tt.want)
			}
		})
	}
}

func TestPollStepsOnceThenSlews(t *testing.T) {
	offsets := map[string]time.Duration{"a": time.Hour, "b": time.Hour, "c": -time.Minute}
	k, c := newTest(t, build, offsets)
	k.start()
	servers := []string{"a", "b", "c"}
	k.poll(t.Context(), servers)
	if want := build.Add(time.Hour); !c.now.Equal(want) || !k.status.Synchronised || k.status.Source != "ntp" {
		t.Fatalf("clock %s %+v, want %s", c.now, k.status, want)
	}
	clear(offsets)
	offsets["a"] = 5 * time.Millisecond
	k.poll(t.Context(), servers)
	if diff := cmp.Diff([]time.Duration{0, 5 * time.Millisecond}, c.slews); diff != "" || c.sets != 1 {
		t.Errorf("%d steps, slews (-want +got):\n%s", c.sets, diff)
	}
}

func TestServersCannotGoBelowTheFloor(t *testing.T) {
	k, c := newTest(t, build.Add(time.Hour), map[string]time.Duration{"old": -2 * time.Hour, "new": 30 * 365 * 24 * time.Hour, "good": time.Second})
	k.start()
	k.poll(t.Context(), []string{"old", "new"})
	if c.sets != 0 || k.status.Synchronised {
		t.Errorf("believed an impossible time: clock %s %+v", c.now, k.status)
	}
	k.poll(t.Context(), []string{"old", "new", "good"})
	if !k.status.Synchronised || k.status.Server != "good" {
		t.Errorf("did not believe the good server: %+v", k.status)
	}
}

func TestPersistBudget(t *testing.T) {
	k, c := newTest(t, build, map[string]time.Duration{"a": time.Minute})
	writes := 0
	k.Write = func(path string, b []byte) error { writes++; return os.WriteFile(path, b, 0o644) }
	dir := t.TempDir()
	k.start()
	k.open(dir)
	k.persist(persistEvery)
	if writes != 0 {
		t.Error("wrote down a time that nobody confirmed")
	}
	for range 24 * 60 {
		k.poll(t.Context(), []string{"a"})
		c.now = c.now.Add(time.Minute)
		k.persist(persistEvery)
	}
	if writes < 20 || writes > 49 {
		t.Errorf("%d writes while the clock ran for about two days, want one an hour at most", writes)
	}
	got, err := readTime(dir)
	if err != nil || got.Before(build) {
		t.Errorf("wrote down %s, %v", got, err)
	}
}

func TestKissOfDeath(t *testing.T) {
	k, _ := newTest(t, build, nil)
	asked := 0
	k.Query = func(context.Context, string) (Sample, error) { asked++; return Sample{}, &KissError{"DENY"} }
	k.start()
	for range 3 {
		k.poll(t.Context(), []string{"a"})
	}
	if asked != 1 {
		t.Errorf("asked a server %d times that said DENY, want once", asked)
	}
}

func TestLoop(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	type step struct {
		offset time.Duration
		step   bool
		wait   time.Duration
	}
	tests := []struct {
		name  string
		steps []step
	}{
		{"first offset steps", []step{{10 * s, true, 64 * s}, {ms, false, 128 * s}, {ms, false, 256 * s}}},
		{"first offset is small", []step{{400 * ms, false, 64 * s}, {100 * ms, false, 64 * s}, {ms, false, 128 * s}}},
		{"a single leap is not believed", []step{{ms, false, 64 * s}, {10 * s, false, 64 * s}, {ms, false, 128 * s}}},
		{"two are", []step{{ms, false, 64 * s}, {-10 * s, false, 64 * s}, {-10 * s, true, 64 * s}}},
		{"polls no slower than 1024 s", []step{{ms, false, 64 * s}, {0, false, 128 * s}, {0, false, 256 * s}, {0, false, 512 * s}, {0, false, 1024 * s}, {0, false, 1024 * s}}},
		{"largest offset", []step{{math.MaxInt64, true, 64 * s}, {0, false, 128 * s}, {math.MinInt64, false, 64 * s}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var l loop
			for i, st := range tt.steps {
				if step, wait := l.measured(st.offset); step != st.step || wait != st.wait {
					t.Errorf("%d: offset %s gives step %v, wait %s; want %v, %s", i, st.offset, step, wait, st.step, st.wait)
				}
			}
		})
	}
	var l loop
	var got []time.Duration
	for range 4 {
		got = append(got, l.failed())
	}
	if diff := cmp.Diff([]time.Duration{2 * s, 4 * s, 8 * s, 16 * s}, got); diff != "" {
		t.Error(diff)
	}
}

func TestChoose(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	tests := []struct {
		name    string
		samples []Sample
		want    string // empty: nobody
	}{
		{"nobody", nil, ""},
		{"one", []Sample{{"a", s, ms}}, "a"},
		{"two that agree: the more exact", []Sample{{"a", s, 50 * ms}, {"b", s + 10*ms, 20 * ms}}, "b"},
		{"two that do not", []Sample{{"a", s, ms}, {"b", 2 * s, ms}}, ""},
		{"a liar against two", []Sample{{"liar", time.Hour, ms}, {"a", s, 50 * ms}, {"b", s, 40 * ms}}, "b"},
		{"three that do not", []Sample{{"a", s, ms}, {"b", 2 * s, ms}, {"c", 3 * s, ms}}, ""},
		{"two against two", []Sample{{"a", s, ms}, {"b", s, ms}, {"c", 3 * s, ms}, {"d", 3 * s, ms}}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := choose(tt.samples)
			if got.Server != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("got %q, %v; want %q", got.Server, err, tt.want)
			}
		})
	}
}

func TestRTC(t *testing.T) {
	dir := t.TempDir()
	if _, err := rtc(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a hardware clock: %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "rtc0"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "rtc0/since_epoch"), []byte("1793491200\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := rtc(dir); err != nil || got.Unix() != 1793491200 {
		t.Errorf("got %s, %v", got, err)
	}
}

// answer is a connection whose peer answers with the given bytes, and with the
// nonce of the request where a server puts it.
type answer struct {
	net.Conn
	reply []byte
	nonce []byte
}

func (a *answer) Write(b []byte) (int, error) {
	if len(b) >= 48 {
		a.nonce = b[40:48]
	}
	return len(b), nil
}
func (a *answer) Read(b []byte) (int, error) {
	n := copy(b, a.reply)
	if n >= 32 {
		copy(b[24:32], a.nonce)
	}
	return n, nil
}
func (a *answer) Close() error                { return nil }
func (a *answer) SetDeadline(time.Time) error { return nil }
func (a *answer) LocalAddr() net.Addr         { return &net.UDPAddr{} }
func (a *answer) RemoteAddr() net.Addr        { return &net.UDPAddr{} }

// query lets a server answer with reply at the time now.
func query(reply []byte, now time.Time) (Sample, error) {
	return judge(ntp.QueryWithOptions("192.0.2.1", ntp.QueryOptions{
		Dialer:        func(_, _ string) (net.Conn, error) { return &answer{reply: reply}, nil },
		GetSystemTime: func() time.Time { return now },
		Extensions:    []ntp.Extension{guard{}},
	}))
}

// reply is a server's packet (RFC 5905, figure 8) that says t.
func reply(t time.Time, change func([]byte)) []byte {
	b := make([]byte, 48)
	b[0], b[1], b[2], b[3] = 0x24, 2, 6, 0xec // version 4, server; stratum 2
	sec := uint32(t.Unix() + 2208988800)
	for _, at := range []int{16, 32, 40} { // reference, receive, transmit
		binary.BigEndian.PutUint32(b[at:], sec)
	}
	if change != nil {
		change(b)
	}
	return b
}

func TestJudge(t *testing.T) {
	now := build.Add(time.Hour)
	tests := []struct {
		name   string
		change func([]byte)
		ok     bool
	}{
		{"good", nil, true},
		{"stratum 16", func(b []byte) { b[1] = 16 }, false},
		{"not synchronised", func(b []byte) { b[0] |= 0xc0 }, false},
		{"kiss of death", func(b []byte) { b[1] = 0; copy(b[12:], "DENY") }, false},
		{"a client", func(b []byte) { b[0] = 0x23 }, false},
		{"root delay of 4 s", func(b []byte) { b[5] = 4 }, false},
		{"root dispersion of 2 s", func(b []byte) { b[9] = 2 }, false},
		{"last set two days ago", func(b []byte) { binary.BigEndian.PutUint32(b[16:], binary.BigEndian.Uint32(b[40:])-2*86400) }, false},
		{"poll interval of 2^-128 s, which the library dies of", func(b []byte) { b[2] = 0x80 }, false},
		{"precision of 2^-128 s", func(b []byte) { b[3] = 0x80 }, false},
		{"no time", func(b []byte) { clear(b[40:]) }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := query(reply(now.Add(time.Minute), tt.change), now)
			if (err == nil) != tt.ok {
				t.Fatalf("%+v, %v; want ok %v", s, err, tt.ok)
			}
			if tt.ok && s.Offset != time.Minute {
				t.Errorf("offset %s, want 1m", s.Offset)
			}
		})
	}
	if _, err := query(reply(now, nil)[:47], now); err == nil {
		t.Error("believed a short packet")
	}
}

// FuzzAnswer: whatever a server sends, the clock stays between floor and ceiling.
func FuzzAnswer(f *testing.F) {
	f.Add(reply(build, nil))
	f.Add(reply(build.AddDate(30, 0, 0), nil))
	f.Add(reply(time.Unix(0, 0), nil))
	f.Add(reply(build, func(b []byte) { b[2] = 0x80 }))
	f.Add(reply(build, func(b []byte) { b[1] = 0; copy(b[12:], "RATE") }))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, c := newTest(nil, build.Add(time.Hour), nil)
		k.Query = func(context.Context, string) (Sample, error) { return query(b, c.Now()) }
		k.start()
		k.poll(context.Background(), []string{"a"})
		if k.possible(c.now) != nil {
			t.Fatalf("clock at %s", c.now)
		}
		if len(c.slews) > 0 && c.slews[0].Abs() > stepLimit {
			t.Fatalf("slew by %s", c.slews[0])
		}
	})
}

func FuzzParseTime(f *testing.F) {
	f.Add([]byte("1793491200\n"))
	f.Add([]byte("-1"))
	f.Add([]byte("99999999999999999999"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := parseTime(b); err == nil && (got.Year() < 1969 || got.Year() > 9999) {
			t.Fatalf("%q gives %s", b, got)
		}
	})
}
