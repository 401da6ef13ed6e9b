package boards

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// span is a piece of the disk that somebody claims.
type span struct {
	what       string
	path       string // empty: not from the file
	start, end Size
}

func (c *checker) disk() {
	d := c.Disk
	c.oneOf("disk.table", d.Table, GPT, MBR)
	if c.Boot.Chain == RPi && d.Table == GPT {
		c.bad("disk.table", "is gpt, but the boot ROM of a Raspberry Pi 3 reads mbr only")
	}
	var total Size
	for _, p := range []struct {
		path        string
		size, least Size
		most        Size
	}{
		{"disk.start", d.Start, MiB, maxDisk},
		{"disk.factory", d.Factory, minFAT, maxFAT},
		{"disk.slot", d.Slot, minFAT, maxFAT},
		{"disk.state", d.State, minExt4, maxDisk},
		{"disk.data", d.Data, minExt4, maxDisk},
	} {
		switch {
		case p.size < p.least:
			c.bad(p.path, "%s is less than %s, the least that works there", p.size, p.least)
		case p.size > p.most:
			c.bad(p.path, "%s is more than %s, the most that works there", p.size, p.most)
		case p.size%MiB != 0:
			c.bad(p.path, "%s is not a whole number of MiB, to which partitions are aligned", p.size)
		}
		total += min(p.size, maxDisk)
		if p.path == "disk.slot" {
			total += min(p.size, maxDisk)
		}
	}
	if d.Table == MBR && total > maxDisk {
		c.bad("disk.table", "is mbr, which cannot describe a disk of %s", total)
	}
}

// blobs holds the raw blobs and the boot record against each other, the partition
// table and the first partition.
func (c *checker) blobs() {
	spans := []span{{what: "the first partition", start: c.Disk.Start, end: 1 << 62}}
	switch c.Disk.Table {
	case MBR:
		spans = append(spans, span{what: "the partition table (sector 0)", start: 0, end: 512})
	case GPT: // protective MBR, header, 128 entries of 128 bytes
		spans = append(spans, span{what: "the partition table (34 sectors)", start: 0, end: 34 * 512})
	}
	for i, b := range c.Boot.Blobs {
		at := fmt.Sprintf("boot.blob[%d]", i)
		c.packageName(at+".package", b.Package, false)
		c.relative(at+".path", b.Path)
		c.inFolder(at, b.Package, b.Path)
		if b.Offset%512 != 0 {
			c.bad(at+".offset", "%d is not a multiple of the sector size, 512", b.Offset)
		}
		if b.Size <= 0 {
			c.bad(at+".size", "is missing: say how much room the blob may take")
			continue
		}
		if b.Offset > maxDisk || b.Size > maxDisk {
			c.bad(at+".offset", "%s and %s bytes are beyond any disk", b.Offset, b.Size)
			continue
		}
		spans = append(spans, span{fmt.Sprintf("boot.blob[%d] (%s)", i, b.Path), at + ".offset", b.Offset, b.Offset + b.Size})
	}
	for i, r := range c.Boot.Record {
		at := fmt.Sprintf("boot.record[%d]", i)
		if r%512 != 0 || r < 0 || r > maxDisk {
			c.bad(at, "%d is not a multiple of the sector size, 512", r)
			continue
		}
		spans = append(spans, span{at, at, r, r + 512})
	}
	slices.SortStableFunc(spans, func(a, b span) int { return cmp.Compare(a.start, b.start) })
	for i, a := range spans {
		for _, b := range spans[i+1:] {
			if b.start >= a.end {
				continue
			}
			if b.path == "" {
				a, b = b, a // tell it where the author can change it
			}
			if b.path != "" {
				c.bad(b.path, "bytes %d to %d overlap %s, bytes %d to %s", b.start, b.end, a.what, a.start, endOf(a))
			}
		}
	}
}

func endOf(s span) string {
	if s.end == 1<<62 {
		return "the end"
	}
	return strconv.FormatInt(int64(s.end), 10)
}

func (c *checker) qemu() {
	q := c.QEMU
	if q == nil {
		return
	}
	if q.Machine == "" {
		c.bad("qemu.machine", "is missing")
	}
	c.oneOf("qemu.boot", q.Boot, BootDisk, BootDirect)
	if q.CPUs < 1 || q.CPUs > 64 {
		c.bad("qemu.cpus", "%d is outside 1 to 64", q.CPUs)
	}
	if q.Memory < 128*MiB {
		c.bad("qemu.memory", "%s is less than 128MiB", q.Memory)
	}
	if c.Boot.Chain == UEFI && q.Boot == BootDisk {
		for path, f := range map[string]*File{"qemu.firmware": q.Firmware, "qemu.variables": q.Variables} {
			if f == nil {
				c.bad(path, "is missing: the uefi chain starts in it")
			} else {
				c.file(path, *f)
			}
		}
	} else if q.Firmware != nil || q.Variables != nil {
		c.bad("qemu.firmware", "and qemu.variables are for the uefi chain that boots from disk")
	}
	if q.Disk == "" {
		c.bad("qemu.disk", `is missing: a device model such as "virtio-blk-pci", or "sd"`)
	}
	if q.NIC == "" {
		c.bad("qemu.nic", `is missing: a device model such as "virtio-net-pci", or "onboard"`)
	}
	if q.Console < 0 || q.Console > 3 {
		c.bad("qemu.console", "%d is not a serial port's index, 0 to 3", q.Console)
	}
	c.control(q)
}

// control judges where the control channel of the QEMU machine goes.
func (c *checker) control(q *QEMU) {
	if q.Control == "virtio-serial" {
		if q.ControlUART != "" {
			c.bad("qemu.control_uart", "is of no use: qemu.control is virtio-serial")
		}
		return
	}
	n, err := strconv.Atoi(q.Control)
	switch {
	case err != nil || n < 0 || n > 3:
		c.bad("qemu.control", "%q is neither \"virtio-serial\" nor a serial port's index, 0 to 3%s", q.Control, c.missing(q.Control))
	case n == q.Console:
		c.bad("qemu.control", "and qemu.console are both serial port %d", n)
	case !strings.HasPrefix(q.ControlUART, "/dev/tty"):
		c.bad("qemu.control_uart", "%q is not that port's name on the box, such as /dev/ttyS1%s", q.ControlUART, c.missing(q.ControlUART))
	}
}

func (c *checker) budget() {
	b := c.Budget
	if b.Slot <= 0 {
		c.bad("budget.max_slot_bytes", "is missing")
	}
	if b.Slot > c.Disk.Slot {
		c.bad("budget.max_slot_bytes", "%s is more than the slot partition holds: disk.slot is %s", b.Slot, c.Disk.Slot)
	}
	if b.IdleRAM <= 0 || b.IdleRAM >= c.Memory {
		c.bad("budget.max_idle_ram_bytes", "%s is not between nothing and the board's memory, %s", b.IdleRAM, c.Memory)
	}
	if b.BootSeconds <= 0 {
		c.bad("budget.max_boot_seconds", "%d is not a positive number of seconds", b.BootSeconds)
	}
}
