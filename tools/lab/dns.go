package lab

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"

	"golang.org/x/net/dns/dnsmessage"
)

// dnsTTL is short, so that a test may move a name.
const dnsTTL = 5

// answerDNS answers one query out of resolve. It returns nil for what is not
// worth an answer: what cannot be parsed, and answers (or two resolvers could
// talk to each other for ever).
func answerDNS(query []byte, resolve func(string) ([]netip.Addr, bool)) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil || h.Response {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	out := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: h.ID, Response: true, OpCode: h.OpCode,
			RecursionDesired: h.RecursionDesired, RecursionAvailable: true,
		},
		Questions: []dnsmessage.Question{q},
	}
	addrs, exists := resolve(q.Name.String())
	switch {
	case h.OpCode != 0:
		out.RCode = dnsmessage.RCodeNotImplemented
	case !exists:
		out.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range addrs {
		rh := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: dnsmessage.ClassINET, TTL: dnsTTL}
		switch {
		case out.RCode != dnsmessage.RCodeSuccess || q.Class != dnsmessage.ClassINET:
		case a.Is4() && q.Type == dnsmessage.TypeA:
			out.Answers = append(out.Answers, dnsmessage.Resource{Header: rh, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			out.Answers = append(out.Answers, dnsmessage.Resource{Header: rh, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	b, err := out.Pack()
	if err != nil {
		return nil
	}
	return b
}

// serveDatagrams answers each datagram of c until c is closed. answer returns nil
// for no answer.
func serveDatagrams(c net.PacketConn, answer func([]byte) []byte) {
	b := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		if out := answer(b[:n]); out != nil {
			c.WriteTo(out, from) // a lost answer is the client's to ask again
		}
	}
}

// serveStream answers DNS over TCP on one connection: messages with two bytes of
// length in front (RFC 1035, 4.2.2).
func serveStream(c net.Conn, answer func([]byte) []byte) {
	defer c.Close()
	for {
		var length [2]byte
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return
		}
		q := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(c, q); err != nil {
			return
		}
		out := answer(q)
		if out == nil {
			return
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)); err != nil {
			return
		}
	}
}
