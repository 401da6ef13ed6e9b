package workload

import (
	"math/rand/v2"
	"time"
)

// Restart is the policy for a program that ended. The zero value of each field
// means its default.
type Restart struct {
	First time.Duration // wait after the first end; default 1 s, doubled after each further one
	Max   time.Duration // longest wait; default 1 min
	// A program that ended Crashes times with none of its runs longer than
	// Healthy is in a crash loop and is tried again only every Loop.
	Crashes int           // default 5
	Healthy time.Duration // default 1 min
	Loop    time.Duration // default 10 min
}

func (r Restart) withDefaults() Restart {
	set := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	set(&r.First, time.Second)
	set(&r.Max, time.Minute)
	set(&r.Healthy, time.Minute)
	set(&r.Loop, 10*time.Minute)
	if r.Crashes == 0 {
		r.Crashes = 5
	}
	return r
}

// next tells how long to wait after the crashes-th short run in a row (from 1),
// and whether that is a crash loop. The wait is taken times 0.5 to 1.5, after the
// cap, so that programs that fail together do not come back together.
func (r Restart) next(crashes int) (wait time.Duration, loop bool) {
	if crashes >= r.Crashes {
		return jitter(r.Loop), true
	}
	return jitter(min(r.Max, r.First<<min(max(crashes-1, 0), 16))), false
}

func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d) }
