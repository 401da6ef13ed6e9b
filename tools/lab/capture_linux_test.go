package lab

import (
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tshark judges the capture, and through it the bytes of every protocol here.
func TestCaptureIsReadByTshark(t *testing.T) {
	t.Parallel()
	home := newHome(t, Options{NTP: originAddrs[:1]})
	if _, err := home.Internet.Host("origin.example", originAddrs...); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "lan.pcap")
	capture := home.Router.Port().Capture(writable(t, path))
	takeLease(t, home, MAC{2, 0, 0, 0, 0, 9})
	home.Router.Advertise(home.Router.Advertisement())
	if _, err := home.Laptop.lookup(patience(t), "tcp", "origin.example"); err != nil {
		t.Fatal(err)
	}
	if err := capture.Stop(); err != nil {
		t.Fatal(err)
	}
	tshark := func(args ...string) string {
		t.Helper()
		args = append([]string{"-r", path, "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"}, args...)
		cmd := exec.CommandContext(patience(t), "tshark", args...)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("tshark (apt install tshark): %v: %s", err, &stderr)
		}
		return string(out)
	}
	bad := `_ws.malformed || _ws.expert.severity == "error" || ip.checksum.status == "Bad" || udp.checksum.status == "Bad" || icmpv6.checksum.status == "Bad"`
	if out := tshark("-Y", bad); out != "" {
		t.Errorf("tshark finds fault with:\n%s", out)
	}
	for _, c := range []struct {
		filter string
		want   map[string]string // by field, in some packet of these
	}{
		{"icmpv6.type == 134", map[string]string{
			"icmpv6.opt.prefix": "2001:db8:77::", "icmpv6.opt.rdnss": "2001:db8:77::1", "icmpv6.checksum.status": "1",
		}},
		{"dhcp.option.dhcp == 5", map[string]string{
			"dhcp.ip.your": "192.168.77.100", "dhcp.option.router": "192.168.77.1",
			"dhcp.option.domain_name_server": "192.168.77.1", "dhcp.option.ntp_server": "203.0.113.10",
			"dhcp.option.ip_address_lease_time": "3600",
		}},
		{"dns.a || dns.aaaa", map[string]string{"dns.a": "203.0.113.10", "dns.aaaa": "2001:db8:ffff::10"}},
	} {
		fields := slices.Sorted(maps.Keys(c.want))
		args := []string{"-Y", c.filter, "-T", "fields", "-E", "separator=;"}
		for _, f := range fields {
			args = append(args, "-e", f)
		}
		out := tshark(args...)
		for i, f := range fields {
			found := false
			for line := range strings.Lines(out) {
				found = found || strings.Split(strings.TrimSpace(line), ";")[i] == c.want[f]
			}
			if !found {
				t.Errorf("%s: no packet has %s = %s:\n%s", c.filter, f, c.want[f], out)
			}
		}
	}
}
