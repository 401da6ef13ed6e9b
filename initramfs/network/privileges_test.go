package network

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fogwright/fogwright/initramfs/state"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// asNetd names the folder of the box that a test process is to be netd for.
const asNetd = "FOGWRIGHT_TEST_NETD"

// hostRoot reports whether other user ids than root's exist here: not in a user
// namespace that an ordinary user made.
func (b *box) hostRoot() bool {
	return strings.Contains(content(b.t, "/proc/self/uid_map"), "4294967295")
}

// runNetd is netd in a process of its own, with few privileges.
func runNetd(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return Main(ctx, Config{
		StateDir: filepath.Join(dir, "run"), BoardFile: filepath.Join(dir, "board.json"),
		ResolvConf: filepath.Join(dir, "run/resolv.conf"),
		Physical:   func(name string) bool { return name == "eth0" },
		Clock:      &fakeClock{now: time.Now()},
	})
}

// TestPrivileges: netd needs no more than CAP_NET_ADMIN and CAP_NET_RAW (and
// CAP_SYS_TIME, which cannot be tried out without setting the host's clock), and
// its own folders.
func TestPrivileges(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	h := newHome(t)
	h.dnsmasq(pool, "--enable-ra", "--dhcp-range=2001:db8:77::,ra-only,10m")
	b := newBox(t, "hostname = \"cellar\"\n")
	b.storage()
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL,
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW}}
	if b.hostRoot() {
		// Below t.TempDir only what netd owns is its own.
		for p := b.dir; p != "/tmp" && p != "/" && strings.HasPrefix(p, os.TempDir()); p = filepath.Dir(p) {
			if err := os.Chmod(p, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		const nobody = 65534
		for _, d := range []string{"run", "state"} {
			if err := os.Chown(filepath.Join(b.dir, d), nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
		attr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	program := filepath.Join(b.dir, "netd")
	copyFile(t, os.Args[0], program)
	cmd := exec.Command(program)
	cmd.Env = []string{inside + "=1", asNetd + "=" + b.dir}
	cmd.SysProcAttr = attr
	out := &logBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait(); t.Logf("netd:\n%s", out) })
	b.until("both addresses", func(n state.Network) bool {
		return n.Online && hasAddress(n, "dhcp", "192.168.77.0/24") && hasAddress(n, "ra", "2001:db8:77::/64")
	})
	status := content(t, "/proc/"+strconv.Itoa(cmd.Process.Pid)+"/status")
	if want := "CapEff:\t0000000000003000"; b.hostRoot() && !strings.Contains(status, want) {
		t.Errorf("netd ran with other privileges than %s:\n%s", want, status)
	}
	if got := strings.TrimSpace(content(t, "/proc/sys/net/ipv6/conf/eth0/accept_redirects")); got != "0" {
		t.Errorf("accept_redirects is %s: netd could not write sysctls", got)
	}
	for _, f := range []string{"run/resolv.conf", "run/time.json", "state/network/ipv6-secret", "state/network/dhcp4-020000abcdef"} {
		if _, err := os.Stat(filepath.Join(b.dir, f)); err != nil {
			t.Error(err)
		}
	}
	for _, complaint := range []string{"level=ERROR", "permission denied", "not permitted"} {
		if strings.Contains(out.String(), complaint) {
			t.Errorf("netd complained: %s", complaint)
		}
	}
}

// TestPolicyFirst: links stay down until the isolation policy stands, and are
// hardened before they come up.
func TestPolicyFirst(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	newHome(t)
	b := newBox(t, "")
	b.storage()
	asked, allow := make(chan bool, 8), make(chan error, 8)
	b.cfg.BeforeLinks = func(ctx context.Context) error {
		select {
		case asked <- true:
		default:
		}
		select {
		case err := <-allow:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	up := func() bool {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		return l.Attrs().RawFlags&unix.IFF_UP != 0
	}
	b.run()
	<-asked
	allow <- os.ErrPermission // the policy did not install
	<-asked
	if up() {
		t.Error("the link is up without a policy")
	}
	if got := strings.TrimSpace(content(t, "/proc/sys/net/ipv6/conf/default/accept_source_route")); got != "-1" {
		t.Errorf("accept_source_route of new links is %s before the policy, want -1", got)
	}
	allow <- nil
	eventually(t, "the link up", up)
}
