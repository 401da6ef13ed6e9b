// Package boards loads and checks board descriptions.
//
// A board is a folder: board.toml and, where it needs any, files of its own. The
// person who brings up a board writes it; the builder, the lab and the tests read
// it. The folder is all there is to a board: adding one takes no Go.
//
// The package imports nothing of ours. It reads what is in the folder and says
// everything that is wrong with it, with positions; whether a package or a kernel
// module of that name exists is for the build to find out.
package boards

import "io/fs"

// Board is one board.toml. Sizes and offsets are bytes; in the file they are
// integers or strings with a binary unit ("8KiB", "64MiB").
type Board struct {
	Name string `toml:"-"` // the folder's name
	FS   fs.FS  `toml:"-"` // the folder

	Description string `toml:"description"`
	SoC         string `toml:"soc"`
	Arch        string `toml:"arch"`  // Go's names: amd64, arm64, arm
	GOARM       int    `toml:"goarm"` // 7, for arm only
	Memory      Size   `toml:"memory"`
	// Status is what is proved: "booted" (the tests boot this board's own,
	// whole boot chain) or "built" (the image is checked structurally only).
	Status string `toml:"status"`
	// Proof says in one sentence what stands behind Status and what does not.
	Proof string `toml:"proof"`
	// LEDs are sysfs names, in the order status, activity.
	LEDs []string `toml:"leds"`

	Kernel Kernel `toml:"kernel"`
	Boot   Boot   `toml:"boot"`
	Disk   Disk   `toml:"disk"`
	QEMU   *QEMU  `toml:"qemu"`
	Budget Budget `toml:"budget"`

	doc *document // where everything stands
}

// Kernel names the kernel package and what of it the box gets.
type Kernel struct {
	Package string `toml:"package"` // a Debian package, the meta package of a flavour
	// Modules by name, without their dependencies; the builder adds those.
	// Names built into the kernel are allowed and cost nothing.
	Modules []string `toml:"modules"`
	// DeviceTrees are paths below the package's device tree folder.
	DeviceTrees []DeviceTree `toml:"device_tree"`
	Args        []string     `toml:"args"` // of the kernel command line, console= among them
	// Watchdog is the hardware watchdog's time-out in seconds; 0: none.
	Watchdog int `toml:"watchdog"`
}

// DeviceTree is one device tree blob and what is changed in it.
type DeviceTree struct {
	Path string `toml:"path"` // broadcom/bcm2837-rpi-3-b.dtb
	// Enable are full node paths whose status becomes "okay", for hardware that
	// the upstream tree describes but leaves off.
	Enable []string `toml:"enable"`
	// Delete are full node paths to remove, for hardware the box must not use.
	Delete []string `toml:"delete"`
}

// Boot is the board's boot chain.
type Boot struct {
	Chain string `toml:"chain"` // uefi, uboot, rpi
	// Stub is the EFI stub that becomes the UKI (uefi only).
	Stub *File `toml:"stub"`
	// Device is the boot disk in the boot loader's words, "mmc 0" (uboot only).
	Device string `toml:"device"`
	// Environment is the size of the environment that this build of U-Boot
	// reads from the factory partition (its CONFIG_ENV_SIZE, with
	// CONFIG_ENV_IS_IN_FAT); 0: it reads none (uboot only). With it U-Boot goes
	// straight to the boot script.
	Environment Size `toml:"environment"`
	// Record are the places of the two sectors of the boot record, in front of
	// the partitions; without it slot a is always tried first (uboot only).
	Record []Size `toml:"record"`
	// Blobs are written raw in front of the partitions.
	Blobs []Blob `toml:"blob"`
	// Files go to the factory partition, beside the loader's own (rpi only:
	// what the ROM reads before it knows of slots).
	Files []File `toml:"file"`
	// SlotFiles go into each slot (rpi only: start.elf and the like).
	SlotFiles []File `toml:"slot_file"`
	// Config is further lines for the loader's own configuration (rpi:
	// config.txt).
	Config []string `toml:"config"`
}

// File is one file out of a Debian package, or of the board's folder when
// Package is empty.
type File struct {
	Package string `toml:"package"`
	Path    string `toml:"path"`
	To      string `toml:"to"` // path in the target; empty: the base name of Path
}

// Blob is a file written at a fixed place of the disk.
type Blob struct {
	Package string `toml:"package"`
	Path    string `toml:"path"`
	Offset  Size   `toml:"offset"`
	// Size is the room that is reserved; a larger blob fails the build.
	Size Size `toml:"size"`
}

// Disk is the partition table. Every board has the same five partitions in this
// order: factory, slot-a, slot-b, state, data.
type Disk struct {
	Table string `toml:"table"` // gpt or mbr
	// Start is where the first partition begins; 0 means 1 MiB.
	Start   Size `toml:"start"`
	Factory Size `toml:"factory"`
	Slot    Size `toml:"slot"` // each of the two
	State   Size `toml:"state"`
	Data    Size `toml:"data"` // in the image; the box grows it
}

// QEMU says which machine models the board, if any does.
type QEMU struct {
	Machine string `toml:"machine"` // with its options: "virt,gic-version=3"
	CPU     string `toml:"cpu"`     // empty: the machine's own
	CPUs    int    `toml:"cpus"`
	Memory  Size   `toml:"memory"` // 0: the board's
	// Boot is "disk" (the image is all there is) or "direct" (kernel, device
	// tree and initramfs are taken out of the built image and handed over,
	// where QEMU has no model of the boot ROM).
	Boot string `toml:"boot"`
	// Args are added to the kernel command line of a direct boot, for what the
	// model lacks.
	Args []string `toml:"args"`
	// Firmware is the UEFI firmware (uefi chain): code and variable store.
	Firmware  *File `toml:"firmware"`
	Variables *File `toml:"variables"`
	// Disk and NIC are device models ("virtio-blk-pci", "virtio-net-pci",
	// "usb-net"), or "sd" and "onboard" for what the machine has built in.
	Disk string `toml:"disk"`
	NIC  string `toml:"nic"`
	// Console is the index of the serial port (-serial) with the console.
	Console int `toml:"console"`
	// Control is "virtio-serial" or the index of the serial port ("1") that
	// carries the control channel; ControlUART is that port's name on the box.
	Control     string `toml:"control"`
	ControlUART string `toml:"control_uart"`
	Watchdog    string `toml:"watchdog"` // a device model, "i6300esb"; empty: built in or none
}

// Budget is what the board must stay under. Going over fails the build (slot) or
// the tests (the others).
type Budget struct {
	Slot    Size `toml:"max_slot_bytes"`
	IdleRAM Size `toml:"max_idle_ram_bytes"`
	// BootSeconds from power-on to sharing in QEMU without KVM.
	BootSeconds int `toml:"max_boot_seconds"`
}
