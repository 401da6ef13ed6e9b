package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
)

// Config is what workd writes into the file named by FOGWRIGHT_CONFIG. Fields
// that this version does not know are ignored: workd is updated over the air and
// this program with the factory partition, so either may be the newer one.
type Config struct {
	Content []Content `json:"content"`
	// ListenPort is the one TCP port; 0 means 6881.
	ListenPort int `json:"listen_port"`

	// MaxConnections to peers, over all items; 0 means 64.
	MaxConnections int `json:"max_connections,omitempty"`
	// MaxUnverifiedBytes are downloaded but not yet checked; 0 means 8 MiB.
	MaxUnverifiedBytes int64 `json:"max_unverified_bytes,omitempty"`
	// MaxUploadRate in bytes per second, over all peers; 0 means no limit.
	MaxUploadRate int64 `json:"max_upload_rate,omitempty"`
	// MaxItemBytes refuses content that is larger; 0 means that only the
	// free space decides.
	MaxItemBytes int64 `json:"max_item_bytes,omitempty"`
	// MemoryBytes is what the garbage collector aims to stay below; 0 means
	// 28 MiB, which with the program's own pages stays under 40 MiB.
	MemoryBytes int64 `json:"memory_bytes,omitempty"`
}

// Content is one item to share; see package site for the meaning of the fields.
type Content struct {
	Torrent  string   `json:"torrent"`
	InfoHash string   `json:"info_hash,omitempty"`
	WebSeeds []string `json:"web_seeds,omitempty"`
}

const maxItems = 256

// ParseConfig decodes text, fills in the defaults and checks the ranges. Every
// fault found is in the error. A fault within one content item is not: the item
// reports it, and the others are served.
func ParseConfig(text []byte) (Config, error) {
	var c Config
	if err := json.Unmarshal(text, &c); err != nil {
		return c, fmt.Errorf("decoding JSON: %w", err)
	}
	def(&c.ListenPort, 6881)
	def(&c.MaxConnections, 64)
	def(&c.MaxUnverifiedBytes, 8<<20)
	def(&c.MemoryBytes, 28<<20)

	var all []error
	within := func(name string, v, low, high int64) {
		if v < low || v > high {
			all = append(all, fmt.Errorf("%s is %d, must be %d to %d", name, v, low, high))
		}
	}
	within("number of content items", int64(len(c.Content)), 0, maxItems)
	within("listen_port", int64(c.ListenPort), 1, 65535)
	within("max_connections", int64(c.MaxConnections), 1, 4096)
	within("max_unverified_bytes", c.MaxUnverifiedBytes, 1<<20, 1<<30)
	within("max_upload_rate", c.MaxUploadRate, 0, 1<<40)
	within("max_item_bytes", c.MaxItemBytes, 0, 1<<50)
	within("memory_bytes", c.MemoryBytes, 8<<20, 1<<40)
	return c, errors.Join(all...)
}

func def[T int | int64](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// check tells what is wrong with one item.
func (c Content) check() error {
	var all []error
	if !isHTTP(c.Torrent) {
		all = append(all, fmt.Errorf("torrent %q is not an http or https URL", c.Torrent))
	}
	if b, err := hex.DecodeString(c.InfoHash); c.InfoHash != "" && (err != nil || len(b) != 20) {
		all = append(all, fmt.Errorf("info_hash %q is not 40 hexadecimal digits", c.InfoHash))
	}
	for _, w := range c.WebSeeds {
		if !isHTTP(w) {
			all = append(all, fmt.Errorf("web seed %q is not an http or https URL", w))
		}
	}
	return errors.Join(all...)
}

func isHTTP(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}
