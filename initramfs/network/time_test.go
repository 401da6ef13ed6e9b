package network

import (
	"encoding/binary"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fogwright/fogwright/initramfs/state"
	"github.com/vishvananda/netlink"
)

// timeServer answers NTP in the home with the real time (RFC 5905, figure 8).
func (h *home) timeServer() {
	var conn net.PacketConn
	var err error
	h.do(func() { conn, err = net.ListenPacket("udp", ":123") })
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if n < 48 || buf[0]&7 != 3 {
				h.t.Errorf("not a question of an NTP client: %x", buf[:n])
				continue
			}
			reply := make([]byte, 48)
			reply[0], reply[1], reply[3] = 0x24, 2, 0xec // version 4, server, stratum 2, 2^-20 s
			copy(reply[24:32], buf[40:48])
			now := time.Now()
			for _, at := range []int{16, 32, 40} { // reference, receive, transmit
				binary.BigEndian.PutUint32(reply[at:], uint32(now.Unix()+2208988800))
				binary.BigEndian.PutUint32(reply[at+4:], uint32(uint64(now.Nanosecond())<<32/1e9))
			}
			conn.WriteTo(reply, from)
		}
	}()
}

// TestIPv6OnlyHome: no DHCP at all, and a clock that is an hour behind. The time
// server is named by the owner, by a name that only the resolver out of the router
// advertisement knows.
func TestIPv6OnlyHome(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	h := newHome(t)
	h.ip("addr del 192.168.77.1/24 dev lan0")
	h.dnsmasq("--enable-ra", "--dhcp-range=2001:db8:77::,ra-only,10m",
		"--dhcp-option=option6:dns-server,[2001:db8:77::1]", "--address=/clock.example/2001:db8:77::1")
	h.timeServer()
	b := newBox(t, "ntp = [\"clock.example\"]\n")
	behind := b.cfg.Clock.Now()
	b.storage()
	b.run()
	n := b.until("online by IPv6", func(n state.Network) bool { return n.Online })
	if hasAddress(n, "dhcp", "0.0.0.0/0") {
		t.Errorf("an IPv4 address out of nowhere: %+v", n)
	}
	var clock state.Time
	eventually(t, "the right time", func() bool {
		clock = state.Time{}
		return state.Read(b.cfg.StateDir, state.TimeFile, &clock) == nil && clock.Synchronised
	})
	if clock.Server != "clock.example" || clock.Source != "ntp" || clock.LastSync == nil {
		t.Errorf("time.json: %+v", clock)
	}
	if moved := b.cfg.Clock.Now().Sub(behind); moved < time.Hour {
		t.Errorf("the clock moved by %s, want at least the hour that it was behind", moved)
	}
	noOpenPort(t)
	b.end()
	if got := content(t, filepath.Join(b.dir, "state/network/time")); strings.TrimSpace(got) == "" {
		t.Error("the time was not written down")
	}

	t.Log("the addresses say nothing about the hardware, and the settings hold")
	for _, source := range []string{"ra", "link-local"} {
		a := addressIn(n, source, "::/0")
		if id := a.Addr().AsSlice()[8:]; !a.IsValid() || id[3] == 0xff && id[4] == 0xfe {
			t.Errorf("%s address %s shows the MAC address (RFC 4291, appendix A)", source, a)
		}
	}
	for _, s := range forLink() {
		path := filepath.Join("/proc/sys/net", strings.ReplaceAll(s.path, "NAME", "eth0"))
		if got := strings.TrimSpace(content(t, path)); got != s.value {
			t.Errorf("%s is %s, want %s", path, got, s.value)
		}
	}
}

// TestTimeServerOfDHCP: option 42, and lo is up.
func TestTimeServerOfDHCP(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	h := newHome(t)
	h.dnsmasq(pool, "--dhcp-option=option:ntp-server,192.168.77.1")
	h.timeServer()
	b := newBox(t, "")
	b.storage()
	b.run()
	eventually(t, "the right time", func() bool {
		var clock state.Time
		return state.Read(b.cfg.StateDir, state.TimeFile, &clock) == nil && clock.Synchronised && clock.Server == "192.168.77.1"
	})
	lo, err := netlink.LinkByName("lo")
	if err != nil || lo.Attrs().OperState == netlink.OperDown {
		t.Errorf("lo: %v, %v", lo, err)
	}
}
