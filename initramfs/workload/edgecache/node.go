package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anacrolix/torrent"
	"github.com/anacrolix/torrent/metainfo"
	"github.com/anacrolix/torrent/storage"
	"golang.org/x/time/rate"
)

// node shares all items through one BitTorrent client.
type node struct {
	cfg    Config
	dir    string
	log    *slog.Logger
	http   *http.Client
	client *torrent.Client
	door   *door
	items  []*item
	ahead  atomic.Int64 // bytes of head starts

	mu     sync.Mutex
	owners map[metainfo.Hash]*item // which item shares what
}

// newNode opens the listening port and the client; nothing is shared yet.
func newNode(cfg Config, dir string, log *slog.Logger) (*node, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data folder: %w", err)
	}
	transport := newTransport(patient(time.Minute, 0))
	n := &node{
		cfg: cfg, dir: dir, log: log,
		http:   &http.Client{Transport: transport},
		owners: map[metainfo.Hash]*item{},
	}
	for _, c := range cfg.Content {
		n.items = append(n.items, newItem(c))
	}
	if err := n.sweep(); err != nil {
		return nil, err
	}
	var err error
	if n.door, err = openDoor(cfg.ListenPort, cfg.MaxConnections); err != nil {
		return nil, err
	}
	n.client, err = torrent.NewClient(n.clientConfig(transport))
	if err != nil {
		n.door.Close()
		return nil, fmt.Errorf("starting the BitTorrent client: %w", err)
	}
	n.client.AddDialer(torrent.NetworkDialer{Network: "tcp", Dialer: n.door})
	n.client.AddListener(n.door)
	return n, nil
}

// clientConfig turns off everything that would open a second socket, and bounds
// everything that grows with the number of peers.
func (n *node) clientConfig(transport http.RoundTripper) *torrent.ClientConfig {
	c := torrent.NewDefaultClientConfig()
	c.Seed = true
	c.NoDHT = true
	c.DisableUTP = true
	c.DisableTCP = true // the library's own sockets; ours is the door
	c.NoDefaultPortForwarding = true
	c.DisableWebtorrent = true
	c.DefaultStorage = noStore{} // else the library opens a database
	c.WebTransport = transport
	c.TrackerDialContext = patient(20*time.Second, 1<<20)
	c.HTTPUserAgent = "fogwright-edgecache"
	// Peers show these to their users.
	c.ExtendedHandshakeClientVersion = "Fogwright edgecache"
	c.Bep20 = "-FW0100-"

	c.EstablishedConnsPerTorrent = max(8, n.cfg.MaxConnections/max(1, len(n.items)))
	c.HalfOpenConnsPerTorrent = 8
	c.TotalHalfOpenConns = 16
	c.TorrentPeersHighWater = 200
	c.MaxUnverifiedBytes = n.cfg.MaxUnverifiedBytes
	// Blocks read ahead for each peer; the default of 1 MiB would be the
	// whole budget with 40 peers. Sixteen blocks of 16 KiB keep a link full.
	c.MaxAllocPeerRequestDataPerConn = 256 << 10
	// The library (peer-conn-msg-writer.go, run) looks for blocks to send
	// and only then begins to listen for news of them; a block that becomes
	// ready in between, with the read-ahead full, is sent when the keep-alive
	// timer next fires. At the default of a minute aria2 was seen to wait
	// just that, in one of eight transfers of a race-detector build. The price
	// is four bytes a second to each peer that wants something and gets nothing.
	c.KeepAliveTimeout = time.Second
	// Slow boxes and far peers need more than 4 s for the key exchange.
	c.HandshakesTimeout = 10 * time.Second
	c.PieceHashersPerTorrent = 1
	if n.cfg.MaxUploadRate > 0 {
		c.UploadRateLimiter = rate.NewLimiter(rate.Limit(n.cfg.MaxUploadRate), c.MaxAllocPeerRequestDataPerConn)
	}
	c.Slogger = slog.New(quiet{n.log.Handler()})
	return c
}

// noStore is the client's default storage. Each item brings its own store.
type noStore struct{}

func (noStore) OpenTorrent(context.Context, *metainfo.Info, metainfo.Hash) (storage.TorrentImpl, error) {
	return storage.TorrentImpl{}, errors.New("no store")
}

// quiet passes on only warnings and worse: the library tells much.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
func (q quiet) WithAttrs(a []slog.Attr) slog.Handler         { return quiet{q.Handler.WithAttrs(a)} }
func (q quiet) WithGroup(name string) slog.Handler           { return quiet{q.Handler.WithGroup(name)} }

// sweep removes what was kept for items that are no longer configured.
func (n *node) sweep() error {
	entries, err := os.ReadDir(n.dir)
	if err != nil {
		return fmt.Errorf("reading the data folder: %w", err)
	}
	for _, e := range entries {
		key, suffix, _ := strings.Cut(e.Name(), ".")
		ours := slices.Contains([]string{"torrent", "data", "have"}, suffix) || strings.HasPrefix(e.Name(), ".new-")
		known := slices.ContainsFunc(n.items, func(it *item) bool { return it.key == key })
		if !ours || known {
			continue
		}
		if err := os.Remove(filepath.Join(n.dir, e.Name())); err != nil {
			return fmt.Errorf("removing content that is no longer configured: %w", err)
		}
	}
	return nil
}

