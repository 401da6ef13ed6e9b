package uki

import (
	"errors"
	"fmt"
)

// Offsets in the PE32+ optional header ("PE Format", section "Optional Header").
const (
	optInitData  = 8
	optSecAlign  = 32
	optFileAlign = 36
	optImageSize = 56
	optHeadSize  = 60
	optCheckSum  = 64
	optSubsystem = 68
	optDLLFlags  = 70
	optDirCount  = 108
	optDirs      = 112

	securityDir = 4 // index of the data directory with the signatures

	secHeaderSize = 40
	magicPE32Plus = 0x20b
	efiProgram    = 10 // IMAGE_SUBSYSTEM_EFI_APPLICATION

	nxCompat = 0x0100 // IMAGE_DLLCHARACTERISTICS_NX_COMPAT

	// IMAGE_SCN_CNT_INITIALIZED_DATA|IMAGE_SCN_MEM_READ
	secData = 0x40000040
	// IMAGE_SCN_CNT_CODE|IMAGE_SCN_MEM_READ: what ukify gives ".linux", since
	// kernels of old were started in place.
	secCode = 0x40000020
)

// header is what this package needs to know of a PE image.
type header struct {
	coff, opt, table        int // offsets of the headers and the section table
	machine                 uint16
	sections                []section
	sectionAlign, fileAlign uint32
	initData, headSize      uint32
	dllFlags, subsystem     uint16
	signed                  bool
}

type section struct {
	name                 string
	virtualSize, rawSize uint32
	va, rawOff           uint32
}

// parse reads a PE32+ image's headers. Every section's raw data is inside image.
func parse(image []byte) (*header, error) {
	if len(image) < 0x40 || image[0] != 'M' || image[1] != 'Z' {
		return nil, errors.New("no MZ header: not a PE image")
	}
	pe := int64(le.Uint32(image[0x3c:]))
	if pe+24 > int64(len(image)) || string(image[pe:pe+4]) != "PE\x00\x00" {
		return nil, errors.New("no PE header: not a PE image")
	}
	h := &header{coff: int(pe) + 4, opt: int(pe) + 24}
	h.machine = le.Uint16(image[h.coff:])
	count := int(le.Uint16(image[h.coff+2:]))
	optSize := int(le.Uint16(image[h.coff+16:]))
	h.table = h.opt + optSize
	if h.table+count*secHeaderSize > len(image) {
		return nil, fmt.Errorf("headers of %d sections reach beyond the image of %d bytes", count, len(image))
	}
	if optSize < optDirs || le.Uint16(image[h.opt:]) != magicPE32Plus {
		return nil, errors.New("no PE32+ optional header: not a 64-bit EFI program")
	}
	o := image[h.opt:h.table]
	h.initData = le.Uint32(o[optInitData:])
	h.sectionAlign = le.Uint32(o[optSecAlign:])
	h.fileAlign = le.Uint32(o[optFileAlign:])
	h.headSize = le.Uint32(o[optHeadSize:])
	h.subsystem = le.Uint16(o[optSubsystem:])
	h.dllFlags = le.Uint16(o[optDLLFlags:])
	if dir := optDirs + 8*securityDir; le.Uint32(o[optDirCount:]) > securityDir && dir+8 <= len(o) {
		h.signed = le.Uint32(o[dir:]) != 0
	}
	for i := range count {
		s := image[h.table+i*secHeaderSize:][:secHeaderSize]
		sec := section{
			name:        cString(s[:8]),
			virtualSize: le.Uint32(s[8:]),
			va:          le.Uint32(s[12:]),
			rawSize:     le.Uint32(s[16:]),
			rawOff:      le.Uint32(s[20:]),
		}
		if int64(sec.rawOff)+int64(sec.rawSize) > int64(len(image)) {
			return nil, fmt.Errorf("section %q at %#x with %d bytes reaches beyond the image of %d bytes: truncated?",
				sec.name, sec.rawOff, sec.rawSize, len(image))
		}
		h.sections = append(h.sections, sec)
	}
	return h, nil
}

// extendable says whether sections can be added to the image.
func (h *header) extendable(image []byte) error {
	switch {
	case h.signed:
		return errors.New("it is signed, and adding sections would break the signature: take the unsigned one")
	case h.subsystem != efiProgram:
		return fmt.Errorf("PE subsystem is %d, not %d (EFI application)", h.subsystem, efiProgram)
	case len(h.sections) == 0:
		return errors.New("it has no sections")
	case !powerOfTwo(h.fileAlign, 512, 64<<10) || !powerOfTwo(h.sectionAlign, h.fileAlign, 1<<20):
		return fmt.Errorf("file alignment %d and section alignment %d are not usable", h.fileAlign, h.sectionAlign)
	}
	for _, s := range h.sections {
		switch s.name {
		case ".linux", ".initrd", ".cmdline", ".osrel", ".uname", ".dtb":
			return fmt.Errorf("it has a section %s already: it is a unified kernel image, not a stub", s.name)
		}
		if int64(s.va)+int64(s.virtualSize) > maxSize {
			return fmt.Errorf("section %q reaches beyond %d bytes of memory", s.name, maxSize)
		}
	}
	var end uint32
	for _, s := range h.sections {
		end = max(end, s.rawOff+s.rawSize)
	}
	if int(end) != len(image) {
		return fmt.Errorf("%d bytes follow its last section (a symbol table?): strip it", len(image)-int(end))
	}
	if end%h.fileAlign != 0 {
		return fmt.Errorf("it ends at %d, which is not a multiple of its file alignment, %d", end, h.fileAlign)
	}
	return nil
}

func powerOfTwo(n, lo, hi uint32) bool { return n >= lo && n <= hi && n&(n-1) == 0 }

// imageEnd is the first free address, section-aligned.
func (h *header) imageEnd() uint32 {
	var end int
	for _, s := range h.sections {
		end = max(end, int(s.va)+int(max(s.virtualSize, s.rawSize)))
	}
	return uint32(roundUp(end, int(h.sectionAlign)))
}

// addSections writes the headers of parts, whose data is in image already.
func (h *header) addSections(image []byte, parts []part) error {
	at := h.table + len(h.sections)*secHeaderSize
	end := at + len(parts)*secHeaderSize
	for _, s := range h.sections {
		// The loader copies SizeOfHeaders bytes to the start of memory, so the
		// headers must stay below the first section in memory as well.
		if s.rawSize > 0 && end > int(s.rawOff) || end > int(s.va) {
			return fmt.Errorf("no room for %d more section headers: they would need %d bytes and section %q begins at %d",
				len(parts), end, s.name, min(s.rawOff, s.va))
		}
	}
	initData := h.initData
	for _, p := range parts {
		s := image[at:][:secHeaderSize]
		clear(s)
		copy(s, p.name)
		le.PutUint32(s[8:], uint32(len(p.data)))
		le.PutUint32(s[12:], p.va)
		le.PutUint32(s[16:], uint32(p.raw))
		le.PutUint32(s[20:], uint32(p.off))
		le.PutUint32(s[36:], p.flag)
		initData += uint32(p.raw)
		at += secHeaderSize
	}
	last := parts[len(parts)-1]
	le.PutUint16(image[h.coff+2:], uint16(len(h.sections)+len(parts)))
	le.PutUint32(image[h.opt+optInitData:], initData)
	le.PutUint32(image[h.opt+optImageSize:], uint32(roundUp(int(last.va)+len(last.data), int(h.sectionAlign))))
	if end > int(h.headSize) {
		le.PutUint32(image[h.opt+optHeadSize:], uint32(roundUp(end, int(h.fileAlign))))
	}
	return nil
}
