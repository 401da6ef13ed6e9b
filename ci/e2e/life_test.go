//go:build e2e

package e2e

import (
	"testing"

	"github.com/fogwright/fogwright/firmware"
	"github.com/fogwright/fogwright/initramfs/state"
	"github.com/fogwright/fogwright/tools/rig"
)

// A reboot over the control channel is a real one, and what the box has fetched
// survives it: it shares again although the origin is gone.
func TestRebootKeepsSharing(t *testing.T) {
	b := image(t, "pc-amd64", firmware.Release)
	box := power(t, b, nil)
	before := until(t, b, box, "sharing")
	if err := box.Origin.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := box.Control.Reboot(budget(t, b)); err != nil {
		t.Fatal(err)
	}
	after := before
	for after.Boot.BootID == before.Boot.BootID {
		after = until(t, b, box, "sharing")
	}
	if fs := after.Storage.FileSystems["data"]; fs.Created {
		t.Errorf("the data file system was made anew: %+v", fs)
	}
	off(t, b, box)
	checkCard(t, b, box)
}

// A card that is moved to a larger one grows: the partition and, online, the file
// system that the box made, to 8 GiB; e2fsck finds nothing after it.
func TestGrowsOntoALargerCard(t *testing.T) {
	for _, board := range []string{"pc-amd64", "orangepi-pc"} { // GPT, MBR
		t.Run(board, func(t *testing.T) {
			b := image(t, board, firmware.Release)
			box := power(t, b, func(o *rig.Options) { o.Card = 1 << 30 })
			small := data(t, until(t, b, box, "sharing"))
			off(t, b, box)
			checkCard(t, b, box)

			large := power(t, b, func(o *rig.Options) { o.Image = box.Card(); o.Card = 8 << 30 })
			grown := data(t, until(t, b, large, "sharing"))
			off(t, b, large)
			checkCard(t, b, large)
			if grown.Created {
				t.Error("the data file system was made anew, not grown")
			}
			if grown.GrownBy <= 0 || grown.Size < 7<<30-128<<20 || small.Size > 1<<30 {
				t.Errorf("data was %d bytes, is %d, grown by %d; want about 7 GiB", small.Size, grown.Size, grown.GrownBy)
			}
		})
	}
}

func data(t *testing.T, s *state.Status) state.FileSystem {
	t.Helper()
	fs, ok := s.Storage.FileSystems["data"]
	if !ok || fs.Error != "" {
		t.Fatalf("data is not mounted: %+v", s.Storage)
	}
	return fs
}

// A power cut while the box shares does not need a hand to recover from.
func TestPowerCut(t *testing.T) {
	b := image(t, "orangepi-pc", firmware.Release)
	box := power(t, b, nil)
	until(t, b, box, "ready") // in the middle of its first fetch
	box.Machine.Kill()
	again := power(t, b, func(o *rig.Options) { o.Image = box.Card() })
	until(t, b, again, "sharing")
	off(t, b, again)
	checkCard(t, b, again)
}
