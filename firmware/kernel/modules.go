package kernel

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sync/errgroup"
)

// maxModule bounds one decompressed module. The largest in Debian 13 is amdgpu
// with about 30 MB.
const maxModule = 64 << 20

// Module is one kernel module, ready to be handed to finit_module(2).
type Module struct {
	Name string   // as lsmod shows it
	Path string   // below lib/modules/RELEASE, without the compression's suffix
	Data []byte   // uncompressed, with its signature
	Deps []string // names of the shipped modules it needs, each loaded before it
	// Aliases are the patterns of devices and names that the module answers to.
	Aliases []string

	soft []string // names or aliases that it would like loaded before it
}

// UnknownModule says that a wanted module is neither a file nor built in.
type UnknownModule struct {
	Index   int // in the list given to Modules; -1 for a dependency
	Name    string
	Needs   string // the module that depends on it, if Index is -1
	Release string
	Nearest string // a name that exists and looks alike, or empty
}

func (e *UnknownModule) Error() string {
	s := fmt.Sprintf("kernel %s has no module %q", e.Release, e.Name)
	if e.Needs != "" {
		s += fmt.Sprintf(", which %q needs", e.Needs)
	}
	if e.Nearest != "" {
		s += fmt.Sprintf(" (is it %q?)", e.Nearest)
	}
	return s
}

// Modules returns the wanted modules and all that they depend on, in the order to
// load them: a module comes after everything it needs, and otherwise in the order
// of wanted. Names built into the kernel are left out. Every unknown name is in
// the joined error, as an *UnknownModule.
func (p *Package) Modules(wanted []string) ([]Module, error) {
	loaded, err := p.closure(wanted)
	if err != nil {
		return nil, err
	}
	softToHard(loaded)
	var order []Module
	done := map[string]bool{}
	var visit func(name string)
	visit = func(name string) {
		m, ok := loaded[name]
		if !ok || done[name] {
			return
		}
		done[name] = true // before the dependencies: a cycle of soft ones must end
		for _, d := range m.Deps {
			visit(d)
		}
		// What is built in is not waited for, nor what stands behind in a cycle.
		m.Deps = slices.DeleteFunc(slices.Clone(m.Deps), func(d string) bool {
			return !slices.ContainsFunc(order, func(o Module) bool { return o.Name == d })
		})
		order = append(order, *m)
	}
	for _, name := range wanted {
		visit(canonical(name))
	}
	return order, nil
}

// softToHard turns soft dependencies on modules that are loaded anyhow, by name or
// by alias, into hard ones. ext4 wishes for crypto-crc32c, which crc32c_generic
// answers to, and mounts nothing when that comes later.
func softToHard(loaded map[string]*Module) {
	answers := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(loaded)) {
		answers[name] = name
		for _, alias := range loaded[name].Aliases {
			answers[canonical(alias)] = name
		}
	}
	for _, m := range loaded {
		for _, wish := range m.soft {
			if name := answers[wish]; name != "" && name != m.Name && !slices.Contains(m.Deps, name) {
				m.Deps = append(m.Deps, name)
			}
		}
	}
}

