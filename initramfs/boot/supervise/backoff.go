package supervise

import "time"

// Backoff is the restart policy: how long to wait after a service has ended.
type Backoff struct {
	Min    time.Duration // before the first restart
	Max    time.Duration // at most, while restarts may still help
	Stable time.Duration // a life this long forgets earlier failures
	// Crashes in a row, none of them Stable, make a crash loop; from then on
	// a restart is tried every Slow.
	Crashes int
	Slow    time.Duration
}

// DefaultBackoff restarts after 0.25, 0.5, 1, 2 seconds; the fifth failure in a
// row is a crash loop, tried once a minute.
func DefaultBackoff() Backoff {
	return Backoff{Min: 250 * time.Millisecond, Max: 30 * time.Second, Stable: time.Minute, Crashes: 5, Slow: time.Minute}
}

// Delay is the time to wait after the nth failure in a row (from 1), and whether
// that is a crash loop. random in [0,1) spreads it over ±25 %, so that services
// that fell together do not start together for ever.
func (b Backoff) Delay(n int, random float64) (d time.Duration, crashLoop bool) {
	d = b.Min
	for i := 1; i < n && d < b.Max; i++ {
		d *= 2
	}
	d = min(d, b.Max)
	if n >= b.Crashes {
		d, crashLoop = b.Slow, true
	}
	return time.Duration(float64(d) * (0.75 + random/2)), crashLoop
}
