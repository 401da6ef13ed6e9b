package firmware

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/fogwright/fogwright/boards"
	"github.com/fogwright/fogwright/firmware/boot/fdt"
	"github.com/fogwright/fogwright/firmware/boot/rpi"
	"github.com/fogwright/fogwright/firmware/boot/uboot"
	"github.com/fogwright/fogwright/firmware/boot/uki"
	"github.com/fogwright/fogwright/firmware/disk"
)

// Names of kernel and initramfs in a slot, for the chains that load them one by one.
const (
	SlotKernel = "vmlinuz"
	SlotInitrd = "initramfs.img"
)

// makeSlot makes the slot image: a FAT file system no larger than its contents,
// with what this board's boot chain wants to find.
func (b *build) makeSlot(context.Context) (string, error) {
	files, err := b.slotFiles()
	if err != nil {
		return "", err
	}
	p := b.partition("slot-a")
	b.slot, err = disk.FAT{Label: "SLOT", Serial: p.Serial, Time: b.Epoch, Files: files}.Build()
	if err != nil {
		return "", err
	}
	size, limit, key := b.slot.Size(), int64(b.Board.Budget.Slot), "budget.max_slot_bytes"
	if b.Variant == Dev { // the budget is for what is shipped; this only has to fit
		limit, key = p.Size, "disk.slot"
	}
	if size > limit {
		return "", fmt.Errorf("%s: the slot has %d bytes and may have %d: take out modules, or raise the limit", b.Board.Position(key), size, limit)
	}
	return fmt.Sprintf("%.1f of at most %.1f MiB", float64(size)/(1<<20), float64(limit)/(1<<20)), nil
}

func (b *build) partition(name string) boards.Partition {
	for _, p := range b.Board.Layout().Partitions {
		if p.Name == name {
			return p
		}
	}
	return boards.Partition{}
}

func (b *build) slotFiles() ([]disk.File, error) {
	switch b.Board.Boot.Chain {
	case boards.UEFI:
		return b.uefiSlot()
	case boards.UBoot:
		return b.ubootSlot()
	case boards.RPi:
		return b.rpiSlot()
	}
	return nil, fmt.Errorf("boot chain %q is not known", b.Board.Boot.Chain)
}

// args is the kernel command line. Panics lead to a reset within ten seconds, so
// that a slot on trial falls back by itself. Of the kernel's own messages only
// errors go to the console, which is slow; the log has them all.
func (b *build) args() []string {
	return append([]string{"panic=10", "oops=panic", "loglevel=4"}, b.Board.Kernel.Args...)
}

// fallback is where UEFI firmware looks on a disk that it knows nothing about
// (UEFI Specification 2.10, section 3.5.1.1).
var fallback = map[string]string{"amd64": "EFI/BOOT/BOOTX64.EFI", "arm64": "EFI/BOOT/BOOTAA64.EFI"}

func (b *build) uefiSlot() ([]disk.File, error) {
	stub, err := b.file(b.Board.Boot.Stub.Package, b.Board.Boot.Stub.Path)
	if err != nil {
		return nil, err
	}
	image, err := uki.UKI{
		Stub: stub, Kernel: b.image, Initrd: b.initrd,
		Cmdline:   strings.Join(b.args(), " "),
		OSRelease: fmt.Sprintf("ID=fogwright\nNAME=Fogwright\nPRETTY_NAME=\"Fogwright %s for %s\"\nVERSION_ID=%s\n", b.Version, b.Board.Name, b.Version),
		Uname:     b.kernel.Release,
	}.Build()
	if err != nil {
		return nil, err
	}
	return []disk.File{{Path: fallback[b.Board.Arch], Data: image}}, nil
}

// deviceTrees reads the board's device trees, with the board's changes made.
func (b *build) deviceTrees() ([]disk.File, error) {
	var files []disk.File
	for _, d := range b.Board.Kernel.DeviceTrees {
		blob, err := b.kernel.DeviceTree(d.Path)
		if err != nil {
			return nil, err
		}
		if blob, err = fdt.Delete(blob, d.Delete...); err == nil {
			blob, err = fdt.Enable(blob, d.Enable...)
		}
		if err != nil {
			return nil, fmt.Errorf("device tree %s: %w", d.Path, err)
		}
		files = append(files, disk.File{Path: path.Base(d.Path), Data: blob})
	}
	return files, nil
}

