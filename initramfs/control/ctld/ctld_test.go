package ctld

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fogwright/fogwright/initramfs/control"
	"github.com/fogwright/fogwright/initramfs/state"
)

func write(t *testing.T, root, name, content string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// pty makes a pair of terminals that stand for the two ends of a serial cable.
func pty(t *testing.T) (cable *os.File, name string) {
	t.Helper()
	m, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	raw, err := m.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		if err := unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err != nil {
			t.Error(err)
		}
		n, err := unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		if err != nil {
			t.Error(err)
		}
		name = fmt.Sprintf("/dev/pts/%d", n)
	})
	if err != nil {
		t.Fatal(err)
	}
	return m, name
}

// fakeInit answers on init's socket and passes on what it was asked.
func fakeInit(t *testing.T, path string) <-chan string {
	t.Helper()
	asked := make(chan string, 10)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/claim":
			w.WriteHeader(http.StatusNoContent)
		case "/logs":
			fmt.Fprintln(w, `{"seq":5,"time":1,"service":"netd","text":"hello"}`)
			if r.URL.Query().Get("follow") == "1" {
				http.NewResponseController(w).Flush()
				<-r.Context().Done()
			}
		default:
			w.WriteHeader(http.StatusAccepted)
		}
		asked <- r.Method + " " + r.URL.String()
	})}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return asked
}

