package boot

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf16"

	"golang.org/x/sys/unix"

	"github.com/fogwright/fogwright/initramfs/state"
)

// loaderDevice is the variable in which systemd's EFI stub says which partition it
// was started from (the Boot Loader Interface, systemd.io/BOOT_LOADER_INTERFACE).
const loaderDevice = "LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"

// findSlot is the phase: which slot this boot came from, in the loader's words.
// It comes after storage, when the disk's partitions are there. Not to know is no
// error: a kernel that a tester started directly came from no slot.
func (p *initProcess) findSlot(context.Context) error {
	slot, err := bootSlot("/", p.board.Disk)
	p.change(func(b *state.Boot) { b.Slot = slot })
	if slot == "" {
		p.console.Printf("slot unknown")
	} else {
		p.console.Printf("slot %s", slot)
	}
	return err
}

// bootSlot asks, in this order: the kernel command line (written by our U-Boot
// script), the EFI stub, the Raspberry Pi's firmware. root is "/" but in tests.
func bootSlot(root string, disk state.Disk) (string, error) {
	cmdline, err := os.ReadFile(filepath.Join(root, "proc/cmdline"))
	if err != nil {
		return "", fmt.Errorf("finding the boot slot: %w", err)
	}
	for _, word := range strings.Fields(string(cmdline)) {
		if slot, ok := strings.CutPrefix(word, "fogwright.slot="); ok && (slot == "a" || slot == "b") {
			return slot, nil
		}
	}
	if efi := filepath.Join(root, "sys/firmware/efi"); exists(efi) {
		return efiSlot(root, filepath.Join(efi, "efivars"), disk)
	}
	pi := filepath.Join(root, "proc/device-tree/chosen/bootloader/partition")
	b, err := os.ReadFile(pi)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil || len(b) != 4 {
		return "", fmt.Errorf("finding the boot slot: %s holds %d bytes, want 4: %w", pi, len(b), err)
	}
	number := int(binary.BigEndian.Uint32(b)) // all of a device tree is big-endian
	return slotWhere(func(name string) bool { return disk.Partitions[name] == number }), nil
}

// slotWhere is the slot whose partition is the one meant, or "".
func slotWhere(meant func(partition string) bool) string {
	for _, slot := range []string{"a", "b"} {
		if meant("slot-" + slot) {
			return slot
		}
	}
	return ""
}

// efiSlot is the slot whose partition the EFI stub names.
func efiSlot(root, efivars string, disk state.Disk) (string, error) {
	path := filepath.Join(efivars, loaderDevice)
	if root == "/" && !exists(path) {
		err := unix.Mount("efivarfs", efivars, "efivarfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		if err != nil && !errors.Is(err, unix.EBUSY) {
			return "", fmt.Errorf("finding the boot slot: mounting efivarfs: %w", err)
		}
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // started by something other than our stub
	}
	if err != nil {
		return "", fmt.Errorf("finding the boot slot: %w", err)
	}
	guid := efiString(b)
	slot := slotWhere(func(name string) bool { return guid != "" && strings.EqualFold(disk.GUIDs[name], guid) })
	if slot == "" {
		return "", fmt.Errorf("finding the boot slot: %s names the partition %s, which is none of the slots", loaderDevice, guid)
	}
	return slot, nil
}

// efiString decodes the file of an EFI variable that holds a string: four bytes of
// attributes, then UTF-16LE up to a zero.
func efiString(b []byte) string {
	if len(b) < 4 {
		return ""
	}
	b = b[4:]
	u := make([]uint16, len(b)/2)
	if err := binary.Read(bytes.NewReader(b), binary.LittleEndian, u); err != nil {
		return ""
	}
	s, _, _ := strings.Cut(string(utf16.Decode(u)), "\x00")
	return s
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