func (b *build) ubootSlot() ([]disk.File, error) {
	files, err := b.deviceTrees()
	if err != nil {
		return nil, err
	}
	text, err := uboot.SlotScript(b.ubootParams())
	if err != nil {
		return nil, err
	}
	script, err := uboot.Script(text, "Fogwright", b.Epoch)
	if err != nil {
		return nil, err
	}
	return append(files,
		disk.File{Path: uboot.SlotScriptFile, Data: script},
		disk.File{Path: SlotKernel, Data: b.image},
		disk.File{Path: SlotInitrd, Data: b.initrd}), nil
}

func (b *build) rpiSlot() ([]disk.File, error) {
	files, err := b.deviceTrees()
	if err != nil {
		return nil, err
	}
	texts, err := rpi.Slot(b.rpiParams())
	if err != nil {
		return nil, err
	}
	files = append(files, named(texts)...)
	firmware, err := b.files(b.Board.Boot.SlotFiles)
	if err != nil {
		return nil, err
	}
	return append(append(files, firmware...),
		disk.File{Path: SlotKernel, Data: b.image},
		disk.File{Path: SlotInitrd, Data: b.initrd}), nil
}

func (b *build) rpiParams() rpi.Params {
	return rpi.Params{
		SlotA: b.partition("slot-a").Number, SlotB: b.partition("slot-b").Number,
		Kernel: SlotKernel, Initrd: SlotInitrd, DTB: b.deviceTreeName(),
		Arm64: b.Board.Arch == "arm64", Args: b.args(), Config: b.Board.Boot.Config,
	}
}

// deviceTreeName is the file of the one device tree that the loader is told.
func (b *build) deviceTreeName() string { return path.Base(b.Board.Kernel.DeviceTrees[0].Path) }

// files reads the board's listed files under their names on the partition.
func (b *build) files(list []boards.File) ([]disk.File, error) {
	var out []disk.File
	for _, f := range list {
		data, err := b.file(f.Package, f.Path)
		if err != nil {
			return nil, err
		}
		out = append(out, disk.File{Path: cmp.Or(f.To, path.Base(f.Path)), Data: data})
	}
	return out, nil
}

// named turns texts by name into files, in the order of their names.
func named(texts map[string][]byte) []disk.File {
	var files []disk.File
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		files = append(files, disk.File{Path: name, Data: texts[name]})
	}
	return files
}

// startCommand is U-Boot's, by architecture.
var startCommand = map[string]string{"arm": "bootz", "arm64": "booti"}

// loaderFiles are what the boot chain needs on the factory partition.
func (b *build) loaderFiles() ([]disk.File, error) {
	switch b.Board.Boot.Chain {
	case boards.UBoot:
		return b.ubootLoader()
	case boards.RPi:
		texts, err := rpi.Factory(b.rpiParams())
		if err != nil {
			return nil, err
		}
		firmware, err := b.files(b.Board.Boot.Files)
		return append(named(texts), firmware...), err
	}
	return nil, nil // UEFI finds the slots by itself
}

// ubootLoader is what U-Boot finds on the factory partition: the script that
// chooses a slot, and the environment that leads straight to it.
func (b *build) ubootLoader() ([]disk.File, error) {
	p := b.ubootParams()
	text, err := uboot.BootScript(p)
	if err != nil {
		return nil, err
	}
	script, err := uboot.Script(text, "Fogwright", b.Epoch)
	if err != nil {
		return nil, err
	}
	files := []disk.File{{Path: uboot.ScriptFile, Data: script}}
	if b.Board.Boot.Environment == 0 {
		return files, nil
	}
	vars, err := uboot.Autostart(p.Device, b.partition("factory").Number)
	if err != nil {
		return nil, err
	}
	environment, err := uboot.Environment(vars, int(b.Board.Boot.Environment))
	return append(files, disk.File{Path: uboot.EnvironmentFile, Data: environment}), err
}

func (b *build) ubootParams() uboot.Params {
	p := uboot.Params{
		Device: b.Board.Boot.Device,
		SlotA:  b.partition("slot-a").Number, SlotB: b.partition("slot-b").Number,
		Kernel: SlotKernel, Initrd: SlotInitrd, DTB: b.deviceTreeName(),
		Start: startCommand[b.Board.Arch], Args: b.args(),
	}
	for i, offset := range b.Board.Boot.Record {
		p.Record[i] = uint32(offset / 512)
	}
	return p
}
