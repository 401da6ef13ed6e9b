package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// decode returns all frames in b.
func decode(b []byte) (all []Frame, noise int) {
	var d Decoder
	for _, c := range b {
		f, ok, err := d.Byte(c)
		if ok {
			f.Payload = bytes.Clone(f.Payload)
			all = append(all, f)
		}
		if err != nil {
			noise++
		}
	}
	return all, noise
}

// Written by hand from RFC 1662 and RFC 3720, so that another implementation can
// be held against it: kind 1, id 0x7E (escaped), offset 0x11 (escaped), "hi".
func TestFrameOnTheWire(t *testing.T) {
	got := Append(nil, Frame{Kind: Data, ID: 0x7e, Offset: 0x11, Payload: []byte("hi")})
	want := []byte("\x7e\x01\x7d\x5e\x00\x00\x00\x00\x00\x00\x00\x7d\x31\x00\x00\x00hi")
	if !bytes.HasPrefix(got, want) || got[len(got)-1] != flag {
		t.Errorf("frame is % x, want % x, a checksum and 7e", got, want)
	}
	if got, want := checksum([]byte("123456789")), uint32(0xe3069283); got != want {
		t.Errorf("CRC-32C = %#x, want %#x", got, want)
	}
}

func TestFramesSurviveNoise(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var line []byte
		var want []Frame
		for range rapid.IntRange(1, 5).Draw(t, "frames") {
			noise := rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "noise")
			f := Frame{
				Kind:    Kind(rapid.IntRange(1, 4).Draw(t, "kind")),
				ID:      rapid.Uint64().Draw(t, "id"),
				Offset:  rapid.Uint32().Draw(t, "offset"),
				Payload: rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "payload"),
			}
			line = Append(append(line, noise...), f)
			want = append(want, f)
		}
		got, _ := decode(line)
		// 32 bits of checksum let no noise through in so few tries.
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b []byte) bool { return bytes.Equal(a, b) })); diff != "" {
			t.Fatalf("frames (-want +got):\n%s", diff)
		}
	})
}

func TestDamagedFramesAreNoise(t *testing.T) {
	good := Append(nil, Frame{Kind: Data, ID: 7, Payload: []byte("hello")})
	for i := 1; i < len(good)-1; i++ {
		for _, bit := range []byte{1, 0x40} {
			bad := bytes.Clone(good)
			bad[i] ^= bit
			if got, _ := decode(bad); len(got) != 0 {
				t.Errorf("byte %d flipped by %#x: decoded %+v", i, bit, got)
			}
		}
	}
	huge := append([]byte{flag}, bytes.Repeat([]byte{'x'}, 10*maxBody)...)
	if got, noise := decode(append(append(huge, flag), good...)); len(got) != 1 || noise != 1 {
		t.Errorf("after an endless frame: %d frames, %d faults; want 1, 1", len(got), noise)
	}
}

func FuzzDecoder(f *testing.F) {
	f.Add(Append([]byte("boot noise"), Frame{Kind: Data, ID: 1, Payload: []byte("x")}))
	f.Add([]byte{flag, escape, flag, flag})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, _ := decode(b)
		for _, g := range got {
			again, noise := decode(Append(nil, g))
			if len(again) != 1 || noise != 0 || !cmp.Equal(again[0].Payload, g.Payload, cmp.Comparer(bytes.Equal)) {
				t.Errorf("%+v does not survive another way: %+v", g, again)
			}
		}
		if len(b) > 100 {
			return
		}
		// The next frame is found whatever came before.
		if got, _ := decode(Append(b, Frame{Kind: End, ID: 42})); len(got) == 0 || got[len(got)-1].ID != 42 {
			t.Error("a good frame after garbage was lost")
		}
	})
}

// end is one end of a raw line.
type end struct {
	io.Reader
	io.Writer
	close func()
}

func (e end) Close() error { e.close(); return nil }

