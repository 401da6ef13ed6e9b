//go:build e2e

package e2e

import (
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fogwright/fogwright/firmware"
	"github.com/fogwright/fogwright/firmware/disk"
	"github.com/fogwright/fogwright/initramfs/state"
	"github.com/fogwright/fogwright/tools/lab"
	"github.com/fogwright/fogwright/tools/rig"
)

// Each board, through as much of its own boot chain as QEMU models: the box comes
// up, gets its addresses, shares, is fetched from, and shuts down leaving clean
// file systems that fill the card.
func TestBoot(t *testing.T) {
	for _, tt := range []struct {
		board   string
		console []string // what its own loaders say on the way
	}{
		{"pc-amd64", []string{"BdsDxe: starting"}},
		{"pc-arm64", []string{"BdsDxe: starting"}},
		{"orangepi-pc", []string{"U-Boot SPL 2", "U-Boot 2", "fogwright: booting slot a", "Starting kernel"}},
		{"rpi3", nil}, // QEMU has no model of its boot ROM; see its proof
	} {
		t.Run(tt.board, func(t *testing.T) {
			b := image(t, tt.board, firmware.Release)
			box := power(t, b, nil)
			s := until(t, b, box, "sharing")
			for _, said := range tt.console {
				if !strings.Contains(box.Machine.Console(), said) {
					t.Errorf("the console never said %q", said)
				}
			}
			checkAddresses(t, box, s)
			checkClosed(t, s)
			if s.Board.Version != "1.2.3" || s.Board.Name != tt.board {
				t.Errorf("the box says it is %s %s, want %s 1.2.3", s.Board.Name, s.Board.Version, tt.board)
			}
			if want := "a"; s.Boot.Slot != want && tt.board != "rpi3" {
				t.Errorf("slot = %q, want %q", s.Boot.Slot, want)
			}
			fetchWithOriginGone(t, b, box)
			off(t, b, box)
			checkCard(t, b, box)
		})
	}
}

// checkAddresses: one by DHCP, the one that the router gave it; one by RA, in the
// router's prefix.
func checkAddresses(t *testing.T, box *rig.Rig, s *state.Status) {
	t.Helper()
	prefix := netip.MustParsePrefix("2001:db8:77::/64")
	var byDHCP, byRA bool
	for _, l := range s.Network.Links {
		mac, err := net.ParseMAC(l.MAC)
		if err != nil {
			t.Fatalf("link %s: %v", l.Name, err)
		}
		lease, _ := box.Home.Router.Lease(lab.MAC(mac))
		for _, a := range l.Addresses {
			p, err := netip.ParsePrefix(a.CIDR)
			if err != nil {
				t.Errorf("address %q: %v", a.CIDR, err)
				continue
			}
			byDHCP = byDHCP || a.Source == "dhcp" && p.Addr() == lease
			byRA = byRA || a.Source == "ra" && prefix.Contains(p.Addr())
		}
	}
	if !byDHCP {
		t.Errorf("no address from DHCP that the router gave out, in %+v", s.Network.Links)
	}
	if !byRA {
		t.Errorf("no address in %v from RA in %+v", prefix, s.Network.Links)
	}
}

// checkClosed: nothing answers but what the workload declares.
func checkClosed(t *testing.T, s *state.Status) {
	t.Helper()
	var declared []string
	for _, w := range s.Workloads {
		for _, p := range w.Ports { // tcp/6881
			proto, port, _ := strings.Cut(p, "/")
			declared = append(declared, proto+" 0.0.0.0:"+port, proto+" [::]:"+port)
		}
	}
	if len(s.Listening) == 0 {
		t.Error("nothing listens, not even the workload")
	}
	for _, l := range s.Listening {
		if !slices.Contains(declared, l) {
			t.Errorf("%s listens; declared are %v", l, declared)
		}
	}
}

// fetchWithOriginGone: aria2 has the whole content from the box alone.
func fetchWithOriginGone(t *testing.T, b *built, box *rig.Rig) {
	t.Helper()
	if err := box.Origin.Stop(); err != nil {
		t.Fatal(err)
	}
	aria2, err := exec.LookPath("aria2c")
	if err != nil {
		t.Fatalf("%v: run ci/setup.sh test", err)
	}
	got, err := box.Fetch(budget(t, b), aria2, box.Content[0])
	if err != nil {
		t.Fatal(err)
	}
	if want := box.Content[0].Size; got.Size != want || want < 1<<20 {
		t.Errorf("fetched %d bytes, want %d", got.Size, want)
	}
	s, err := box.Control.Status(budget(t, b))
	if err != nil {
		t.Fatal(err)
	}
	if served := s.Workloads[0].Report.BytesServed; served < got.Size {
		t.Errorf("the box states %d bytes served, and %d were fetched", served, got.Size)
	}
}

// checkCard: after the clean shutdown, e2fsck finds nothing on the file systems
// that the box made, and data fills the card.
func checkCard(t *testing.T, b *built, box *rig.Rig) {
	t.Helper()
	size, partitions := table(t, box.Card())
	for _, p := range b.plan.Board.Layout().Partitions {
		now := partitions[p.Number]
		switch p.Name {
		case "data":
			if end := now.Offset + now.Size; size-end > 2<<20 {
				t.Errorf("data ends at %d, %d bytes short of the card's end", end, size-end)
			}
			fallthrough
		case "state":
			file := filepath.Join(t.TempDir(), p.Name)
			cut(t, box.Card(), file, now)
			tool(t, "e2fsck", "-fn", file)
			blocks := tool(t, "dumpe2fs", "-h", file)
			if p.Name == "data" {
				wantBlocks(t, blocks, now)
			}
		default:
			if now.Offset != p.Offset || now.Size != p.Size {
				t.Errorf("partition %s moved: %+v", p.Name, now)
			}
		}
	}
}

// table reads the card's partition table with our own reader, after sfdisk has
// found nothing wrong with it.
func table(t *testing.T, card string) (size int64, partitions map[int]disk.Partition) {
	t.Helper()
	tool(t, "sfdisk", "--verify", card)
	f, info := openFile(t, card)
	tab, err := disk.ReadTable(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	partitions = map[int]disk.Partition{}
	for _, p := range tab.Partitions {
		partitions[p.Number] = p
	}
	return info.Size(), partitions
}
