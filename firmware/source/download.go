package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/cavaliergopher/grab/v3"
)

// downloader gets files from mirrors and believes nothing about them.
type downloader struct {
	client  *http.Client
	stall   StallPolicy
	retries int
	wait    time.Duration // before the first retry; doubles each time
	event   func(Event)
}

// maxWait is the longest pause between two tries, before jitter.
const maxWait = 15 * time.Second

// file brings url to the file part, resuming what part holds already, and
// returns only when part has exactly the wanted size and hash.
func (d *downloader) file(ctx context.Context, name, url, part string, want sum) error {
	raw, err := hex.DecodeString(want.sha256)
	if err != nil {
		return fmt.Errorf("downloading %q: hash: %w", url, err)
	}
	return d.retry(ctx, name, url, func() error {
		req, err := grab.NewRequest(part, url)
		if err != nil {
			return err
		}
		req.Size = want.size
		req.IgnoreRemoteTime = true // our mtime is the moment of writing: the cache's witness
		req.SetChecksum(sha256.New(), raw, true)
		_, err = d.do(ctx, name, req, want.size)
		if errors.Is(err, grab.ErrBadLength) {
			// Nothing of it can be used to resume.
			err = errors.Join(fmt.Errorf("%w: the mirror's file has another length than %d bytes", ErrMismatch, want.size), os.RemoveAll(part))
		}
		if errors.Is(err, grab.ErrBadChecksum) {
			err = fmt.Errorf("%w: the mirror's file has not the SHA-256 %s", ErrMismatch, want.sha256)
		}
		return err
	})
}

// bytes returns what url holds, at most limit bytes of it.
func (d *downloader) bytes(ctx context.Context, name, url string, limit int64) ([]byte, error) {
	var b []byte
	err := d.retry(ctx, name, url, func() error {
		req, err := grab.NewRequest("", url)
		if err != nil {
			return err
		}
		req.NoStore = true
		req.NoResume = true // there is nothing to resume: saves the HEAD request
		resp, err := d.do(ctx, name, req, limit)
		if err != nil {
			return err
		}
		b, err = resp.Bytes()
		return err
	})
	return b, err
}

// do runs one request to its end, reporting progress.
func (d *downloader) do(ctx context.Context, name string, req *grab.Request, limit int64) (*grab.Response, error) {
	c := &grab.Client{UserAgent: "fogwright", HTTPClient: &guard{client: d.client, stall: d.stall, limit: limit}}
	resp := c.Do(req.WithContext(ctx))
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-resp.Done:
			err := resp.Err()
			var code grab.StatusCodeError
			switch {
			case errors.As(err, &code) && (code == http.StatusNotFound || code == http.StatusGone):
				err = fmt.Errorf("%w: the mirror answers %d %s", ErrNotFound, int(code), http.StatusText(int(code)))
			case errors.As(err, &code):
				err = statusError(code)
			case err == nil:
				d.event(Event{Kind: EventDownloaded, Name: name, Bytes: resp.BytesComplete(), Total: resp.Size(), Rate: resp.BytesPerSecond()})
			}
			return resp, err
		case <-tick.C:
			d.event(Event{Kind: EventProgress, Name: name, Bytes: resp.BytesComplete(), Total: resp.Size(), Rate: resp.BytesPerSecond()})
		}
	}
}

// statusError is an HTTP status that is neither success nor "not found".
type statusError int

func (e statusError) Error() string {
	return fmt.Sprintf("the mirror answers %d %s", int(e), http.StatusText(int(e)))
}

// retry tries again after failures that may pass, with exponential back-off and
// jitter: a thousand builders that lost one mirror must not return in step.
func (d *downloader) retry(ctx context.Context, name, url string, try func() error) error {
	for n := 1; ; n++ {
		err := try()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("downloading %q: %w", url, context.Cause(ctx))
		}
		// A wrong file is tried once more from the start (a resumed part may
		// have come from another version); twice wrong is wrong.
		if n >= d.retries || !mayPass(err) || (errors.Is(err, ErrMismatch) && n >= 2) {
			if n > 1 {
				err = fmt.Errorf("after %d tries: %w", n, err)
			}
			return fmt.Errorf("downloading %q: %w", url, err)
		}
		wait := min(d.wait<<(n-1), maxWait)
		wait = wait/2 + rand.N(wait+1)
		d.event(Event{Kind: EventRetry, Name: name, Message: fmt.Sprintf("try %d of %d failed (%v); again in %v", n, d.retries, err, wait.Round(time.Millisecond))})
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

func mayPass(err error) bool {
	var code statusError
	if errors.As(err, &code) {
		return code >= 500 || code == http.StatusTooManyRequests || code == http.StatusRequestTimeout
	}
	return !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrTooLarge)
}

// guard is grab's HTTP client. It ends a transfer that does not move or does not
// stop; grab itself would wait for ever for both.
type guard struct {
	client *http.Client
	stall  StallPolicy
	limit  int64 // bytes of body
}

// Do sends req. From then on until the body is closed, every window must bring
// its least number of bytes.
func (g *guard) Do(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	b := &guardedBody{ctx: ctx, cancel: cancel, left: g.limit}
	go b.watch(g.stall)
	resp, err := g.client.Do(req.WithContext(ctx))
	if err != nil {
		err = b.explain(err)
		cancel(nil)
		return nil, err
	}
	b.body, resp.Body = resp.Body, b
	return resp, nil
}

type guardedBody struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	body   io.ReadCloser
	moved  atomic.Int64 // bytes in this window
	left   int64
}

func (b *guardedBody) watch(p StallPolicy) {
	tick := time.NewTicker(p.Window)
	defer tick.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-tick.C:
			if n := b.moved.Swap(0); n < p.Bytes {
				b.cancel(fmt.Errorf("%w: %d bytes in %v", ErrStalled, n, p.Window))
				return
			}
		}
	}
}

func (b *guardedBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	b.moved.Add(int64(n))
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("%w: the mirror sends more than was announced", ErrTooLarge)
	}
	if err != nil && err != io.EOF {
		err = b.explain(err)
	}
	return n, err
}

func (b *guardedBody) Close() error {
	b.cancel(nil)
	return b.body.Close()
}

// explain puts our reason for ending a transfer in the place of "context canceled".
func (b *guardedBody) explain(err error) error {
	if cause := context.Cause(b.ctx); errors.Is(cause, ErrStalled) {
		return cause
	}
	return err
}
