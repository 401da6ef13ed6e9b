package boards

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Boot chains.
const (
	UEFI  = "uefi"
	UBoot = "uboot"
	RPi   = "rpi"
)

// Boot kinds of a QEMU machine.
const (
	BootDisk   = "disk"
	BootDirect = "direct"
)

// What the file systems need. The smallest FAT that every PC reads is small; ext4
// is made on the box from a 256 MiB start (see initramfs/storage), and no FAT is
// larger than a 32-bit count of 512-byte sectors.
const (
	minFAT  = 4 * MiB
	minExt4 = 256 * MiB
	maxFAT  = 2048 * GiB
	maxDisk = 2048 * GiB // MBR counts 512-byte sectors in 32 bits
)

var (
	// Debian policy 5.6.1.
	packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
	moduleName  = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	nodePath    = regexp.MustCompile(`^(/[A-Za-z0-9,._+@-]+)+$`)
)

// checker gathers the faults of one board, each with its position.
type checker struct {
	*Board
	faults []fault
}

// check judges the board as a whole and tells everything at once.
func (b *Board) check() error {
	c := &checker{Board: b}
	c.identity()
	c.kernel()
	c.boot()
	c.disk()
	c.blobs()
	c.qemu()
	c.budget()
	return b.doc.join(c.faults)
}

// bad notes a fault at a path of the file, such as kernel.modules[3].
func (c *checker) bad(path, format string, a ...any) {
	c.faults = append(c.faults, fault{c.doc.offset(path), path + ": " + fmt.Sprintf(format, a...)})
}

// oneOf notes a fault when got is not among the known words.
func (c *checker) oneOf(path, got string, known ...string) {
	if !slices.Contains(known, got) {
		c.bad(path, "%q is none of %s%s", got, strings.Join(known, ", "), c.missing(got))
	}
}

func (c *checker) missing(got string) string {
	if got == "" {
		return " (the key is missing)"
	}
	return ""
}

func (c *checker) identity() {
	if !boardName.MatchString(c.Name) {
		c.faults = append(c.faults, fault{0, fmt.Sprintf("the folder's name %q is the board's name: use lower-case letters, digits and inner hyphens", c.Name)})
	}
	if c.Description == "" {
		c.bad("description", "is missing: say in one line what the board is")
	}
	c.oneOf("arch", c.Arch, "amd64", "arm64", "arm")
	switch {
	case c.Arch == "arm" && c.GOARM != 7:
		c.bad("goarm", "is %d, want 7: Debian's armmp kernel and this firmware need ARMv7 with VFPv3", c.GOARM)
	case c.Arch != "arm" && c.GOARM != 0:
		c.bad("goarm", "is %d, but arch is %q", c.GOARM, c.Arch)
	}
	if c.Memory < 128*MiB {
		c.bad("memory", "%s is less than the 128MiB that kernel and box need", c.Memory)
	}
	c.oneOf("status", c.Status, "booted", "built")
	if c.Proof == "" {
		c.bad("proof", "is missing: say what stands behind the status, and what does not")
	}
	if c.Status == "booted" && c.QEMU == nil {
		c.bad("status", "is booted, but there is no [qemu] machine to boot it in")
	}
	if c.Status == "booted" && c.QEMU != nil && c.QEMU.Boot == BootDirect {
		c.bad("status", "is booted, but qemu.boot is direct, which leaves out the board's own boot chain; say built")
	}
}

func (c *checker) kernel() {
	k := c.Kernel
	c.packageName("kernel.package", k.Package, true)
	seen := map[string]int{}
	for i, m := range k.Modules {
		at := fmt.Sprintf("kernel.modules[%d]", i)
		if !moduleName.MatchString(m) {
			c.bad(at, "%q is not a module name: letters, digits, _ and - without folder or .ko", m)
		}
		// The kernel takes - and _ for the same.
		same := strings.ReplaceAll(m, "-", "_")
		if first, dup := seen[same]; dup {
			c.bad(at, "%q is there already, as kernel.modules[%d]", m, first)
			continue
		}
		seen[same] = i
	}
	for i, d := range k.DeviceTrees {
		at := fmt.Sprintf("kernel.device_tree[%d]", i)
		c.relative(at+".path", d.Path)
		for j, n := range d.Enable {
			c.node(fmt.Sprintf("%s.enable[%d]", at, j), n)
		}
		for j, n := range d.Delete {
			c.node(fmt.Sprintf("%s.delete[%d]", at, j), n)
		}
	}
	switch chain := c.Boot.Chain; {
	case chain == UEFI && len(k.DeviceTrees) > 0:
		c.bad("kernel.device_tree", "is of no use: the firmware of the uefi chain describes the hardware")
	case (chain == UBoot || chain == RPi) && len(k.DeviceTrees) == 0:
		c.bad("kernel.device_tree", "is missing: the %s chain has to hand one to the kernel", chain)
	}
	if !slices.ContainsFunc(k.Args, func(a string) bool { return strings.HasPrefix(a, "console=") }) {
		c.bad("kernel.args", "have no console=: a board that says nothing cannot be brought up")
	}
	for i, a := range k.Args {
		if a == "" || strings.ContainsAny(a, " \t\n\"'") {
			c.bad(fmt.Sprintf("kernel.args[%d]", i), "%q is not one argument: no spaces or quotes", a)
		}
	}
	if k.Watchdog < 0 || k.Watchdog > 600 {
		c.bad("kernel.watchdog", "%d seconds is outside 0 to 600", k.Watchdog)
	}
}

