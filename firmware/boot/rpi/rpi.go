// Package rpi writes the text files by which the Raspberry Pi's firmware starts a
// box.
//
// The parties: the boot ROM (and on a Pi 4 the loader in its EEPROM) reads
// autoboot.txt on the first FAT partition, the factory partition, and learns there
// which partition is the slot to boot. In that slot the firmware (start*.elf) reads
// config.txt and cmdline.txt and starts kernel, device tree and initramfs. The
// firmware trusts the medium as it finds it. autoboot.txt is written when the medium
// is flashed and, later, by the updater at a commit; config.txt and cmdline.txt are
// part of the slot and come with each update.
//
// The facts are from the Raspberry Pi documentation, pages "config.txt" (sections
// "autoboot.txt", "Boot options", "Conditional filters") and "Device Trees,
// overlays, and parameters" (section "Firmware parameters"). The firmware cannot be
// run here, so what this package writes is checked for its form only.
//
// # Which slot is this?
//
// Both slots hold the same bytes and so the same command line. The box learns its
// slot from the firmware, which puts the partition number that it booted from into
// the device tree: /proc/device-tree/chosen/bootloader/partition, 32 bits,
// big-endian. It has been documented since November 2022 (raspberrypi/documentation,
// pull request 2701); some loaders of the Pi 5 put 0 there (rpi-eeprom, issue 575).
//
// # Trying a slot once
//
// A reboot with the flag "tryboot" makes the firmware read the [tryboot] section for
// one boot; the flag is gone before anything of the slot runs. tryboot_a_b=1 says
// that the two differ by partition and not by file names (config.txt against
// tryboot.txt). Partition numbers are those of the MBR, 1 to 4. Mainline Linux cannot
// pass the flag on with reboot(2); it has to be set through the firmware's mailbox
// (rpi-eeprom, issue 716).
package rpi

import (
	"errors"
	"fmt"
	"strings"
)

// Limits of the firmware's readers ("config.txt", sections "File format" and
// "autoboot.txt"): longer lines are cut off without a word.
const (
	maxLine     = 98
	maxAutoboot = 512
)

// Params is what the files depend on.
type Params struct {
	// SlotA and SlotB are the slots' partition numbers, 1 to 4.
	SlotA, SlotB int
	// Kernel, Initrd and DTB are file names in the slot.
	Kernel, Initrd, DTB string
	// Arm64 starts the kernel in 64-bit mode.
	Arm64 bool
	// Args is the kernel command line.
	Args []string
	// Config is further lines of config.txt, after ours, so that they win.
	Config []string
}

// Factory returns the files for the factory partition, by name: autoboot.txt, with
// slot a as the default.
func Factory(p Params) (map[string][]byte, error) {
	for _, n := range []int{p.SlotA, p.SlotB} {
		if n < 1 || n > 4 {
			return nil, fmt.Errorf("writing autoboot.txt: slot in partition %d: the firmware boots MBR partitions 1 to 4", n)
		}
	}
	if p.SlotA == p.SlotB {
		return nil, fmt.Errorf("writing autoboot.txt: both slots are partition %d", p.SlotA)
	}
	text := fmt.Sprintf("[all]\ntryboot_a_b=1\nboot_partition=%d\n[tryboot]\nboot_partition=%d\n", p.SlotA, p.SlotB)
	if len(text) > maxAutoboot {
		return nil, fmt.Errorf("writing autoboot.txt: %d bytes, the firmware reads %d", len(text), maxAutoboot)
	}
	return map[string][]byte{"autoboot.txt": []byte(text)}, nil
}

// Slot returns the files for a slot, by name: config.txt and cmdline.txt. An error
// names everything that the firmware would misread.
func Slot(p Params) (map[string][]byte, error) {
	var all []error
	for _, f := range []struct{ what, name string }{{"kernel", p.Kernel}, {"initramfs", p.Initrd}, {"device tree", p.DTB}} {
		// A comma would make it a list of files (section "initramfs").
		if f.name == "" || strings.ContainsAny(f.name, " ,\t\r\n") {
			all = append(all, fmt.Errorf("%s file name %q cannot stand in config.txt", f.what, f.name))
		}
	}
	for _, a := range p.Args {
		if a == "" || strings.ContainsAny(a, "\r\n\x00") {
			all = append(all, fmt.Errorf("kernel argument %q cannot stand in cmdline.txt, which is one line", a))
		}
	}
	lines := []string{
		"# Made by the builder of Fogwright; a slot is replaced as a whole.",
		"[all]",
		"kernel=" + p.Kernel,
		// No equals sign here, unlike everywhere else.
		"initramfs " + p.Initrd + " followkernel",
		"device_tree=" + p.DTB,
		// The serial console; it also fixes the core clock that the mini
		// UART's speed is derived from.
		"enable_uart=1",
		"disable_splash=1",
		// The default is one second, for SD cards that need a while.
		"boot_delay=0",
	}
	if p.Arm64 {
		lines = append(lines, "arm_64bit=1")
	}
	lines = append(lines, p.Config...)
	for _, l := range lines {
		if len(l) > maxLine || strings.ContainsAny(l, "\r\n\x00") {
			all = append(all, fmt.Errorf("config.txt line %q: one line of up to %d characters", l, maxLine))
		}
	}
	if err := errors.Join(all...); err != nil {
		return nil, fmt.Errorf("writing Raspberry Pi slot files: %w", err)
	}
	return map[string][]byte{
		"config.txt":  []byte(strings.Join(lines, "\n") + "\n"),
		"cmdline.txt": []byte(strings.Join(p.Args, " ") + "\n"),
	}, nil
}
