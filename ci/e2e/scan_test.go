//go:build e2e

package e2e

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/fogwright/fogwright/firmware"
	"github.com/fogwright/fogwright/initramfs/state"
)

var openPort = regexp.MustCompile(`(?m)^(\d+/\w+)\s+(\S+)`)

// nmap, a host on the home's network, tries all 65,535 TCP ports of the box on
// every address that it has: nothing but the workload's port answers.
func TestScanFromTheHomeNetwork(t *testing.T) {
	b := image(t, "pc-amd64", firmware.Release)
	box := power(t, b, nil)
	s := until(t, b, box, "sharing")
	host, err := box.Home.Namespace("scanner")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses(t, s) {
		args := []string{"-n", "-Pn", "-sS", "-p1-65535", "-T5", "--min-rate", "4000", "--max-retries", "3", "-oN", "-"}
		if a.Is6() {
			args = append(args, "-6")
		}
		cmd := host.Command(budget(t, b), "nmap", append(args, a.String())...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("nmap: %v\n%s", err, out)
		}
		var open []string
		for _, m := range openPort.FindAllStringSubmatch(string(out), -1) {
			if m[2] == "open" {
				open = append(open, m[1])
			}
		}
		if want := []string{"6881/tcp"}; !slices.Equal(open, want) {
			t.Errorf("%s: open ports %v, want %v\n%s", a, open, want, out)
		}
		if !strings.Contains(string(out), "1 IP address (1 host up) scanned") && !strings.Contains(string(out), "Nmap done") {
			t.Errorf("nmap did not finish:\n%s", out)
		}
	}
	// A scan is no reason to stop sharing.
	if s, err := box.Control.Status(budget(t, b)); err != nil || s.State != "sharing" {
		t.Errorf("after the scan: %v, %v", s, err)
	}
	off(t, b, box)
}

// addresses are the box's, without link-local ones.
func addresses(t *testing.T, s *state.Status) []netip.Addr {
	t.Helper()
	var all []netip.Addr
	for _, l := range s.Network.Links {
		for _, a := range l.Addresses {
			p, err := netip.ParsePrefix(a.CIDR)
			if err != nil {
				t.Fatal(err)
			}
			if !p.Addr().IsLinkLocalUnicast() {
				all = append(all, p.Addr())
			}
		}
	}
	if len(all) < 2 {
		t.Fatalf("the box has the addresses %v, want at least one of IPv4 and one of IPv6", all)
	}
	return all
}