// newLine connects host and box by two buffered pipes, like a chardev's socket.
// mangle may change what passes, write by write.
func newLine(t *testing.T, mangle func([]byte) []byte) (host, box end) {
	t.Helper()
	toBox, toHost := newBuffer(), newBuffer()
	shut := func() { toBox.close(); toHost.close() }
	t.Cleanup(shut)
	if mangle == nil {
		mangle = func(b []byte) []byte { return b }
	}
	return end{toHost, mangled{toBox, mangle}, shut}, end{toBox, mangled{toHost, mangle}, shut}
}

type mangled struct {
	io.Writer
	f func([]byte) []byte
}

func (m mangled) Write(b []byte) (int, error) {
	if _, err := m.Writer.Write(m.f(bytes.Clone(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}

// buffer is a pipe that takes 64 KiB without a reader.
type buffer struct {
	mu     sync.Mutex
	cond   *sync.Cond
	b      []byte
	closed bool
}

func newBuffer() *buffer {
	b := &buffer{}
	b.cond = sync.NewCond(&b.mu)
	return b
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.b) > 64<<10 && !b.closed {
		b.cond.Wait()
	}
	if b.closed {
		return 0, io.ErrClosedPipe
	}
	b.b = append(b.b, p...)
	b.cond.Broadcast()
	return len(p), nil
}

func (b *buffer) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.b) == 0 && !b.closed {
		b.cond.Wait()
	}
	if len(b.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, b.b)
	b.b = b.b[n:]
	b.cond.Broadcast()
	return n, nil
}

func (b *buffer) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.cond.Broadcast()
}

// serve runs an HTTP server on the box's side.
func serve(t *testing.T, box io.ReadWriter, h http.Handler, opt Options) *Session {
	t.Helper()
	s := Serve(box, opt)
	srv := &http.Server{Handler: h}
	go srv.Serve(s)
	t.Cleanup(func() { srv.Close(); s.Close() })
	return s
}

func client(t *testing.T, host io.ReadWriter, opt Options) (*http.Client, *Session) {
	t.Helper()
	s := Client(host, opt)
	t.Cleanup(func() { s.Close() })
	return &http.Client{Transport: &http.Transport{
		Dial:              func(string, string) (net.Conn, error) { return s.Open() },
		DisableKeepAlives: true,
	}}, s
}

// streams counts what a session has open.
func streams(s *Session) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

func TestManyRequestsAtOnce(t *testing.T) {
	host, box := newLine(t, nil)
	big := bytes.Repeat([]byte("0123456789abcdef~}"), 20_000)
	s := serve(t, box, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %d:", r.URL.Path, len(body))
		w.Write(big)
	}), Options{})
	c, _ := client(t, host, Options{})
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			resp, err := c.Post(fmt.Sprintf("http://box/%d", i), "", strings.NewReader(strings.Repeat("x", i*5000)))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if want := fmt.Sprintf("/%d %d:%s", i, i*5000, big); err != nil || string(got) != want {
				t.Errorf("request %d: %d bytes, %v; want %d", i, len(got), err, len(want))
			}
		})
	}
	wg.Wait()
	eventually(t, "all streams over", func() bool { return streams(s) == 0 })
}

// A line that drops and invents bytes: each request comes back right or with an
// error, and the line stays usable.
func TestPoorLine(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	poor := true
	host, box := newLine(t, func(b []byte) []byte {
		mu.Lock()
		defer mu.Unlock()
		if !poor {
			return b
		}
		switch rnd.IntN(12) {
		case 0:
			return b[:rnd.IntN(len(b))]
		case 1:
			b[rnd.IntN(len(b))] ^= 0x10
		case 2:
			return append([]byte("kernel: noise~\x7d"), b...)
		}
		return b
	})
	opt := Options{Beat: 10 * time.Millisecond, Silent: 150 * time.Millisecond}
	want := strings.Repeat("all is well\n", 2000)
	serve(t, box, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, want) }), opt)
	c, _ := client(t, host, opt)
	get := func() error {
		resp, err := c.Get("http://box/")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		if err == nil && string(got) != want {
			t.Fatalf("a wrong answer of %d bytes without an error", len(got))
		}
		return err
	}
	right := 0
	for range 15 {
		if get() == nil {
			right++
		}
	}
	if right == 0 {
		t.Error("no request came through at all")
	}
	mu.Lock()
	poor = false
	mu.Unlock()
	eventually(t, "the line works again", func() bool { return get() == nil })
}

