// Package uki authors unified kernel images: one EFI program that holds kernel,
// initramfs and command line.
//
// The parties: the EFI firmware starts the image and hands control to systemd's
// stub inside it; the stub finds the other parts by their section names and starts
// the kernel. The firmware checks the image's signature if Secure Boot is on, and
// by that checks every part, because there is nothing outside the file. Whoever can
// write the slot's partition can replace the file, so the slot is trusted exactly
// as far as whoever wrote it.
//
// The format is the UAPI Group's UAPI.5 specification on top of Microsoft's "PE
// Format". systemd's ukify is the reference author; what is the same here, and why,
// is said at each place. Unlike ukify this package pads every section to a multiple
// of 4 KiB in the file. A kernel and an initramfs then begin on the same block
// boundary in every release, which keeps binary patches between releases small.
//
// Equal input gives equal bytes: the stub's own time stamp is kept, and nothing else
// in the format depends on when or where it was made.
package uki

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// blockSize is what sections are padded to in the file: the block size of the slot's
// file system and of flash pages.
const blockSize = 4096

// maxSize bounds an image. PE's offsets have 32 bits; half of that is far more than
// any slot.
const maxSize = 1<<31 - 1

// UKI is the parts of one image.
type UKI struct {
	// Stub is systemd's EFI stub for the architecture (linuxx64.efi.stub,
	// linuxaa64.efi.stub), not signed.
	Stub []byte
	// Kernel is a kernel with its own EFI stub (CONFIG_EFI_STUB), Initrd an
	// initramfs archive. Both are required.
	Kernel, Initrd []byte
	// Cmdline is the kernel command line. It is required: without one the stub
	// would take it from whoever starts the image.
	Cmdline string
	// OSRelease is the text of an os-release file, shown by boot menus; Uname
	// is the kernel's release. Both may be empty.
	OSRelease, Uname string
	// DTB is a device tree that replaces the firmware's; usually nil.
	DTB []byte
}

// part is one section to add.
type part struct {
	name string
	data []byte
	off  int    // in the file
	raw  int    // bytes in the file: data and padding
	va   uint32 // in memory, from the image's base
	flag uint32
}

// Build returns the image. Stub, Kernel and Initrd are copied once. An error says
// which part is missing or cannot be used.
func (u UKI) Build() ([]byte, error) {
	if err := u.check(); err != nil {
		return nil, fmt.Errorf("building unified kernel image: %w", err)
	}
	h, err := parse(u.Stub)
	if err != nil {
		return nil, fmt.Errorf("building unified kernel image: EFI stub: %w", err)
	}
	if err := h.extendable(u.Stub); err != nil {
		return nil, fmt.Errorf("building unified kernel image: EFI stub: %w", err)
	}
	kernel, err := parse(u.Kernel)
	if err != nil {
		return nil, fmt.Errorf("building unified kernel image: kernel is not an EFI program: %w", err)
	}
	if kernel.machine != h.machine {
		return nil, fmt.Errorf("building unified kernel image: kernel is for PE machine %#x, EFI stub for %#x: take the stub of the kernel's architecture",
			kernel.machine, h.machine)
	}
	parts, err := u.layOut(h)
	if err != nil {
		return nil, fmt.Errorf("building unified kernel image: %w", err)
	}
	last := parts[len(parts)-1]
	out := make([]byte, last.off+last.raw)
	copy(out, u.Stub)
	for _, p := range parts {
		copy(out[p.off:], p.data)
	}
	if err := h.addSections(out, parts); err != nil {
		return nil, fmt.Errorf("building unified kernel image: EFI stub: %w", err)
	}
	// Firmware that enforces memory protection starts the kernel under the
	// outer image's promise, so the promise must hold for both (ukify does the
	// same).
	if kernel.dllFlags&nxCompat == 0 {
		le.PutUint16(out[h.opt+optDLLFlags:], h.dllFlags&^nxCompat)
	}
	le.PutUint32(out[h.opt+optCheckSum:], 0)
	le.PutUint32(out[h.opt+optCheckSum:], checksum(out))
	return out, nil
}

