package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// namespaceEnv tells a copy of this program that it is to make a namespace.
const namespaceEnv = "FOGWRIGHT_LAB_NAMESPACE"

// Namespace is a host on the LAN for programs of the real computer, such as nmap
// and aria2: a Linux network namespace with an interface "lan0" whose other end
// is a port of the home's switch. /etc/resolv.conf in it names the home's router.
//
// The namespace is made by a child process, a copy of this program that [Reexec]
// takes over, because a program of many threads cannot make one for an ordinary
// user. It passes the interface's file descriptor back and waits until we are
// gone. An ordinary user gets a user namespace, too, and needs write permission
// for /dev/net/tun.
type Namespace struct {
	Name string
	// Addr4 and Addr6 are its addresses on the LAN. The kernel adds its own out
	// of the router's advertisements.
	Addr4, Addr6 netip.Addr
	Port         *Port

	keeper *exec.Cmd
	socket *os.File
	tap    *os.File
	done   chan struct{}
}

// namespaceConfig goes to the child.
type namespaceConfig struct {
	Addresses []netip.Prefix
	Gateways  []netip.Addr
	Resolver  netip.Addr
}

// Reexec must be called first in main or TestMain of a program that uses
// [Home.Namespace]. In the child that makes a namespace it does not return.
func Reexec() {
	config := os.Getenv(namespaceEnv)
	if config == "" {
		return
	}
	os.Exit(keepNamespace(config, os.NewFile(3, "parent")))
}

// Namespace makes a host named name for programs of this computer. It ends with
// the home.
func (h *Home) Namespace(name string) (*Namespace, error) {
	n, err := h.namespace(name)
	if err != nil {
		return nil, fmt.Errorf("making network namespace %q: %w", name, err)
	}
	h.onClose(n.Close)
	return n, nil
}

func (h *Home) namespace(name string) (*Namespace, error) {
	if os.Getenv(namespaceEnv) != "" {
		return nil, errors.New("this program must call lab.Reexec first in its main or TestMain")
	}
	v4, v6, err := h.static()
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(namespaceConfig{
		Addresses: []netip.Prefix{v4, v6},
		Gateways:  []netip.Addr{h.Router.LAN4(), h.Router.LAN6()},
		Resolver:  h.Router.LAN4(),
	})
	if err != nil {
		return nil, err
	}
	n := &Namespace{Name: name, Addr4: v4.Addr(), Addr6: v6.Addr(), done: make(chan struct{})}
	if err := n.start(string(config)); err != nil {
		return nil, err
	}
	n.Port = h.LAN.Plug(name, func(frame []byte, _ bool) { n.tap.Write(frame) })
	go n.read()
	return n, nil
}

// start runs the child and takes the interface from it.
func (n *Namespace) start(config string) error {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	n.socket = os.NewFile(uintptr(ends[0]), "namespace")
	theirs := os.NewFile(uintptr(ends[1]), "parent")
	defer theirs.Close()
	n.keeper = exec.Command("/proc/self/exe")
	n.keeper.Env = append(os.Environ(), namespaceEnv+"="+config)
	n.keeper.ExtraFiles = []*os.File{theirs}
	n.keeper.Stderr = os.Stderr
	n.keeper.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		n.keeper.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		n.keeper.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		n.keeper.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	if err := n.keeper.Start(); err != nil {
		n.socket.Close()
		return fmt.Errorf("%w (needs root, or user namespaces allowed for ordinary users)", err)
	}
	theirs.Close()
	if n.tap, err = receiveTAP(n.socket); err != nil {
		return errors.Join(err, n.stopKeeper())
	}
	return nil
}

// receiveTAP reads the child's one message: a file descriptor, or what went
// wrong.
func receiveTAP(socket *os.File) (*os.File, error) {
	text, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	nt, no, _, _, err := unix.Recvmsg(int(socket.Fd()), text, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("asking the child for its interface: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:no])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("the child has no interface for us: %s", text[:nt])
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.New("the child's message has no file descriptor")
	}
	if err := unix.SetNonblock(fds[0], true); err != nil { // or Close would not end a Read
		unix.Close(fds[0])
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "lan0"), nil
}

func (n *Namespace) read() {
	defer close(n.done)
	b := make([]byte, 64<<10)
	for {
		size, err := n.tap.Read(b)
		if err != nil {
			return
		}
		n.Port.Send(append([]byte(nil), b[:size]...))
	}
}

// Command is a program to be run in the namespace, with the file system as it is
// (but for resolv.conf). It is started like any other, and not waited for when
// the namespace closes: end it first.
func (n *Namespace) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	pre := []string{"--target", strconv.Itoa(n.keeper.Process.Pid), "--net", "--mount", "--wd=."}
	if os.Geteuid() != 0 {
		pre = append(pre, "--user", "--preserve-credentials")
	}
	return exec.CommandContext(ctx, "nsenter", append(append(pre, "--", name), args...)...)
}

// Close ends the namespace.
func (n *Namespace) Close() error {
	err := n.tap.Close()
	<-n.done
	n.Port.Unplug()
	return errors.Join(err, n.stopKeeper())
}

// stopKeeper lets the child go: it ends when our end of the socket is closed.
func (n *Namespace) stopKeeper() error {
	err := n.socket.Close()
	if werr := n.keeper.Wait(); werr != nil {
		err = errors.Join(err, fmt.Errorf("the namespace's keeper: %w", werr))
	}
	return err
}

// keepNamespace is the child: it makes the interface, passes it on, and waits for
// the parent's end.
func keepNamespace(config string, parent *os.File) int {
	tap, err := setUpNamespace(config)
	var oob []byte
	text := "ready"
	if err != nil {
		text = err.Error()
	} else {
		oob = unix.UnixRights(int(tap.Fd()))
	}
	serr := unix.Sendmsg(int(parent.Fd()), []byte(text), oob, nil, 0)
	if err != nil {
		return 0 // told, and the parent's to report
	}
	tap.Close()
	if serr != nil {
		return 1
	}
	io.Copy(io.Discard, parent)
	return 0
}

// setUpNamespace configures the namespace that this process is in.
func setUpNamespace(config string) (*os.File, error) {
	var c namespaceConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return nil, err
	}
	if err := setResolver(c.Resolver); err != nil {
		return nil, fmt.Errorf("resolv.conf: %w", err)
	}
	tap, err := openTAP("lan0")
	if err != nil {
		return nil, err
	}
	if err := configureLink("lan0", c); err != nil {
		tap.Close()
		return nil, err
	}
	return tap, nil
}

// setResolver puts a resolv.conf of our own over the real one, in this mount
// namespace only.
func setResolver(a netip.Addr) error {
	f, err := os.CreateTemp("", "fogwright-resolv-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // the mount keeps it
	if _, err = fmt.Fprintf(f, "nameserver %v\n", a); err == nil {
		err = f.Chmod(0o644)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Mount(f.Name(), "/etc/resolv.conf", "", unix.MS_BIND, "")
}

// openTAP makes an Ethernet interface whose frames we read and write, one per
// system call, without a header (Linux, Documentation/networking/tuntap.rst).
func openTAP(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w (needs root, or write permission for it)", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("making interface %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// ipNet is a prefix in package net's terms, with the host part kept.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
