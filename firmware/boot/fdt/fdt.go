// Package fdt removes and enables nodes of flattened device trees.
//
// A device tree comes out of a kernel package and tells the kernel what hardware
// there is. A board's description may name nodes that the box must not use (the
// Bluetooth chip on the serial line that shall carry the control channel, say) and
// nodes that are there but switched off (a serial port on the pin header). The
// builder edits the tree before it goes into the slot. Nothing on the box does.
//
// The format is that of the Devicetree Specification 0.4, chapter 5.
package fdt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

const (
	magic      = 0xd00dfeed
	headerSize = 40
	maxDepth   = 64 // Linux's own limit, FDT_MAX_DEPTH

	beginNode = 1
	endNode   = 2
	property  = 3
	nop       = 4
	end       = 9
)

// Delete returns a copy of blob without the nodes at paths and all below them. Paths
// are full, such as "/soc/serial@7e201000/bluetooth". Aliases and symbols that point
// into what is removed go with it. Equal input gives equal bytes. A path that is not
// in the tree is an error, so that a new kernel that names things otherwise does not
// silently get the hardware back.
//
// What goes is overwritten with no-operation tokens, which every reader skips, so
// all else stays at its place and the size does not change. References by phandle to
// a removed node stay: they are numbers that cannot be told from others, and the
// kernel treats what needs a missing node as not there.
func Delete(blob []byte, paths ...string) ([]byte, error) {
	doomed := "" // the node that is going, while in it
	doomedAt := 0
	return edit(blob, "deleting", paths, func(t *tree, at string, named bool, k token) error {
		switch {
		case k.kind == beginNode && named && doomed == "":
			doomed, doomedAt = at, k.off
		case k.kind == endNode && doomed != "" && at == doomed:
			t.erase(doomedAt, k.next)
			doomed = ""
		case k.kind == property && (at == "/aliases" || at == "/__symbols__") && pointsInto(k.value, paths):
			t.erase(k.off, k.next)
		}
		return nil
	})
}

// Enable returns a copy of blob in which the nodes at paths are switched on: their
// status is "okay" (Devicetree Specification 0.4, section 2.3.4). A node without a
// status is on already. A path that is not in the tree is an error. The size does not
// change.
func Enable(blob []byte, paths ...string) ([]byte, error) {
	const okay = "okay\x00"
	return edit(blob, "enabling", paths, func(t *tree, at string, named bool, k token) error {
		if k.kind != property || !named || k.name != "status" {
			return nil
		}
		value := k.off + 12 // behind token, length and name
		end := value + (len(okay)+3)&^3
		if end > k.next {
			return fmt.Errorf("%s has a status of %q, with no room for %q", at, k.value, okay)
		}
		binary.BigEndian.PutUint32(t.structs[k.off+4:], uint32(len(okay)))
		clear(t.structs[value:end])
		copy(t.structs[value:], okay)
		t.erase(end, k.next)
		return nil
	})
}

// edit copies blob and calls change for every token: at is the path of the node that
// the token is of, and named says whether it is one of paths.
func edit(blob []byte, doing string, paths []string, change func(t *tree, at string, named bool, k token) error) ([]byte, error) {
	for _, p := range paths {
		if len(p) < 2 || p[0] != '/' || strings.HasSuffix(p, "/") {
			return nil, fmt.Errorf("%s device tree node %q: want the full path of a node below the root, such as /soc/serial@7e201000", doing, p)
		}
	}
	out := bytes.Clone(blob)
	found := map[string]bool{}
	t, err := open(out)
	if err == nil {
		err = t.walk(func(at string, k token) error {
			named := slices.Contains(paths, at)
			if named {
				found[at] = true
			}
			return change(t, at, named, k)
		})
	}
	if err != nil {
		return nil, fmt.Errorf("%s device tree nodes: %w", doing, err)
	}
	var all []error
	for _, p := range paths {
		if !found[p] {
			all = append(all, fmt.Errorf("%s device tree node %q: there is no such node", doing, p))
		}
	}
	if err := errors.Join(all...); err != nil {
		return nil, err
	}
	return out, nil
}

// tree is the two blocks of a blob that matter here.
type tree struct {
	structs, strings []byte
}

