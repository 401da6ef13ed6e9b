package disk

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"
)

// File is one file of a FAT file system. Path is relative, with slashes. A path
// that ends with a slash is a folder and has no Data; folders of files need not
// be listed.
type File struct {
	Path string
	Data []byte
}

// FAT is a whole FAT file system. Microsoft's "FAT: General Overview of On-Disk
// Format" 1.03 (fatgen103) is the reference. The same value always builds the
// same bytes, in whatever order the files are listed.
type FAT struct {
	// Label is up to 11 of A-Z, 0-9, space and a few signs; empty: none.
	Label  string
	Serial uint32 // the volume id
	// Size in bytes, a multiple of 512; 0: no more than the files need.
	Size int64
	// Time of every entry, taken as UTC and rounded down to 2 seconds; what
	// FAT cannot say becomes its first or last moment, 1980 or 2107.
	Time  time.Time
	Files []File
}

const (
	sector    = 512
	entrySize = 32
	// maxEntries of one directory (fatgen103: 2 MiB at most).
	maxEntries = 65536
	maxDepth   = 64 // of folders; Windows' longest path holds no more
)

// node is a file or a folder of the tree to be built.
type node struct {
	name     string
	short    [11]byte
	dir      bool
	data     []byte
	children []*node
	byName   map[string]*node // children, by folded name
	parent   *node
	first    uint32 // cluster; 0: none
}

// Build lays the file system out. File contents are not copied: they start at
// cluster boundaries, in the order of their paths, each in one piece; clusters
// start at multiples of 4 KiB and are 4 KiB up to 8 GiB. All metadata is placed,
// free space is hole.
//
// It is an error when a name is none that FAT can hold, when two differ in case
// only, or when Size is too small; then the error says how much is needed.
func (f FAT) Build() (*Sparse, error) {
	root, err := f.tree()
	if err != nil {
		return nil, fmt.Errorf("building FAT %q: %w", f.Label, err)
	}
	g, err := f.geometry(root)
	if err != nil {
		return nil, fmt.Errorf("building FAT %q: %w", f.Label, err)
	}
	w := fatWriter{FAT: f, geometry: g, table: make([]byte, g.fatSectors*sector)}
	size := f.Size
	if size == 0 {
		size = g.total * sector
	}
	s, err := w.write(root, size)
	if err != nil {
		return nil, fmt.Errorf("building FAT %q: %w", f.Label, err)
	}
	return s, nil
}

// tree sorts the files into folders and gives everything its short name. Every
// fault of the list is reported, not just the first.
func (f FAT) tree() (*node, error) {
	var faults []error
	if err := checkLabel(f.Label); err != nil {
		faults = append(faults, err)
	}
	files := slices.SortedFunc(slices.Values(f.Files), func(a, b File) int {
		return strings.Compare(a.Path, b.Path)
	})
	root := &node{dir: true}
	for _, file := range files {
		if err := root.add(file); err != nil {
			faults = append(faults, err)
		}
	}
	if err := root.finish(f.Label); err != nil {
		faults = append(faults, err)
	}
	return root, errors.Join(faults...)
}

func checkLabel(label string) error {
	bad := func(r rune) bool { return r != ' ' && !isShortChar(r) }
	if len(label) > 11 || strings.TrimSpace(label) != label || strings.ContainsFunc(label, bad) {
		return fmt.Errorf("label %q is not up to 11 of A-Z, 0-9, space and %s", label, shortChar)
	}
	return nil
}

func (n *node) add(file File) error {
	path, isDir := strings.CutSuffix(file.Path, "/")
	elements := strings.Split(path, "/")
	if len(elements) > maxDepth {
		return fmt.Errorf("path %q has more than %d elements", file.Path, maxDepth)
	}
	if isDir && len(file.Data) > 0 {
		return fmt.Errorf("path %q is a folder and has data", file.Path)
	}
	if int64(len(file.Data)) > 1<<32-1 {
		return fmt.Errorf("path %q has %d bytes; FAT holds 4 GiB - 1 at most", file.Path, len(file.Data))
	}
	for i, name := range elements {
		if err := checkName(name); err != nil {
			return fmt.Errorf("path %q: %w", file.Path, err)
		}
		dir := isDir || i < len(elements)-1
		child := n.byName[fold(name)]
		switch {
		case child == nil:
			child = &node{name: name, dir: dir, parent: n}
			if n.byName == nil {
				n.byName = make(map[string]*node)
			}
			n.byName[fold(name)] = child
			n.children = append(n.children, child)
		case !child.dir || !dir:
			return fmt.Errorf("path %q is there twice (FAT does not tell case apart)", file.Path)
		}
		n = child
	}
	n.data = file.Data
	return nil
}

// finish orders each folder's children and names them.
func (n *node) finish(label string) error {
	slices.SortFunc(n.children, func(a, b *node) int { return strings.Compare(a.name, b.name) })
	names := make([]string, len(n.children))
	for i, c := range n.children {
		names[i] = c.name
	}
	for i, short := range shortNames(names) {
		n.children[i].short = short
	}
	if c := n.entries(label); c > maxEntries {
		return fmt.Errorf("folder %q takes %d entries; FAT holds %d at most", n.name, c, maxEntries)
	}
	for _, c := range n.children {
		if c.dir {
			if err := c.finish(""); err != nil {
				return err
			}
		}
	}
	return nil
}

