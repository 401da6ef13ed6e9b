package uboot

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strings"
)

// File names. U-Boot looks for the first two on the factory partition
// (CONFIG_ENV_FAT_FILE, boot_scripts); boot.scr looks for the third in a slot.
const (
	EnvironmentFile = "uboot.env"
	ScriptFile      = "boot.scr"
	SlotScriptFile  = "slot.scr"
)

// Environment makes the contents of a stored U-Boot environment of exactly size
// bytes (CONFIG_ENV_SIZE of that U-Boot build: the CRC goes over all of it), as
// mkenvimage does, with the variables in order of their names. If U-Boot finds the
// CRC wrong it goes on with its built-in environment.
func Environment(vars map[string]string, size int) ([]byte, error) {
	b := make([]byte, 4, max(size, 4))
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(vars[name], 0) {
			return nil, fmt.Errorf("making U-Boot environment: variable %q=%q cannot be stored", name, vars[name])
		}
		b = append(b, name+"="+vars[name]+"\x00"...)
	}
	if len(b)+1 > size {
		return nil, fmt.Errorf("making U-Boot environment: %d bytes of variables do not fit into %d", len(b)+1, size)
	}
	b = b[:size]
	binary.LittleEndian.PutUint32(b, crc32.ChecksumIEEE(b[4:]))
	return b, nil
}

// Autostart are the variables of an environment that runs the boot script from
// partition part of device ("mmc 0") and does nothing else.
//
// Distributions build U-Boot for people at a keyboard: it waits two seconds for a
// key, starts USB and HDMI to have a keyboard and a screen, and looks for systems on
// every disk and at last on the network. A box wants none of that; on the Orange Pi's
// model in QEMU it costs 12 of the 13 seconds before the script. A key on the serial
// line, held down while U-Boot starts, still stops it.
//
// A stored environment replaces the built-in one as a whole, so bootcmd brings back
// the board's load addresses by name. Bringing back everything would start HDMI
// again, and would lose ethaddr, which U-Boot makes from the chip's serial number
// before bootcmd runs and hands to the kernel as the MAC address.
func Autostart(device string, part int) (map[string]string, error) {
	if !safeDevice.MatchString(device) || part < 1 {
		return nil, fmt.Errorf("writing U-Boot environment: device %q, partition %d: want something like \"mmc 0\" and 1", device, part)
	}
	return map[string]string{
		"bootdelay": "0",
		"bootcmd": fmt.Sprintf("env default kernel_addr_r fdt_addr_r ramdisk_addr_r scriptaddr bootm_size; load %s:%d ${scriptaddr} %s && source ${scriptaddr}; echo fogwright: no boot script, resetting in 10 s; sleep 10; reset",
			device, part, ScriptFile),
	}, nil
}