// closure reads the wanted modules and, round by round, what they need.
func (p *Package) closure(wanted []string) (map[string]*Module, error) {
	loaded := map[string]*Module{}
	var faults []error
	var next []string
	for i, name := range wanted {
		c := canonical(name)
		if p.isBuiltin(c) {
			continue
		}
		if p.files[c] == "" {
			faults = append(faults, &UnknownModule{Index: i, Name: name, Release: p.Release, Nearest: p.nearest(c)})
			continue
		}
		next = append(next, c)
	}
	for len(next) > 0 {
		slices.Sort(next)
		next = slices.Compact(next)
		round := make([]*Module, len(next))
		var g errgroup.Group
		g.SetLimit(runtime.GOMAXPROCS(0)) // decompressing is the cost
		for i, name := range next {
			g.Go(func() (err error) {
				round[i], err = p.read(name)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
		next = nil
		for _, m := range round {
			loaded[m.Name] = m
		}
		for _, m := range round {
			for _, d := range slices.Concat(m.Deps, m.soft) {
				switch {
				case loaded[d] != nil || p.isBuiltin(d):
				case p.files[d] == "" && slices.Contains(m.soft, d): // an alias, or gone
				case p.files[d] == "":
					faults = append(faults, &UnknownModule{Index: -1, Name: d, Needs: m.Name, Release: p.Release})
				default:
					next = append(next, d)
				}
			}
		}
	}
	return loaded, errors.Join(faults...)
}

func (p *Package) isBuiltin(name string) bool {
	_, ok := p.builtin[name]
	return ok
}

// read decompresses one module and reads what it says of itself.
func (p *Package) read(name string) (*Module, error) {
	file := p.files[name]
	f, err := p.fsys.Open(path.Join(p.modules, file))
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", name, err)
	}
	defer f.Close()
	m := &Module{Name: name}
	if m.Path, m.Data, err = decompress(file, f); err != nil {
		return nil, fmt.Errorf("module %s: %w", name, err)
	}
	info, err := ModInfo(m.Data)
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", name, err)
	}
	m.Aliases = info["alias"]
	if p.deps != nil {
		m.Deps = slices.Clone(p.deps[name])
	} else {
		for _, list := range info["depends"] {
			m.Deps = append(m.Deps, names(strings.Split(list, ","))...)
		}
	}
	for _, line := range info["softdep"] {
		m.soft = append(m.soft, preSoftdeps(line)...)
	}
	return m, nil
}

// preSoftdeps picks the names after "pre:" out of a softdep line
// ("pre: a b post: c", modprobe.d(5)).
func preSoftdeps(line string) []string {
	var pre []string
	in := false
	for _, word := range strings.Fields(line) {
		switch word {
		case "pre:":
			in = true
		case "post:":
			in = false
		default:
			if in {
				pre = append(pre, word)
			}
		}
	}
	return names(pre)
}

func names(list []string) []string {
	var out []string
	for _, n := range list {
		if n = strings.TrimSpace(n); n != "" {
			out = append(out, canonical(n))
		}
	}
	return out
}

// ModInfo returns the key=value pairs of a module's .modinfo section. A key may
// come more than once.
func ModInfo(module []byte) (map[string][]string, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, fmt.Errorf("not an ELF file: %w", err)
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("not a kernel module: it has no .modinfo section")
	}
	if s.Size > uint64(len(module)) {
		return nil, errors.New(".modinfo is larger than the file")
	}
	text, err := s.Data()
	if err != nil {
		return nil, fmt.Errorf("reading .modinfo: %w", err)
	}
	info := map[string][]string{}
	for entry := range strings.SplitSeq(string(text), "\x00") {
		if key, value, ok := strings.Cut(entry, "="); ok {
			info[key] = append(info[key], value)
		}
	}
	return info, nil
}

// signatureMark ends a signed module; before it stand the signature and twelve
// bytes that tell its length in the last four, big-endian
// (include/linux/module_signature.h).
const signatureMark = "~Module signature appended~\n"

// Unsigned returns the module without the signature that its builder appended, or as
// it is when there is none that makes sense.
//
// A signature is worth its cost where the loader vouches for the kernel and the
// kernel is locked down (UEFI Secure Boot). Elsewhere whoever can replace a module
// can replace init beside it, and Debian 13's kernels check an ECDSA signature in
// generic C: 0.4 s for each module on an emulated Cortex-A7.
func Unsigned(module []byte) []byte {
	const tail = 12
	end := len(module) - len(signatureMark)
	if end < tail || string(module[end:]) != signatureMark {
		return module
	}
	size := int64(binary.BigEndian.Uint32(module[end-4 : end]))
	if size > int64(end-tail) {
		return module
	}
	return module[:int64(end-tail)-size]
}

