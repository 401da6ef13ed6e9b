package dhcp4

import (
	"bytes"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// State is where the client stands, in the words of RFC 2131, figure 5.
type State string

// The states. Checking and Waiting are ours: the wait for the ARP probe between
// DHCPACK and BOUND, and the pause after a DHCPDECLINE or repeated DHCPNAKs.
const (
	Stopped    State = "stopped" // no carrier
	Waiting    State = "waiting"
	Selecting  State = "selecting"
	Requesting State = "requesting"
	Rebooting  State = "rebooting"
	Checking   State = "checking"
	Bound      State = "bound"
	Renewing   State = "renewing"
	Rebinding  State = "rebinding"
)

const (
	// probeTime is how long somebody else has to claim the address. RFC 5227
	// probes three times over five to seven seconds; that is longer than the
	// rest of the boot. The probe here is sent together with DHCPREQUEST, so
	// most of its time passes while the server answers anyway. It finds a
	// present and awake neighbour, which is the common accident; servers probe
	// too (RFC 2131, 3.1).
	probeTime = 200 * time.Millisecond
	// declinePause is RFC 2131, 3.1 step 5: at least ten seconds.
	declinePause = 10 * time.Second
	// maxRetry caps the retransmission delay (RFC 2131, 4.1).
	maxRetry = 64 * time.Second
	// minRenewRetry is RFC 2131, 4.4.5: no more often than once a minute.
	minRenewRetry = 60 * time.Second
	// How often a DHCPREQUEST is sent before the client starts over.
	requestTries = 4
	rebootTries  = 2
)

// Packet is one message to send.
type Packet struct {
	Message *dhcpv4.DHCPv4
	// Unicast: to the server's address from the lease's own. Otherwise to
	// 255.255.255.255 from the message's ciaddr.
	Unicast bool
}

// Actions is what the machine wants done, in the order of the fields.
type Actions struct {
	Lost  string     // not empty: stop using the lease in force; says why
	Bound *Lease     // not nil: put this lease into force, or its new times
	Send  []Packet   //
	Probe netip.Addr // valid: ask by ARP whether somebody has this address
}

// Machine is the client's state machine for one link. It is pure: time and events
// go in, actions come out. It is not safe for concurrent use.
type Machine struct {
	mac      net.HardwareAddr
	hostname func() string
	rand     *rand.Rand

	state    State
	lease    *Lease     // in force
	pending  *Lease     // acknowledged, waiting for the probe
	want     netip.Addr // asked for: from an offer, or remembered
	server   netip.Addr // that made the offer
	xid      dhcpv4.TransactionID
	began    time.Time // of this attempt to get or keep a lease
	asked    time.Time // when this transaction's first DHCPREQUEST left
	probed   time.Time // when the probe of want ends
	conflict bool      // somebody has want
	deadline time.Time // of the next retransmission or transition
	sent     int       // messages of this transaction
	refusals int       // DHCPNAKs in a row
}

// NewMachine makes a stopped machine. hostname is asked for at every message and
// may be empty; last is the address of an earlier life to try first (INIT-REBOOT),
// or the zero Addr.
func NewMachine(mac net.HardwareAddr, hostname func() string, last netip.Addr, r *rand.Rand) *Machine {
	return &Machine{mac: mac, hostname: hostname, want: last, rand: r, state: Stopped}
}

// State tells where the machine stands.
func (m *Machine) State() State { return m.state }

// Listening reports whether the machine waits for packets.
func (m *Machine) Listening() bool {
	return m.state != Stopped && m.state != Bound && m.state != Waiting
}

// Next is when Tick must be called next; zero means no time soon.
func (m *Machine) Next() time.Time {
	next := m.deadline
	if m.lease != nil && !m.lease.Expires.IsZero() && (next.IsZero() || m.lease.Expires.Before(next)) {
		next = m.lease.Expires
	}
	return next
}

// Start is carrier coming up, for the first time or again: a known address is
// verified (INIT-REBOOT), for the cable may now be in another network.
//
// RFC 2131, 4.4.1 would have a client wait one to ten seconds first so that a
// street of machines does not ask at once after a power cut. A home has a handful,
// and the box has a boot budget: it does not wait.
func (m *Machine) Start(now time.Time) Actions {
	m.refusals = 0
	m.began = now
	if m.lease != nil {
		m.want = m.lease.Address.Addr()
	}
	if !m.want.IsValid() {
		return m.discover(now)
	}
	m.transaction(Rebooting)
	m.server = netip.Addr{}
	return m.request(now)
}

// Stop is carrier going down. The lease stays in force until it expires, so that
// a loose cable costs nothing.
func (m *Machine) Stop() {
	m.state, m.deadline, m.pending = Stopped, time.Time{}, nil
}

// Tick is time passing: call it at Next, or at any time.
func (m *Machine) Tick(now time.Time) Actions {
	if m.lease != nil && !m.lease.valid(now) {
		return m.expire(now)
	}
	if m.deadline.IsZero() || now.Before(m.deadline) {
		return Actions{}
	}
	switch m.state {
	case Waiting:
		return m.discover(now)
	case Selecting:
		return m.sendDiscover(now)
	case Requesting:
		if m.sent >= requestTries {
			return m.discover(now)
		}
		return m.request(now)
	case Rebooting:
		// Silence means a network whose servers do not know the address, or a
		// switch or router that is still starting. A lease in force stays so,
		// as RFC 2131, 3.2 step 5 allows, while the search begins anew; without
		// one there is less patience.
		if m.sent >= rebootTries && m.lease == nil || m.sent >= requestTries {
			return m.discover(now)
		}
		return m.request(now)
	case Checking:
		return m.bind(now, m.pending)
	case Bound:
		m.transaction(Renewing)
		m.began = now
		return m.request(now)
	case Renewing:
		if !now.Before(m.lease.Rebind) {
			m.transaction(Rebinding)
		}
		return m.request(now)
	case Rebinding:
		return m.request(now)
	}
	return Actions{}
}

// Conflict is word from ARP that somebody else has addr.
func (m *Machine) Conflict(now time.Time, addr netip.Addr) Actions {
	if addr != m.want || m.probed.IsZero() {
		return Actions{}
	}
	switch m.state {
	case Requesting, Rebooting:
		// Only an address that was granted can be declined.
		m.conflict = true
	case Checking:
		return m.decline(now, m.pending)
	}
	return Actions{}
}

// Handle is a message from the network.
func (m *Machine) Handle(now time.Time, p *dhcpv4.DHCPv4) Actions {
	if p.OpCode != dhcpv4.OpcodeBootReply || p.TransactionID != m.xid || !bytes.Equal(p.ClientHWAddr, m.mac) {
		return Actions{}
	}
	from, err := hostAddr(p.ServerIdentifier())
	switch kind := p.MessageType(); {
	case kind == dhcpv4.MessageTypeOffer && m.state == Selecting && err == nil:
		return m.offer(now, p, from)
	case kind == dhcpv4.MessageTypeAck && err == nil && m.expects(from):
		return m.ack(now, p)
	case kind == dhcpv4.MessageTypeNak && m.expects(from):
		return m.nak(now)
	}
	return Actions{}
}

// expects reports whether an answer to a DHCPREQUEST may come from server.
func (m *Machine) expects(server netip.Addr) bool {
	switch m.state {
	case Requesting, Renewing:
		return server == m.server
	case Rebooting, Rebinding:
		return true
	}
	return false
}

// offer takes the first usable offer: waiting for a better one would cost every
// boot, and homes have one server.
func (m *Machine) offer(now time.Time, p *dhcpv4.DHCPv4, from netip.Addr) Actions {
	addr, err := hostAddr(p.YourIPAddr)
	if err != nil {
		return Actions{}
	}
	m.want, m.server = addr, from
	// RFC 2131, 4.4.1: the DHCPREQUEST carries the DHCPOFFER's xid.
	m.state, m.sent = Requesting, 0
	m.conflict, m.probed, m.asked = false, time.Time{}, time.Time{}
	return m.request(now)
}

func (m *Machine) ack(now time.Time, p *dhcpv4.DHCPv4) Actions {
	l, err := newLease(p, m.asked)
	if err != nil || l.Address.Addr() != m.want || !l.valid(now) {
		// Not a grant of what was asked for. Retransmission goes on.
		return Actions{}
	}
	switch {
	case m.conflict:
		return m.decline(now, l)
	case m.probed.After(now):
		m.state, m.pending, m.deadline = Checking, l, m.probed
		return Actions{}
	}
	return m.bind(now, l)
}

func (m *Machine) bind(now time.Time, l *Lease) Actions {
	m.state, m.lease, m.pending = Bound, l, nil
	m.server, m.want, m.refusals = l.Server, l.Address.Addr(), 0
	m.deadline = l.Renew
	if !l.Renew.IsZero() {
		// Boxes that got power at the same moment should not renew at the same
		// moment for ever.
		m.deadline = now.Add(m.jitter(l.Renew.Sub(now), 0.05))
	}
	return Actions{Bound: l}
}

// decline tells the server that the address is taken, and pauses.
func (m *Machine) decline(now time.Time, l *Lease) Actions {
	p := m.message(now, dhcpv4.MessageTypeDecline)
	p.UpdateOption(dhcpv4.OptRequestedIPAddress(m.want.AsSlice()))
	p.UpdateOption(dhcpv4.OptServerIdentifier(l.Server.AsSlice()))
	a := m.refused("another host has the address " + m.want.String())
	m.want, m.pending = netip.Addr{}, nil
	m.state, m.deadline = Waiting, now.Add(m.jitter(declinePause*5/4, 0.2))
	a.Send = []Packet{{Message: p}}
	return a
}

// nak starts over: at once the first time, for that is how a moved box finds its
// new network, and ever more slowly when a server offers what it then refuses.
func (m *Machine) nak(now time.Time) Actions {
	a := m.refused("the server refused the address " + m.want.String())
	m.want, m.pending = netip.Addr{}, nil
	m.refusals++
	if m.refusals == 1 {
		a.Send = m.discover(now).Send
		return a
	}
	m.state = Waiting
	m.deadline = now.Add(m.backoff(m.refusals - 1))
	return a
}

func (m *Machine) expire(now time.Time) Actions {
	a := m.drop("the lease expired")
	switch m.state {
	case Bound, Renewing, Rebinding:
		m.began = now
		a.Send = m.discover(now).Send
	}
	return a
}

// refused gives up the lease in force when it is the one that was asked about; a
// lease that outlives a search for a better one stays.
func (m *Machine) refused(why string) Actions {
	if m.lease == nil || m.lease.Address.Addr() != m.want {
		return Actions{}
	}
	return m.drop(why)
}

func (m *Machine) drop(why string) Actions {
	if m.lease == nil {
		return Actions{}
	}
	m.lease = nil
	return Actions{Lost: why}
}

func (m *Machine) discover(now time.Time) Actions {
	m.transaction(Selecting)
	return m.sendDiscover(now)
}

func (m *Machine) sendDiscover(now time.Time) Actions {
	p := m.message(now, dhcpv4.MessageTypeDiscover)
	if m.want.IsValid() {
		p.UpdateOption(dhcpv4.OptRequestedIPAddress(m.want.AsSlice()))
	}
	m.deadline = now.Add(m.backoff(m.sent))
	m.sent++
	return Actions{Send: []Packet{{Message: p}}}
}

// transaction begins a new exchange in the given state.
func (m *Machine) transaction(s State) {
	m.state, m.sent, m.conflict = s, 0, false
	m.probed, m.asked, m.pending = time.Time{}, time.Time{}, nil
	m.newXID()
}

func (m *Machine) newXID() {
	v := m.rand.Uint32()
	m.xid = dhcpv4.TransactionID{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}
}