func (c *checker) boot() {
	b := c.Boot
	c.oneOf("boot.chain", b.Chain, UEFI, UBoot, RPi)
	only := func(path, chain string, present bool) {
		if present && b.Chain != chain {
			c.bad(path, "belongs to the %s chain, but boot.chain is %q", chain, b.Chain)
		}
	}
	only("boot.stub", UEFI, b.Stub != nil)
	only("boot.device", UBoot, b.Device != "")
	only("boot.environment", UBoot, b.Environment != 0)
	only("boot.record", UBoot, len(b.Record) > 0)
	only("boot.file", RPi, len(b.Files) > 0)
	only("boot.slot_file", RPi, len(b.SlotFiles) > 0)
	only("boot.config", RPi, len(b.Config) > 0)
	switch b.Chain {
	case UEFI:
		if b.Stub == nil {
			c.bad("boot.stub", "is missing: the uefi chain needs the EFI stub that becomes the UKI")
		} else {
			c.file("boot.stub", *b.Stub)
		}
		if c.Arch == "arm" {
			c.bad("boot.chain", "is uefi, which is built for amd64 and arm64 only")
		}
	case UBoot:
		kind, number, found := strings.Cut(b.Device, " ")
		if _, err := strconv.ParseUint(number, 10, 8); !found || err != nil || kind == "" {
			c.bad("boot.device", "%q is not the boot disk in U-Boot's words, such as \"mmc 0\"", b.Device)
		}
		if b.Environment < 0 || b.Environment > MiB {
			c.bad("boot.environment", "%s is no size of an environment", b.Environment)
		}
		if n := len(b.Record); n != 0 && n != 2 {
			c.bad("boot.record", "has %d places: the record is kept in two sectors, written in turns", n)
		}
	case RPi:
		if len(b.SlotFiles) == 0 {
			c.bad("boot.slot_file", "is missing: start.elf and its kin have to come from somewhere")
		}
	}
	c.files("boot.file", b.Files)
	c.files("boot.slot_file", b.SlotFiles)
}

func (c *checker) files(at string, files []File) {
	seen := map[string]bool{}
	for i, f := range files {
		here := fmt.Sprintf("%s[%d]", at, i)
		c.file(here, f)
		to := f.To
		if to == "" {
			to = path.Base(f.Path)
		}
		if key := strings.ToLower(to); seen[key] { // FAT does not tell case apart
			c.bad(here, "%q is there already", to)
		} else {
			seen[key] = true
		}
	}
}

// file judges one file of a package or of the board's folder.
func (c *checker) file(at string, f File) {
	c.packageName(at+".package", f.Package, false)
	c.relative(at+".path", f.Path)
	if f.To != "" {
		c.relative(at+".to", f.To)
	}
	c.inFolder(at, f.Package, f.Path)
}

// inFolder holds a file without a package against the board's folder.
func (c *checker) inFolder(at, pkg, name string) {
	if pkg != "" || c.FS == nil || !fs.ValidPath(name) {
		return
	}
	if info, err := fs.Stat(c.FS, name); errors.Is(err, fs.ErrNotExist) {
		c.bad(at+".path", "%q is not in the board's folder, and no package is named", name)
	} else if err != nil {
		c.bad(at+".path", "%v", err)
	} else if !info.Mode().IsRegular() {
		c.bad(at+".path", "%q is not a regular file", name)
	}
}

func (c *checker) packageName(at, name string, required bool) {
	if name == "" && !required {
		return
	}
	if !packageName.MatchString(name) {
		c.bad(at, "%q is not a Debian package name%s", name, c.missing(name))
	}
}

// relative wants a clean path below some folder: nothing may reach outside.
func (c *checker) relative(at, name string) {
	if !fs.ValidPath(name) || name == "." {
		c.bad(at, "%q is not a clean relative path%s", name, c.missing(name))
	}
}

func (c *checker) node(at, name string) {
	if !nodePath.MatchString(name) {
		c.bad(at, "%q is not a full node path such as /soc/serial@7e201000", name)
	}
}
