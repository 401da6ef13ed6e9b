package ctld

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/fogwright/fogwright/initramfs/state"
)

// readMemory reads /proc/meminfo, whose numbers are KiB.
func readMemory(path string) (state.Memory, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return state.Memory{}, fmt.Errorf("reading memory: %w", err)
	}
	var m state.Memory
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			continue
		}
		switch f[0] {
		case "MemTotal:":
			m.Total = n << 10
		case "MemAvailable:":
			m.Available = n << 10
		}
	}
	return m, nil
}

// listening reads the sockets that would answer somebody out of /proc/net: those
// of the network namespace that ctld shares with the other daemons.
func listening(dir string) ([]string, error) {
	all := []string{}
	var errs []error
	for _, proto := range []string{"tcp", "tcp6", "udp", "udp6", "raw", "raw6"} {
		text, err := os.ReadFile(filepath.Join(dir, proto))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		got, err := parseSockets(proto, string(text))
		if err != nil {
			errs = append(errs, err)
		}
		all = append(all, got...)
	}
	slices.Sort(all)
	return slices.Compact(all), errors.Join(errs...)
}

// parseSockets finds the open sockets in one file of /proc/net: TCP in state
// LISTEN (0A in net/tcp_states.h), and UDP or raw that is not connected (07, the
// number of CLOSE, stands for that).
func parseSockets(proto, text string) ([]string, error) {
	open := "07"
	if strings.HasPrefix(proto, "tcp") {
		open = "0A"
	}
	var got []string
	first := true
	for line := range strings.Lines(text) {
		if first {
			first = false // the heading
			continue
		}
		f := strings.Fields(line)
		if len(f) < 4 {
			return got, fmt.Errorf("/proc/net/%s: not a socket: %q", proto, line)
		}
		if f[3] != open {
			continue
		}
		at, err := parseAddress(f[1])
		if err != nil {
			return got, fmt.Errorf("/proc/net/%s: %w", proto, err)
		}
		got = append(got, strings.TrimSuffix(proto, "6")+" "+at.String())
	}
	return got, nil
}

// parseAddress reads "0100007F:1A85": an address as 32-bit words in the machine's
// byte order (little-endian on everything that we build for), and a port.
func parseAddress(s string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	n, perr := strconv.ParseUint(port, 16, 16)
	if err != nil || perr != nil || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, fmt.Errorf("not an address: %q", s)
	}
	for w := b; len(w) > 0; w = w[4:] {
		slices.Reverse(w[:4])
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a, uint16(n)), nil
}
