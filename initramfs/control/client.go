// Package control is how to talk to a box: there is no network port, only a
// virtual socket (vsock), a virtio-serial port or a UART.
//
// The client here runs on the host: the person at the machine that the box is a
// guest of, or at the end of its serial cable, and the tests. Having the line is
// the permission; nothing is encrypted and there is no password. ctld (package
// ctld) answers on the box, with HTTP:
//
//	GET  /v1/status                            state.Status
//	GET  /v1/logs?service=NAME&since=SEQ&follow=1   lines of JSON, state.LogEntry
//	GET  /v1/metrics                           Prometheus' text format
//	POST /v1/reboot, /v1/poweroff              202, then the box ends in good order
//
// Over vsock that is plain HTTP on port [VsockPort]. The serial lines carry it as
// package wire says. The client does not trust the box: what it reads is bounded.
package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/vsock"

	"github.com/fogwright/fogwright/initramfs/control/wire"
	"github.com/fogwright/fogwright/initramfs/state"
)

const (
	// VsockPort is where ctld listens.
	VsockPort = 1024
	// PortName is the name of the virtio-serial port that carries the control
	// channel: QEMU's -device virtserialport,name=…
	PortName = "org.fogwright.control.0"

	// attempts and patience: a box that is still booting, or a lost frame,
	// costs a repetition. Only what changes nothing on the box is repeated.
	attempts = 4
	patience = 5 * time.Second

	maxAnswer = 4 << 20
)

// Client talks to one box. It is safe for concurrent use.
type Client struct {
	http  http.Client
	close func() error
}

// NewStreamClient talks over a raw line: a serial port that is set up already, or
// the socket that QEMU connected a port with. It owns rwc: Close closes it. When
// the line breaks every call fails; make a new client with a new line.
func NewStreamClient(rwc io.ReadWriteCloser) *Client {
	return newStreamClient(rwc, wire.Options{})
}

func newStreamClient(rwc io.ReadWriteCloser, opt wire.Options) *Client {
	s := wire.Client(rwc, opt)
	var once sync.Once
	var err error
	return newClient(
		func(context.Context) (net.Conn, error) { return s.Open() },
		func() error {
			once.Do(func() { s.Close(); err = rwc.Close() })
			return err
		})
}

// DialVsock talks to the guest with the context id cid of this host. Nothing is
// dialled before the first call. On systems without vsock every call fails.
func DialVsock(cid uint32) *Client {
	return newClient(
		func(ctx context.Context) (net.Conn, error) { return vsock.DialContext(ctx, cid, VsockPort, nil) },
		func() error { return nil })
}

// DialUnix talks through another program of this host that holds a box's line and
// serves plain HTTP at a Unix socket, as fogwright run does.
func DialUnix(path string) *Client {
	return newClient(
		func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "unix", path) },
		func() error { return nil })
}

func newClient(dial func(context.Context) (net.Conn, error), close func() error) *Client {
	return &Client{
		http: http.Client{Transport: &http.Transport{
			DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			DisableKeepAlives: true, // a stream carries one request
			// The box answers at once with what it is going to say.
			ResponseHeaderTimeout: patience,
		}},
		close: close,
	}
}

// Transport carries HTTP requests to the box, whatever their URL's host is: for a
// program that lets others talk to the box through it.
func (c *Client) Transport() http.RoundTripper { return c.http.Transport }

// Close gives the line back.
func (c *Client) Close() error { return c.close() }

// Status asks for the whole box on one page.
func (c *Client) Status(ctx context.Context) (*state.Status, error) {
	b, err := c.get(ctx, "/v1/status")
	if err != nil {
		return nil, err
	}
	var s state.Status
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("asking the box for its status: %w", err)
	}
	return &s, nil
}

// Metrics asks for Prometheus' text.
func (c *Client) Metrics(ctx context.Context) (string, error) {
	b, err := c.get(ctx, "/v1/metrics")
	return string(b), err
}

