package disk

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// errName is what every name that FAT cannot hold is reported with.
var errName = errors.New("not a name that FAT can hold")

// maxName is the longest long name in UTF-16 units (fatgen103, "long names").
const maxName = 255

// checkName says why one path element is no name for a file on FAT, that
// Windows, Linux and the loaders would all open.
func checkName(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("%q: %w", name, errName)
	case !utf8.ValidString(name):
		return fmt.Errorf("%q: %w: not UTF-8", name, errName)
	case len(utf16.Encode([]rune(name))) > maxName:
		return fmt.Errorf("%q: %w: longer than %d UTF-16 units", name, errName, maxName)
	case strings.Trim(name, " ") != name || strings.HasSuffix(name, "."):
		return fmt.Errorf("%q: %w: spaces at its ends or a dot at its end are lost", name, errName)
	}
	for _, r := range name {
		if r == utf8.RuneError || unicode.IsControl(r) || strings.ContainsRune(`"*/:<>?\|`, r) {
			return fmt.Errorf("%q: %w: character %q", name, errName, r)
		}
	}
	// Windows and mtools take these for devices, with any extension.
	stem, _, _ := strings.Cut(strings.ToUpper(name), ".")
	if slices.Contains([]string{"CON", "PRN", "AUX", "NUL", "CLOCK$"}, stem) ||
		len(stem) == 4 && (stem[:3] == "COM" || stem[:3] == "LPT") && '0' <= stem[3] && stem[3] <= '9' {
		return fmt.Errorf("%q: %w: DOS has a device of that name", name, errName)
	}
	return nil
}

// fold makes names equal that FAT takes for the same.
func fold(name string) string { return strings.ToUpper(name) }

// shortChar is the set of an 8.3 name's characters, letters and digits aside
// (fatgen103, "short directory entries").
const shortChar = "!#$%&'()-@^_`{}~"

func isShortChar(r rune) bool {
	return 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r < utf8.RuneSelf && strings.ContainsRune(shortChar, r)
}

// basis is the 8.3 form of a long name, and whether the long name says more
// than that in anything but case (fatgen103, "the basis-name generation
// algorithm").
func basis(name string) (stem, ext string, lossy bool) {
	up := strings.ToUpper(name)
	trimmed := strings.TrimLeft(strings.ReplaceAll(up, " ", ""), ".")
	lossy = trimmed != up
	if i := strings.LastIndexByte(trimmed, '.'); i >= 0 {
		trimmed, ext = trimmed[:i], trimmed[i+1:]
	}
	if strings.Contains(trimmed, ".") {
		trimmed, lossy = strings.ReplaceAll(trimmed, ".", ""), true
	}
	squeeze := func(s string, n int) string {
		mapped := strings.Map(func(r rune) rune {
			if isShortChar(r) {
				return r
			}
			lossy = true
			return '_'
		}, s)
		if len(mapped) > n {
			mapped, lossy = mapped[:n], true
		}
		return mapped
	}
	stem, ext = squeeze(trimmed, 8), squeeze(ext, 3)
	if stem == "" {
		stem, lossy = "_", true
	}
	return stem, ext, lossy
}

// pack lays an 8.3 name out as in a directory entry.
func pack(stem, ext string) (short [11]byte) {
	copy(short[:], "           ")
	copy(short[:8], stem)
	copy(short[8:], ext)
	return short
}

// shortNames gives every name of one directory its unique 8.3 name. Names that
// are 8.3 names already, whatever their case, come first, so that they keep
// their own and a loader in ROM finds them; the others get a numeric tail where
// they need one.
func shortNames(names []string) [][11]byte {
	all := make([][11]byte, len(names))
	taken := make(map[[11]byte]bool)
	for i, name := range names {
		if stem, ext, lossy := basis(name); !lossy {
			all[i] = pack(stem, ext)
			taken[all[i]] = true
		}
	}
	next := make(map[string]int) // by basis, so that many alike stay fast
	for i, name := range names {
		stem, ext, lossy := basis(name)
		if !lossy {
			continue
		}
		for taken[all[i]] || all[i] == [11]byte{} {
			key := stem + "." + ext
			next[key]++
			tail := fmt.Sprintf("~%d", next[key])
			all[i] = pack(stem[:min(len(stem), 8-len(tail))]+tail, ext)
		}
		taken[all[i]] = true
	}
	return all
}

// needsLong says whether the 8.3 name is not the whole truth: a small letter is
// enough.
func needsLong(name string, short [11]byte) bool { return unpack(short, 0) != name }

// unpack turns a directory entry's name into text. flags are the entry's byte
// 12, in which Windows NT notes small letters of the stem (8) or extension (16).
func unpack(short [11]byte, flags byte) string {
	if short[0] == 0x05 { // stands for 0xE5, which marks a deleted entry
		short[0] = 0xE5
	}
	part := func(b []byte, lower bool) string {
		var s strings.Builder
		for _, c := range bytes.TrimRight(b, " ") {
			switch {
			case c >= 0x80:
				s.WriteRune([]rune(codePage437)[c-0x80])
			case lower:
				s.WriteRune(unicode.ToLower(rune(c)))
			default:
				s.WriteByte(c)
			}
		}
		return s.String()
	}
	name := part(short[:8], flags&0x08 != 0)
	if ext := part(short[8:], flags&0x10 != 0); ext != "" {
		name += "." + ext
	}
	return name
}

// codePage437 is the upper half of the code page that short names are in unless
// somebody chose another one; Linux's vfat takes the same default.
const codePage437 = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐" +
	"└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00a0"

// checksum ties long name entries to their short entry (fatgen103, ChkSum).
func checksum(short [11]byte) (sum byte) {
	for _, c := range short {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return sum
}

// longUnits is how many UTF-16 units one long name entry holds, and unitAt
// where in the entry the i-th of them lies.
const longUnits = 13

func unitAt(i int) int {
	switch {
	case i < 5:
		return 1 + 2*i
	case i < 11:
		return 14 + 2*(i-5)
	default:
		return 28 + 2*(i-11)
	}
}

// longEntries is how many long name entries a name takes.
func longEntries(name string) int {
	return (len(utf16.Encode([]rune(name))) + longUnits - 1) / longUnits
}
