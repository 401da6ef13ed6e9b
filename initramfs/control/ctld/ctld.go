// Package ctld is the box's side of the control channel.
//
// Whoever holds one of the channel's lines may ask: the host of a virtual box
// (vsock, virtio-serial), or the person at the UART that site.toml names. ctld
// reads the state files and /proc, has its own user id and no privilege of any
// kind, and passes on to init the two requests that need some. It trusts init. It
// does not trust what comes over a line: sizes, times and the number of requests
// are bounded, garbage is skipped.
//
// It never opens a network port.
package ctld

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/fogwright/fogwright/initramfs/control"
	"github.com/fogwright/fogwright/initramfs/control/wire"
	"github.com/fogwright/fogwright/initramfs/site"
	"github.com/fogwright/fogwright/initramfs/state"
)

// Config is what a test may want different. The zero value is the real box.
type Config struct {
	StateDir   string // state.Dir
	BoardFile  string // state.BoardFile
	Root       string // "/", where proc, sys and dev are
	InitSocket string // StateDir/init.sock
	// Listeners are served next to the lines of this box.
	Listeners []net.Listener
	// NoLines leaves this machine's own lines alone.
	NoLines bool
}

func (c Config) withDefaults() Config {
	if c.StateDir == "" {
		c.StateDir = state.Dir
	}
	if c.BoardFile == "" {
		c.BoardFile = state.BoardFile
	}
	if c.Root == "" {
		c.Root = "/"
	}
	if c.InitSocket == "" {
		c.InitSocket = filepath.Join(c.StateDir, "init.sock")
	}
	return c
}

// lookAgain is how long after one look for a line the next one comes. A driver
// may be late; nobody is kept waiting longer than this.
const lookAgain = 250 * time.Millisecond

// Main serves the control channel until ctx ends.
func Main(ctx context.Context, cfg Config) error {
	cfg = cfg.withDefaults()
	b := newBox(cfg)
	srv := &http.Server{
		Handler:           b.handler(),
		ReadHeaderTimeout: 15 * time.Second, // 64 KiB take 6 s at 115200 baud
		MaxHeaderBytes:    wire.MaxRequest,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	var wg sync.WaitGroup
	serve := func(l net.Listener) {
		wg.Go(func() {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) && ctx.Err() == nil {
				slog.Warn("control line ended", "line", l.Addr(), "error", err)
			}
		})
	}
	for _, l := range cfg.Listeners {
		serve(l)
	}
	if !cfg.NoLines {
		wg.Go(func() { b.listenVsock(ctx, serve) })
		wg.Go(func() { b.serialLine(ctx, srv, "virtio-serial", b.findPort, openPort) })
		wg.Go(func() { b.uart(ctx, srv) })
	}
	<-ctx.Done()
	// What is being answered, "yes, I reboot" for one, has a moment.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if srv.Shutdown(end) != nil {
		srv.Close()
	}
	wg.Wait()
	return nil
}

// listenVsock serves this machine's host. The device is there when the module is
// and stays away on a board without one.
func (b *box) listenVsock(ctx context.Context, serve func(net.Listener)) {
	for {
		// Any context id of ours: a guest may be given another one while it
		// runs (migration). Listen would ask /dev/vsock, which is root's.
		l, err := vsock.ListenContextID(unix.VMADDR_CID_ANY, control.VsockPort, nil)
		if err == nil {
			slog.Info("control channel on vsock", "port", control.VsockPort)
			serve(fromHost{l, b.dev()})
			return
		}
		// Without the module: EAFNOSUPPORT. The list of modules is through
		// before ctld starts, so that is final.
		if errors.Is(err, unix.EAFNOSUPPORT) || sleep(ctx, 10*lookAgain) != nil {
			return
		}
	}
}

// dev tells whether this is a dev image.
func (b *box) dev() bool {
	var board state.Board
	text, err := os.ReadFile(b.cfg.BoardFile)
	return err == nil && json.Unmarshal(text, &board) == nil && board.Variant == "dev"
}

// fromHost lets in the host only. Programs on this same box could come through
// the loopback (VMADDR_CID_LOCAL), and workloads must not; in a dev image, whose
// console has a root shell anyhow, they may.
type fromHost struct {
	net.Listener
	loopback bool
}

func (l fromHost) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if a, ok := c.RemoteAddr().(*vsock.Addr); ok && (a.ContextID == vsock.Host || l.loopback && a.ContextID == unix.VMADDR_CID_LOCAL) {
			return c, nil
		}
		c.Close()
	}
}

// uart serves the serial port that site.toml names, if it names one.
func (b *box) uart(ctx context.Context, srv *http.Server) {
	c, ok := b.siteControl(ctx)
	if !ok || c.UART == "" {
		return
	}
	find := func() (string, bool) { return filepath.Base(c.UART), true }
	b.serialLine(ctx, srv, "uart", find, func(path string) (io.ReadWriteCloser, error) { return openUART(path, c.Baud) })
}

// siteControl waits for the factory partition and reads what the owner wants.
func (b *box) siteControl(ctx context.Context) (c site.Control, ok bool) {
	state.Watch(ctx, b.cfg.StateDir, state.StorageFile, func([]byte) bool {
		var s state.Storage
		if err := state.Read(b.cfg.StateDir, state.StorageFile, &s); err != nil {
			slog.Warn("reading the state of the storage", "error", err)
			return true
		}
		factory, there := s.FileSystems["factory"]
		if !there || factory.Mount == "" || factory.Error != "" {
			return !s.Ready
		}
		c, ok = readControl(filepath.Join(factory.Mount, site.File)), true
		return false
	})
	return c, ok
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
