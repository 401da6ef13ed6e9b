package main

import (
	"bytes"
	"strings"
	"testing"
)

// What the console of a real boot says, cut to what matters, loaders' escape
// sequences included.
const console = "\x1b[2J\x1b[01;01H\x1b[=3hBdsDxe: loading Boot0001\r\nBdsDxe: starting Boot0001 \"UEFI\" from PciRoot(0x0)\r\n" +
	"EFI stub: Loaded initrd from command line option\r\n" +
	"fogwright: phase mounts ok 0.012s at 1.234s\r\n" +
	"[    5.551968] fogwright: phase modules failed: no such file\r\n" +
	"fogwright: service netd started pid 99\r\n" +
	"noise \x00\x01 fogwright: ready in the middle does not count\r\n" +
	"fogwright: ready at 2.345s\r\n"

func TestStepsNamesWhatTheConsoleSays(t *testing.T) {
	var out bytes.Buffer
	s := newSteps(&out)
	for _, b := range []byte(console) { // as slowly as a UART
		s.Write([]byte{b})
	}
	s.Write([]byte(strings.Repeat("x", 100000))) // a line that never ends
	var got []string
	for line := range strings.Lines(out.String()) {
		_, step, _ := strings.Cut(strings.TrimSpace(line), " s  ")
		got = append(got, step)
	}
	want := "EFI firmware starts the slot|kernel's EFI stub|phase mounts (0.012s)|phase modules FAILED: no such file|service netd|ready"
	if strings.Join(got, "|") != want {
		t.Errorf("steps:\n got %s\nwant %s", strings.Join(got, "|"), want)
	}
}

func TestLastLines(t *testing.T) {
	if got, want := lastLines("a\nb\n\x1b[1mc\x1b[0m\r\n\n", 2), "  b\n  c"; got != want {
		t.Errorf("lastLines = %q, want %q", got, want)
	}
}
