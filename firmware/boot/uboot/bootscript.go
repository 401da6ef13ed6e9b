// Package uboot makes what U-Boot needs to start a box: the boot script, the image
// format that the script is wrapped in, and the environment that makes U-Boot run
// it at once.
//
// The parties: the SoC's ROM starts U-Boot, which lies raw in front of the
// partitions. U-Boot reads its environment (uboot.env) and the script (boot.scr)
// from the factory partition; both are written when the medium is flashed and never
// again. The script chooses a slot and runs the slot's own script, slot.scr, which
// loads kernel, device tree and initramfs from the slot's FAT file system and starts
// them. Nothing here is signed: U-Boot trusts the medium, and whoever can write the
// medium owns the box.
//
// # From boot.scr to slot.scr
//
// boot.scr must outlive every update, so it knows as little as it can: not the
// kernel's name, not its arguments. What it does for slot.scr is all there is between
// the two. It loads slot.scr to scriptaddr and sources it, with
//
//	fw_iface      the boot disk's interface, "mmc"
//	fw_part       unit and partition of the slot, "0:2"
//	fw_name       the slot, a or b
//
// set as variables. A slot.scr that returns has failed.
//
// # The boot record
//
// For the same reason boot.scr knows from the first day on how the updater chooses a
// slot. The record is two copies in two 512-byte sectors. Each is a block as U-Boot's
// "env export -c" writes it and mkenvimage makes it:
//
//	bytes 0-3     CRC-32 (IEEE 802.3, little-endian) of bytes 4-511
//	bytes 4-      NAME=VALUE, NUL, NAME=VALUE, NUL, ..., NUL, zeros
//
//	fw_seq        sequence number, hexadecimal without prefix, from 1 up to 7fffffff
//	fw_slot       the committed slot, a or b
//	fw_try        the slot to try once, a or b; or none
//
// The copy with a good CRC and the higher sequence number holds. A writer overwrites
// the other one, with the next number, and so never the one that holds. If neither is
// good (a fresh medium has zeros there) the record reads as slot a, nothing to try.
//
// The script clears fw_try before it boots the trial, so whatever ends the trial
// leads back to fw_slot. When the record cannot be written there is no trial. A slot
// whose files cannot be loaded is passed over for the other one; if both fail the
// board resets after ten seconds and tries again. It never falls through to U-Boot's
// network boot: a box takes no orders from the home network.
package uboot

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Params is what the two scripts depend on.
type Params struct {
	// Device is the boot disk in U-Boot's words, such as "mmc 0".
	Device string
	// SlotA and SlotB are the slots' partition numbers.
	SlotA, SlotB int
	// Record are the two sectors of the boot record, as 512-byte block
	// addresses on Device, outside every partition and blob. If both are 0
	// there is no record and slot a comes first.
	Record [2]uint32

	// Kernel, Initrd and DTB are file names in the slot.
	Kernel, Initrd, DTB string
	// Start is the command that starts the kernel: "bootz" for a 32-bit ARM
	// zImage, "booti" for an arm64 Image.
	Start string
	// Args is the kernel command line. "fogwright.slot=a" or "=b" is added.
	Args []string
}

// What may stand in the script unquoted or in double quotes. U-Boot's shell is an
// old hush: it expands $ and splits at ; & | and newline, and its quoting has holes,
// so everything outside these sets is refused rather than escaped.
var (
	safeDevice = regexp.MustCompile(`^(mmc|usb|scsi|nvme|virtio|sata) [0-9]+$`)
	safeFile   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/+-]*$`)
	safeArg    = regexp.MustCompile(`^[A-Za-z0-9._/+,:=@%~^-]+$`)
)

// faults collects what is wrong with parameters.
type faults []error

func (f *faults) add(format string, a ...any) { *f = append(*f, fmt.Errorf(format, a...)) }

func (p Params) checkBoot() error {
	var f faults
	if !safeDevice.MatchString(p.Device) {
		f.add(`device %q is not of the form "mmc 0"`, p.Device)
	}
	if p.SlotA < 1 || p.SlotB < 1 || p.SlotA == p.SlotB {
		f.add("slots are partitions %d and %d: they must be two different ones, from 1", p.SlotA, p.SlotB)
	}
	if p.hasRecord() {
		if p.Record[0] == p.Record[1] || p.Record[0] == 0 || p.Record[1] == 0 {
			f.add("boot record sectors %d and %d: they must be two different ones, and not sector 0", p.Record[0], p.Record[1])
		}
		if !strings.HasPrefix(p.Device, "mmc ") {
			f.add("a boot record needs an mmc device, not %q", p.Device)
		}
	}
	return errors.Join(f...)
}

func (p Params) checkSlot() error {
	var f faults
	for _, file := range []struct{ what, name string }{{"kernel", p.Kernel}, {"initramfs", p.Initrd}, {"device tree", p.DTB}} {
		if !safeFile.MatchString(file.name) {
			f.add("%s file name %q: letters, digits and ._/+- only, for U-Boot's shell", file.what, file.name)
		}
	}
	if p.Start != "bootz" && p.Start != "booti" {
		f.add("start command %q is neither bootz nor booti", p.Start)
	}
	for _, a := range p.Args {
		if !safeArg.MatchString(a) {
			f.add("kernel argument %q: letters, digits and ._/+,:=@%%~^- only, for U-Boot's shell", a)
		}
	}
	return errors.Join(f...)
}

func (p Params) hasRecord() bool { return p.Record != [2]uint32{} }

// BootScript returns the text of boot.scr, which [Script] wraps. It depends on
// Device, SlotA, SlotB and Record. An error names every parameter that cannot stand
// in a script.
func BootScript(p Params) (string, error) {
	if err := p.checkBoot(); err != nil {
		return "", fmt.Errorf("writing U-Boot script %s: %w", ScriptFile, err)
	}
	iface, unit, _ := strings.Cut(p.Device, " ")
	record := ""
	if p.hasRecord() {
		record = recordScript(unit, p.Record)
	}
	// The loop's variable is the shell's own. fw_name is one of the environment,
	// so that slot.scr sees it, and must not have the same name: the shell looks
	// into the environment first, and the loop would stay at its first value.
	return fmt.Sprintf(`# Fogwright: choose a slot. Made by the builder; see package firmware/boot/uboot.