// A client that goes away without a word on a line that cannot tell, and one that
// says so.
func TestVanishedClient(t *testing.T) {
	for _, polite := range []bool{true, false} {
		host, box := newLine(t, nil)
		opt := Options{Beat: 10 * time.Millisecond, Silent: 100 * time.Millisecond}
		gone := make(chan struct{})
		s := serve(t, box, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			close(gone)
		}), opt)
		c, cs := client(t, host, opt)
		resp, err := c.Get("http://box/follow")
		if err != nil {
			t.Fatal(err)
		}
		if polite {
			resp.Body.Close()
		} else {
			cs.Close() // no frame leaves after this
		}
		<-gone
		eventually(t, "the stream is over", func() bool { return streams(s) == 0 })
	}
}

// Nobody reads on the other side: the box neither blocks for ever nor grows.
func TestEndOfLine(t *testing.T) {
	host, box := newLine(t, nil)
	s := serve(t, box, http.NotFoundHandler(), Options{})
	c, cs := client(t, host, Options{})
	host.Close()
	<-s.Done()
	<-cs.Done()
	if _, err := c.Get("http://box/"); err == nil {
		t.Error("an answer from a closed line")
	}
	if _, err := s.Accept(); !errors.Is(err, io.EOF) {
		t.Errorf("Accept: %v, want %v", err, io.EOF)
	}
}

func TestTooManyStreams(t *testing.T) {
	host, box := newLine(t, nil)
	s := Serve(box, Options{})
	defer s.Close()
	cs := Client(host, Options{})
	defer cs.Close()
	for range MaxStreams + 10 {
		c, err := cs.Open()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("GET ")); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "those too many are refused", func() bool { return streams(cs) == MaxStreams })
	if got := streams(s); got != MaxStreams {
		t.Errorf("the box has %d streams, want %d", got, MaxStreams)
	}
}

// What a handler does not read is bounded.
func TestFloodedStreamIsCancelled(t *testing.T) {
	host, box := newLine(t, nil)
	s := Serve(box, Options{}) // nobody accepts
	defer s.Close()
	for off := 0; off <= MaxRequest+MaxPayload; off += MaxPayload {
		host.Write(Append(nil, Frame{Kind: Data, ID: 9, Offset: uint32(off), Payload: make([]byte, MaxPayload)}))
	}
	var d Decoder
	buf := make([]byte, 1)
	for {
		if _, err := host.Read(buf); err != nil {
			t.Fatal(err)
		}
		if f, ok, _ := d.Byte(buf[0]); ok && f.Kind == Cancel && f.ID == 9 {
			break
		}
	}
	eventually(t, "the stream is over", func() bool { return streams(s) == 0 })
}

// The box's side must take anything: raw garbage, and good frames with nonsense in.
func FuzzServe(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), uint64(1), uint32(0), byte(1))
	f.Add([]byte{flag, 1, 2, 3, flag}, uint64(1), uint32(7), byte(3))
	f.Fuzz(func(t *testing.T, b []byte, id uint64, offset uint32, kind byte) {
		if len(b) > MaxPayload {
			b = b[:MaxPayload]
		}
		in := bytes.Clone(b)
		in = Append(in, Frame{Kind: Kind(kind), ID: id, Offset: offset, Payload: b})
		in = Append(in, Frame{Kind: Data, ID: id, Payload: b})
		in = Append(in, Frame{Kind: Kind(kind%4 + 1), ID: id, Offset: uint32(len(b)), Payload: b})
		s := Serve(end{Reader: bytes.NewReader(in), Writer: io.Discard}, Options{})
		srv := &http.Server{Handler: http.NotFoundHandler()}
		if err := srv.Serve(s); !errors.Is(err, io.EOF) {
			t.Errorf("Serve ended with %v, want the end of the line", err)
		}
		if n := streams(s); n != 0 {
			t.Errorf("%d streams after the end", n)
		}
		srv.Close()
	})
}
