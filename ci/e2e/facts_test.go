//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fogwright/fogwright/boards"
	"github.com/fogwright/fogwright/firmware"
	"github.com/fogwright/fogwright/initramfs/state"
)

// The builder and the box have each their own type for board.json. What the one
// writes the other reads, with no field left over on either side.
func TestBoardFacts(t *testing.T) {
	for _, name := range boards.Names() {
		t.Run(name, func(t *testing.T) {
			b := image(t, name, firmware.Release)
			var text []byte
			for _, r := range initramfs(t, b) {
				if "/"+r.Name == state.BoardFile {
					var err error
					if text, err = io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize))); err != nil {
						t.Fatal(err)
					}
				}
			}
			var got state.Board
			d := json.NewDecoder(bytes.NewReader(text))
			d.DisallowUnknownFields()
			if err := d.Decode(&got); err != nil {
				t.Fatalf("%s: %v\n%s", state.BoardFile, err, text)
			}
			again, err := json.MarshalIndent(got, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(bytes.TrimSpace(text)), string(again)); diff != "" {
				t.Errorf("what the box makes of it (-builder +box):\n%s", diff)
			}
			if got.Name != name || len(got.Modules) == 0 || got.BuildTime == 0 || len(got.Disk.Partitions) != 5 {
				t.Errorf("facts are missing: %+v", got)
			}
		})
	}
}
