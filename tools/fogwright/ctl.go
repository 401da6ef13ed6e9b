package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/fogwright/fogwright/initramfs/control"
)

func ctlCommand() *command {
	status := &command{
		name: "status", summary: "show a box on one page", usage: "[where] [-json]",
		examples: [][2]string{
			{"fogwright ctl status", "the box that `fogwright run` has running"},
			{"fogwright ctl status -vsock 3 -json", "a virtual machine of this host, as JSON"},
			{"fogwright ctl status -uart /dev/ttyUSB0", "a real box by its serial cable (site.toml must name its UART)"},
		},
		run: ctlRunner(func(fs *flag.FlagSet) func(context.Context, *control.Client, stdio) error {
			asJSON := fs.Bool("json", false, "print JSON")
			return func(ctx context.Context, c *control.Client, s stdio) error {
				st, err := c.Status(ctx)
				if err != nil {
					return err
				}
				if *asJSON {
					e := json.NewEncoder(s.out)
					e.SetIndent("", "  ")
					return e.Encode(st)
				}
				printStatus(s.out, st)
				return nil
			}
		}),
	}
	logs := &command{
		name: "logs", summary: "show what the box's daemons and its kernel say", usage: "[where] [-f] [-service NAME]",
		examples: [][2]string{{"fogwright ctl logs -f -service netd", "what the network daemon says, until Ctrl-C"}},
		run: ctlRunner(func(fs *flag.FlagSet) func(context.Context, *control.Client, stdio) error {
			var o control.LogOptions
			fs.BoolVar(&o.Follow, "f", false, "wait for more")
			fs.StringVar(&o.Service, "service", "", "only this daemon's `name` (kernel, init, netd, stored, workd, ctld)")
			asJSON := fs.Bool("json", false, "print one JSON object per line")
			return func(ctx context.Context, c *control.Client, s stdio) error {
				for e, err := range c.Logs(ctx, o) {
					if err != nil {
						return err
					}
					if *asJSON {
						if err := json.NewEncoder(s.out).Encode(e); err != nil {
							return err
						}
						continue
					}
					if _, err := fmt.Fprintf(s.out, "%10.3f  %-8s  %s\n", e.Time, e.Service, e.Text); err != nil {
						return err
					}
				}
				return nil
			}
		}),
	}
	simple := func(name, summary, done string, do func(*control.Client, context.Context) error) *command {
		return &command{name: name, summary: summary, usage: "[where]",
			run: ctlRunner(func(*flag.FlagSet) func(context.Context, *control.Client, stdio) error {
				return func(ctx context.Context, c *control.Client, s stdio) error {
					if err := do(c, ctx); err != nil {
						return err
					}
					fmt.Fprintln(s.out, done)
					return nil
				}
			})}
	}
	return &command{name: "ctl", summary: "talk to a box over its control channel", sub: []*command{
		status, logs,
		simple("reboot", "restart the box in good order", "The box restarts.", (*control.Client).Reboot),
		simple("poweroff", "shut the box down in good order", "The box shuts down.", (*control.Client).PowerOff),
	}}
}

// ctlRunner adds the flags that say which box, and connects to it.
func ctlRunner(make func(*flag.FlagSet) func(context.Context, *control.Client, stdio) error) func(*flag.FlagSet) runner {
	return func(fs *flag.FlagSet) runner {
		var w where
		fs.StringVar(&w.board, "board", "", "the box of this `name` that fogwright run has running (else the only one)")
		fs.UintVar(&w.vsock, "vsock", 0, "a virtual machine of this host, by its context `id`")
		fs.StringVar(&w.uart, "uart", "", "a serial `device` of this computer, or the socket of a virtio-serial port")
		do := make(fs)
		return func(ctx context.Context, args []string, s stdio) error {
			if err := noArgs("ctl", args); err != nil {
				return err
			}
			c, err := w.connect()
			if err != nil {
				return err
			}
			defer c.Close()
			return do(ctx, c, s)
		}
	}
}

// where says which box is meant.
type where struct {
	board, uart string
	vsock       uint
}

func (w where) connect() (*control.Client, error) {
	switch {
	case w.vsock != 0:
		return control.DialVsock(uint32(w.vsock)), nil
	case w.uart != "":
		line, err := openLine(w.uart)
		if err != nil {
			return nil, err
		}
		return control.NewStreamClient(line), nil
	}
	path, err := w.socket()
	if err != nil {
		return nil, err
	}
	return control.DialUnix(path), nil
}

// socket finds the socket of a box that fogwright run has running.
func (w where) socket() (string, error) {
	if w.board != "" {
		return socketPath(w.board), nil
	}
	running, err := filepath.Glob(socketPath("*"))
	if err != nil {
		return "", err
	}
	switch len(running) {
	case 0:
		return "", errors.New("no box is running here: start one with fogwright run, or say which box with -vsock or -uart")
	case 1:
		return running[0], nil
	}
	var names []string
	for _, r := range running {
		names = append(names, strings.TrimSuffix(filepath.Base(r), ".sock"))
	}
	return "", fmt.Errorf("several boxes are running: say which with -board (%s)", strings.Join(names, ", "))
}

// openLine opens a serial device in raw mode, or a Unix socket.
func openLine(path string) (io.ReadWriteCloser, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode()&fs.ModeSocket != 0 {
		return net.Dial("unix", path)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if _, err := term.MakeRaw(int(f.Fd())); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s is no serial line: %w", path, err)
	}
	return f, nil
}

// socketPath is where fogwright run answers for its box.
func socketPath(name string) string {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		dir = filepath.Join(os.TempDir(), fmt.Sprintf("fogwright-%d", os.Getuid()))
	} else {
		dir = filepath.Join(dir, "fogwright")
	}
	return filepath.Join(dir, name+".sock")
}

// serveControl lets `fogwright ctl` reach a box through this process, which holds
// its line. Only this user can connect.
func serveControl(name string, c *control.Client) (stop func(), err error) {
	path := socketPath(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("another fogwright run has a box %s running", name)
	}
	os.Remove(path) // of a run that was killed
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "box" },
		Transport:     c.Transport(),
		FlushInterval: -1,
	}}
	go server.Serve(l)
	return func() { server.Close(); os.Remove(path) }, nil
}

// isInteractive tells whether a person sits at r.
func isInteractive(r io.Reader) bool {
	f, ok := r.(*os.File)
	return ok && isTerminal(f)
}
