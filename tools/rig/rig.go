// Package rig sets a built image up as a box in a virtual home: what `fogwright run`
// and the end-to-end tests stand on.
//
// It does what a person would with a real box. The image is copied to a card, a
// site.toml is put on its factory partition, the box is plugged into the home's
// network and switched on, and then it is watched from outside: its console, its
// control channel, and what it offers on the network. The image itself is never
// changed.
package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fogwright/fogwright/boards"
	"github.com/fogwright/fogwright/firmware"
	"github.com/fogwright/fogwright/firmware/disk"
	"github.com/fogwright/fogwright/firmware/source"
	"github.com/fogwright/fogwright/initramfs/control"
	"github.com/fogwright/fogwright/initramfs/site"
	"github.com/fogwright/fogwright/initramfs/state"
	"github.com/fogwright/fogwright/tools/lab"
)

// Options say what to set up. Board, Image and Packages are required.
type Options struct {
	Board *boards.Board
	// Image is the built NAME.img.
	Image string
	// Packages is where QEMU's EFI firmware comes from.
	Packages source.Config
	// Card is the size of the card the image is copied to; 0: 8 GiB, the
	// flash of a small box.
	Card int64
	// Site is put in front of the lab's own site configuration.
	Site string
	// Files are further files for the factory partition.
	Files map[string][]byte
	// Content is what the box is to share; nil: [DemoContent] for its board.
	Content []lab.Content
	// Console gets the box's console as it comes; may be nil.
	Console io.Writer
	// Memory overrides the machine's memory, bytes; 0: as the board says.
	Memory boards.Size
	// Home is what the virtual home is like; zero: an ordinary one.
	Home lab.Options
}

// DemoContent is what a box of that board shares when nobody says otherwise: 16 MiB
// and a bit, so that the last piece is a short one. QEMU's USB network card brings
// 0.2 MB/s (full speed, a few packets in each frame of a millisecond), so a board
// that has only that gets a sixteenth.
func DemoContent(b *boards.Board) []lab.Content {
	size := int64(16<<20 + 12345)
	if b.QEMU != nil && b.QEMU.NIC == "usb-net" {
		size /= 16
	}
	return []lab.Content{{Name: "demo.bin", Size: size, Seed: 1}}
}

// Rig is one box in one home.
type Rig struct {
	Home    *lab.Home
	Machine *lab.Machine
	Origin  *lab.Origin
	Content []lab.Content
	Control *control.Client
	PowerOn time.Time

	dir string // of the card and what QEMU is handed
}

const (
	// defaultCard is the flash of the boxes that Fogwright is first for.
	defaultCard = 8 << 30
	// PeerPort is where a box's edge cache takes BitTorrent connections.
	PeerPort = 6881
)

// Start sets the box up and switches it on. Close it.
func Start(ctx context.Context, o Options) (*Rig, error) {
	r := &Rig{Content: o.Content}
	if r.Content == nil {
		r.Content = DemoContent(o.Board)
	}
	if err := r.start(ctx, o); err != nil {
		return nil, errors.Join(fmt.Errorf("setting up %s: %w", o.Board.Name, err), r.Close())
	}
	return r, nil
}

func (r *Rig) start(ctx context.Context, o Options) error {
	if o.Board.QEMU == nil {
		return errors.New("its board.toml has no [qemu] section: no machine models it")
	}
	dir, err := os.MkdirTemp("", "fogwright-rig-")
	if err != nil {
		return err
	}
	r.dir = dir
	if r.Home, err = lab.NewHome(o.Home); err != nil {
		return err
	}
	if _, err := r.Home.Internet.NTP("ntp.example", time.Now, netip.MustParseAddr("203.0.113.123")); err != nil {
		return err
	}
	addresses := []netip.Addr{netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("2001:db8:ffff::10")}
	if r.Origin, err = r.Home.Internet.Origin("origin.example", addresses, r.Content...); err != nil {
		return err
	}
	spec := lab.Spec{
		Name: o.Board.Name, Arch: o.Board.Arch, QEMU: *o.Board.QEMU, Memory: o.Board.Memory,
		Image: filepath.Join(dir, "card.img"), Console: o.Console,
	}
	if o.Memory != 0 {
		spec.QEMU.Memory = o.Memory
	}
	if err := r.makeCard(o, spec.Image); err != nil {
		return err
	}
	if err := r.efi(ctx, o, &spec); err != nil {
		return err
	}
	if spec.QEMU.Boot == "direct" {
		if err := r.direct(o, &spec); err != nil {
			return err
		}
	}
	r.PowerOn = time.Now()
	if r.Machine, err = r.Home.PowerOn(ctx, spec); err != nil {
		return err
	}
	line, err := r.Machine.Control()
	if err != nil {
		return err
	}
	r.Control = control.NewStreamClient(line)
	return nil
}

// makeCard copies the image to a card and provisions it.
func (r *Rig) makeCard(o Options, card string) error {
	info, err := os.Stat(o.Image)
	if err != nil {
		return fmt.Errorf("%w (build it first: fogwright build -board %s)", err, o.Board.Name)
	}
	size := o.Card
	if size == 0 {
		size = defaultCard
	}
	if err := disk.CopySparse(card, o.Image, disk.CardSize(max(size, info.Size()))); err != nil {
		return err
	}
	text := o.Site + r.labSite(o.Board)
	if _, err := site.Parse(site.File, []byte(text)); err != nil {
		return err
	}
	changes := map[string][]byte{site.File: []byte(text)}
	for name, data := range o.Files {
		changes[name] = data
	}
	return disk.Provision(card, changes)
}

