package boards

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// FileName is the description's name in a board's folder.
const FileName = "board.toml"

//go:embed */*
var builtin embed.FS

var boardName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

// Names are the boards that come with Fogwright, sorted.
func Names() []string {
	found, err := fs.Glob(builtin, "*/"+FileName)
	if err != nil {
		return nil // only a malformed pattern does this
	}
	for i, f := range found {
		found[i] = strings.TrimSuffix(f, "/"+FileName)
	}
	slices.Sort(found)
	return found
}

// Open loads and checks a board that comes with Fogwright. An unknown name is
// fs.ErrNotExist and names the nearest.
func Open(name string) (*Board, error) {
	if !slices.Contains(Names(), name) {
		return nil, fmt.Errorf("board %q: %w%s", name, fs.ErrNotExist, suggestion(name, Names()))
	}
	folder, err := fs.Sub(builtin, name)
	if err != nil {
		return nil, fmt.Errorf("board %q: %w", name, err)
	}
	return load(folder, name, "boards/"+name+"/"+FileName)
}

// Load loads and checks the board in a folder. Every fault is in the error, one
// per line, each with file:line:column.
func Load(dir string) (*Board, error) {
	full, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("board folder %q: %w", dir, err)
	}
	return load(os.DirFS(full), filepath.Base(full), filepath.Join(dir, FileName))
}

// Find takes what the user wrote after -board: the name of a board that comes
// with Fogwright, or else a folder.
func Find(nameOrFolder string) (*Board, error) {
	if slices.Contains(Names(), nameOrFolder) {
		return Open(nameOrFolder)
	}
	if info, err := os.Stat(nameOrFolder); err == nil && info.IsDir() {
		return Load(nameOrFolder)
	}
	if strings.ContainsAny(nameOrFolder, `/\`) {
		return nil, fmt.Errorf("board folder %q: %w", nameOrFolder, fs.ErrNotExist)
	}
	return Open(nameOrFolder)
}

// Parse reads one board.toml. name is the board's name, file is how messages call
// the file, and folder is where the board's own files are looked for.
func Parse(name, file string, text []byte, folder fs.FS) (*Board, error) {
	doc, err := parse(file, text)
	if err != nil {
		return nil, err
	}
	b := &Board{Name: name, FS: folder, doc: doc}
	if err := doc.decode(b); err != nil {
		return nil, err
	}
	if b.Disk.Start == 0 {
		b.Disk.Start = MiB
	}
	if b.QEMU != nil && b.QEMU.Memory == 0 {
		b.QEMU.Memory = b.Memory
	}
	return b, b.check()
}

func load(folder fs.FS, name, file string) (*Board, error) {
	text, err := fs.ReadFile(folder, FileName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("board %q: there is no %s: %w", name, file, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("board %q: %w", name, err)
	}
	b, err := Parse(name, file, text, folder)
	if err != nil {
		return nil, err
	}
	return b, nil
}

// Position tells where in the board's file something stands, as
// file:line:column, for messages of those who find out later that it is wrong:
// Position("kernel.modules[3]"). What is not in the file is placed at the
// nearest thing around it.
func (b *Board) Position(path string) string {
	if b.doc == nil {
		return b.Name + "/" + FileName
	}
	return b.doc.place(b.doc.offset(path))
}
