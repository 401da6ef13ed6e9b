package firmware

import "sync"

// reporter passes events on, one at a time.
type reporter struct {
	mu sync.Mutex
	to func(Event)
}

func (r *reporter) event(e Event) {
	if r.to == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to(e)
}
