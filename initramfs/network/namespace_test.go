package network

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fogwright/fogwright/initramfs/state"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inside is set in the process that runs a test in its own network namespace.
const inside = "FOGWRIGHT_TEST_NAMESPACE"

// inNamespace runs the calling test again in a process with a network namespace
// of its own and returns false; in that process it returns true. Whoever is not
// root gets there through a user namespace. The host's network is never touched.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inside) != "" {
		return true
	}
	t.Parallel()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), inside+"=1")
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	t.Logf("in the namespace:\n%s", out)
	if err != nil {
		t.Fatalf("the test in its own network namespace: %v (needs root or unprivileged user namespaces)", err)
	}
	if !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Fatal("the test did not run in the namespace")
	}
	return false
}

// home is the other end of the box's cable, in a second network namespace.
type home struct {
	t   *testing.T
	ask chan func()
}

// newHome makes the box's link eth0 with its other end, port0, on the home's switch
// lan0, in a new namespace.
func newHome(t *testing.T) *home {
	t.Helper()
	h := &home{t: t, ask: make(chan func())}
	ns := make(chan int)
	go func() {
		// The thread keeps its namespace and dies with the goroutine.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			panic(fmt.Sprintf("a second network namespace: %v", err))
		}
		fd, err := unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			panic(err)
		}
		ns <- fd
		for f := range h.ask {
			f()
		}
	}()
	fd := <-ns
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0",
		HardwareAddr: net.HardwareAddr{2, 0, 0, 0xab, 0xcd, 0xef}}, PeerName: "port0", PeerNamespace: netlink.NsFd(fd)}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatalf("a veth pair (kernel module veth): %v", err)
	}
	unix.Close(fd)
	h.ip("link set lo up")
	h.ip("link add lan0 type bridge")
	h.ip("link set port0 master lan0")
	h.ip("link set lan0 up")
	h.ip("link set port0 up")
	h.ip("addr add 192.168.77.1/24 dev lan0")
	h.ip("addr add 2001:db8:77::1/64 dev lan0 nodad")
	return h
}

// do runs f in the home's namespace.
func (h *home) do(f func()) {
	done := make(chan bool)
	h.ask <- func() { defer close(done); f() }
	<-done
}

// ip runs ip(8) in the home.
func (h *home) ip(args string) {
	h.t.Helper()
	h.do(func() {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			h.t.Errorf("ip %s: %v: %s (Debian package iproute2)", args, err, out)
		}
	})
}

// start runs a server in the home until the test ends, and gives its output.
func (h *home) start(name string, args ...string) *logBuffer {
	h.t.Helper()
	out := &logBuffer{}
	h.do(func() {
		path, err := exec.LookPath(name)
		if err != nil {
			h.t.Errorf("%v (Debian package dnsmasq-base)", err)
			return
		}
		cmd := exec.Command(path, args...)
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			h.t.Errorf("%s: %v", name, err)
			return
		}
		h.t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
			if h.t.Failed() {
				h.t.Logf("%s:\n%s", name, out.String())
			}
		})
	})
	if h.t.Failed() {
		h.t.FailNow()
	}
	return out
}

// dnsmasq runs the home's router: DHCP, RA and DNS as a real one has them.
func (h *home) dnsmasq(args ...string) *logBuffer {
	dir := h.t.TempDir()
	return h.start("dnsmasq", append([]string{
		"--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--no-ping",
		"--interface=lan0", "--bind-dynamic", "--log-dhcp", "--dhcp-authoritative",
		"--dhcp-leasefile=" + filepath.Join(dir, "leases"), "--pid-file=" + filepath.Join(dir, "pid"),
		"--address=/ntp.example/192.168.77.1",
	}, args...)...)
}

// box is netd running in a test.
type box struct {
	t   *testing.T
	cfg Config
	dir string
	end func()
}

// newBox lays out the folders of a box with the given site.toml.
func newBox(t *testing.T, siteTOML string) *box {
	t.Helper()
	dir := t.TempDir()
	b := &box{t: t, dir: dir}
	for _, d := range []string{"run", "factory", "state"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "factory/site.toml"), []byte(siteTOML), 0o644); err != nil {
		t.Fatal(err)
	}
	b.cfg = Config{
		StateDir: filepath.Join(dir, "run"), BoardFile: filepath.Join(dir, "board.json"),
		ResolvConf: filepath.Join(dir, "resolv.conf"),
		Physical:   func(name string) bool { return name == "eth0" },
		Clock:      &fakeClock{now: time.Now().Add(-time.Hour)},
		RTC:        func() (time.Time, error) { return time.Time{}, os.ErrNotExist },
	}
	build := time.Now().AddDate(0, -6, 0).Unix()
	if err := state.Write(dir, "board.json", state.Board{Name: "test", BuildTime: build}); err != nil {
		t.Fatal(err)
	}
	return b
}

// storage writes what stored would.
func (b *box) storage() {
	b.t.Helper()
	err := state.Write(b.cfg.StateDir, state.StorageFile, state.Storage{Ready: true, FileSystems: map[string]state.FileSystem{
		"factory": {Mount: filepath.Join(b.dir, "factory"), ReadOnly: true},
		"state":   {Mount: filepath.Join(b.dir, "state")},
	}})
	if err != nil {
		b.t.Fatal(err)
	}
}

// run starts netd; it must end without an error.
func (b *box) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Main(ctx, b.cfg) }()
	stopped := false
	b.end = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("Main: %v", err)
		}
	}
	b.t.Cleanup(b.end)
}

// until waits for network.json to satisfy ok and returns it.
func (b *box) until(what string, ok func(state.Network) bool) state.Network {
	b.t.Helper()
	var n state.Network
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		n = state.Network{}
		if err := state.Read(b.cfg.StateDir, state.NetworkFile, &n); err == nil && ok(n) {
			return n
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.t.Fatalf("never saw %s; last: %+v", what, n)
	return n
}