setenv fw_order a b
%[1]ssetenv fw_iface %[2]s
for fw_s in ${fw_order}; do
  setenv fw_name ${fw_s}
  if test ${fw_name} = a; then setenv fw_part %[3]s:%[4]d; else setenv fw_part %[3]s:%[5]d; fi
  echo fogwright: booting slot ${fw_name}
  if load ${fw_iface} ${fw_part} ${scriptaddr} %[6]s; then source ${scriptaddr}; fi
  echo fogwright: slot ${fw_name} does not boot
done
echo fogwright: no slot boots, resetting in 10 s
sleep 10
reset
`, record, iface, unit, p.SlotA, p.SlotB, SlotScriptFile), nil
}

// SlotScript returns the text of slot.scr, which [Script] wraps. It depends on
// Kernel, Initrd, DTB, Start and Args. An error names every parameter that cannot
// stand in a script.
//
// Load addresses are U-Boot's own (kernel_addr_r, fdt_addr_r, ramdisk_addr_r): who
// ported U-Boot to the board knows its memory. On Allwinner (U-Boot,
// include/configs/sunxi-common.h) with 512 MiB from 0x40000000 they are 0x42000000,
// 0x43000000 and 0x43400000, and U-Boot moves the initramfs to the end of the first
// 160 MiB (bootm_size), at the latest to 0x4a000000 less its size. An initramfs of up
// to 54 MiB therefore does not meet itself, the kernel (which unpacks to 0x40008000)
// or the device tree.
func SlotScript(p Params) (string, error) {
	if err := p.checkSlot(); err != nil {
		return "", fmt.Errorf("writing U-Boot script %s: %w", SlotScriptFile, err)
	}
	const load = "load ${fw_iface} ${fw_part} "
	// The initramfs is loaded last, because ${filesize} is of the last load.
	return fmt.Sprintf(`# Fogwright: start this slot. Made by the builder; see package firmware/boot/uboot.
if %[1]s${kernel_addr_r} %[2]s && %[1]s${fdt_addr_r} %[3]s && %[1]s${ramdisk_addr_r} %[4]s; then
  setenv bootargs "%[5]s"
  %[6]s ${kernel_addr_r} ${ramdisk_addr_r}:${filesize} ${fdt_addr_r}
fi
`, load, p.Kernel, p.DTB, p.Initrd, strings.Join(slices.Concat(p.Args, []string{"fogwright.slot=${fw_name}"}), " "), p.Start), nil
}

// recordScript reads the boot record and sets fw_order. Both copies are read into
// memory at ramdisk_addr_r, where nothing is loaded yet, and imported by name, so
// that a record can set these three variables and no others.
func recordScript(unit string, lba [2]uint32) string {
	const text = `setenv fw_slot a
setenv fw_try none
setenv fw_seq 0
setenv fw_seq0 0
setenv fw_seq1 0
setenv fw_older LBA0
setexpr fw_addr1 ${ramdisk_addr_r} + 200
mmc dev UNIT
if mmc read ${ramdisk_addr_r} LBA0 1 && env import -c ${ramdisk_addr_r} 200 fw_seq; then setenv fw_seq0 ${fw_seq}; fi
if mmc read ${fw_addr1} LBA1 1 && env import -c ${fw_addr1} 200 fw_seq; then setenv fw_seq1 ${fw_seq}; fi
setenv fw_seq 0
if itest 0x${fw_seq0} -gt 0x${fw_seq1}; then
  env import -c ${ramdisk_addr_r} 200 fw_seq fw_slot fw_try
  setenv fw_older LBA1
fi
if itest 0x${fw_seq1} -gt 0x${fw_seq0}; then
  env import -c ${fw_addr1} 200 fw_seq fw_slot fw_try
fi
if test "${fw_slot}" = b; then setenv fw_order b a; fi
if test "${fw_try}" = a || test "${fw_try}" = b; then
  setenv fw_trial ${fw_try}
  setenv fw_try none
  setexpr fw_seq ${fw_seq} + 1
  if env export -c -s 200 ${ramdisk_addr_r} fw_seq fw_slot fw_try && mmc write ${ramdisk_addr_r} ${fw_older} 1; then
    echo fogwright: slot ${fw_trial} is on trial
    setenv fw_order ${fw_trial} ${fw_order}
  fi
fi
`
	return strings.NewReplacer(
		"LBA0", fmt.Sprintf("0x%x", lba[0]),
		"LBA1", fmt.Sprintf("0x%x", lba[1]),
		"UNIT", unit,
	).Replace(text)
}
