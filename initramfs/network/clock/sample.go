package clock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"time"

	"github.com/beevik/ntp"
)

// Sample is one answer of one server.
type Sample struct {
	Server   string
	Offset   time.Duration // to add to the clock
	Distance time.Duration // how wrong Offset can be, either way (RFC 5905's root distance)
}

// KissError is a server's refusal (RFC 5905, 7.4).
type KissError struct{ Code string }

func (e *KissError) Error() string { return "kiss of death " + e.Code }

// pause is how long the server wants to be left alone.
func (e *KissError) pause() time.Duration {
	if e.Code == "RATE" {
		return maxPoll
	}
	return banTime
}

const (
	// timeout of one exchange. RFC 5905 has no figure; an answer that took
	// longer would be too far off to be used (maxDistance).
	timeout = 3 * time.Second
	// maxDistance is RFC 5905's MAXDIST plus the allowance that ntpd makes for
	// home uplinks under load (its default "tos maxdist 1.5").
	maxDistance = 1500 * time.Millisecond
)

// Client asks NTP servers. Each exchange has a UDP socket of its own, connected
// and closed at once after the answer: only the server asked can reach it.
type Client struct {
	// Lookup resolves a host name.
	Lookup func(ctx context.Context, host string) ([]net.IP, error)
	// Now is the clock to compare with; nil: the kernel's, which also knows
	// when exactly the answer's packet came in.
	Now func() time.Time
}

// Query measures one server, given by name or address. Where the name has both
// IPv4 and IPv6 addresses, one of each is asked and the first good answer counts:
// half of all homes have a broken half.
func (c *Client) Query(ctx context.Context, server string) (Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*timeout)
	defer cancel()
	ips := []net.IP{net.ParseIP(server)}
	if ips[0] == nil {
		var err error
		if ips, err = c.Lookup(ctx, server); err != nil {
			return Sample{}, fmt.Errorf("looking up %q: %w", server, err)
		}
	}
	ips = oneOfEach(ips)
	type answer struct {
		s   Sample
		err error
	}
	answers := make(chan answer, len(ips))
	for _, ip := range ips {
		go func() {
			s, err := c.exchange(ctx, net.JoinHostPort(ip.String(), "123"))
			answers <- answer{s, err}
		}()
	}
	var failed []error
	for range ips {
		a := <-answers
		if a.err == nil {
			a.s.Server = server
			return a.s, nil
		}
		failed = append(failed, a.err)
	}
	return Sample{}, errors.Join(failed...)
}

func oneOfEach(ips []net.IP) []net.IP {
	var out []net.IP
	isV4 := func(ip net.IP) bool { return ip.To4() != nil }
	for _, v4 := range []bool{false, true} {
		if i := slices.IndexFunc(ips, func(ip net.IP) bool { return isV4(ip) == v4 }); i >= 0 {
			out = append(out, ips[i])
		}
	}
	return out
}

// exchange sends one packet to address and judges the answer.
func (c *Client) exchange(ctx context.Context, address string) (Sample, error) {
	var d net.Dialer
	return judge(ntp.QueryWithOptions(address, ntp.QueryOptions{
		Timeout:       timeout,
		Extensions:    []ntp.Extension{guard{}},
		GetSystemTime: c.Now,
		Dialer: func(_, remote string) (net.Conn, error) {
			conn, err := d.DialContext(ctx, "udp", remote)
			if err == nil {
				context.AfterFunc(ctx, func() { conn.Close() })
			}
			return conn, err
		},
	}))
}

// guard refuses an answer that the NTP library (v1.6.0) cannot bear: it negates the
// poll and precision exponents as int8, which for -128 leaves -128, shifts by that
// and panics. One such packet would end netd.
type guard struct{}

// ProcessQuery leaves the question as it is.
func (guard) ProcessQuery(*bytes.Buffer) error { return nil }

// ProcessResponse looks at the answer before the library parses it.
func (guard) ProcessResponse(b []byte) error {
	const poll, precision = 2, 3 // RFC 5905, figure 8
	if len(b) <= precision || int8(b[poll]) == math.MinInt8 || int8(b[precision]) == math.MinInt8 {
		return errors.New("poll or precision of the answer is 2^-128 s")
	}
	return nil
}

// judge turns an answer into a Sample, or says why it cannot be believed.
func judge(r *ntp.Response, err error) (Sample, error) {
	if err != nil {
		return Sample{}, err
	}
	if r.IsKissOfDeath() {
		return Sample{}, &KissError{r.KissCode}
	}
	if err := r.Validate(); err != nil {
		return Sample{}, err
	}
	if r.RootDistance < 0 || r.RootDistance > maxDistance {
		return Sample{}, fmt.Errorf("the answer may be wrong by %s, more than %s", r.RootDistance, maxDistance)
	}
	return Sample{Offset: r.ClockOffset, Distance: r.RootDistance}, nil
}

// choose finds the offset that most servers agree upon. Each sample is an interval
// Offset±Distance; the point in most intervals wins if more than half of all
// contain it (Marzullo's algorithm, as in RFC 5905, 11.2.1). Of the servers that
// contain it, the one with the smallest distance is taken.
func choose(samples []Sample) (Sample, error) {
	if len(samples) == 0 {
		return Sample{}, errors.New("no server gave a usable answer")
	}
	most, at := 0, time.Duration(0)
	for _, s := range samples {
		// The point of deepest overlap is always some interval's lower end.
		low := s.Offset - s.Distance
		n := 0
		for _, o := range samples {
			if o.covers(low) {
				n++
			}
		}
		if n > most {
			most, at = n, low
		}
	}
	if 2*most <= len(samples) {
		return Sample{}, fmt.Errorf("%d servers answered and no more than %d agree: none is believed", len(samples), most)
	}
	var best *Sample
	for i := range samples {
		if s := &samples[i]; s.covers(at) && (best == nil || s.Distance < best.Distance) {
			best = s
		}
	}
	return *best, nil
}

func (s Sample) covers(t time.Duration) bool { return (t - s.Offset).Abs() <= s.Distance }
