package lab

import (
	"encoding/binary"
	"net/http"
	"net/netip"
	"slices"
	"sync"
)

// Tracker is an HTTP BitTorrent tracker (BEP 3) that names the peers it was told
// to, whoever asks for whatever torrent. Answers are compact, IPv4 in "peers"
// (BEP 23) and IPv6 in "peers6" (BEP 7).
type Tracker struct {
	mu        sync.Mutex
	peers     []netip.AddrPort
	announced int
}

// SetPeers replaces the peers that it names.
func (t *Tracker) SetPeers(peers ...netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.peers = slices.Clone(peers)
}

// Announced is how many times somebody asked.
func (t *Tracker) Announced() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.announced
}

// ServeHTTP implements http.Handler: it answers an announce.
func (t *Tracker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	if len(r.URL.Query().Get("info_hash")) != 20 {
		w.Write(bencode(nil, map[string]any{"failure reason": "info_hash is not 20 bytes"}))
		return
	}
	t.mu.Lock()
	t.announced++
	peers := t.peers
	t.mu.Unlock()
	w.Write(trackerAnswer(peers))
}

func trackerAnswer(peers []netip.AddrPort) []byte {
	var v4, v6 []byte
	for _, p := range peers {
		b := binary.BigEndian.AppendUint16(p.Addr().Unmap().AsSlice(), p.Port())
		if p.Addr().Unmap().Is4() {
			v4 = append(v4, b...)
		} else {
			v6 = append(v6, b...)
		}
	}
	// Peers come and go within a test: half a minute, where the web's trackers
	// say half an hour.
	answer := map[string]any{"interval": int64(30), "min interval": int64(5), "peers": string(v4)}
	if len(v6) > 0 {
		answer["peers6"] = string(v6)
	}
	return bencode(nil, answer)
}
