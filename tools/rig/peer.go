package rig

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/fogwright/fogwright/tools/lab"
)

// Fetched is what a foreign client got from the box.
type Fetched struct {
	Program string
	Size    int64
	SHA256  string
	Took    time.Duration
}

// address is the box's own word for the address that it got by DHCP. The machine's
// Ethernet address would lead to it, too, but U-Boot gives some boards another one.
func (r *Rig) address(ctx context.Context) (netip.Addr, error) {
	s, err := r.Control.Status(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, l := range s.Network.Links {
		for _, a := range l.Addresses {
			if p, err := netip.ParsePrefix(a.CIDR); err == nil && a.Source == "dhcp" {
				return p.Addr(), nil
			}
		}
	}
	return netip.Addr{}, fmt.Errorf("the box has no address from DHCP: %+v", s.Network.Links)
}

// Fetch lets aria2c, a BitTorrent client that knows nothing of us, fetch a content
// from the box, and compares what it got. The program runs on this computer and
// reaches the box through a forwarded port; its tracker names the box as the only
// peer and no web seed, so every byte comes from the box.
func (r *Rig) Fetch(ctx context.Context, program string, c lab.Content) (*Fetched, error) {
	box, err := r.address(ctx)
	if err != nil {
		return nil, err
	}
	f, err := r.Home.Forward("127.0.0.1:0", "tcp", netip.AddrPortFrom(box, PeerPort).String())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	tracker := &lab.Tracker{}
	tracker.SetPeers(netip.MustParseAddrPort(f.Addr().String()))
	base, err := r.Home.Serve("127.0.0.1:0", func(string) http.Handler { return tracker })
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "fogwright-peer-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	torrent := filepath.Join(dir, c.Name+".torrent")
	if err := os.WriteFile(torrent, c.Torrent(base+"/announce"), 0o600); err != nil {
		return nil, err
	}
	start := time.Now()
	cmd := exec.CommandContext(ctx, program, "--dir="+dir, "--seed-time=0", "--enable-dht=false", "--enable-dht6=false",
		"--bt-enable-lpd=false", "--enable-peer-exchange=false", "--follow-torrent=true", "--no-conf",
		"--summary-interval=0", "--console-log-level=warn", "--file-allocation=none", torrent)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s could not fetch %s from the box: %w\n%s", program, c.Name, err, strings.TrimSpace(out.String()))
	}
	took := time.Since(start)
	got, err := os.Open(filepath.Join(dir, c.Name))
	if err != nil {
		return nil, err
	}
	defer got.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, got)
	if err != nil {
		return nil, err
	}
	have := hex.EncodeToString(sum.Sum(nil))
	if have != c.SHA256() {
		return nil, fmt.Errorf("%s fetched %s from the box with SHA-256 %s; the origin's is %s", program, c.Name, have, c.SHA256())
	}
	return &Fetched{Program: filepath.Base(program), Size: n, SHA256: have, Took: took}, nil
}
