package journal

import (
	"bytes"
	"strconv"
	"strings"
)

// ParseKmsg takes the message out of one record of /dev/kmsg (the kernel's
// Documentation/ABI/testing/dev-kmsg): "priority,sequence,microseconds,flags[,…];text",
// then lines of key=value. kernel is false for a record that a process wrote:
// the priority's upper bits, the syslog facility, are 0 for the kernel alone.
func ParseKmsg(record []byte) (text string, kernel, ok bool) {
	head, rest, found := bytes.Cut(record, []byte{';'})
	if !found {
		return "", false, false
	}
	prio, _, found := bytes.Cut(head, []byte{','})
	if !found {
		return "", false, false
	}
	n, err := strconv.ParseUint(string(prio), 10, 32)
	if err != nil {
		return "", false, false
	}
	line, _, _ := bytes.Cut(rest, []byte{'\n'})
	return unescape(string(line)), n>>3 == 0, true
}

// unescape undoes the kernel's \xNN, which it uses for every byte that is not
// printable ASCII, so that UTF-8 is readable. Clean escapes again what must be.
func unescape(s string) string {
	if !strings.Contains(s, `\x`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) && s[i+1] == 'x' {
			if n, err := strconv.ParseUint(s[i+2:i+4], 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
