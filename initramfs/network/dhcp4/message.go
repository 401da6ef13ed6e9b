package dhcp4

import (
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// request sends a DHCPREQUEST as the state demands (RFC 2131, 4.3.6, table 4) and
// sets when to send it again.
func (m *Machine) request(now time.Time) Actions {
	p := m.message(now, dhcpv4.MessageTypeRequest)
	a := Actions{Send: []Packet{{Message: p}}}
	switch m.state {
	case Requesting:
		p.UpdateOption(dhcpv4.OptServerIdentifier(m.server.AsSlice()))
		p.UpdateOption(dhcpv4.OptRequestedIPAddress(m.want.AsSlice()))
		m.deadline = now.Add(m.backoff(m.sent))
	case Rebooting:
		p.UpdateOption(dhcpv4.OptRequestedIPAddress(m.want.AsSlice()))
		m.deadline = now.Add(m.backoff(m.sent))
	case Renewing:
		a.Send[0].Unicast = true
		p.ClientIPAddr = m.want.AsSlice()
		m.deadline = m.renewRetry(now, m.lease.Rebind)
	case Rebinding:
		p.ClientIPAddr = m.want.AsSlice()
		m.deadline = m.renewRetry(now, m.lease.Expires)
	}
	if m.sent == 0 {
		m.asked = now
		if m.lease == nil || m.lease.Address.Addr() != m.want {
			a.Probe, m.probed = m.want, now.Add(probeTime)
		}
	}
	m.sent++
	return a
}

// message makes what all our messages share.
func (m *Machine) message(now time.Time, kind dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	p := &dhcpv4.DHCPv4{
		OpCode:        dhcpv4.OpcodeBootRequest,
		HWType:        iana.HWTypeEthernet,
		TransactionID: m.xid,
		NumSeconds:    uint16(min(max(now.Sub(m.began)/time.Second, 0), 0xffff)),
		ClientHWAddr:  m.mac,
		Options:       dhcpv4.Options{},
	}
	p.UpdateOption(dhcpv4.OptMessageType(kind))
	// RFC 2132, 9.14: hardware type 1 (Ethernet), then the address. Home
	// routers show and reserve by MAC address; a DUID (RFC 4361) would hide it.
	p.UpdateOption(dhcpv4.OptClientIdentifier(append([]byte{1}, m.mac...)))
	if kind == dhcpv4.MessageTypeDecline {
		return p // RFC 2131, table 5: nothing else belongs into it
	}
	if h := m.hostname(); h != "" {
		p.UpdateOption(dhcpv4.OptHostName(h))
	}
	p.UpdateOption(dhcpv4.OptMaxMessageSize(1500))
	p.UpdateOption(dhcpv4.OptParameterRequestList(
		dhcpv4.OptionSubnetMask,
		dhcpv4.OptionClasslessStaticRoute, // before option 3: RFC 3442
		dhcpv4.OptionRouter,
		dhcpv4.OptionDomainNameServer,
		dhcpv4.OptionInterfaceMTU,
		dhcpv4.OptionNTPServers,
		dhcpv4.OptionIPAddressLeaseTime,
		dhcpv4.OptionServerIdentifier,
		dhcpv4.OptionRenewTimeValue,
		dhcpv4.OptionRebindingTimeValue,
	))
	return p
}

// backoff is the delay after the n-th message, counted from 0. RFC 2131, 4.1
// doubles from 4 s to 64 s, each randomised by one second. The first message after
// carrier comes up is often lost (a switch port still learning), so the box begins
// at 1 s; below 4 s, one second would be all of it and the jitter is a quarter.
func (m *Machine) backoff(n int) time.Duration {
	d := min(time.Second<<min(n, 10), maxRetry)
	return m.jitter(d, min(0.25, float64(time.Second)/float64(d)))
}

// renewRetry waits half of what is left until the next stage, but at least a
// minute, and not past it (RFC 2131, 4.4.5).
func (m *Machine) renewRetry(now, stage time.Time) time.Time {
	next := now.Add(m.jitter(max(stage.Sub(now)/2, minRenewRetry), 0.05))
	if next.After(stage) {
		return stage
	}
	return next
}

// jitter spreads d evenly over d*(1-by) to d*(1+by).
func (m *Machine) jitter(d time.Duration, by float64) time.Duration {
	return d + time.Duration(float64(d)*by*(2*m.rand.Float64()-1))
}