func (u UKI) check() error {
	var all []error
	for _, need := range []struct {
		name string
		none bool
	}{
		{"EFI stub", len(u.Stub) == 0},
		{"kernel", len(u.Kernel) == 0},
		{"initramfs", len(u.Initrd) == 0},
		{"kernel command line", u.Cmdline == ""},
	} {
		if need.none {
			all = append(all, fmt.Errorf("no %s given", need.name))
		}
	}
	for _, text := range []struct{ name, s string }{
		{"kernel command line", u.Cmdline}, {"os-release", u.OSRelease}, {"uname", u.Uname},
	} {
		if strings.ContainsRune(text.s, 0) {
			all = append(all, fmt.Errorf("%s contains a NUL byte, where the stub would cut it off", text.name))
		}
	}
	return errors.Join(all...)
}

// layOut places the sections behind the stub's, in the order in which ukify writes
// them. The kernel and the initramfs come last: they change most between releases,
// and nothing behind them has to move.
func (u UKI) layOut(h *header) ([]part, error) {
	all := []part{
		{name: ".osrel", data: []byte(u.OSRelease), flag: secData},
		{name: ".cmdline", data: []byte(u.Cmdline), flag: secData},
		{name: ".dtb", data: u.DTB, flag: secData},
		{name: ".uname", data: []byte(u.Uname), flag: secData},
		{name: ".linux", data: u.Kernel, flag: secCode},
		{name: ".initrd", data: u.Initrd, flag: secData},
	}
	var parts []part
	off, va := len(u.Stub), h.imageEnd()
	for _, p := range all {
		if len(p.data) == 0 {
			continue
		}
		// The padding is part of the section. A gap between sections would be
		// valid PE, but Authenticode hashes sections and then "the rest" from
		// the sum of their sizes, so signers and firmware disagree on files
		// with gaps.
		end := int64(off) + int64(len(p.data)) + blockSize
		if end > maxSize || int64(va)+int64(len(p.data))+blockSize > maxSize {
			return nil, fmt.Errorf("section %s of %d bytes makes the image larger than %d bytes", p.name, len(p.data), maxSize)
		}
		p.off, p.va = off, va
		p.raw = roundUp(roundUp(off+len(p.data), blockSize), int(h.fileAlign)) - off
		off += p.raw
		va = uint32(roundUp(int(va)+len(p.data), int(h.sectionAlign)))
		parts = append(parts, p)
	}
	return parts, nil
}

// Section is one named part of a PE image.
type Section struct {
	Name string
	Data []byte // without padding; shares memory with the image
}

// Sections lists a PE image's sections in the file's order: from a unified kernel
// image, ".linux" is the kernel and ".initrd" the initramfs. It reads images from
// anywhere: whatever the bytes, it returns sections that lie inside the image, or an
// error.
func Sections(image []byte) ([]Section, error) {
	h, err := parse(image)
	if err != nil {
		return nil, fmt.Errorf("reading sections of EFI program: %w", err)
	}
	all := make([]Section, 0, len(h.sections))
	for _, s := range h.sections {
		// VirtualSize is the content's size; a SizeOfRawData beyond it is
		// padding. The other way round the rest is zeros that are not in the
		// file.
		n := min(s.virtualSize, s.rawSize)
		all = append(all, Section{Name: s.name, Data: image[s.rawOff : s.rawOff+n : s.rawOff+n]})
	}
	return all, nil
}

func roundUp(n, to int) int { return (n + to - 1) / to * to }

// checksum is the PE image checksum: the 16-bit ones' complement sum of the file
// plus the file's length, where the checksum field itself counts as zero. No firmware
// looks at it, but signing tools write it.
func checksum(image []byte) uint32 {
	var sum uint64
	b := image
	for ; len(b) >= 8; b = b[8:] {
		v := le.Uint64(b)
		sum += v>>32 + v&0xffffffff
	}
	for i, c := range b {
		sum += uint64(c) << (8 * (i % 4))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint32(sum) + uint32(len(image))
}

var le = binary.LittleEndian

func cString(b []byte) string {
	name, _, _ := bytes.Cut(b, []byte{0})
	return string(name)
}