// labSite is the owner's configuration in this home.
func (r *Rig) labSite(b *boards.Board) string {
	var s strings.Builder
	fmt.Fprintf(&s, "ntp = [%q]\n", "ntp.example")
	if uart := b.QEMU.ControlUART; uart != "" {
		fmt.Fprintf(&s, "\n[control]\nuart = %q\n", uart)
	}
	for _, c := range r.Content {
		fmt.Fprintf(&s, "\n[[content]]\ntorrent = %q\ninfo_hash = %q\n", r.Origin.TorrentURL(c), c.InfoHash())
	}
	return s.String()
}

// efi takes the EFI firmware out of its package.
func (r *Rig) efi(ctx context.Context, o Options, spec *lab.Spec) error {
	if o.Board.QEMU.Firmware == nil {
		return nil
	}
	store, err := source.Open(o.Packages)
	if err != nil {
		return err
	}
	packages, err := store.Fetch(ctx, firmware.NeedsToRun(o.Board))
	if err != nil {
		return err
	}
	save := func(f *boards.File) (string, error) {
		if f == nil {
			return "", nil
		}
		for _, p := range packages {
			if p.Name == f.Package {
				data, err := fs.ReadFile(p.FS(), f.Path)
				if err != nil {
					return "", fmt.Errorf("%s of %s: %w", f.Path, f.Package, err)
				}
				return r.save(filepath.Base(f.Path), data)
			}
		}
		return "", fmt.Errorf("package %s was not fetched", f.Package)
	}
	if spec.Firmware, err = save(o.Board.QEMU.Firmware); err != nil {
		return err
	}
	spec.Variables, err = save(o.Board.QEMU.Variables)
	return err
}

func (r *Rig) save(name string, data []byte) (string, error) {
	path := filepath.Join(r.dir, name)
	return path, os.WriteFile(path, data, 0o600)
}

// direct takes kernel, initramfs, device tree and command line out of the image's
// first slot, for machines that have no model of the boot ROM.
func (r *Rig) direct(o Options, spec *lab.Spec) error {
	var slot int
	for _, p := range o.Board.Layout().Partitions {
		if p.Name == "slot-a" {
			slot = p.Number
		}
	}
	files, err := disk.Files(o.Image, slot)
	if err != nil {
		return err
	}
	found := map[string][]byte{}
	for _, f := range files {
		found[f.Path] = f.Data
	}
	tree := filepath.Base(o.Board.Kernel.DeviceTrees[0].Path)
	for name, to := range map[string]*string{firmware.SlotKernel: &spec.Kernel, firmware.SlotInitrd: &spec.Initrd, tree: &spec.DeviceTree} {
		data, ok := found[name]
		if !ok {
			return fmt.Errorf("the slot of %s has no %s", o.Image, name)
		}
		if *to, err = r.save(name, data); err != nil {
			return err
		}
	}
	spec.Args = strings.Join(append([]string{strings.TrimSpace(string(found["cmdline.txt"]))}, o.Board.QEMU.Args...), " ")
	return nil
}

// Until waits until the box says of itself that it is in that state ("sharing",
// see state.Status) or a better one. When ctx ends first, or the machine does, the
// error says where the box was.
func (r *Rig) Until(ctx context.Context, word string) (*state.Status, error) {
	var last *state.Status
	for {
		s, err := r.Control.Status(ctx)
		if err == nil {
			last = s
			if reached(s, word) {
				return s, nil
			}
		}
		select {
		case <-r.Machine.Done():
			return last, fmt.Errorf("the machine switched off before it was %s", word)
		case <-ctx.Done():
			at := "its control channel never answered"
			if last != nil {
				at = "it is " + last.State
			}
			return last, fmt.Errorf("waiting for the box to be %s: %w; %s", word, context.Cause(ctx), at)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// reached tells whether the box is as far as word.
func reached(s *state.Status, word string) bool {
	switch word {
	case "ready":
		return s.Boot.Ready
	case "online":
		return s.Boot.Ready && s.Network.Online
	}
	return s.State == word
}

// halted begins the kernel's last word, "Power down" or "Power off not available:
// System halted instead" (kernel/reboot.c). By then file systems are unmounted.
const halted = "reboot: Power "

// PowerOff shuts the box down in good order and waits for it to be off. A machine
// without a power switch that Linux knows how to throw, as the Orange Pi's model,
// only halts; then its plug is pulled.
func (r *Rig) PowerOff(ctx context.Context) error {
	if err := r.Control.PowerOff(ctx); err != nil {
		return err
	}
	if err := r.Machine.WaitConsole(ctx, halted); err != nil {
		return err
	}
	select {
	case <-r.Machine.Done():
	case <-time.After(2 * time.Second):
		r.Machine.Kill()
	}
	return r.Machine.Wait(ctx)
}

// Card is the file that the box runs from, for a look at it when it is off.
func (r *Rig) Card() string { return filepath.Join(r.dir, "card.img") }

// Close cuts the power, if it is on, and clears up.
func (r *Rig) Close() error {
	var all []error
	if r.Control != nil {
		all = append(all, r.Control.Close())
	}
	if r.Home != nil {
		all = append(all, r.Home.Close())
	}
	if r.dir != "" {
		all = append(all, os.RemoveAll(r.dir))
	}
	return errors.Join(all...)
}
