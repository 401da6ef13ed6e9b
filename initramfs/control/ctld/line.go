package ctld

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fogwright/fogwright/initramfs/control"
	"github.com/fogwright/fogwright/initramfs/control/wire"
	"github.com/fogwright/fogwright/initramfs/site"
)

// writeWait is how long a write may take: a frame of 4 KiB takes 0.4 s at 115200
// baud. A virtio-serial port that nobody has open on the host takes nothing at
// all; then the session ends, and whoever comes finds a new one.
const writeWait = 5 * time.Second

// serialLine serves one serial device for ever: finds it, asks init for it, opens
// it and runs sessions on it.
func (b *box) serialLine(ctx context.Context, srv *http.Server, kind string, find func() (string, bool), open func(string) (io.ReadWriteCloser, error)) {
	said := ""
	for ctx.Err() == nil {
		name, ok := find()
		if !ok {
			_ = sleep(ctx, lookAgain)
			continue
		}
		err := b.claim(ctx, name)
		if err == nil {
			err = b.sessions(ctx, srv, kind, filepath.Join(b.cfg.Root, "dev", name), open)
		}
		if err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			slog.Warn("control channel", "line", kind, "device", name, "error", err)
		}
		_ = sleep(ctx, 8*lookAgain)
	}
}

// sessions opens the device and serves it until it fails for good.
func (b *box) sessions(ctx context.Context, srv *http.Server, kind, path string, open func(string) (io.ReadWriteCloser, error)) error {
	l, err := open(path)
	if err != nil {
		return fmt.Errorf("opening %s: %w", path, err)
	}
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	slog.Info("control channel on a serial line", "line", kind, "device", path)
	for ctx.Err() == nil {
		s := wire.Serve(l, wire.Options{})
		err := srv.Serve(s)
		s.Close()
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		// After an end of file the host went away and the device is still
		// good. Anything else, a write that took too long among it, leaves
		// a Read behind: open the device anew.
		if !errors.Is(err, io.EOF) {
			return err
		}
	}
	return nil
}

// port is a virtio-serial port. Read is told end of file for as long as nobody on
// the host has it open, and there is no waiting for that to change.
type port struct {
	*os.File
	heard bool // since the last end of file
}

func openPort(path string) (io.ReadWriteCloser, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &port{File: f}, nil
}

// Read gives io.EOF once after every visit of a host program.
func (p *port) Read(b []byte) (int, error) {
	for {
		n, err := p.File.Read(b)
		if !errors.Is(err, io.EOF) {
			p.heard = p.heard || n > 0
			return n, err
		}
		if p.heard {
			p.heard = false
			return 0, err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (p *port) Write(b []byte) (int, error) { return writeSoon(p.File, b) }

// writeSoon writes within writeWait.
func writeSoon(f *os.File, b []byte) (int, error) {
	if err := f.SetWriteDeadline(time.Now().Add(writeWait)); err != nil {
		return 0, err
	}
	return f.Write(b)
}

// findPort looks for the virtio-serial port by its name.
func (b *box) findPort() (string, bool) {
	dir := filepath.Join(b.cfg.Root, "sys/class/virtio-ports")
	ports, err := os.ReadDir(dir)
	if err != nil {
		return "", false // no virtio-serial here
	}
	for _, p := range ports {
		name, err := os.ReadFile(filepath.Join(dir, p.Name(), "name"))
		if err == nil && strings.TrimSpace(string(name)) == control.PortName {
			return p.Name(), true
		}
	}
	return "", false
}

// uartLine is a serial port in raw mode.
type uartLine struct{ *os.File }

func (u uartLine) Write(b []byte) (int, error) { return writeSoon(u.File, b) }

// openUART opens a serial port: 8 data bits, no parity, one stop bit, no flow
// control, nothing translated.
func openUART(path string, baud int) (io.ReadWriteCloser, error) {
	if baud == 0 {
		baud = 115200
	}
	// Non-blocking: else the open waits for a carrier that no three-wire
	// cable has.
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := rawMode(f, uint32(baud)); err != nil {
		f.Close()
		return nil, err
	}
	return uartLine{f}, nil
}

func rawMode(f *os.File, baud uint32) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var ioctlErr error
	err = raw.Control(func(fd uintptr) {
		t := unix.Termios{
			Cflag:  unix.CS8 | unix.CREAD | unix.CLOCAL | unix.BOTHER,
			Ispeed: baud, Ospeed: baud,
		}
		t.Cc[unix.VMIN] = 1
		// TCSETS2 takes the speed as a number (BOTHER, linux/termbits.h).
		ioctlErr = unix.IoctlSetTermios(int(fd), unix.TCSETS2, &t)
	})
	if err = errors.Join(err, ioctlErr); err != nil {
		return fmt.Errorf("setting up the serial port for %d baud: %w", baud, err)
	}
	return nil
}

// readControl reads the part of site.toml that ctld wants. A broken file is what
// somebody with a cable would like to find out about, so as much of it counts as
// can be read.
func readControl(path string) site.Control {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return site.Control{}
	}
	var s *site.Site
	if err == nil {
		s, err = site.Parse(path, text)
	}
	if err != nil {
		slog.Warn("site.toml", "error", err)
	}
	if s == nil {
		s = site.Default()
	}
	return s.Control
}