// Reboot asks the box to restart in good order. It returns when the box has said
// yes. An error may also mean that the answer was lost; it is not asked again.
func (c *Client) Reboot(ctx context.Context) error { return c.post(ctx, "/v1/reboot") }

// PowerOff asks the box to switch itself off. See Reboot.
func (c *Client) PowerOff(ctx context.Context) error { return c.post(ctx, "/v1/poweroff") }

// LogOptions say which lines are wanted. The zero value: all that there are.
type LogOptions struct {
	Service string // only this one's
	Since   uint64 // only lines with a greater sequence number
	Follow  bool   // do not end; wait for more
}

// Logs gives the box's log lines, oldest first. The last pair has an error when
// the lines did not end as they should; a cancelled ctx is no error. A broken
// connection is taken up again after the last line that came.
func (c *Client) Logs(ctx context.Context, opt LogOptions) iter.Seq2[state.LogEntry, error] {
	return func(yield func(state.LogEntry, error) bool) {
		for fails := 0; ; {
			before := opt.Since
			more, err := c.logs(ctx, &opt, yield)
			if !more || ctx.Err() != nil || err == nil && !opt.Follow {
				return
			}
			if opt.Since != before {
				fails = 0
			}
			if fails++; err != nil && (fails == attempts || !repeatable(err)) {
				yield(state.LogEntry{}, fmt.Errorf("asking the box for its log: %w", err))
				return
			}
			if sleep(ctx, time.Duration(fails)*200*time.Millisecond) != nil {
				return
			}
		}
	}
}

// logs is one connection's worth; opt.Since moves on. more is false when the
// caller of Logs wants no more.
func (c *Client) logs(ctx context.Context, opt *LogOptions, yield func(state.LogEntry, error) bool) (more bool, err error) {
	q := url.Values{"since": {strconv.FormatUint(opt.Since, 10)}}
	if opt.Service != "" {
		q.Set("service", opt.Service)
	}
	if opt.Follow {
		q.Set("follow", "1")
	}
	body, err := c.do(ctx, http.MethodGet, "/v1/logs?"+q.Encode())
	if err != nil {
		return true, err
	}
	defer body.Close()
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 256<<10)
	for lines.Scan() {
		var e state.LogEntry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return true, err
		}
		opt.Since = e.Seq
		if !yield(e, nil) {
			return false, nil
		}
	}
	return true, lines.Err()
}

// get reads an answer whole, and asks again when it did not come.
func (c *Client) get(ctx context.Context, path string) ([]byte, error) {
	for n := 1; ; n++ {
		b, err := c.once(ctx, path)
		switch {
		case err == nil:
			return b, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("asking the box for %s: %w (last: %v)", path, ctx.Err(), err)
		case n == attempts || !repeatable(err):
			return nil, fmt.Errorf("asking the box for %s (%d times): %w", path, n, err)
		}
		if err := sleep(ctx, time.Duration(n)*200*time.Millisecond); err != nil {
			return nil, fmt.Errorf("asking the box for %s: %w", path, err)
		}
	}
}

func (c *Client) once(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	body, err := c.do(ctx, http.MethodGet, path)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	b, err := io.ReadAll(io.LimitReader(body, maxAnswer+1))
	if err == nil && len(b) > maxAnswer {
		err = fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	return b, err
}

func (c *Client) post(ctx context.Context, path string) error {
	body, err := c.do(ctx, http.MethodPost, path)
	if err != nil {
		return fmt.Errorf("asking the box for %s: %w", path, err)
	}
	return body.Close()
}

// refusal is an answer that says no; asking again would not help.
type refusal struct{ status, text string }

func (r refusal) Error() string {
	return strings.TrimSpace("the box says " + r.status + ": " + r.text)
}

func repeatable(err error) bool {
	return !errors.As(err, new(refusal)) && !errors.Is(err, wire.ErrClosed)
}

func (c *Client) do(ctx context.Context, method, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://box"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1024)) // what came is enough
		return nil, refusal{resp.Status, string(text)}
	}
	return resp.Body, nil
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
