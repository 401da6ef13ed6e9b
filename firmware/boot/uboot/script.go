package uboot

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"time"
)

// The legacy image header (U-Boot, include/image.h): 64 bytes, big-endian.
const (
	headerSize  = 64
	headerMagic = 0x27051956
	nameSize    = 32

	osLinux    = 5
	archARM    = 2
	typeScript = 6
	noCompress = 0
)

// Script wraps text as an image that U-Boot's "source" command runs, in the legacy
// format that mkimage makes with -T script. name is shown when U-Boot looks at the
// image and is cut to 32 bytes; t is the image's time, in whole seconds.
//
// The payload is a list of sizes ended by 0, as in multi-file images (here one
// size), and then the text. Header and payload each have a CRC-32 against a card
// that reads badly; they prove nothing about who wrote the script.
func Script(text, name string, t time.Time) ([]byte, error) {
	sec := t.Unix()
	if sec < 0 || sec > math.MaxUint32 {
		return nil, fmt.Errorf("making U-Boot script %q: time %s does not fit into 32 bits", name, t.UTC().Format(time.RFC3339))
	}
	const list = 8
	b := make([]byte, headerSize+list+len(text))
	payload := b[headerSize:]
	be := binary.BigEndian
	be.PutUint32(payload, uint32(len(text)))
	copy(payload[list:], text)

	be.PutUint32(b[0:], headerMagic)
	be.PutUint32(b[8:], uint32(sec))
	be.PutUint32(b[12:], uint32(len(payload)))
	// Load address and entry point (16, 20) mean nothing for a script.
	be.PutUint32(b[24:], crc32.ChecksumIEEE(payload))
	// U-Boot compares neither the system nor the architecture of a script with
	// its own; mkimage writes what it is told.
	b[28], b[29], b[30], b[31] = osLinux, archARM, typeScript, noCompress
	copy(b[32:32+nameSize], name)
	// The header's CRC is taken with its own field as zero.
	be.PutUint32(b[4:], crc32.ChecksumIEEE(b[:headerSize]))
	return b, nil
}
