package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Machine is a running QEMU with its network cable in a home. It dies with its
// context, its home and (on Linux) this process, however that ends.
type Machine struct {
	Spec Spec
	// Port is its socket in the home's switch; nil without a network interface.
	Port *Port
	// Accelerator that it runs with.
	Accelerator string

	home    *Home
	dir     folder
	cmd     *exec.Cmd
	cable   *cable
	qmp     *qmp
	input   io.WriteCloser
	console *tail
	errors  *tail

	killed atomic.Bool
	done   chan struct{} // closed when QEMU is gone
	err    error         // of QEMU, valid after done
	close  sync.Once
}

func startMachine(ctx context.Context, spec Spec, h *Home) (*Machine, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	m := &Machine{
		Spec: spec, Accelerator: spec.Accelerator, home: h, done: make(chan struct{}),
		console: &tail{limit: 1 << 20, also: spec.Console}, errors: &tail{limit: 16 << 10},
	}
	if m.Accelerator == "" {
		m.Accelerator = TCG
		if spec.virtualizable() {
			m.Accelerator = Accelerator(ctx, spec.Arch)
		}
	}
	// Not below a test's folder: a socket's path has at most 107 bytes.
	dir, err := os.MkdirTemp("", "fogwright-vm-")
	if err != nil {
		return nil, err
	}
	m.dir = folder(dir)
	if err := m.start(ctx); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func (m *Machine) start(ctx context.Context) error {
	program, err := Program(m.Spec.Arch)
	if err == nil {
		err = m.Spec.prepare(m.dir)
	}
	if err == nil && m.Spec.QEMU.NIC != "" {
		if m.cable, err = newCable(m.home.LAN, m.Spec.Name, m.dir.cable()); err == nil {
			m.Port = m.cable.port
		}
	}
	if err != nil {
		close(m.done)
		return err
	}
	m.cmd = exec.CommandContext(ctx, program, m.Spec.arguments(m.dir, m.Accelerator)...)
	m.cmd.Stdout, m.cmd.Stderr = m.console, m.errors
	m.cmd.WaitDelay = 5 * time.Second
	m.cmd.SysProcAttr = dieWithParent()
	if m.input, err = m.cmd.StdinPipe(); err != nil {
		close(m.done)
		return err
	}
	if err := m.run(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return fmt.Errorf("%w (on Debian and Ubuntu: apt install qemu-system-x86 qemu-system-arm)", err)
		}
		return err
	}
	return m.greet(ctx)
}

