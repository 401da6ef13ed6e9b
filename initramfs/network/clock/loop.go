package clock

import "time"

const (
	// stepLimit is the largest offset that is slewed: what the kernel's clock
	// loop takes at once (MAXPHASE in linux/timex.h).
	stepLimit = 500 * time.Millisecond
	// minPoll and maxPoll are RFC 5905's usual 2^6 and 2^10 seconds.
	minPoll = 64 * time.Second
	maxPoll = 1024 * time.Second
	// firstRetry is the first wait when no server answered and the clock has
	// never been right. RFC 8633, 3.4 (and every server operator) wants the
	// retries to slow down; they double up to maxPoll.
	firstRetry = 2 * time.Second
	// steady is an offset that allows to ask half as often.
	steady = 10 * time.Millisecond
)

// loop decides what an offset does to the clock and when to measure again. Its
// zero value is a clock that has never been right.
type loop struct {
	synced  bool
	suspect bool          // the last offset was too large to be slewed
	wait    time.Duration // until the next measurement
	retry   time.Duration // while nothing answers
}

// measured takes an offset and returns whether to step the clock, and the time
// until the next measurement. The first measurement steps at once. Later, an
// offset beyond stepLimit must be seen twice in a row: one packet that was stuck
// somewhere must not throw the clock.
func (l *loop) measured(offset time.Duration) (step bool, wait time.Duration) {
	l.retry = 0
	large := offset.Abs() > stepLimit
	switch {
	case large && l.synced && !l.suspect:
		l.suspect, l.wait = true, minPoll
	case large:
		l.synced, l.suspect, l.wait, step = true, false, minPoll, true
	case offset.Abs() <= steady && l.synced:
		l.suspect, l.wait = false, min(max(2*l.wait, minPoll), maxPoll)
	default:
		l.synced, l.suspect, l.wait = true, false, minPoll
	}
	return step, l.wait
}

// doubtful reports whether the last measurement waits for a second one.
func (l *loop) doubtful() bool { return l.suspect }

// failed returns when to ask again after nobody gave a usable answer.
func (l *loop) failed() time.Duration {
	first := firstRetry
	if l.synced {
		first = minPoll
	}
	l.retry = min(max(2*l.retry, first), maxPoll)
	return l.retry
}
