package source

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// node is one file of a package, and where its bytes lie in the decompressed
// data.tar. The list of them is kept beside that file, so the keys are short.
type node struct {
	Name   string      `json:"n"` // io/fs path
	Mode   fs.FileMode `json:"m"`
	Size   int64       `json:"s,omitempty"`
	Offset int64       `json:"o,omitempty"`
	Time   int64       `json:"t,omitempty"` // seconds since 1970
	Link   string      `json:"l,omitempty"` // of a symbolic link, as it stands in the archive
}

// indexTar lists what is in the tar file r: regular files, folders and symbolic
// links, sorted by name, the root first. Hard links become further names of the
// same bytes. An archive that means to write outside its own tree is ErrUnsafe.
func indexTar(r io.ReadSeeker) ([]node, error) {
	t := tar.NewReader(r)
	seen := map[string]node{}
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("tar: %w", err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		// archive/tar reads whole blocks and nothing ahead, so this is
		// where the entry's bytes begin.
		off, err := r.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, fmt.Errorf("tar: %w", err)
		}
		n, err := newNode(h, off, seen)
		if err != nil {
			return nil, err
		}
		if _, ok := seen[n.Name]; ok {
			return nil, fmt.Errorf("%w: %q stands in the archive twice", ErrUnsafe, n.Name)
		}
		if seen[n.Name] = n; len(seen) > maxEntries {
			return nil, fmt.Errorf("%w: more than %d files", ErrTooLarge, maxEntries)
		}
	}
	return tree(seen)
}

func newNode(h *tar.Header, off int64, seen map[string]node) (node, error) {
	name, err := cleanName(h.Name)
	if err != nil {
		return node{}, err
	}
	n := node{Name: name, Mode: h.FileInfo().Mode(), Time: h.ModTime.Unix()}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return node{}, fmt.Errorf("%w: %q is a sparse file, which no Debian package has", ErrUnsafe, name)
		}
	}
	switch h.Typeflag {
	case tar.TypeReg:
		n.Size, n.Offset = h.Size, off
	case tar.TypeDir:
	case tar.TypeSymlink:
		n.Link = h.Linkname
		if target := path.Join(path.Dir(name), h.Linkname); !path.IsAbs(h.Linkname) && (target == ".." || strings.HasPrefix(target, "../")) {
			return node{}, fmt.Errorf("%w: the link %q -> %q leads out of the package", ErrUnsafe, name, h.Linkname)
		}
	case tar.TypeLink:
		to, err := cleanName(h.Linkname)
		if err != nil {
			return node{}, err
		}
		target, ok := seen[to]
		if !ok || !target.Mode.IsRegular() {
			return node{}, fmt.Errorf("%w: the hard link %q -> %q leads to no file before it in the package", ErrUnsafe, name, h.Linkname)
		}
		target.Name = name
		return target, nil
	default:
		return node{}, fmt.Errorf("%w: %q is neither file, folder nor link (tar type %q)", ErrUnsafe, name, h.Typeflag)
	}
	return n, nil
}

// cleanName turns dpkg's "./usr/bin/x" into "usr/bin/x". Nothing else needs
// cleaning in an honest package.
func cleanName(name string) (string, error) {
	clean := strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/")
	if clean == "" && strings.HasPrefix(name, "./") {
		clean = "."
	}
	if !fs.ValidPath(clean) || strings.ContainsAny(clean, "\x00\\") {
		return "", fmt.Errorf("%w: the name %q leads out of the package", ErrUnsafe, name)
	}
	return clean, nil
}

// tree sorts the nodes and makes sure that everything lies in a folder.
func tree(seen map[string]node) ([]node, error) {
	nodes := make([]node, 0, len(seen)+1)
	add := func(n node) { nodes = append(nodes, n) }
	for _, n := range seen {
		add(n)
	}
	for _, n := range nodes {
		for dir := path.Dir(n.Name); n.Name != "."; dir = path.Dir(dir) {
			up, ok := seen[dir]
			if !ok {
				up = node{Name: dir, Mode: fs.ModeDir | 0o755}
				seen[dir] = up
				add(up)
			}
			if !up.Mode.IsDir() {
				return nil, fmt.Errorf("%w: %q lies below %q, which is no folder", ErrUnsafe, n.Name, dir)
			}
			if dir == "." {
				break
			}
		}
	}
	if root, ok := seen["."]; !ok {
		add(node{Name: ".", Mode: fs.ModeDir | 0o755})
	} else if !root.Mode.IsDir() {
		return nil, fmt.Errorf("%w: the root is no folder", ErrUnsafe)
	}
	slices.SortFunc(nodes, func(a, b node) int { return strings.Compare(a.Name, b.Name) })
	return nodes, nil
}

// tarFS serves the nodes of an uncompressed tar file. Symbolic links are
// followed inside the tree only: its root is "/" to an absolute one.
type tarFS struct {
	file  string
	nodes map[string]*node
	kids  map[string][]fs.DirEntry // sorted by name
}

