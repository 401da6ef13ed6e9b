package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/fogwright/fogwright/initramfs/boot/journal"
)

// console is where init speaks: to the journal, and to the kernel's log, which
// puts the line on every console whole. (Writing to /dev/console instead would let
// a kernel message land in the middle of a line, and one XOFF from a terminal
// would stop PID 1.) What is said before the kernel's log is open waits.
type console struct {
	journal *journal.Journal

	mu   sync.Mutex
	kmsg *os.File
	wait []string
}

func newConsole(j *journal.Journal) *console { return &console{journal: j} }

// Printf says one line.
func (c *console) Printf(format string, a ...any) {
	line := journal.Clean(fmt.Sprintf(format, a...))
	c.journal.Append("init", line)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kmsg == nil {
		c.wait = append(c.wait, line)
		return
	}
	c.say(line)
}

// Write lets log/slog speak here.
func (c *console) Write(b []byte) (int, error) {
	c.Printf("%s", strings.TrimRight(string(b), "\n"))
	return len(b), nil
}

// say writes one kernel log record: <13> is facility user, level notice. A record
// holds some 970 bytes (LOG_LINE_MAX); the kernel refuses a longer one.
func (c *console) say(line string) {
	const most = 900
	if len(line) > most {
		line = strings.ToValidUTF8(line[:most], "") + "…"
	}
	// There is nowhere left to tell of a failure.
	_, _ = fmt.Fprintf(c.kmsg, "<13>fogwright: %s\n", line)
}

// open connects the console with path, /dev/kmsg.
func (c *console) open(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening the kernel's log: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kmsg = f
	for _, line := range c.wait {
		c.say(line)
	}
	c.wait = nil
	return nil
}

// openConsole is the phase: from here on init is heard, and hears the kernel.
func (p *initProcess) openConsole(ctx context.Context) error {
	var errs []error
	if p.cfg.Kmsg == kernelLog {
		errs = append(errs, setKernelLog())
	}
	if err := p.console.open(p.cfg.Kmsg); err != nil {
		return errors.Join(append(errs, err)...)
	}
	r, err := os.Open(p.cfg.Kmsg)
	if err != nil {
		errs = append(errs, fmt.Errorf("reading the kernel's log: %w", err))
	} else {
		go p.readKernelLog(r)
	}
	return errors.Join(errs...)
}

// kernelLog is the kernel's log as a device.
const kernelLog = "/dev/kmsg"

func setKernelLog() error {
	// 6: notices and worse reach the console, whatever "quiet" says; the
	// chatter of drivers (info, 6) does not.
	const setConsoleLevel = 8 // SYSLOG_ACTION_CONSOLE_LEVEL of syslog(2)
	if _, _, e := unix.Syscall(unix.SYS_SYSLOG, setConsoleLevel, 0, 6); e != 0 {
		return fmt.Errorf("setting the console's log level: %w", e)
	}
	// Without this the kernel drops lines beyond ten in five seconds.
	if err := os.WriteFile("/proc/sys/kernel/printk_devkmsg", []byte("on\n"), 0); err != nil {
		return fmt.Errorf("lifting the kernel log's rate limit: %w", err)
	}
	return nil
}

// readKernelLog copies the kernel's own lines into the journal, until the end.
func (p *initProcess) readKernelLog(r *os.File) {
	defer r.Close()
	buf := make([]byte, 8<<10) // one read, one record; CONSOLE_EXT_LOG_MAX is 8 KiB
	for {
		n, err := r.Read(buf)
		switch {
		case errors.Is(err, unix.EPIPE): // the oldest records were overwritten
			continue
		case err != nil:
			p.console.Printf("reading the kernel's log: %v", err)
			return
		}
		if text, kernel, ok := journal.ParseKmsg(buf[:n]); ok && kernel {
			p.journal.Append("kernel", text)
		}
	}
}

func splitLines(b []byte) []string { return strings.Split(strings.TrimSpace(string(b)), "\n") }
