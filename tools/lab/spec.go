package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/fogwright/fogwright/boards"
)

// ControlPort is the name of the virtio-serial port with the control channel; the
// box finds it below /dev/virtio-ports.
const ControlPort = "org.fogwright.control.0"

// Spec is a machine to be started.
type Spec struct {
	// Name of the machine in messages and packet captures; its MAC address
	// follows from it.
	Name string
	// Arch is the board's architecture: amd64, arm64, arm.
	Arch string
	// QEMU is the board's own description of its model.
	QEMU boards.QEMU
	// Memory in bytes when QEMU names none: the board's.
	Memory boards.Size
	// Image is the disk: a raw image file, written to unless Snapshot. QEMU
	// wants SD cards to be a power of two in size.
	Image string
	// Snapshot leaves the image alone: what the machine writes is forgotten.
	Snapshot bool
	// Firmware and Variables are files for boards with UEFI; the machine gets
	// its own copy of the variables.
	Firmware, Variables string
	// Kernel, Initrd, DeviceTree and Args are for boards that boot "direct".
	// DeviceTree may be empty.
	Kernel, Initrd, DeviceTree, Args string
	// RTC is what the clock shows at power-on. Zero: the host's time.
	RTC time.Time
	// NoReboot makes a reset end the machine.
	NoReboot bool
	// Console gets what the machine prints, as it comes. May be nil.
	Console io.Writer
	// Accelerator for QEMU's -accel. Empty: the best that works here.
	Accelerator string
	// Extra arguments for QEMU.
	Extra []string
}

// MAC is the machine's Ethernet address.
func (s Spec) MAC() MAC { return macOf("machine " + s.Name) }

// Program is the QEMU that emulates an architecture.
func Program(arch string) (string, error) {
	switch arch {
	case "amd64":
		return "qemu-system-x86_64", nil
	case "arm64":
		return "qemu-system-aarch64", nil
	case "arm":
		return "qemu-system-arm", nil
	}
	return "", fmt.Errorf("no QEMU is known for architecture %q (known: amd64, arm64, arm)", arch)
}

// sockets and files of a machine, in its own folder. Names are short because a
// Unix socket's path has at most 107 bytes.
type folder string

func (f folder) path(name string) string { return filepath.Join(string(f), name) }
func (f folder) cable() string           { return f.path("net") }
func (f folder) control() string         { return f.path("ctl") }
func (f folder) qmp() string             { return f.path("qmp") }
func (f folder) code() string            { return f.path("code.fd") }
func (f folder) variables() string       { return f.path("vars.fd") }

func (s Spec) check() error {
	var all []error
	bad := func(format string, a ...any) { all = append(all, fmt.Errorf(format, a...)) }
	if s.Name == "" {
		bad("it has no name")
	}
	if s.QEMU.Machine == "" {
		bad("its board names no QEMU machine")
	}
	if s.QEMU.Memory == 0 && s.Memory == 0 {
		bad("neither the board nor its QEMU section states the memory")
	}
	switch s.QEMU.Boot {
	case "disk":
		if s.Image == "" {
			bad("it boots from disk and has no image")
		}
	case "direct":
		if s.Kernel == "" {
			bad("it boots a kernel directly and has none")
		}
	default:
		bad("boot is %q, neither disk nor direct", s.QEMU.Boot)
	}
	if (s.QEMU.Firmware != nil) != (s.Firmware != "") {
		bad("its board and its files do not agree on whether it has firmware (file: %q)", s.Firmware)
	}
	if i, err := s.controlIndex(); err != nil {
		all = append(all, err)
	} else if i == s.QEMU.Console && s.QEMU.Control != "" {
		bad("console and control channel are both on serial port %d", i)
	}
	return errors.Join(all...)
}

// controlIndex is the serial port with the control channel, or -1.
func (s Spec) controlIndex() (int, error) {
	switch c := s.QEMU.Control; c {
	case "", "virtio-serial":
		return -1, nil
	default:
		i, err := strconv.Atoi(c)
		if err != nil || i < 0 {
			return -1, fmt.Errorf("control %q is neither virtio-serial nor the index of a serial port", c)
		}
		return i, nil
	}
}

// arguments is QEMU's command line for a machine whose files are in f.
func (s Spec) arguments(f folder, accel string) []string {
	q := s.QEMU
	a := []string{
		"-name", escape(s.Name), "-nodefaults", "-display", "none", "-no-user-config",
		"-machine", q.Machine, "-accel", accel,
		"-m", fmt.Sprintf("%dM", s.memory()>>20),
		"-chardev", "socket,id=qmp,server=on,wait=off,path=" + escape(f.qmp()),
		"-mon", "chardev=qmp,mode=control",
	}
	if q.CPUs > 0 { // some machines have a number of their own and take no other
		a = append(a, "-smp", strconv.Itoa(q.CPUs))
	}
	switch {
	case accel == KVM:
		a = append(a, "-cpu", "host")
	case q.CPU != "":
		a = append(a, "-cpu", q.CPU)
	}
	if s.RTC.IsZero() {
		a = append(a, "-rtc", "base=utc")
	} else {
		a = append(a, "-rtc", "base="+s.RTC.UTC().Format("2006-01-02T15:04:05"))
	}
	if s.NoReboot {
		a = append(a, "-no-reboot")
	}
	a = append(a, s.disk(f)...)
	a = append(a, s.serial(f)...)
	a = append(a, s.network(f)...)
	if s.pci() {
		a = append(a, "-device", "virtio-rng-pci")
	}
	if q.Watchdog != "" {
		a = append(a, "-device", q.Watchdog, "-action", "watchdog=reset")
	}
	return append(a, s.Extra...)
}