// entries is the number of directory entries that a folder takes.
func (n *node) entries(label string) int64 {
	count := int64(2) // . and ..
	if n.parent == nil {
		count = 0
		if label != "" {
			count = 1
		}
	}
	for _, c := range n.children {
		count++
		if needsLong(c.name, c.short) {
			count += int64(longEntries(c.name))
		}
	}
	return count
}

// clusters is how many clusters of size bytes everything below n takes, and n
// itself unless it is the root, whose place depends on the kind of FAT.
func (n *node) clusters(size int64) int64 {
	var count int64
	if n.dir && n.parent != nil {
		count = ceil(n.entries("")*entrySize, size)
	}
	count += ceil(int64(len(n.data)), size)
	for _, c := range n.children {
		count += c.clusters(size)
	}
	return count
}

func ceil(n, unit int64) int64 { return (n + unit - 1) / unit }

// geometry is where things are. All but bits are counted in sectors or clusters.
type geometry struct {
	bits        int // 12, 16 or 32
	perCluster  int64
	reserved    int64
	fatSectors  int64 // of each of the two tables
	rootEntries int64 // 0 for FAT32
	total       int64
	clusters    int64
}

// data is the first sector of the first cluster, number 2.
func (g geometry) data() int64 {
	return g.reserved + 2*g.fatSectors + g.rootEntries*entrySize/sector
}

// kinds of FAT with the most clusters each may have. The real limits are 4084
// and 65524; fatgen103 says to stay 16 away from them on both sides, for the many
// programs that are off by some.
var kinds = [...]struct {
	bits int
	max  int64
}{{12, 4084 - 16}, {16, 65524 - 16}, {32, 0x0FFFFFF5 - 16}}

// deadZone is how far behind the last count of one kind the next one begins.
const deadZone = 33

// geometry chooses the kind of FAT and its layout.
func (f FAT) geometry(root *node) (geometry, error) {
	if f.Size%sector != 0 || f.Size < 0 || f.Size/sector > 1<<32-1 {
		return geometry{}, fmt.Errorf("size %d is not a multiple of %d below 2 TiB", f.Size, sector)
	}
	if f.Size == 0 {
		return f.smallest(root, 8), nil
	}
	// Cluster sizes for big volumes are fatgen103's (DskTableFAT32).
	perCluster := int64(8)
	for limit := int64(8 << 30); f.Size > limit && perCluster < 64; limit *= 2 {
		perCluster *= 2
	}
	g := f.largest(root, perCluster)
	if needed := f.needs(root, g); needed > g.clusters {
		small := f.smallest(root, perCluster)
		return geometry{}, fmt.Errorf("the files need %d bytes and there are %d", small.total*sector, f.Size)
	}
	return g, nil
}

// needs is how many clusters the files take in this geometry.
func (f FAT) needs(root *node, g geometry) int64 {
	size := g.perCluster * sector
	n := root.clusters(size)
	if g.bits == 32 {
		n += ceil(root.entries(f.Label)*entrySize, size)
	}
	return max(1, n)
}

// frame is a geometry without its clusters and tables.
func (f FAT) frame(root *node, bits int, perCluster int64) geometry {
	g := geometry{bits: bits, perCluster: perCluster, reserved: 32}
	if bits != 32 {
		g.reserved = 1
		// 512 is what everybody expects; a multiple of 128 keeps the data
		// aligned for its part.
		g.rootEntries = max(512, ceil(root.entries(f.Label), 128)*128)
	}
	return g
}

// tables sets fatSectors for n clusters and grows the reserved area until the
// data begins at a block boundary.
func (g *geometry) tables(n int64) {
	g.fatSectors = ceil(ceil((n+2)*int64(g.bits), 8), sector)
	if over := g.data() % (block / sector); over != 0 {
		g.reserved += block/sector - over
	}
}

// smallest has just the clusters that the files need.
func (f FAT) smallest(root *node, perCluster int64) geometry {
	var least int64
	for i := 0; ; i++ {
		g := f.frame(root, kinds[i].bits, perCluster)
		g.clusters = max(least, f.needs(root, g))
		if g.clusters > kinds[i].max && i+1 < len(kinds) {
			least = kinds[i].max + deadZone
			continue
		}
		g.tables(g.clusters)
		g.total = g.data() + g.clusters*perCluster
		return g
	}
}

// largest has as many clusters as fit into Size. The higher kinds have bigger
// tables, so it is their own count that says whether they are possible.
func (f FAT) largest(root *node, perCluster int64) geometry {
	total := f.Size / sector
	for i := len(kinds) - 1; ; i-- {
		frame := f.frame(root, kinds[i].bits, perCluster)
		with := func(n int64) geometry {
			g := frame
			g.tables(n)
			g.clusters, g.total = n, g.data()+n*perCluster
			return g
		}
		n := int64(sort.Search(int(total/perCluster), func(n int) bool { return with(int64(n)+1).total > total }))
		if i == 0 || n >= kinds[i-1].max+deadZone {
			return with(min(n, kinds[i].max))
		}
	}
}