// run starts QEMU and stays with it. Linux signals the death of the parent when
// the thread that made the child ends, so that thread is kept.
func (m *Machine) run() error {
	started := make(chan error)
	go func() {
		defer close(m.done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := m.cmd.Start()
		started <- err
		if err == nil {
			m.err = m.cmd.Wait()
		}
	}()
	return <-started
}

// greet waits until QEMU's control socket answers, which is when the machine
// runs.
func (m *Machine) greet(ctx context.Context) error {
	var conn net.Conn
	err := until(ctx, func() bool {
		select {
		case <-m.done:
			return true
		default:
		}
		var err error
		conn, err = net.Dial("unix", m.dir.qmp())
		return err == nil
	})
	if err != nil {
		return err
	}
	if conn != nil {
		if m.qmp, err = newQMP(conn); err == nil {
			return nil
		}
	}
	m.cmd.Cancel()
	<-m.done
	return errors.Join(m.exit(), err)
}

// exit is QEMU's end as an error with its own words.
func (m *Machine) exit() error {
	if m.err == nil || m.killed.Load() {
		return nil
	}
	said := strings.TrimSpace(m.errors.String())
	if said == "" {
		said = "it said nothing; its console may"
	}
	return fmt.Errorf("%s: %w: %s", m.cmd.Path, m.err, said)
}

// Done is closed when the machine is off.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Wait waits until the machine is off, or ctx ends. The error is QEMU's; a machine
// that switched itself off or lost its power here has none.
func (m *Machine) Wait(ctx context.Context) error {
	select {
	case <-m.done:
		return m.exit()
	case <-ctx.Done():
		return fmt.Errorf("waiting for machine %q to switch off: %w", m.Spec.Name, context.Cause(ctx))
	}
}

// PowerButton presses it: the box is asked to shut down. Only machines with ACPI
// or a GPIO button have one; the others are asked over the control channel.
func (m *Machine) PowerButton() error { return m.command("system_powerdown", nil) }

// Reset presses the reset button.
func (m *Machine) Reset() error { return m.command("system_reset", nil) }

// Kill cuts the power: nothing that QEMU has not written yet is written.
func (m *Machine) Kill() {
	select {
	case <-m.done: // by itself, and its failure stays one
		return
	default:
	}
	m.killed.Store(true)
	if m.cmd != nil && m.cmd.Process != nil {
		m.cmd.Process.Kill()
	}
	<-m.done
}

// SetCable pulls the network cable (false) or puts it back (true); the machine's
// interface loses or gets its carrier, where the model knows such a thing.
func (m *Machine) SetCable(in bool) error {
	if m.Port == nil {
		return fmt.Errorf("machine %q: its board has no network interface in QEMU", m.Spec.Name)
	}
	m.Port.SetCable(in)
	return m.command("set_link", map[string]any{"name": "n0", "up": in})
}

// Events are the names of what QEMU reported until now, oldest first: RESET,
// WATCHDOG, SHUTDOWN and others.
func (m *Machine) Events() []string { return m.qmp.seen() }

func (m *Machine) command(name string, arguments map[string]any) error {
	if err := m.qmp.do(name, arguments); err != nil {
		return fmt.Errorf("machine %q: %w", m.Spec.Name, err)
	}
	return nil
}

// Control connects to the box's control channel. One connection at a time; close
// it and call again to connect anew.
func (m *Machine) Control() (io.ReadWriteCloser, error) {
	if m.Spec.QEMU.Control == "" {
		return nil, fmt.Errorf("machine %q: its board has no control channel in QEMU", m.Spec.Name)
	}
	c, err := net.Dial("unix", m.dir.control())
	if err != nil {
		return nil, fmt.Errorf("machine %q: control channel: %w", m.Spec.Name, err)
	}
	return c, nil
}

// Console is the end of what the machine has printed, up to 1 MiB.
func (m *Machine) Console() string { return m.console.String() }

// WaitConsole waits until text is on the console.
func (m *Machine) WaitConsole(ctx context.Context, text string) error {
	off := false
	err := until(ctx, func() bool {
		select {
		case <-m.done:
			off = true
		default:
		}
		return m.console.contains(text) || off
	})
	if err == nil && off && !m.console.contains(text) {
		err = errors.Join(errors.New("the machine is off"), m.exit())
	}
	if err != nil {
		return fmt.Errorf("waiting for %q on the console of %q: %w", text, m.Spec.Name, err)
	}
	return nil
}

// Input is the console's keyboard.
func (m *Machine) Input() io.Writer { return m.input }

// Address waits for the address that the home's DHCP server gave to the box.
func (m *Machine) Address(ctx context.Context) (netip.Addr, error) {
	var a netip.Addr
	err := until(ctx, func() (ok bool) {
		a, ok = m.home.Router.Lease(m.Spec.MAC())
		return ok
	})
	if err != nil {
		return a, fmt.Errorf("waiting for machine %q to get an address by DHCP: %w", m.Spec.Name, err)
	}
	return a, nil
}

// Close cuts the power and clears up. The image stays.
func (m *Machine) Close() error {
	var err error
	m.close.Do(func() {
		m.Kill()
		if m.qmp != nil {
			m.qmp.Close() // QEMU is gone, so is the connection
		}
		if m.cable != nil {
			m.cable.Close()
		}
		err = os.RemoveAll(string(m.dir))
	})
	return err
}

// tail keeps the end of a stream: at least its last limit bytes.
type tail struct {
	limit int
	also  io.Writer

	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	t.b = append(t.b, p...)
	if len(t.b) > 2*t.limit { // and not at every write, which would copy it all
		t.b = append(t.b[:0], t.b[len(t.b)-t.limit:]...)
	}
	t.mu.Unlock()
	if t.also != nil {
		t.also.Write(p) // a watcher that fails must not stop the machine
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}

func (t *tail) contains(text string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Contains(t.b, []byte(text))
}
