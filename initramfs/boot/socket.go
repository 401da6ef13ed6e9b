package boot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// SocketFile is the name of init's socket in state.Dir. It speaks HTTP:
//
//	GET  /logs?since=SEQ&service=NAME&follow=1   lines of JSON, state.LogEntry
//	POST /reboot, /poweroff                      202, and the box ends
//	POST /claim?device=NAME                      204, and /dev/NAME is ctld's
//
// ctld has no privileges at all, so it asks for the devices that its channel may
// use: the virtio-serial port with ControlPort's name, or a serial port that is
// hardware and no console. Whoever broke ctld can have those and end the box.
const SocketFile = "init.sock"

// ControlPort is the name of the virtio-serial port of the control channel.
const ControlPort = "org.fogwright.control.0"

// listen is the phase.
func (p *initProcess) listen(ctx context.Context) error {
	path := filepath.Join(p.cfg.StateDir, SocketFile)
	l, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err == nil {
		err = os.Chown(path, uidCtld, Group)
	}
	if err != nil {
		return fmt.Errorf("opening init's socket: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /logs", p.serveLogs)
	mux.HandleFunc("POST /reboot", func(w http.ResponseWriter, _ *http.Request) { p.serveEnd(w, Reboot) })
	mux.HandleFunc("POST /poweroff", func(w http.ResponseWriter, _ *http.Request) { p.serveEnd(w, PowerOff) })
	mux.HandleFunc("POST /claim", p.serveClaim)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	go func() {
		if err := srv.Serve(peers{l.(*net.UnixListener)}); !errors.Is(err, http.ErrServerClosed) {
			p.console.Printf("init's socket: %v", err)
		}
	}()
	return nil
}

// peers lets in root and ctld only, whatever the socket file's mode has become.
type peers struct{ *net.UnixListener }

func (l peers) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if uid, err := peerUID(c); err == nil && (uid == 0 || uid == uidCtld) {
			return c, nil
		}
		c.Close()
	}
}

func peerUID(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, credErr); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

func (p *initProcess) serveLogs(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	since := uint64(0)
	if s := q.Get("since"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			http.Error(w, fmt.Sprintf("since=%s is not a sequence number", s), http.StatusBadRequest)
			return
		}
		since = n
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := json.NewEncoder(w)
	flush := http.NewResponseController(w)
	for {
		// In pieces, so that a reader who is slow holds no copy of it all.
		entries, next, more := p.journal.Since(since, q.Get("service"), 100)
		for _, e := range entries {
			if out.Encode(e) != nil {
				return
			}
		}
		if next == since && q.Get("follow") != "1" {
			return
		}
		if since = next; len(entries) > 0 && flush.Flush() != nil {
			return
		}
		if q.Get("follow") != "1" {
			continue
		}
		select {
		case <-more:
		case <-r.Context().Done():
			return
		}
	}
}

func (p *initProcess) serveEnd(w http.ResponseWriter, a Action) {
	w.WriteHeader(http.StatusAccepted)
	// The answer has some way to go, through ctld, which is among the first to
	// be stopped.
	time.AfterFunc(200*time.Millisecond, func() { p.ask(a) })
}

func (p *initProcess) serveClaim(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("device")
	if err := claimable("/", name); err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	if err := os.Chown("/dev/"+name, uidCtld, Group); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// claimable says why ctld may not have /dev/name, or nil. root is "/" but in tests.
func claimable(root, name string) error {
	if name == "" || strings.ContainsAny(name, "/.") {
		return fmt.Errorf("%q is not a device's name", name)
	}
	if strings.HasPrefix(name, "vport") {
		b, err := os.ReadFile(filepath.Join(root, "sys/class/virtio-ports", name, "name"))
		if err != nil || strings.TrimSpace(string(b)) != ControlPort {
			return fmt.Errorf("%s is not the virtio-serial port %s", name, ControlPort)
		}
		return nil
	}
	// A terminal without a device behind it is a virtual one.
	if !exists(filepath.Join(root, "sys/class/tty", name, "device")) {
		return fmt.Errorf("/dev/%s is not a serial port of this board", name)
	}
	consoles, err := os.ReadFile(filepath.Join(root, "proc/consoles"))
	if err != nil {
		return fmt.Errorf("finding the consoles: %w", err)
	}
	for line := range strings.Lines(string(consoles)) {
		if f := strings.Fields(line); len(f) > 0 && f[0] == name {
			return fmt.Errorf("/dev/%s is the console, it cannot carry the control channel too", name)
		}
	}
	return nil
}
