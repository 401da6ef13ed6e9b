package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// newTransport is used for torrent files, web seeds and, through dial, trackers.
// Every wait in it ends: a silent server costs a connection, never the item.
func newTransport(dial dialFunc) *http.Transport {
	return &http.Transport{
		DialContext:           dial,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 20 * time.Second,
		IdleConnTimeout:       30 * time.Second,
		MaxConnsPerHost:       4, // each holds buffers, and the home uplink is the bottleneck
		MaxIdleConnsPerHost:   2,
		ReadBufferSize:        16 << 10,
		ForceAttemptHTTP2:     false, // one slow stream must not stall its siblings
	}
}

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// patient dials connections that give up after silence, and, when limit is not
// 0, after limit bytes: the library reads a tracker's whole answer into memory.
func patient(silence time.Duration, limit int64) dialFunc {
	d := &net.Dialer{Timeout: 15 * time.Second, KeepAlive: -1}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &patientConn{Conn: c, silence: silence, limited: limit > 0, left: limit}, nil
	}
}

type patientConn struct {
	net.Conn
	silence time.Duration
	limited bool
	left    int64
}

func (c *patientConn) Read(b []byte) (int, error) {
	if c.limited && c.left <= 0 {
		return 0, errors.New("the answer is too long")
	}
	if err := c.SetReadDeadline(time.Now().Add(c.silence)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(b)
	c.left -= int64(n)
	return n, err
}

// fetchTorrent gets a torrent file from its origin.
func fetchTorrent(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("fetching torrent file: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("fetching torrent file: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetching torrent file %q: the origin answers %s", url, resp.Status)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxTorrentFile+1))
	if err != nil {
		return nil, fmt.Errorf("fetching torrent file %q: %w", url, err)
	}
	if len(b) > maxTorrentFile {
		return nil, fmt.Errorf("fetching torrent file %q: more than %d bytes", url, maxTorrentFile)
	}
	return b, nil
}

// replaceFile writes path anew so that after a power cut it holds the old bytes
// or the new ones.
func replaceFile(path string, b []byte, durable bool) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil && durable {
		err = f.Sync()
	}
	if err == nil {
		err = f.Chmod(0o644)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil && durable {
		err = syncFolder(filepath.Dir(path))
	}
	return err
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
