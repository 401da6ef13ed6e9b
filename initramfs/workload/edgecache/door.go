package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"
)

// door is the one listening socket and the one way out to peers. Connections in
// both directions share one bounded number of slots, so that a crowd costs the
// box a known amount of memory; further callers wait in the kernel's queue.
type door struct {
	net.Listener
	dialer net.Dialer
	slots  chan struct{}
	closed chan struct{}
	once   sync.Once
}

// handshaking are slots for callers that the BitTorrent client has not weighed
// yet: it replaces its worst peer by a better one, for which it must meet it.
const handshaking = 16

// openDoor listens on tcp port for IPv4 and IPv6, and on IPv4 alone where the
// kernel has no IPv6.
func openDoor(port, peers int) (*door, error) {
	// Peers send their own keep-alives (BEP 3).
	l, err := (&net.ListenConfig{KeepAlive: -1}).Listen(context.Background(), "tcp", ":"+strconv.Itoa(port))
	if err != nil {
		return nil, fmt.Errorf("opening the peer port: %w", err)
	}
	return &door{
		Listener: l,
		dialer:   net.Dialer{KeepAlive: -1},
		slots:    make(chan struct{}, peers+handshaking),
		closed:   make(chan struct{}),
	}, nil
}

func (d *door) Accept() (net.Conn, error) {
	select {
	case d.slots <- struct{}{}:
	case <-d.closed:
		return nil, net.ErrClosed
	}
	c, err := d.Listener.Accept()
	if err != nil {
		<-d.slots
		// The client asks again at once, whatever the error: out of file
		// descriptors, that would be a busy loop.
		select {
		case <-d.closed:
		case <-time.After(100 * time.Millisecond):
		}
		return nil, err
	}
	return d.hold(c), nil
}

// DialContext is torrent.NetworkDialer's way to a peer.
func (d *door) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	select {
	case d.slots <- struct{}{}:
	default:
		return nil, errors.New("every peer connection is in use")
	}
	c, err := d.dialer.DialContext(ctx, network, address)
	if err != nil {
		<-d.slots
		return nil, err
	}
	return d.hold(c), nil
}

func (d *door) Close() error {
	err := net.ErrClosed
	d.once.Do(func() {
		close(d.closed)
		err = d.Listener.Close()
	})
	return err
}

func (d *door) hold(c net.Conn) net.Conn {
	return &peerConn{Conn: c, leave: sync.OnceFunc(func() { <-d.slots })}
}

type peerConn struct {
	net.Conn
	leave func()
}

func (c *peerConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
