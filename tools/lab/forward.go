package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Forwarder carries connections from a socket of the real computer into the home.
type Forwarder struct {
	l    net.Listener
	dial func(context.Context) (net.Conn, error)
	ctx  context.Context
	stop context.CancelFunc

	tasks sync.WaitGroup
}

// Forward listens at an address of this computer ("127.0.0.1:0") and connects
// whoever comes to an address in the home, from the laptop: so that a program
// here can talk to a box there. network is tcp. It ends with the home.
func (h *Home) Forward(listen, network, to string) (*Forwarder, error) {
	if network != "tcp" {
		return nil, fmt.Errorf("forwarding %s to %s %s: only tcp is forwarded", listen, network, to)
	}
	l, err := net.Listen(network, listen)
	if err != nil {
		return nil, fmt.Errorf("forwarding %s to %s: %w", listen, to, err)
	}
	f := &Forwarder{l: l, dial: func(ctx context.Context) (net.Conn, error) { return h.Dial(ctx, network, to) }}
	f.ctx, f.stop = context.WithCancel(context.Background())
	f.tasks.Go(f.accept)
	h.onClose(f.Close)
	return f, nil
}

// Addr is where it listens.
func (f *Forwarder) Addr() net.Addr { return f.l.Addr() }

// Close ends it and the connections that it carries.
func (f *Forwarder) Close() error {
	f.stop()
	err := f.l.Close()
	f.tasks.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (f *Forwarder) accept() {
	for {
		c, err := f.l.Accept()
		if err != nil {
			return
		}
		f.tasks.Go(func() { f.carry(c) })
	}
}

func (f *Forwarder) carry(here net.Conn) {
	defer here.Close()
	ctx, cancel := context.WithTimeout(f.ctx, 30*time.Second)
	there, err := f.dial(ctx)
	cancel()
	if err != nil {
		return // the caller sees its connection closed, as at a closed port
	}
	defer there.Close()
	defer context.AfterFunc(f.ctx, func() { here.Close(); there.Close() })()
	var both sync.WaitGroup
	both.Go(func() { pass(there, here) })
	both.Go(func() { pass(here, there) })
	both.Wait()
}

// pass copies one way and passes on the end of the stream.
func pass(dst, src net.Conn) {
	io.Copy(dst, src)
	if w, ok := dst.(interface{ CloseWrite() error }); ok {
		w.CloseWrite()
	}
}
