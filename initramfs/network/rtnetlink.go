package network

import (
	"encoding/binary"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// news is what the kernel had to say since the last time. What changed is not in
// it: netd looks at everything again, so that a lost message costs nothing. Only
// what cannot be seen afterwards is.
type news struct {
	lostCarrier map[int]bool // links that were without carrier, if only for a moment
	resolvers   []rdnss
	err         error // the subscription has ended
}

// groups are the rtnetlink groups that netd hears: the bits of RTMGRP_* for
// groups up to 32 (group n is bit n-1).
const groups = 1<<(unix.RTNLGRP_LINK-1) | 1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1) |
	1<<(unix.RTNLGRP_IPV4_ROUTE-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1) | 1<<(unix.RTNLGRP_ND_USEROPT-1)

// subscription is a netlink socket that hears of every change. The netlink
// library's own subscriptions take a socket and a goroutine for each kind, and
// know nothing of ND user options.
type subscription struct {
	file *os.File
	raw  syscall.RawConn
}

func subscribe() (*subscription, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("subscribing to netlink: %w", err)
	}
	s := &subscription{file: os.NewFile(uintptr(fd), "netlink")}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		s.file.Close()
		return nil, fmt.Errorf("subscribing to netlink: %w", err)
	}
	return s, nil
}

func (s *subscription) close() { s.file.Close() }

// run reads until the socket is closed and hands every batch to out.
func (s *subscription) run(out chan<- news, done <-chan struct{}) {
	buf := make([]byte, 64<<10)
	for {
		var n int
		var from unix.Sockaddr
		var err error
		if rerr := s.raw.Read(func(fd uintptr) bool {
			n, from, err = unix.Recvfrom(int(fd), buf, 0)
			return err != unix.EAGAIN
		}); rerr != nil {
			err = rerr
		}
		batch := news{}
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.ENOBUFS: // messages were lost: look at everything
		case err != nil:
			batch.err = fmt.Errorf("reading netlink: %w", err)
		default:
			if nl, ok := from.(*unix.SockaddrNetlink); !ok || nl.Pid != 0 {
				continue // not from the kernel
			}
			batch = parseNews(buf[:n])
		}
		select {
		case out <- batch:
		case <-done:
			return
		}
		if batch.err != nil {
			return
		}
	}
}

// parseNews picks out of a batch of netlink messages what a later look would miss.
func parseNews(b []byte) news {
	var n news
	msgs, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return n
	}
	for _, m := range msgs {
		switch m.Header.Type {
		case unix.RTM_NEWLINK:
			// struct ifinfomsg: the index at 4, the flags at 8.
			if len(m.Data) < 16 || binary.NativeEndian.Uint32(m.Data[8:])&unix.IFF_LOWER_UP != 0 {
				continue
			}
			if n.lostCarrier == nil {
				n.lostCarrier = map[int]bool{}
			}
			n.lostCarrier[int(int32(binary.NativeEndian.Uint32(m.Data[4:])))] = true
		case unix.RTM_NEWNDUSEROPT:
			// A malformed option gives those in front of it.
			r, _ := parseUserOptions(m.Data)
			n.resolvers = append(n.resolvers, r...)
		}
	}
	return n
}