// The whole way: client, serial line, ctld, init's socket.
func TestOverASerialLine(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	cable, name := pty(t)
	if err := os.MkdirAll(filepath.Join(root, "dev"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(name, filepath.Join(root, "dev/ttyT0")); err != nil {
		t.Fatal(err)
	}
	write(t, root, "factory/site.toml", "[control]\nuart = \"/dev/ttyT0\"\n")
	write(t, root, "proc/meminfo", "MemTotal: 512 kB\nMemFree: 1 kB\nMemAvailable: 256 kB\n")
	write(t, root, "proc/net/tcp6", tcp6)
	write(t, root, "board.json", `{"name":"test"}`)
	for name, v := range map[string]any{
		state.StorageFile: state.Storage{Ready: true, FileSystems: map[string]state.FileSystem{"factory": {Mount: filepath.Join(root, "factory")}}},
		state.BootFile:    state.Boot{Ready: true, Slot: "b"},
		state.NetworkFile: state.Network{Online: true},
	} {
		if err := state.Write(dir, name, v); err != nil {
			t.Fatal(err)
		}
	}
	asked := fakeInit(t, filepath.Join(dir, "init.sock"))
	ctx, stop := context.WithCancel(t.Context())
	b := newBox(Config{StateDir: dir, BoardFile: filepath.Join(root, "board.json"), Root: root, InitSocket: filepath.Join(dir, "init.sock")})
	srv := &http.Server{Handler: b.handler(), BaseContext: func(net.Listener) context.Context { return ctx }}
	done := make(chan struct{})
	go func() { b.uart(ctx, srv); close(done) }()
	if got, want := <-asked, "POST /claim?device=ttyT0"; got != want {
		t.Fatalf("init was asked %q, want %q", got, want)
	}

	fmt.Fprint(cable, "U-Boot 2025.01 ~ noise\r\n~~") // what the line says before
	c := control.NewStreamClient(cable)
	s, err := c.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if s.State != "online" || s.Board.Name != "test" || s.Boot.Slot != "b" || s.Uptime <= 0 || s.Time.IsZero() {
		t.Errorf("status %+v", s)
	}
	if diff := cmp.Diff(state.Memory{Total: 512 << 10, Available: 256 << 10}, s.Memory); diff != "" {
		t.Errorf("memory (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"tcp [::]:6881"}, s.Listening); diff != "" {
		t.Errorf("listening (-want +got):\n%s", diff)
	}
	for e, err := range c.Logs(ctx, control.LogOptions{Service: "netd", Since: 4, Follow: true}) {
		if err != nil || e.Seq != 5 || e.Text != "hello" {
			t.Errorf("log line %+v, %v", e, err)
		}
		break
	}
	if got, want := <-asked, "GET /logs?follow=1&service=netd&since=4"; got != want {
		t.Errorf("init was asked %q, want %q", got, want)
	}
	if err := c.Reboot(ctx); err != nil {
		t.Error(err)
	}
	if got, want := <-asked, "POST /reboot"; got != want {
		t.Errorf("init was asked %q, want %q", got, want)
	}
	m, err := c.Metrics(ctx)
	if err != nil || !strings.Contains(m, "\nfogwright_memory_total_bytes 524288\n") || !strings.Contains(m, `fogwright_state{state="online"} 1`) {
		t.Errorf("metrics, %v:\n%s", err, m)
	}
	stop()
	<-done
}

func TestWithoutInit(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- Main(ctx, Config{StateDir: dir, BoardFile: "/none", Root: dir, Listeners: []net.Listener{l}, NoLines: true})
	}()
	tests := []struct {
		method, path string
		want         int
	}{
		{"GET", "/v1/status", 200},
		{"GET", "/v1/logs", 502},
		{"POST", "/v1/reboot", 502},
		{"GET", "/v1/reboot", 405},
		{"GET", "/", 404},
	}
	for _, tt := range tests {
		req, err := http.NewRequestWithContext(ctx, tt.method, "http://"+l.Addr().String()+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tt.want {
			t.Errorf("%s %s: %s %s, want %d", tt.method, tt.path, resp.Status, b, tt.want)
		}
		if tt.path == "/v1/status" {
			var s state.Status
			if err := json.Unmarshal(b, &s); err != nil || s.State != "booting" {
				t.Errorf("status %s, %v", b, err)
			}
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

const (
	heading = "  sl  local_address rem_address   st tx_queue rx_queue\n"
	tcp6    = heading +
		"   0: 00000000000000000000000000000000:1AE1 00000000000000000000000000000000:0000 0A 0:0\n" +
		"   1: B80D0120000000000000000001000000:1AE1 B80D0120000000000000000002000000:C000 01 0:0\n"
)

func TestParseSockets(t *testing.T) {
	tests := []struct {
		name, proto, text string
		want              []string
		fails             bool
	}{
		{"tcp6", "tcp6", tcp6, []string{"tcp [::]:6881"}, false},
		{"tcp", "tcp", heading + " 0: 0100007F:0016 00000000:0000 0A\n 1: 0A02000A:9000 0A02000B:0050 01\n", []string{"tcp 127.0.0.1:22"}, false},
		{"open and connected udp", "udp", heading + " 5: 00000000:0044 00000000:0000 07\n 6: 0F02000A:8001 0302000A:0035 01\n", []string{"udp 0.0.0.0:68"}, false},
		{"raw icmp", "raw", heading + " 1: 00000000:0001 00000000:0000 07\n", []string{"raw 0.0.0.0:1"}, false},
		{"nobody", "tcp", heading, nil, false},
		{"cut off", "tcp", heading + " 0: 0100007F", nil, true},
		{"no address", "tcp", heading + " 0: 01007F:0016 x 0A\n", nil, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseSockets(tt.proto, tt.text)
			if diff := cmp.Diff(tt.want, got); diff != "" || (err != nil) != tt.fails {
				t.Errorf("%v; sockets (-want +got):\n%s", err, diff)
			}
		})
	}
}

// The kernel's own list must show a socket that this test opens.
func TestListeningSeesARealSocket(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got, err := listening("/proc/net")
	if want := "tcp " + l.Addr().String(); err != nil || !strings.Contains(strings.Join(got, "\n")+"\n", want+"\n") {
		t.Errorf("%v, %v; want %s among them", got, err, want)
	}
}

func FuzzParseSockets(f *testing.F) {
	f.Add("tcp6", tcp6)
	f.Add("udp", heading+" 0: 00000000:0044 00000000:0000 07\n")
	f.Fuzz(func(t *testing.T, proto, text string) {
		if got, err := parseSockets(proto, text); err == nil && len(got) > strings.Count(text, "\n")+1 {
			t.Errorf("%d sockets in %q", len(got), text)
		}
	})
}