func open(blob []byte) (*tree, error) {
	if len(blob) < headerSize || binary.BigEndian.Uint32(blob) != magic {
		return nil, errors.New("no header: not a device tree")
	}
	word := func(i int) int64 { return int64(binary.BigEndian.Uint32(blob[4*i:])) }
	// Version 16 lacks the structure block's size; dtc has written 17 since 2005.
	if v, compatible := word(5), word(6); v < 17 || compatible > 17 {
		return nil, fmt.Errorf("version %d (compatible with %d), not 17", v, compatible)
	}
	block := func(name string, off, size int64) ([]byte, error) {
		if off < headerSize {
			return nil, fmt.Errorf("%s at %d lies in the header", name, off)
		}
		if off+size > int64(len(blob)) {
			return nil, fmt.Errorf("%s of %d bytes at %d reaches beyond the end at %d: truncated?", name, size, off, len(blob))
		}
		return blob[off : off+size], nil
	}
	if word(1) > int64(len(blob)) {
		return nil, fmt.Errorf("tree of %d bytes reaches beyond the end at %d: truncated?", word(1), len(blob))
	}
	structs, err := block("structure block", word(2), word(9))
	if err != nil {
		return nil, err
	}
	strs, err := block("strings block", word(3), word(8))
	return &tree{structs, strs}, err
}

// token is one token of the structure block, at structs[off:next].
type token struct {
	kind      uint32
	off, next int
	name      string // of a node or a property
	value     []byte
}

// read returns the token at off, bounds checked.
func (t *tree) read(off int) (token, error) {
	bad := func(what string) (token, error) {
		return token{}, fmt.Errorf("structure block, offset %d: %s", off, what)
	}
	b := t.structs[off:]
	if len(b) < 4 {
		return bad("it ends without an end token")
	}
	k := token{kind: binary.BigEndian.Uint32(b), off: off}
	n := 4
	switch k.kind {
	case beginNode:
		z := bytes.IndexByte(b[4:], 0)
		if z < 0 {
			return bad("node name without an end")
		}
		k.name = string(b[4 : 4+z])
		n += z + 1
	case property:
		if len(b) < 12 {
			return bad("property cut off")
		}
		size, name := int64(binary.BigEndian.Uint32(b[4:])), int64(binary.BigEndian.Uint32(b[8:]))
		if size > int64(len(b)-12) {
			return bad(fmt.Sprintf("property of %d bytes reaches beyond the block", size))
		}
		if name >= int64(len(t.strings)) {
			return bad("property name outside the strings block")
		}
		s, _, _ := bytes.Cut(t.strings[name:], []byte{0})
		k.name, k.value = string(s), b[12:12+size]
		n += 8 + int(size)
	case endNode, nop, end:
	default:
		return bad(fmt.Sprintf("unknown token %d", k.kind))
	}
	k.next = off + (n+3)&^3
	if k.next > len(t.structs) {
		return bad("token reaches beyond the block")
	}
	return k, nil
}

// walk calls visit for every token that begins or ends a node or is a property, with
// the path of the node that it is of. The root's path is empty.
func (t *tree) walk(visit func(at string, k token) error) error {
	var path []string
	rooted := false
	for off := 0; ; {
		k, err := t.read(off)
		if err != nil {
			return err
		}
		bad := func(what string) error { return fmt.Errorf("structure block, offset %d: %s", off, what) }
		switch k.kind {
		case end:
			if !rooted || len(path) != 0 {
				return bad("end within a node")
			}
			return nil
		case beginNode:
			if len(path) == 0 && rooted || len(path) == maxDepth {
				return bad(fmt.Sprintf("second root, or deeper than %d nodes", maxDepth))
			}
			rooted = true
			path = append(path, k.name)
		case endNode, property:
			if len(path) == 0 {
				return bad("end of a node, or a property, outside of any node")
			}
		}
		if k.kind != nop {
			if err := visit(strings.Join(path, "/"), k); err != nil {
				return err
			}
		}
		if k.kind == endNode {
			path = path[:len(path)-1]
		}
		off = k.next
	}
}

func (t *tree) erase(from, to int) {
	for ; from < to; from += 4 {
		binary.BigEndian.PutUint32(t.structs[from:], nop)
	}
}

// pointsInto says whether value is one of paths or below one.
func pointsInto(value []byte, paths []string) bool {
	target := strings.TrimRight(string(value), "\x00")
	return slices.ContainsFunc(paths, func(p string) bool {
		return target == p || strings.HasPrefix(target, p+"/")
	})
}