// ParseDep reads a modules.dep (depmod(8), modules.dep(5)): one module per line,
// "PATH: PATH PATH ...". The result maps names to the names they need.
func ParseDep(text []byte) (map[string][]string, error) {
	deps := map[string][]string{}
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		file, rest, ok := strings.Cut(line, ":")
		name := moduleName(file)
		if !ok || name == "" {
			return nil, fmt.Errorf("modules.dep:%d: %q is not of the form PATH: PATH ...", n, line)
		}
		list := []string{}
		for _, d := range strings.Fields(rest) {
			dn := moduleName(d)
			if dn == "" {
				return nil, fmt.Errorf("modules.dep:%d: %q is not a module", n, d)
			}
			list = append(list, dn)
		}
		deps[name] = list
	}
	return deps, nil
}

// AliasTable writes modules.alias (modules.alias(5)) for just these modules.
func AliasTable(modules []Module) []byte {
	var b bytes.Buffer
	for _, m := range modules {
		for _, a := range m.Aliases {
			fmt.Fprintf(&b, "alias %s %s\n", a, m.Name)
		}
	}
	return b.Bytes()
}

// DepTable writes modules.dep for just these modules, which lie uncompressed.
func DepTable(modules []Module) []byte {
	paths := map[string]string{}
	for _, m := range modules {
		paths[m.Name] = m.Path
	}
	var b bytes.Buffer
	for _, m := range modules {
		fmt.Fprintf(&b, "%s:", m.Path)
		for _, d := range m.Deps {
			fmt.Fprintf(&b, " %s", paths[d])
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// compressions that CONFIG_MODULE_COMPRESS_* may have left on a module.
var compressions = []struct {
	suffix string
	open   func(io.Reader) (io.Reader, error)
}{
	{"", func(r io.Reader) (io.Reader, error) { return r, nil }},
	{".xz", func(r io.Reader) (io.Reader, error) { return xz.NewReader(r) }},
	{".zst", func(r io.Reader) (io.Reader, error) {
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxModule))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}},
	{".gz", func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }},
}

// decompress returns file's path without its compression's suffix, and its bytes.
func decompress(file string, f fs.File) (string, []byte, error) {
	for _, c := range compressions {
		plain, ok := strings.CutSuffix(file, ".ko"+c.suffix)
		if !ok {
			continue
		}
		raw, err := io.ReadAll(f) // the xz reader is slow on an unbuffered source
		if err != nil {
			return "", nil, err
		}
		r, err := c.open(bytes.NewReader(raw))
		if err != nil {
			return "", nil, fmt.Errorf("decompressing: %w", err)
		}
		data, err := io.ReadAll(io.LimitReader(r, maxModule+1))
		if err != nil {
			return "", nil, fmt.Errorf("decompressing: %w", err)
		}
		if len(data) > maxModule {
			return "", nil, fmt.Errorf("decompresses to more than %d MiB", maxModule>>20)
		}
		return plain + ".ko", data, nil
	}
	return "", nil, fmt.Errorf("%s is not a module", file)
}

// nearest finds the existing module, built in or not, whose name shares the most with name, before
// and after a difference in the middle.
func (p *Package) nearest(name string) string {
	best, score := "", 59 // less than 60 % in common is no hint
	for _, n := range slices.Concat(slices.Sorted(maps.Keys(p.files)), slices.Sorted(maps.Keys(p.builtin))) {
		common := 0
		for common < min(len(n), len(name)) && n[common] == name[common] {
			common++
		}
		tail := 0
		for tail < min(len(n), len(name))-common && n[len(n)-1-tail] == name[len(name)-1-tail] {
			tail++
		}
		if s := 100 * (common + tail) / max(len(n), len(name)); s > score {
			best, score = n, s
		}
	}
	return best
}
