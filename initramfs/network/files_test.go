package network

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fogwright/fogwright/initramfs/state"
	"github.com/google/go-cmp/cmp"
)

// tree makes files below a new folder; a name that ends in a slash is a folder.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil && name[len(name)-1] == '/' {
			err = os.MkdirAll(path, 0o755)
		} else if err == nil {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestIsPhysical(t *testing.T) {
	sys := tree(t, map[string]string{
		"eth0/device/": "", "eth0/type": "1\n",
		"wlan0/device/": "", "wlan0/type": "1\n", "wlan0/phy80211/": "",
		"wlan1/device/": "", "wlan1/type": "1\n", "wlan1/wireless/": "",
		"veth0/type":   "1\n",
		"lo/type":      "772\n",
		"can0/device/": "", "can0/type": "280\n",
	})
	for name, want := range map[string]bool{"eth0": true, "wlan0": false, "wlan1": false, "veth0": false, "lo": false, "can0": false, "gone": false} {
		if got := isPhysical(sys, name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func TestHostnameFor(t *testing.T) {
	if got := hostnameFor(net.HardwareAddr{2, 0, 0, 0xab, 0xcd, 0x0f}); got != "fogwright-abcd0f" {
		t.Error(got)
	}
	if got := hostnameFor(nil); got != "fogwright" {
		t.Error(got)
	}
}

func TestWriteSysctl(t *testing.T) {
	root := tree(t, map[string]string{"ipv4/same": "1\n", "ipv4/other": "0\n"})
	before, err := os.Stat(filepath.Join(root, "ipv4/same"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"ipv4/same", "ipv4/other", "ipv6/no-such-setting"} {
		for range 2 {
			if err := writeSysctl(root, path, "1"); err != nil {
				t.Error(err)
			}
		}
	}
	after, err := os.Stat(filepath.Join(root, "ipv4/same"))
	if err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("wrote what was right already (%v)", err)
	}
	if got := content(t, filepath.Join(root, "ipv4/other")); got != "1" {
		t.Errorf("wrote %q", got)
	}
}

func TestResolvConf(t *testing.T) {
	dir := tree(t, map[string]string{"run/": "", "etc/": ""})
	link := filepath.Join(dir, "etc/resolv.conf")
	if err := os.Symlink("../run/resolv.conf", link); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := writeResolvConf(link, []string{"192.0.2.1", "fe80::1%eth0", "2001:db8::1", "192.0.2.4"}); err != nil {
			t.Fatal(err)
		}
	}
	want := "# Written by netd from DHCP and router advertisements.\n" +
		"nameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver 2001:db8::1\noptions timeout:2 attempts:3\n"
	if diff := cmp.Diff(want, content(t, filepath.Join(dir, "run/resolv.conf"))); diff != "" {
		t.Error(diff)
	}
	if to, err := os.Readlink(link); err != nil || to != "../run/resolv.conf" {
		t.Errorf("the link is now %q, %v", to, err)
	}
}

func TestAlternate(t *testing.T) {
	got := alternate([]string{"a", "b", "c"}, []string{"x", "a", "y"})
	if diff := cmp.Diff([]string{"a", "x", "b", "c", "y"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestLoadSecret(t *testing.T) {
	dir, fresh := t.TempDir(), newSecret()
	for i, other := range []bool{false, true} {
		use := fresh
		if other {
			use = newSecret()
		}
		if got, err := loadSecret(dir, use); err != nil || got != fresh {
			t.Errorf("%d: %s, %v; want %s", i, got, err, fresh)
		}
	}
	path := filepath.Join(dir, secretFile)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the secret's file: %v, %v", st, err)
	}
	if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := loadSecret(dir, fresh); err == nil || got != fresh {
		t.Errorf("damaged: %s, %v; want a new one and a complaint", got, err)
	}
	if got, err := loadSecret(dir, newSecret()); err != nil || got != fresh {
		t.Errorf("after the damage: %s, %v; want %s", got, err, fresh)
	}
}

func TestReadSite(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"good":    {"hostname = \"attic\"\n", "attic"},
		"broken":  {"hostname = \"not a name\"\n", ""},
		"unknown": {"hostnam = \"attic\"\n", ""},
	} {
		dir := tree(t, map[string]string{"site.toml": tt.text})
		if got := readSite(state.FileSystem{Mount: dir}, slog.New(slog.DiscardHandler)); got.Hostname != tt.want {
			t.Errorf("%s: host name %q, want %q", name, got.Hostname, tt.want)
		}
	}
	for _, fsys := range []state.FileSystem{{}, {Error: "bad disk"}, {Mount: t.TempDir()}} {
		if got := readSite(fsys, slog.New(slog.DiscardHandler)); got == nil {
			t.Errorf("%+v: no default", fsys)
		}
	}
}

func TestOnline(t *testing.T) {
	good := state.Link{Carrier: true, Gateways: []string{"192.0.2.1"}, Addresses: []state.Address{{CIDR: "192.0.2.9/24", Source: "dhcp"}}}
	tests := []struct {
		name   string
		change func(*state.Link)
		want   bool
	}{
		{"IPv4", func(*state.Link) {}, true},
		{"no carrier", func(l *state.Link) { l.Carrier = false }, false},
		{"no gateway", func(l *state.Link) { l.Gateways = nil }, false},
		{"no address", func(l *state.Link) { l.Addresses = nil }, false},
		{"gateway of the other kind", func(l *state.Link) { l.Gateways = []string{"fe80::1"} }, false},
		{"IPv6 only", func(l *state.Link) {
			l.Gateways, l.Addresses = []string{"fe80::1"}, []state.Address{{CIDR: "2001:db8::9/64", Source: "ra"}}
		}, true},
		{"link-local only", func(l *state.Link) {
			l.Gateways, l.Addresses = []string{"fe80::1"}, []state.Address{{CIDR: "fe80::9/64", Source: "link-local"}}
		}, false},
	}
	for _, tt := range tests {
		l := good
		tt.change(&l)
		if got := online(l); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestFolderComesLate: the first boot, where init makes netd's folder long after
// stored has mounted what it lies on.
func TestFolderComesLate(t *testing.T) {
	dir := tree(t, map[string]string{"factory/site.toml": "hostname = \"attic\"\n"})
	out := make(chan facts)
	go watchStorage(t.Context(), dir, slog.New(slog.DiscardHandler), out)
	mount := filepath.Join(dir, "state")
	s := state.Storage{FileSystems: map[string]state.FileSystem{"factory": {Mount: filepath.Join(dir, "factory")}}}
	if err := state.Write(dir, state.StorageFile, s); err != nil {
		t.Fatal(err)
	}
	if f := <-out; f.site == nil || f.site.Hostname != "attic" || f.dir != "" || f.final {
		t.Errorf("first: %+v", f)
	}
	s.FileSystems["state"], s.Ready = state.FileSystem{Mount: mount}, true
	if err := state.Write(dir, state.StorageFile, s); err != nil {
		t.Fatal(err)
	}
	select {
	case f := <-out:
		t.Errorf("without the folder: %+v", f)
	case <-time.After(300 * time.Millisecond):
	}
	if err := os.Mkdir(mount, 0o755); err != nil {
		t.Fatal(err)
	}
	if f := <-out; f.dir != filepath.Join(mount, "network") || !f.final {
		t.Errorf("at last: %+v", f)
	}
}
