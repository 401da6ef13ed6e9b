package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync/atomic"
	"time"
)

// Site is a web site that has some contents, their torrents and a tracker:
//
//	/NAME           the content, by ranges
//	/NAME.torrent   its torrent, with this site as tracker and web seed
//	/announce       the tracker
//
// It is an http.Handler, for the lab's internet and for the loopback of the real
// computer alike.
type Site struct {
	Tracker Tracker

	mux    *http.ServeMux
	served atomic.Int64
}

// NewSite makes a site that its visitors reach at base, such as
// "http://origin.example".
func NewSite(base string, contents ...Content) *Site {
	s := &Site{mux: http.NewServeMux()}
	for _, c := range contents {
		path := "/" + url.PathEscape(c.Name)
		torrent := c.Torrent(base+"/announce", base+path)
		s.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/octet-stream")
			http.ServeContent(counting{w, &s.served}, r, c.Name, time.Unix(0, 0), c.Reader())
		})
		s.mux.HandleFunc("GET "+path+".torrent", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/x-bittorrent")
			w.Write(torrent)
		})
	}
	s.mux.Handle("GET /announce", &s.Tracker)
	return s
}

// ServeHTTP implements http.Handler.
func (s *Site) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Served is how many bytes of contents went out.
func (s *Site) Served() int64 { return s.served.Load() }

type counting struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c counting) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.n.Add(int64(n))
	return n, err
}

// Origin is a [Site] on the lab's internet.
type Origin struct {
	*Site
	URL string // without a final slash

	host   *Host
	server *http.Server
}

// Origin puts a web site with these contents on the internet, at port 80.
func (in *Internet) Origin(name string, addrs []netip.Addr, contents ...Content) (*Origin, error) {
	host, err := in.Host(name, addrs...)
	if err != nil {
		return nil, err
	}
	l, err := host.Listen("tcp", ":80")
	if err != nil {
		return nil, fmt.Errorf("starting origin %q: %w", name, err)
	}
	o := &Origin{URL: "http://" + name, host: host}
	o.Site = NewSite(o.URL, contents...)
	o.server = &http.Server{Handler: o.Site}
	go o.server.Serve(l)
	return o, nil
}

// TorrentURL is where the torrent of one of the contents is.
func (o *Origin) TorrentURL(c Content) string {
	return o.URL + "/" + url.PathEscape(c.Name) + ".torrent"
}

// Stop takes the origin off the internet: who asks for it gets no answer at all.
func (o *Origin) Stop() error {
	return errors.Join(o.server.Close(), o.host.Close())
}

// Serve serves a site at an address of the real computer ("127.0.0.1:0") until
// the home closes. site gets the URL that it is reached at.
func (h *Home) Serve(listen string, site func(base string) http.Handler) (base string, err error) {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return "", fmt.Errorf("serving a site at %s: %w", listen, err)
	}
	base = "http://" + l.Addr().String()
	server := &http.Server{Handler: site(base)}
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(l) }()
	h.onClose(func() error {
		err := errors.Join(server.Shutdown(context.Background()), server.Close())
		<-done
		return err
	})
	return base, nil
}