func (s Spec) memory() boards.Size {
	if s.QEMU.Memory != 0 {
		return s.QEMU.Memory
	}
	return s.Memory
}

// pci tells whether the machine has a PCI bus, by what the board puts on it.
func (s Spec) pci() bool {
	return strings.HasSuffix(s.QEMU.Disk, "-pci") || strings.HasSuffix(s.QEMU.NIC, "-pci")
}

func (s Spec) disk(f folder) (a []string) {
	if s.Firmware != "" {
		a = append(a, "-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+escape(f.code()),
			"-drive", "if=pflash,unit=1,format=raw,file="+escape(f.variables()),
			// Nobody presses a key; Debian's AAVMF would wait five seconds for one.
			"-boot", "menu=on,splash-time=0")
	}
	if s.QEMU.Boot == "direct" {
		a = append(a, "-kernel", s.Kernel, "-append", s.Args)
		if s.Initrd != "" {
			a = append(a, "-initrd", s.Initrd)
		}
		if s.DeviceTree != "" {
			a = append(a, "-dtb", s.DeviceTree)
		}
	}
	if s.Image == "" {
		return a
	}
	drive := "format=raw,discard=unmap,detect-zeroes=unmap,file=" + escape(s.Image)
	if s.Snapshot {
		drive += ",snapshot=on"
	}
	if s.QEMU.Disk == "sd" {
		return append(a, "-drive", "if=sd,index=0,"+drive)
	}
	return append(a, "-drive", "if=none,id=disk,"+drive, "-device", s.QEMU.Disk+",drive=disk,bootindex=0")
}

// serial gives each serial port its end: console to our standard output, control
// to a socket, the others to nowhere.
func (s Spec) serial(f folder) []string {
	a := []string{"-chardev", "stdio,id=console,signal=off"}
	control, _ := s.controlIndex() // checked before
	if s.QEMU.Control != "" {
		a = append(a, "-chardev", "socket,id=control,server=on,wait=off,path="+escape(f.control()))
	}
	for i := range max(s.QEMU.Console, control) + 1 {
		switch i {
		case s.QEMU.Console:
			a = append(a, "-serial", "chardev:console")
		case control:
			a = append(a, "-serial", "chardev:control")
		default:
			a = append(a, "-serial", "null")
		}
	}
	if s.QEMU.Control == "virtio-serial" {
		bus := "virtio-serial-device"
		if s.pci() {
			bus = "virtio-serial-pci"
		}
		a = append(a, "-device", bus+",id=ports",
			"-device", "virtserialport,bus=ports.0,chardev=control,name="+ControlPort)
	}
	return a
}

func (s Spec) network(f folder) []string {
	if s.QEMU.NIC == "" {
		return nil
	}
	mac := s.MAC().String()
	a := []string{"-netdev", "stream,id=n0,server=off,addr.type=unix,addr.path=" + escape(f.cable())}
	if s.QEMU.NIC == "onboard" {
		// "-nic stream" does not exist; built-in interfaces take this form.
		return append(a, "-net", "nic,netdev=n0,macaddr="+mac)
	}
	device := s.QEMU.NIC + ",netdev=n0,mac=" + mac
	if strings.HasSuffix(s.QEMU.NIC, "-pci") {
		device += ",romfile=" // no network boot
	}
	return append(a, "-device", device)
}

// virtFlash is the size of the flash banks of QEMU's "virt", which takes no
// smaller file (QEMU, hw/arm/virt.c); packages ship some without the padding.
const virtFlash = 64 << 20

// prepare puts the firmware into the machine's folder.
func (s Spec) prepare(f folder) error {
	if s.Firmware == "" {
		return nil
	}
	for _, c := range []struct{ from, to string }{{s.Firmware, f.code()}, {s.Variables, f.variables()}} {
		var b []byte
		if c.from != "" {
			var err error
			if b, err = os.ReadFile(c.from); err != nil {
				return fmt.Errorf("copying firmware: %w", err)
			}
		}
		if err := os.WriteFile(c.to, b, 0o600); err != nil {
			return fmt.Errorf("copying firmware: %w", err)
		}
		if s.Arch != "amd64" && len(b) < virtFlash {
			if err := os.Truncate(c.to, virtFlash); err != nil {
				return fmt.Errorf("padding firmware: %w", err)
			}
		}
	}
	return nil
}

// escape doubles the commas, which separate QEMU's options.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// virtualizable tells whether KVM of this computer could run the machine at all:
// same architecture, and a machine made for it.
func (s Spec) virtualizable() bool {
	name, _, _ := strings.Cut(s.QEMU.Machine, ",")
	switch name {
	case "virt", "q35", "pc", "microvm":
		return s.Arch == runtime.GOARCH
	}
	return false
}
