package dhcp4

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// socket is an AF_PACKET socket on one link for one EtherType. The kernel adds and
// strips the Ethernet header. Unlike a UDP socket it needs no address of its own,
// and it occupies no port: nothing can be sent to it that its filter does not want.
type socket struct {
	file  *os.File
	raw   syscall.RawConn
	index int
	proto uint16
	done  atomic.Bool // closed by us
}

// received is what one read gave.
type received struct {
	payload  []byte
	from     net.HardwareAddr
	unsummed bool // the transport checksum has not been filled in
}

// openSocket opens a socket that sees only what the filter accepts, from its
// first packet: it is bound to the protocol after the filter is in place.
func openSocket(index int, proto uint16, filter []bpf.Instruction) (*socket, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket (needs CAP_NET_RAW): %w", err)
	}
	if err := prepare(fd, index, proto, filter); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("preparing a packet socket on interface %d: %w", index, err)
	}
	s := &socket{file: os.NewFile(uintptr(fd), "packet"), index: index, proto: proto}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		s.file.Close()
		return nil, fmt.Errorf("preparing a packet socket on interface %d: %w", index, err)
	}
	return s, nil
}

func prepare(fd, index int, proto uint16, filter []bpf.Instruction) error {
	code, err := bpf.Assemble(filter)
	if err != nil {
		return err
	}
	prog := make([]unix.SockFilter, len(code))
	for i, c := range code {
		prog[i] = unix.SockFilter{Code: c.Op, Jt: c.Jt, Jf: c.Jf, K: c.K}
	}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]})
	if err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
		return err
	}
	return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(proto), Ifindex: index})
}

// read waits for one packet that came in from the network.
func (s *socket) read() (received, error) {
	buf, oob := make([]byte, 2048), make([]byte, 128)
	for {
		var n, oobn int
		var from unix.Sockaddr
		var err error
		if rerr := s.raw.Read(func(fd uintptr) bool {
			n, oobn, _, from, err = unix.Recvmsg(int(fd), buf, oob, 0)
			return err != unix.EAGAIN
		}); rerr != nil {
			return received{}, rerr
		}
		if err == unix.ENETDOWN || err == unix.EINTR {
			continue // the link went down; it may come back
		}
		if err != nil {
			return received{}, err
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if !ok || ll.Pkttype == unix.PACKET_OUTGOING || ll.Halen != 6 {
			continue
		}
		r := received{payload: buf[:n], from: net.HardwareAddr(ll.Addr[:6]), unsummed: unsummed(oob[:oobn])}
		return r, nil
	}
}

// unsummed looks for TP_STATUS_CSUMNOTREADY in a packet's auxiliary data
// (packet(7), PACKET_AUXDATA).
func unsummed(oob []byte) bool {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return false
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 4 {
			// struct tpacket_auxdata begins with the 32-bit tp_status.
			return binary.NativeEndian.Uint32(m.Data)&unix.TP_STATUS_CSUMNOTREADY != 0
		}
	}
	return false
}

func (s *socket) send(to net.HardwareAddr, payload []byte) error {
	sa := &unix.SockaddrLinklayer{Protocol: bigEndian(s.proto), Ifindex: s.index, Halen: uint8(len(to))}
	copy(sa.Addr[:], to)
	var err error
	if werr := s.raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), payload, 0, sa)
		return err != unix.EAGAIN
	}); werr != nil {
		return werr
	}
	return err
}

func (s *socket) close() {
	s.done.Store(true)
	s.file.Close()
}

// bigEndian is htons.
func bigEndian(v uint16) uint16 {
	return binary.NativeEndian.Uint16([]byte{byte(v >> 8), byte(v)})
}

// dhcpFilter accepts whole IPv4 UDP datagrams to the client port. It sees packets
// from their IPv4 header on.
func dhcpFilter() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protoUDP, SkipTrue: 6},
		bpf.LoadAbsolute{Off: 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x3fff, SkipTrue: 4}, // a fragment
		bpf.LoadMemShift{Off: 0},                                    // X = header length
		bpf.LoadIndirect{Off: 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: clientPort, SkipTrue: 1},
		bpf.RetConstant{Val: 2048},
		bpf.RetConstant{Val: 0},
	}
}

// arpFilter accepts every ARP packet; there are few, and the socket is open for
// the fraction of a second that a probe takes.
func arpFilter() []bpf.Instruction { return []bpf.Instruction{bpf.RetConstant{Val: arpLength}} }
