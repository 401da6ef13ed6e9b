package ctld

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fogwright/fogwright/initramfs/state"
)

// box answers for this box.
type box struct {
	cfg  Config
	init http.Client // init's socket
}

func newBox(cfg Config) *box {
	return &box{cfg: cfg, init: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", cfg.InitSocket)
		},
		DisableKeepAlives: true,
	}}}
}

func (b *box) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", b.serveStatus)
	mux.HandleFunc("GET /v1/metrics", b.serveMetrics)
	mux.HandleFunc("GET /v1/logs", b.serveLogs)
	mux.HandleFunc("POST /v1/reboot", func(w http.ResponseWriter, r *http.Request) { b.pass(w, r, "/reboot") })
	mux.HandleFunc("POST /v1/poweroff", func(w http.ResponseWriter, r *http.Request) { b.pass(w, r, "/poweroff") })
	return http.MaxBytesHandler(mux, 64<<10)
}

func (b *box) serveStatus(w http.ResponseWriter, _ *http.Request) {
	body, err := json.MarshalIndent(b.status(), "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n')) // who asked is gone, if this fails
}

// status composes the page. What cannot be read is left empty and logged: half a
// page is better than none.
func (b *box) status() *state.Status {
	s := &state.Status{Time: time.Now().UTC(), Uptime: uptime(), Listening: []string{}}
	warn := func(err error) {
		if err != nil {
			slog.Warn("composing the status", "error", err)
		}
	}
	board, err := os.ReadFile(b.cfg.BoardFile)
	if err == nil {
		err = json.Unmarshal(board, &s.Board)
	}
	warn(err)
	warn(s.Load(b.cfg.StateDir))
	proc := filepath.Join(b.cfg.Root, "proc")
	s.Memory, err = readMemory(filepath.Join(proc, "meminfo"))
	warn(err)
	s.Listening, err = listening(filepath.Join(proc, "net"))
	warn(err)
	s.State = s.Word()
	return s
}

func (b *box) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = io.WriteString(w, metrics(b.status()))
}

// serveLogs passes init's lines on, at once.
func (b *box) serveLogs(w http.ResponseWriter, r *http.Request) {
	q := url.Values{}
	for _, key := range []string{"service", "since", "follow"} {
		if v := r.URL.Query().Get(key); v != "" {
			q.Set(key, v)
		}
	}
	resp, err := b.ask(r.Context(), http.MethodGet, "/logs?"+q.Encode())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
	w.WriteHeader(resp.StatusCode)
	flush := http.NewResponseController(w)
	buf := make([]byte, 16<<10)
	for flush.Flush() == nil {
		n, err := resp.Body.Read(buf)
		if _, werr := w.Write(buf[:n]); werr != nil || err != nil {
			return
		}
	}
}

// pass hands a request on to init and the answer back.
func (b *box) pass(w http.ResponseWriter, r *http.Request, path string) {
	resp, err := b.ask(r.Context(), http.MethodPost, path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	slog.Info("passed on to init", "request", path, "answer", resp.Status)
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, io.LimitReader(resp.Body, 4096))
}

// claim asks init for a device.
func (b *box) claim(ctx context.Context, device string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	resp, err := b.ask(ctx, http.MethodPost, "/claim?device="+url.QueryEscape(device))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		return fmt.Errorf("init does not give /dev/%s: %s", device, why)
	}
	return nil
}

func (b *box) ask(ctx context.Context, method, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://init"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("asking init: %w", err)
	}
	resp, err := b.init.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking init: %w", err)
	}
	return resp, nil
}

func uptime() float64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return float64(t.Nano()) / 1e9
}
