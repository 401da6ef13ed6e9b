package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/anacrolix/torrent"
)

// item is one piece of content on its way from configured to shared.
type item struct {
	content Content
	key     string // names its files

	mu      sync.Mutex
	err     error // why it is not whole; nil when nothing is known to be wrong
	paused  bool
	pauses  int
	name    string
	hash    string
	size    int64
	store   *store
	torrent *torrent.Torrent

	have    int64 // as last reported
	changed time.Time
	flushed time.Time
}

// newItem derives the key from what decides the content, and from nothing that an
// outsider writes. Other web seeds are no reason to fetch again.
func newItem(c Content) *item {
	sum := sha256.Sum256([]byte(c.Torrent + "\n" + strings.ToLower(c.InfoHash)))
	return &item{content: c, key: fmt.Sprintf("%x", sum[:16]), name: c.Torrent}
}

func (it *item) fail(err error) {
	it.mu.Lock()
	defer it.mu.Unlock()
	it.err = err
}

func (it *item) start(t *torrentFile, s *store, tor *torrent.Torrent) {
	it.mu.Lock()
	defer it.mu.Unlock()
	it.err = nil
	it.name, it.hash, it.size = t.info.BestName(), t.hash.HexString(), t.size
	it.store, it.torrent = s, tor
	it.changed = time.Now()
}

// pause stops the download after a write failed (the disk is full or broken) and
// lets it try again later. What is whole goes on being served.
func (it *item) pause(ctx context.Context, err error) {
	it.mu.Lock()
	defer it.mu.Unlock()
	it.err = fmt.Errorf("writing content: %w", err)
	if it.paused {
		return // one failure is reported by every block on its way
	}
	it.paused = true
	it.torrent.DisallowDataDownload()
	time.AfterFunc(backoff(it.pauses), func() {
		it.mu.Lock()
		defer it.mu.Unlock()
		it.paused, it.err = false, nil
		if ctx.Err() == nil {
			it.torrent.AllowDataDownload()
		}
	})
	it.pauses++
}

const (
	flushEvery  = 5 * time.Second  // what a power cut may cost
	silentAfter = 30 * time.Second // an honest "nothing comes" instead of a bar that stands still
)

// report returns the item's line and whether it is whole, and flushes its store
// when that is due.
func (it *item) report(now time.Time) (line Item, whole bool) {
	it.mu.Lock()
	defer it.mu.Unlock()
	line = Item{Name: it.name, InfoHash: it.hash, Size: it.size}
	if it.store == nil {
		if it.err != nil {
			line.Error = it.err.Error()
		}
		return line, false
	}
	line.Have = it.store.haveBytes(it.torrent.Info().PieceLength, it.size)
	whole = line.Have == it.size
	if line.Have != it.have {
		it.have, it.changed = line.Have, now
	}
	err := it.err
	if whole || now.Sub(it.flushed) >= flushEvery {
		it.flushed = now
		if ferr := it.store.flush(); ferr != nil {
			err = ferr
		}
	}
	if err == nil && !whole && now.Sub(it.changed) >= silentAfter {
		err = fmt.Errorf("nothing came in the last %v, from %d web seeds and %d peers; still trying",
			silentAfter, len(it.torrent.WebseedPeerConns()), len(it.torrent.PeerConns()))
	}
	if err != nil {
		line.Error = err.Error()
	}
	return line, whole
}

func (it *item) close() error {
	it.mu.Lock()
	defer it.mu.Unlock()
	if it.store == nil {
		return nil
	}
	return it.store.close()
}

// backoff is how long to wait after the attempt-th failure, from 0: two seconds,
// doubled each time up to half an hour, then taken times 0.5 to 1.5 so that a
// thousand boxes do not knock on an origin that came back all at once. The jitter
// comes after the cap and so survives it.
func backoff(attempt int) time.Duration {
	d := 2 * time.Second << min(attempt, 20)
	d = min(d, 30*time.Minute)
	return d/2 + rand.N(d)
}
