package boot

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/fogwright/fogwright/initramfs/state"
)

// phase is one named step of the boot.
type phase struct {
	name string
	run  func(context.Context) error
}

// phases is the boot, in order. Each line's place has a reason: the console needs
// /dev, everything from the board on wants to be heard, devices come with their
// modules, and no module may come after those: all that a box ever loads is in the
// board's list (the kernel itself cannot ask for one, there is no modprobe), so the
// door closes as soon as the list is through, before any daemon runs.
func (p *initProcess) phases() []phase {
	return []phase{
		{"mounts", p.mounts},
		{"console", p.openConsole},
		{"board", p.readBoard},
		{"sysctl", p.sysctls},
		{"modules", p.modules},
		{"lock-modules", p.lockModules},
		{"watchdog", p.watchdog},
		{"hostname", p.hostname},
		{"socket", p.listen},
		{"services", p.services},
		{"storage", p.waitForStorage},
		{"slot", p.findSlot},
	}
}

// run runs phases one after the other and reports the list after each start and
// each end. Neither an error nor a panic of a phase stops the others.
func run(ctx context.Context, phases []phase, now func() float64, report func([]state.Phase)) {
	var all []state.Phase
	for _, ph := range phases {
		all = append(all, state.Phase{Name: ph.name, Start: now()})
		report(slices.Clone(all))
		err := safely(ctx, ph.run)
		last := &all[len(all)-1]
		last.End = now()
		if err != nil {
			// A line stays a line; joined errors have one each.
			last.Error = strings.ReplaceAll(err.Error(), "\n", "; ")
		}
		report(slices.Clone(all))
	}
}

func safely(ctx context.Context, f func(context.Context) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("crashed: %v", r)
		}
	}()
	return f(ctx)
}
