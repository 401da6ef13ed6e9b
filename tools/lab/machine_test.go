package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fogwright/fogwright/boards"
	"github.com/google/go-cmp/cmp"
)

// bootSector is a whole operating system: it prints "ready" on the first serial
// port and gives back whatever comes in on the second.
func bootSector() []byte {
	b := make([]byte, 1<<20)
	copy(b, []byte{
		0x31, 0xc0, // xor ax, ax
		0x8e, 0xd8, // mov ds, ax
		0xbe, 0x40, 0x7c, // mov si, 0x7c40 (the text)
		0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xac,       // next: lodsb
		0x84, 0xc0, // test al, al
		0x74, 0x03, // jz echo
		0xee,       // out dx, al
		0xeb, 0xf8, // jmp next
		0xba, 0xfd, 0x02, // echo: mov dx, 0x2fd (line status)
		0xec,       // in al, dx
		0xa8, 0x01, // test al, 1
		0x74, 0xf8, // jz echo
		0xb2, 0xf8, // mov dl, 0xf8 (data)
		0xec,       // in al, dx
		0xee,       // out dx, al
		0xeb, 0xf2, // jmp echo
	})
	copy(b[0x40:], "ready\r\n")
	b[510], b[511] = 0x55, 0xaa
	return b
}

// pc is a machine for the boot sector.
func pc(t *testing.T) Spec {
	t.Helper()
	s, err := pcIn(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func pcIn(dir string) (Spec, error) {
	image := filepath.Join(dir, "disk,1.img")
	return Spec{
		Name: "box", Arch: "amd64", Image: image, Memory: 32 << 20,
		Accelerator: TCG,
		QEMU: boards.QEMU{
			Machine: "q35", Boot: "disk", Disk: "virtio-blk-pci", NIC: "virtio-net-pci",
			Console: 0, Control: "1", Watchdog: "i6300esb",
		},
	}, os.WriteFile(image, bootSector(), 0o600)
}

func TestMachine(t *testing.T) {
	home := newHome(t, Options{})
	box, err := home.PowerOn(t.Context(), pc(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := box.WaitConsole(patience(t), "ready"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // and connect anew
		echo(t, box)
	}
	if err := box.SetCable(false); err != nil {
		t.Error(err)
	}
	if err := box.SetCable(true); err != nil {
		t.Error(err)
	}
	if err := box.Reset(); err != nil {
		t.Fatal(err)
	}
	err = until(patience(t), func() bool { return strings.Count(box.Console(), "ready") >= 2 })
	if err != nil {
		t.Errorf("after a reset: %v\n%s", err, box.Console())
	}
	if got := box.Events(); !contains(got, "RESET") {
		t.Errorf("events %v, want a RESET", got)
	}
	box.Kill()
	if err := box.Wait(patience(t)); err != nil {
		t.Errorf("a power cut is no failure of QEMU: %v", err)
	}
	if err := box.WaitConsole(patience(t), "never printed"); err == nil {
		t.Error("a machine that is off was waited for with success")
	}
	if err := box.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(string(box.dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the machine's folder is still there: %v", err)
	}
}

// echo sends a line over the control channel and expects it back.
func echo(t *testing.T, m *Machine) {
	t.Helper()
	c, err := m.Control()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
		t.Fatalf("control channel: got %q, %v; want hello", got, err)
	}
}

func contains(list []string, s string) bool { return strings.Contains(strings.Join(list, "\n"), s) }

func TestMachineDiesWithItsContext(t *testing.T) {
	home := newHome(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	box, err := home.PowerOn(ctx, pc(t))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case <-box.Done():
	case <-patience(t).Done():
		t.Fatal("the machine outlives its context")
	}
}

func TestMachineThatCannotStart(t *testing.T) {
	home := newHome(t, Options{})
	for _, c := range []struct {
		name   string
		change func(*Spec)
		want   string
	}{
		{"machine", func(s *Spec) { s.QEMU.Machine = "toaster" }, "unsupported machine type"},
		{"image", func(s *Spec) { s.Image += ".gone" }, "disk,1.img.gone"},
		{"architecture", func(s *Spec) { s.Arch = "vax" }, `no QEMU is known for architecture "vax"`},
		{"name", func(s *Spec) { s.Name = "" }, "it has no name"},
		{"boot", func(s *Spec) { s.QEMU.Boot = "floppy" }, `boot is "floppy"`},
		{"kernel", func(s *Spec) { s.QEMU.Boot = "direct" }, "boots a kernel directly and has none"},
		{"control", func(s *Spec) { s.QEMU.Control = "com1" }, `control "com1" is neither`},
		{"ports", func(s *Spec) { s.QEMU.Control = "0" }, "both on serial port 0"},
		{"firmware", func(s *Spec) { s.QEMU.Firmware = &boards.File{} }, "do not agree on whether it has firmware"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := pc(t)
			c.change(&s)
			m, err := home.PowerOn(t.Context(), s)
			if err == nil {
				m.Close()
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "starting machine ") {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
		})
	}
}

func TestArguments(t *testing.T) {
	rtc := time.Date(1970, 1, 1, 0, 0, 10, 0, time.UTC)
	for _, c := range []struct {
		name string
		spec Spec
		want string
	}{
		{"uefi", Spec{
			Name: "pc", Arch: "amd64", Image: "a,b.img", Snapshot: true, Firmware: "code", Memory: 512 << 20, RTC: rtc,
			QEMU: boards.QEMU{Machine: "q35", CPU: "max", CPUs: 2, Boot: "disk", Disk: "virtio-blk-pci",
				NIC: "virtio-net-pci", Control: "virtio-serial", Watchdog: "i6300esb"},
		}, `-machine q35 -accel tcg,thread=multi -m 512M -smp 2 -cpu max -rtc base=1970-01-01T00:00:10
			-drive if=pflash,unit=0,format=raw,readonly=on,file=/d/code.fd
			-drive if=pflash,unit=1,format=raw,file=/d/vars.fd
			-boot menu=on,splash-time=0
			-drive if=none,id=disk,format=raw,discard=unmap,detect-zeroes=unmap,file=a,,b.img,snapshot=on
			-device virtio-blk-pci,drive=disk,bootindex=0
			-chardev stdio,id=console,signal=off
			-chardev socket,id=control,server=on,wait=off,path=/d/ctl -serial chardev:console
			-device virtio-serial-pci,id=ports
			-device virtserialport,bus=ports.0,chardev=control,name=org.fogwright.control.0
			-netdev stream,id=n0,server=off,addr.type=unix,addr.path=/d/net
			-device virtio-net-pci,netdev=n0,mac=MAC,romfile=
			-device virtio-rng-pci -device i6300esb -action watchdog=reset`},
		{"sd card", Spec{
			Name: "pi", Arch: "arm", Image: "i.img", Memory: 1 << 30, NoReboot: true,
			QEMU: boards.QEMU{Machine: "orangepi-pc", Boot: "disk", Disk: "sd", NIC: "onboard", Control: "1"},
		}, `-machine orangepi-pc -accel tcg,thread=multi -m 1024M -rtc base=utc -no-reboot
			-drive if=sd,index=0,format=raw,discard=unmap,detect-zeroes=unmap,file=i.img
			-chardev stdio,id=console,signal=off
			-chardev socket,id=control,server=on,wait=off,path=/d/ctl -serial chardev:console -serial chardev:control
			-netdev stream,id=n0,server=off,addr.type=unix,addr.path=/d/net
			-net nic,netdev=n0,macaddr=MAC`},
		{"direct", Spec{
			Name: "rpi", Arch: "arm64", Image: "i.img", Kernel: "k", Initrd: "i", DeviceTree: "d", Args: "console=ttyS1", Memory: 1 << 30,
			QEMU: boards.QEMU{Machine: "raspi3b", Boot: "direct", Disk: "sd", NIC: "usb-net", Console: 1, Control: "0"},
		}, `-machine raspi3b -accel tcg,thread=multi -m 1024M -rtc base=utc
			-kernel k -append console=ttyS1 -initrd i -dtb d
			-drive if=sd,index=0,format=raw,discard=unmap,detect-zeroes=unmap,file=i.img
			-chardev stdio,id=console,signal=off
			-chardev socket,id=control,server=on,wait=off,path=/d/ctl -serial chardev:control -serial chardev:console
			-netdev stream,id=n0,server=off,addr.type=unix,addr.path=/d/net
			-device usb-net,netdev=n0,mac=MAC`},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := c.spec.MAC()
			want := strings.Fields("-name " + c.spec.Name + " -nodefaults -display none -no-user-config " + c.want)
			for i := range want {
				want[i] = strings.ReplaceAll(want[i], "MAC", m.String())
			}
			var got []string
			for _, a := range c.spec.arguments("/d", TCG) {
				got = append(got, strings.Fields(a)...)
			}
			// QMP is the same for all.
			got = strings.Fields(strings.ReplaceAll(strings.Join(got, " "),
				" -chardev socket,id=qmp,server=on,wait=off,path=/d/qmp -mon chardev=qmp,mode=control", ""))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("arguments (-want +got):\n%s", diff)
			}
		})
	}
}

// doomedEnv makes this test program start a machine in the named folder and wait
// to be killed.
const doomedEnv = "FOGWRIGHT_LAB_DOOMED"

func doomed(dir string) int {
	home, err := NewHome(Options{})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	spec, err := pcIn(dir)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	box, err := home.PowerOn(context.Background(), spec)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("pid", box.cmd.Process.Pid)
	time.Sleep(time.Minute)
	return 1
}
