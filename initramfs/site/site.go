// Package site reads site.toml: what the owner of this box, or whoever flashed
// it, decides. It lies on the factory partition, which any PC can read, so the
// person with the card reader is the author and the box is the reader. The host
// tools use this same package to refuse a bad file before it is flashed.
//
// A box must start without a site.toml and with a broken one: [Parse] tells all
// that is wrong with its position, and the caller goes on with [Default].
package site

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// File is site.toml's name on the factory partition.
const File = "site.toml"

// Site is the owner's configuration.
type Site struct {
	// Hostname of the box; empty means fogwright-XXXXXX from its MAC address.
	Hostname string `toml:"hostname"`
	// NTP servers, names or addresses; empty means those of DHCP and then
	// the built-in pool.
	NTP     []string  `toml:"ntp"`
	Control Control   `toml:"control"`
	Content []Content `toml:"content"`
}

// Control says how the box may be talked to. There is never a network port.
type Control struct {
	// UART is a device such as /dev/ttyS1 that carries the control channel,
	// for boards without virtio. Whoever holds the wire holds the box, so it
	// is off unless named.
	UART string `toml:"uart"`
	// Baud of the UART; 0 means 115200.
	Baud int `toml:"baud"`
}

// Content is one item that the built-in edge cache shares.
type Content struct {
	// Torrent is an http(s) URL of a .torrent file, fetched once.
	Torrent string `toml:"torrent"`
	// InfoHash, 40 hexadecimal digits, pins what the URL must give.
	InfoHash string `toml:"info_hash"`
	// WebSeeds are http(s) URLs of the origin (BEP 19), next to those that
	// the torrent file names.
	WebSeeds []string `toml:"web_seeds"`
}

// Default is a box that nobody configured: it shares nothing.
func Default() *Site { return &Site{} }

// Parse decodes site.toml strictly and checks it as a whole. name is used in
// messages. Every fault found is in the error, joined, one per line, as
// name:line:column: what is wrong. The Site is nil when the text is not TOML of
// this shape; when only some values are wrong it is returned beside the error.
func Parse(name string, text []byte) (*Site, error) {
	s := Default()
	d := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := d.Decode(s); err != nil {
		return nil, decodeError(name, err)
	}
	at := positions(text)
	return s, s.check(func(key, format string, a ...any) error {
		p := at[key]
		return fmt.Errorf("%s:%d:%d: %s "+format, append([]any{name, p.Line, p.Column, key}, a...)...)
	})
}

// decodeError turns the decoder's errors into name:line:column: message.
func decodeError(name string, err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		var all []error
		for _, e := range strict.Errors {
			row, col := e.Position()
			key := strings.Join(e.Key(), ".")
			all = append(all, fmt.Errorf("%s:%d:%d: unknown key %q%s", name, row, col, key, suggestion(key)))
		}
		return errors.Join(all...)
	}
	var one *toml.DecodeError
	if errors.As(err, &one) {
		row, col := one.Position()
		return fmt.Errorf("%s:%d:%d: %w", name, row, col, err)
	}
	return fmt.Errorf("%s: %w", name, err)
}

// check says all that is wrong; fault makes one error at a key.
func (s *Site) check(fault func(key, format string, a ...any) error) error {
	var all []error
	bad := func(key, format string, a ...any) { all = append(all, fault(key, format, a...)) }
	if s.Hostname != "" && !isHostname(s.Hostname) {
		bad("hostname", "%q is not a host name (RFC 1123: letters, digits and inner hyphens, up to 63)", s.Hostname)
	}
	for i, n := range s.NTP {
		if _, err := netip.ParseAddr(n); err != nil && !isDomain(n) {
			bad(fmt.Sprintf("ntp[%d]", i), "%q is neither an address nor a host name", n)
		}
	}
	if u := s.Control.UART; u != "" && (!strings.HasPrefix(u, "/dev/tty") || strings.Contains(u[5:], "/")) {
		bad("control.uart", "%q is not a serial device such as /dev/ttyS1", u)
	}
	// 4 Mbaud is more than any of the boards' UARTs does.
	if b := s.Control.Baud; b < 0 || b > 4_000_000 {
		bad("control.baud", "%d is not a speed; 115200 is usual", b)
	}
	for i, c := range s.Content {
		key := func(format string, a ...any) string {
			return fmt.Sprintf("content[%d].", i) + fmt.Sprintf(format, a...)
		}
		switch err := isHTTP(c.Torrent); {
		case c.Torrent == "":
			bad(strings.TrimSuffix(key(""), "."), "has no torrent, the URL of a .torrent file")
		case err != nil:
			bad(key("torrent"), "%w", err)
		}
		if b, err := hex.DecodeString(c.InfoHash); c.InfoHash != "" && (err != nil || len(b) != 20) {
			bad(key("info_hash"), "%q is not 40 hexadecimal digits", c.InfoHash)
		}
		for n, w := range c.WebSeeds {
			if err := isHTTP(w); err != nil {
				bad(key("web_seeds[%d]", n), "%w", err)
			}
		}
	}
	return errors.Join(all...)
}

func isHTTP(s string) error {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return fmt.Errorf("%q is not an http or https URL", s)
	}
	return nil
}

func isDomain(s string) bool {
	for _, label := range strings.Split(strings.TrimSuffix(s, "."), ".") {
		if !isHostname(label) {
			return false
		}
	}
	return len(s) <= 253
}

func isHostname(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return !(r == '-' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z')
	}) < 0
}
