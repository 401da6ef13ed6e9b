package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// leaseFile is where the address that a link had last is kept, by MAC address,
// so that the next boot asks for it at once (INIT-REBOOT). Only the address: how
// long the lease runs cannot be known without a clock.
func leaseFile(mac string) string {
	return "dhcp4-" + strings.ReplaceAll(mac, ":", "")
}

// lastAddress reads the last address; the zero Addr when there is none.
func lastAddress(dir, mac string) netip.Addr {
	if dir == "" {
		return netip.Addr{}
	}
	b, err := os.ReadFile(filepath.Join(dir, leaseFile(mac)))
	if err != nil {
		return netip.Addr{}
	}
	a, err := parseAddress(b)
	if err != nil {
		return netip.Addr{}
	}
	return a
}

func parseAddress(b []byte) (netip.Addr, error) {
	a, err := netip.ParseAddr(strings.TrimSpace(string(b[:min(len(b), 64)])))
	if err != nil {
		return a, err
	}
	if !a.Is4() || !a.IsGlobalUnicast() {
		return netip.Addr{}, errors.New("not an IPv4 address that a host can have")
	}
	return a, nil
}

// keepAddress writes the last address down when it is another one.
func keepAddress(dir, mac string, a netip.Addr) error {
	if dir == "" || lastAddress(dir, mac) == a {
		return nil
	}
	return writeDurable(filepath.Join(dir, leaseFile(mac)), []byte(a.String()+"\n"), 0o644)
}

// writeDurable replaces path so that the old content or the new one is there after
// a power cut.
func writeDurable(path string, content []byte, mode os.FileMode) error {
	if err := writeAtomic(path, content, mode, true); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// writeAtomic replaces path, flushing the content first if durable.
func writeAtomic(path string, content []byte, mode os.FileMode, durable bool) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil && durable {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