// run shares until ctx ends, and hands a report to tell at once and then every
// second.
func (n *node) run(ctx context.Context, tell func(Report)) {
	var all sync.WaitGroup
	defer all.Wait()
	for _, it := range n.items {
		all.Go(func() { n.keep(ctx, it) })
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		tell(n.report(time.Now()))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// report also flushes the stores that are due: it is the one place that comes by
// every second.
func (n *node) report(now time.Time) Report {
	stats := n.client.Stats()
	r := Report{
		BytesServed:     stats.BytesWrittenData.Int64(),
		BytesDownloaded: stats.BytesReadUsefulData.Int64() + n.ahead.Load(),
		Peers:           stats.ActivePeers,
	}
	for _, it := range n.items {
		line, whole := it.report(now)
		r.Content = append(r.Content, line)
		r.Sharing = r.Sharing || whole
	}
	return r
}

// close stops the client and flushes what is finished. It gives up after grace:
// a kill at any moment loses nothing that a flush had recorded.
func (n *node) close(grace time.Duration) error {
	done := make(chan error, 1)
	go func() {
		all := n.client.Close()
		for _, it := range n.items {
			all = append(all, it.close())
		}
		all = append(all, n.door.Close())
		done <- errors.Join(all...)
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("stopping: %w", err)
		}
		return nil
	case <-time.After(grace):
		return fmt.Errorf("stopping: %w after %v", os.ErrDeadlineExceeded, grace)
	}
}

// keep brings one item into the client, however long it takes.
func (n *node) keep(ctx context.Context, it *item) {
	log := n.log.With("torrent", it.content.Torrent)
	for attempt := 0; ; attempt++ {
		err := n.add(ctx, it)
		if err == nil {
			log.Info("sharing", "name", it.name, "bytes", it.size)
			return
		}
		if ctx.Err() != nil {
			return
		}
		wait := backoff(attempt)
		it.fail(err)
		log.Error("this item is not shared", "error", err, "retry", wait.Round(time.Second))
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// add fetches the torrent file unless it is there, opens the store and starts.
func (n *node) add(ctx context.Context, it *item) error {
	if err := it.content.check(); err != nil {
		return err
	}
	t, err := n.load(ctx, it)
	if err != nil {
		return err
	}
	if err := n.claim(t.hash, it); err != nil {
		return err
	}
	s, err := openStore(n.dir, it.key, t)
	if err != nil {
		return err
	}
	seeds := onlyHTTP(append(slices.Clone(it.content.WebSeeds), t.webSeeds...))
	added, err := fetchAhead(ctx, n.http, s, t, seeds)
	n.ahead.Add(added)
	if err != nil {
		n.log.Info("the head start ended early; going on with peers and web seeds", "torrent", it.content.Torrent, "error", err)
	}
	if err := ctx.Err(); err != nil {
		return errors.Join(err, s.close())
	}
	tor, _ := n.client.AddTorrentOpt(torrent.AddTorrentOpts{InfoHash: t.hash, InfoBytes: t.infoBytes, Storage: s})
	if tor.Info() == nil {
		tor.Drop()
		return errors.Join(fmt.Errorf("torrent %x: the BitTorrent library refuses it", t.hash), s.close())
	}
	it.start(t, s, tor)
	for _, u := range t.trackers {
		tor.AddTrackers([][]string{{u}})
	}
	tor.AddWebSeeds(seeds)
	tor.SetOnWriteChunkError(func(err error) { it.pause(ctx, err) })
	tor.DownloadAll()
	return nil
}

// claim makes sure that two items are not the same content twice.
func (n *node) claim(h metainfo.Hash, it *item) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if o := n.owners[h]; o != nil && o != it {
		return fmt.Errorf("torrent %x: it is the same content as %s", h, o.content.Torrent)
	}
	n.owners[h] = it
	return nil
}

// load returns the item's torrent file, from the disk or else from its origin.
func (n *node) load(ctx context.Context, it *item) (*torrentFile, error) {
	path := filepath.Join(n.dir, it.key+".torrent")
	if text, err := os.ReadFile(path); err == nil {
		if t, err := parseTorrent(text, it.content.InfoHash, n.cfg.MaxItemBytes); err == nil {
			return t, nil
		}
	}
	text, err := fetchTorrent(ctx, n.http, it.content.Torrent)
	if err != nil {
		return nil, err
	}
	t, err := parseTorrent(text, it.content.InfoHash, n.cfg.MaxItemBytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", it.content.Torrent, err)
	}
	if err := replaceFile(path, text, true); err != nil {
		return nil, fmt.Errorf("keeping the torrent file: %w", err)
	}
	return t, nil
}
