package network

import (
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/fogwright/fogwright/initramfs/state"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"
)

// shortLease is a DHCP server whose leases want to be renewed after one second
// and rebound after three, which no real server grants.
func (h *home) shortLease(seen chan<- string) {
	var conn net.PacketConn
	h.do(func() {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
				unix.BindToDevice(int(fd), "lan0")
			})
		}}
		var err error
		if conn, err = lc.ListenPacket(h.t.Context(), "udp4", "0.0.0.0:67"); err != nil {
			h.t.Error(err)
		}
	})
	if conn == nil {
		h.t.FailNow()
	}
	h.t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			ask, err := dhcpv4.FromBytes(buf[:n])
			if err != nil {
				h.t.Errorf("the box sent what is not DHCP: %v", err)
				continue
			}
			src := from.(*net.UDPAddr)
			unicast := !src.IP.IsUnspecified()
			kind, to := dhcpv4.MessageTypeOffer, &net.UDPAddr{IP: net.IPv4bcast, Port: 68}
			if ask.MessageType() == dhcpv4.MessageTypeRequest {
				kind = dhcpv4.MessageTypeAck
				if unicast {
					kind, to = dhcpv4.MessageTypeAck, src
				}
			}
			event := ask.MessageType().String() + " from " + src.String()
			select {
			case seen <- event:
			default:
			}
			reply, err := dhcpv4.NewReplyFromRequest(ask,
				dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(net.IPv4(192, 168, 77, 60)),
				dhcpv4.WithServerIP(net.IPv4(192, 168, 77, 1)), dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
				dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 168, 77, 1))),
				dhcpv4.WithOption(dhcpv4.OptRouter(net.IPv4(192, 168, 77, 1))),
				dhcpv4.WithLeaseTime(600),
				dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionRenewTimeValue, []byte{0, 0, 0, 1})),
				dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionRebindingTimeValue, []byte{0, 0, 0, 3})))
			if err != nil {
				h.t.Error(err)
				continue
			}
			conn.WriteTo(reply.ToBytes(), to)
		}
	}()
}

// TestRenewal: the first renewal leaves from the leased address, to the server's
// own, and its answer extends the lease, all without an open port.
func TestRenewal(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	h := newHome(t)
	seen := make(chan string, 64)
	h.shortLease(seen)
	b := newBox(t, "")
	b.storage()
	b.run()
	n := b.until("the address", func(n state.Network) bool { return n.Online })
	first := n.Links[0].Lease.Expires
	// A message may have been repeated while the switch was still learning.
	want := []string{"DISCOVER from 0.0.0.0:68", "REQUEST from 0.0.0.0:68", "REQUEST from 192.168.77.60:68"}
	for i := 0; i < len(want); {
		select {
		case got := <-seen:
			if got == want[i] {
				i++
			} else if i == 0 || got != want[i-1] {
				t.Errorf("the server heard %s, want %s", got, want[i])
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("the server never heard %s", want[i])
		}
		noOpenPort(t)
	}
	b.until("the extended lease", func(n state.Network) bool { return n.Links[0].Lease.Expires.After(first) })
	kernelHas(t, netip.MustParsePrefix("192.168.77.60/24"))
}
