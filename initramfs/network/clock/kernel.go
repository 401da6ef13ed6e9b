package clock

import (
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Kernel is the running kernel's clock. Setting it needs CAP_SYS_TIME.
type Kernel struct{}

// Now is the wall clock.
func (Kernel) Now() time.Time { return time.Now() }

// Set steps the clock (clock_settime(2)).
func (Kernel) Set(t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return err
	}
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("clock_settime (needs CAP_SYS_TIME): %w", err)
	}
	return nil
}

// Slew hands the offset to the kernel's phase-locked loop (adjtimex(2), RFC 5905's
// clock discipline), which spreads it and corrects the frequency. Clearing
// STA_UNSYNC also makes the kernel write the time to a hardware clock every
// eleven minutes where there is one.
func (Kernel) Slew(offset, poll time.Duration) error {
	tx := unix.Timex{
		Modes:  unix.ADJ_OFFSET | unix.ADJ_NANO | unix.ADJ_STATUS | unix.ADJ_TIMECONST | unix.ADJ_MAXERROR | unix.ADJ_ESTERROR,
		Status: unix.STA_PLL | unix.STA_NANO,
	}
	put(&tx.Offset, int64(min(max(offset, -stepLimit), stepLimit)))
	// With STA_NANO the time constant is the poll interval's power of two; it
	// is only without it that kernel/time/ntp.c adds four.
	put(&tx.Constant, int64(max(bits.Len(uint(poll/time.Second))-1, 0)))
	if _, err := unix.Adjtimex(&tx); err != nil {
		return fmt.Errorf("adjtimex (needs CAP_SYS_TIME): %w", err)
	}
	return nil
}

// put assigns to a C long, which is 32 bits wide on arm.
func put[T ~int32 | ~int64](to *T, v int64) { *to = T(v) }

// RTC reads the first hardware clock out of sysfs, which needs no privilege. A
// box without one gives fs.ErrNotExist.
func RTC() (time.Time, error) { return rtc("/sys/class/rtc") }

func rtc(class string) (time.Time, error) {
	b, err := os.ReadFile(filepath.Join(class, "rtc0", "since_epoch"))
	if err != nil {
		return time.Time{}, err
	}
	return parseTime([]byte(strings.TrimSpace(string(b))))
}
