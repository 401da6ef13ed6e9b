package boot

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// From linux/input-event-codes.h.
const (
	evKey    = 1
	keyPower = 116
)

// powerButtons follows the input devices, those that come later too, for a press
// of the power key: ACPI's button, or gpio-keys in a device tree. Most boxes have
// none.
func (p *initProcess) powerButtons(ctx context.Context) {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	followed := map[string]bool{}
	for {
		names, _ := filepath.Glob("/dev/input/event*") // the pattern is good
		for _, name := range names {
			if followed[name] {
				continue
			}
			if f, err := os.Open(name); err == nil {
				followed[name] = true
				go p.followInput(f)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// followInput reads one input device until it is unplugged.
func (p *initProcess) followInput(f *os.File) {
	defer f.Close()
	buf := make([]byte, 16*inputEventSize) // one read gives whole events
	for {
		n, err := f.Read(buf)
		if err != nil {
			return
		}
		if powerPressed(buf[:n]) {
			p.console.Printf("power button")
			p.ask(PowerOff)
		}
	}
}

// inputEventSize is that of struct input_event: a time of two longs, then type and
// code of 16 bits and a value of 32.
const inputEventSize = 2*int(unsafe.Sizeof(uintptr(0))) + 8

// powerPressed reports whether the events hold a press of the power key.
func powerPressed(events []byte) bool {
	for ; len(events) >= inputEventSize; events = events[inputEventSize:] {
		e := events[inputEventSize-8:]
		if binary.NativeEndian.Uint16(e) == evKey && binary.NativeEndian.Uint16(e[2:]) == keyPower &&
			binary.NativeEndian.Uint32(e[4:]) == 1 {
			return true
		}
	}
	return false
}

// halt is the last step on the real box: nothing runs any more.
func halt(a Action) error {
	unix.Sync()
	unmountAll()
	unix.Sync()
	how := unix.LINUX_REBOOT_CMD_RESTART
	if a == PowerOff {
		how = unix.LINUX_REBOOT_CMD_POWER_OFF
	}
	return fmt.Errorf("%s: %w", a, unix.Reboot(how))
}
