package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// ntpEpoch is how many seconds 1970 is after 1900, where NTP begins (RFC 5905,
// 6).
const ntpEpoch = 2208988800

// NTP puts a time server on the internet that tells the time of clock (nil: the
// host's).
func (in *Internet) NTP(name string, clock func() time.Time, addrs ...netip.Addr) (*Host, error) {
	if clock == nil {
		clock = time.Now
	}
	host, err := in.Host(name, addrs...)
	if err != nil {
		return nil, err
	}
	c, err := host.ListenPacket("udp", ":123")
	if err != nil {
		return nil, fmt.Errorf("starting time server %q: %w", name, err)
	}
	go serveDatagrams(c, func(q []byte) []byte { return answerNTP(q, clock()) })
	return host, nil
}

// answerNTP answers one client request (RFC 5905, 7.3 and 9.2); nil if it is
// none.
func answerNTP(q []byte, now time.Time) []byte {
	const client, server = 3, 4
	if len(q) < 48 || q[0]&7 != client {
		return nil
	}
	stamp := ntpTime(now)
	b := make([]byte, 0, 48)
	b = append(b, q[0]&0x38|server, 1, q[2], 0xec) // version as asked, stratum 1, poll as asked, precision 2^-20 s
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 1)          // root delay 0, root dispersion 2^-16 s
	b = append(b, "LAB\x00"...)                    // reference id
	b = binary.BigEndian.AppendUint64(b, stamp)    // clock last set
	b = append(b, q[40:48]...)                     // origin: the client's transmit time
	b = binary.BigEndian.AppendUint64(b, stamp)    // received
	return binary.BigEndian.AppendUint64(b, stamp) // sent
}

// ntpTime is 32 bits of seconds and 32 of fraction. Eras wrap in 2036, by
// design.
func ntpTime(t time.Time) uint64 {
	return uint64(uint32(t.Unix()+ntpEpoch))<<32 | uint64(t.Nanosecond())<<32/1e9
}