var (
	_ fs.ReadFileFS = (*tarFS)(nil)
	_ fs.ReadDirFS  = (*tarFS)(nil)
	_ fs.ReadLinkFS = (*tarFS)(nil)
	_ fs.StatFS     = (*tarFS)(nil)
)

// newTarFS takes nodes as indexTar made them.
func newTarFS(file string, nodes []node) *tarFS {
	f := &tarFS{file: file, nodes: make(map[string]*node, len(nodes)), kids: map[string][]fs.DirEntry{}}
	for i := range nodes {
		n := &nodes[i]
		f.nodes[n.Name] = n
		if n.Name != "." {
			dir := path.Dir(n.Name)
			f.kids[dir] = append(f.kids[dir], fs.FileInfoToDirEntry(info{n, path.Base(n.Name)}))
		}
	}
	// Sorting whole paths puts "a-b" before "a/x", which sorts the names of
	// one folder all the same: they share everything up to their last part.
	return f
}

// maxLinks is the kernel's limit too (path_resolution(7)).
const maxLinks = 40

// resolve walks name, through links except, when keepLast, for its last part.
func (f *tarFS) resolve(name string, keepLast bool) (*node, error) {
	if !fs.ValidPath(name) {
		return nil, fs.ErrInvalid
	}
	todo := strings.Split(name, "/")
	at := "."
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at) // of "." it is "."
			continue
		}
		n, ok := f.nodes[path.Join(at, part)]
		if !ok {
			if links > 0 {
				return nil, fmt.Errorf("%w: the links on the way lead to /%s, which is not in this package", fs.ErrNotExist, path.Join(at, part))
			}
			return nil, fs.ErrNotExist
		}
		if n.Mode&fs.ModeSymlink != 0 && (len(todo) > 0 || !keepLast) {
			if links++; links > maxLinks {
				return nil, errors.New("too many symbolic links")
			}
			if path.IsAbs(n.Link) {
				at = "."
			}
			todo = append(strings.Split(n.Link, "/"), todo...)
			continue
		}
		if len(todo) > 0 && !n.Mode.IsDir() {
			return nil, fs.ErrNotExist // a file used as a folder; os says ENOTDIR
		}
		at = n.Name
	}
	return f.nodes[at], nil
}

func (f *tarFS) Open(name string) (fs.File, error) {
	n, err := f.resolve(name, false)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	i := info{n, path.Base(name)}
	if n.Mode.IsDir() {
		return &openDir{info: i, kids: f.kids[n.Name]}, nil
	}
	file, err := os.Open(f.file)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &openFile{SectionReader: io.NewSectionReader(file, n.Offset, n.Size), file: file, info: i}, nil
}

func (f *tarFS) ReadFile(name string) ([]byte, error) {
	file, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	of, ok := file.(*openFile)
	if !ok {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("is a folder")}
	}
	b := make([]byte, of.Size())
	if _, err := io.ReadFull(of, b); err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return b, nil
}

func (f *tarFS) ReadDir(name string) ([]fs.DirEntry, error) {
	n, err := f.resolve(name, false)
	if err == nil && !n.Mode.IsDir() {
		err = errors.New("is no folder")
	}
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	return slices.Clone(f.kids[n.Name]), nil
}

func (f *tarFS) stat(op, name string, keepLast bool) (fs.FileInfo, error) {
	n, err := f.resolve(name, keepLast)
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return info{n, path.Base(name)}, nil
}

func (f *tarFS) Stat(name string) (fs.FileInfo, error)  { return f.stat("stat", name, false) }
func (f *tarFS) Lstat(name string) (fs.FileInfo, error) { return f.stat("lstat", name, true) }

func (f *tarFS) ReadLink(name string) (string, error) {
	n, err := f.resolve(name, true)
	if err == nil && n.Mode&fs.ModeSymlink == 0 {
		err = fs.ErrInvalid
	}
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return n.Link, nil
}

type info struct {
	n    *node
	name string
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.n.Size }
func (i info) Mode() fs.FileMode  { return i.n.Mode }
func (i info) ModTime() time.Time { return time.Unix(i.n.Time, 0).UTC() }
func (i info) IsDir() bool        { return i.n.Mode.IsDir() }
func (i info) Sys() any           { return nil }

type openFile struct {
	*io.SectionReader
	file *os.File
	info info
}

func (o *openFile) Stat() (fs.FileInfo, error) { return o.info, nil }
func (o *openFile) Close() error               { return o.file.Close() }

type openDir struct {
	info info
	kids []fs.DirEntry
	next int
}

func (o *openDir) Stat() (fs.FileInfo, error) { return o.info, nil }
func (o *openDir) Close() error               { return nil }
func (o *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: o.info.name, Err: errors.New("is a folder")}
}

func (o *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	rest := o.kids[o.next:]
	if n > 0 {
		if len(rest) == 0 {
			return nil, io.EOF
		}
		rest = rest[:min(n, len(rest))]
	}
	o.next += len(rest)
	return slices.Clone(rest), nil
}
