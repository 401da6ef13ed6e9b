package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fogwright/fogwright/initramfs/control/wire"
	"github.com/fogwright/fogwright/initramfs/state"
)

// box serves h at the far end of a line and returns a client at the near end.
// spoil, if any, may damage what the box sends, write by write.
func box(t *testing.T, h http.Handler, spoil func([]byte) []byte) *Client {
	t.Helper()
	host, far := net.Pipe()
	s := wire.Serve(spoiled{far, spoil}, wire.Options{})
	srv := &http.Server{Handler: h}
	go srv.Serve(s)
	c := NewStreamClient(host)
	t.Cleanup(func() { c.Close(); srv.Close(); s.Close(); far.Close() })
	return c
}

type spoiled struct {
	net.Conn
	f func([]byte) []byte
}

func (s spoiled) Write(b []byte) (int, error) {
	out := b
	if s.f != nil {
		out = s.f(b)
	}
	if _, err := s.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

func TestStatus(t *testing.T) {
	c := box(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(state.Status{State: "sharing"})
	}), nil)
	got, err := c.Status(t.Context())
	if err != nil || got.State != "sharing" {
		t.Errorf("got %+v, %v", got, err)
	}
}

// The first two answers are damaged on the way; the third try is whole. What
// changes the box is asked once.
func TestRepeatsOnlyWhatMayBeRepeated(t *testing.T) {
	var gets, posts atomic.Int32
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := gets.Add(1)
		if r.Method == http.MethodPost {
			posts.Add(1)
			n = 1
		}
		if n <= 2 {
			panic(http.ErrAbortHandler) // the connection breaks
		}
		json.NewEncoder(w).Encode(state.Status{State: "online"})
	})
	c := box(t, h, nil)
	if got, err := c.Status(t.Context()); err != nil || got.State != "online" || gets.Load() != 3 {
		t.Errorf("after %d tries: %+v, %v; want an answer at the third", gets.Load(), got, err)
	}
	if err := c.Reboot(t.Context()); err == nil || posts.Load() != 1 {
		t.Errorf("reboot was asked %d times, %v; want once and an error", posts.Load(), err)
	}
}

func TestDamagedAnswerIsAskedAgain(t *testing.T) {
	var writes atomic.Int32
	text := strings.Repeat("metric 1\n", 1000)
	c := box(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, text) }),
		func(b []byte) []byte {
			if writes.Add(1) == 2 { // in the middle of the first answer
				return b[:len(b)/2]
			}
			return b
		})
	if got, err := c.Metrics(t.Context()); err != nil || got != text {
		t.Errorf("%d bytes, %v; want %d", len(got), err, len(text))
	}
}

func TestRefusalIsFinal(t *testing.T) {
	var asked atomic.Int32
	c := box(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.Error(w, "init is not there", http.StatusBadGateway)
	}), nil)
	_, err := c.Status(t.Context())
	if err == nil || !strings.Contains(err.Error(), "init is not there") || asked.Load() != 1 {
		t.Errorf("asked %d times: %v", asked.Load(), err)
	}
}

// A broken connection is taken up after the last line that came.
func TestLogsGoOn(t *testing.T) {
	var since []string
	c := box(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		since = append(since, r.URL.Query().Get("since"))
		first := len(since)*2 - 1
		for seq := first; seq < first+2; seq++ {
			fmt.Fprintf(w, `{"seq":%d,"service":"netd","text":"line %d"}`+"\n", seq, seq)
		}
		http.NewResponseController(w).Flush()
		if len(since) < 3 {
			panic(http.ErrAbortHandler)
		}
	}), nil)
	var got []uint64
	for e, err := range c.Logs(t.Context(), LogOptions{Service: "netd"}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.Seq)
	}
	if fmt.Sprint(got) != "[1 2 3 4 5 6]" || fmt.Sprint(since) != "[0 2 4]" {
		t.Errorf("lines %v, asked since %v", got, since)
	}
}

func TestLogsFollowUntilTheReaderHasEnough(t *testing.T) {
	gone := make(chan struct{})
	c := box(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, `{"seq":1,"text":"x"}`)
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(gone)
	}), nil)
	for range c.Logs(t.Context(), LogOptions{Follow: true}) {
		break
	}
	<-gone
}

func TestClosedLine(t *testing.T) {
	host, far := net.Pipe()
	c := newStreamClient(host, wire.Options{Beat: 5 * time.Millisecond})
	far.Close()
	if _, err := c.Status(t.Context()); err == nil {
		t.Error("an answer from a closed line")
	}
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}
