package clock

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// timeFile holds the last known time: seconds since 1970, in decimal, and a
// newline. The file's own time stamp would do as well, but not survive a copy.
const timeFile = "time"

// readTime reads the time that was last written down in dir.
func readTime(dir string) (time.Time, error) {
	path := filepath.Join(dir, timeFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return time.Time{}, err
	}
	t, err := parseTime(b)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// parseTime reads seconds since 1970, between 1970 and 9999.
func parseTime(b []byte) (time.Time, error) {
	if len(b) > 32 {
		return time.Time{}, errors.New("not a number of seconds: too long")
	}
	sec, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("not a number of seconds: %w", err)
	}
	const year9999 = 253402300799
	if sec < 0 || sec > year9999 {
		return time.Time{}, fmt.Errorf("%d seconds is outside the years 1970 to 9999", sec)
	}
	return time.Unix(sec, 0), nil
}
