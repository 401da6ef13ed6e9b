package source

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Hard caps, whatever a signed index claims. Debian's largest kernel package is
// 110 MB and unpacks to 120 MB; its largest Packages file has 55 MB.
const (
	maxDeb     = 1 << 30
	maxTar     = 4 << 30
	maxControl = 16 << 20
	maxEntries = 500_000
	maxIndex   = 512 << 20
	maxRelease = 8 << 20
)

// deb is an opened .deb: an ar archive of three members (deb(5)).
type deb struct {
	control, data member
}

type member struct {
	name string
	*io.SectionReader
}

const (
	arMagic  = "!<arch>\n"
	arHeader = 60
)

// openDeb finds the members of the .deb in r.
func openDeb(r io.ReaderAt, size int64) (*deb, error) {
	members, err := readAr(r, size)
	if err != nil {
		return nil, err
	}
	// deb(5): debian-binary first, then control.tar, then data.tar; members
	// whose names begin with an underscore are for others and may stand
	// before data.tar. What follows data.tar is to be ignored.
	if len(members) == 0 || members[0].name != "debian-binary" {
		return nil, errors.New("not a Debian package: the first member is not debian-binary")
	}
	version := make([]byte, 4)
	if _, err := members[0].ReadAt(version, 0); err != nil || !bytes.HasPrefix(version, []byte("2.")) {
		return nil, fmt.Errorf("not a Debian package of format 2: debian-binary says %q", version)
	}
	d := &deb{}
	for _, m := range members[1:] {
		switch {
		case strings.HasPrefix(m.name, "_"):
		case d.control.name == "" && strings.HasPrefix(m.name, "control.tar"):
			d.control = m
		case d.control.name != "" && strings.HasPrefix(m.name, "data.tar"):
			d.data = m
			return d, nil
		default:
			return nil, fmt.Errorf("member %q stands where control.tar or data.tar should", m.name)
		}
	}
	return nil, errors.New("the package ends before its data.tar")
}

// readAr lists the members of an ar archive in the common format.
func readAr(r io.ReaderAt, size int64) ([]member, error) {
	magic := make([]byte, len(arMagic))
	if _, err := r.ReadAt(magic, 0); err != nil || string(magic) != arMagic {
		return nil, errors.New("not an ar archive")
	}
	var members []member
	for off := int64(len(arMagic)); off < size; {
		h := make([]byte, arHeader)
		if _, err := r.ReadAt(h, off); err != nil {
			return nil, fmt.Errorf("ar: the header at byte %d is cut short", off)
		}
		if h[58] != '`' || h[59] != '\n' {
			return nil, fmt.Errorf("ar: no header at byte %d", off)
		}
		n, err := strconv.ParseInt(strings.TrimRight(string(h[48:58]), " "), 10, 64)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("ar: the header at byte %d has size %q", off, h[48:58])
		}
		off += arHeader
		if n > size-off {
			return nil, fmt.Errorf("ar: the member at byte %d has %d bytes of %d: the file is cut short", off, size-off, n)
		}
		name := strings.TrimSuffix(strings.TrimRight(string(h[:16]), " "), "/")
		if members = append(members, member{name, io.NewSectionReader(r, off, n)}); len(members) > 16 {
			return nil, errors.New("ar: more than 16 members, which no Debian package has")
		}
		off += n + n%2
	}
	return members, nil
}

// readControl returns the package's own word about itself.
func (d *deb) readControl() (*stanza, error) {
	r, err := decompress(path.Ext(d.control.name), d.control)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.control.name, err)
	}
	defer r.Close()
	t := tar.NewReader(io.LimitReader(r, maxControl))
	for {
		h, err := t.Next()
		if err != nil {
			return nil, fmt.Errorf("%s: looking for the file control: %w", d.control.name, err)
		}
		if path.Clean(h.Name) != "control" {
			continue
		}
		b, err := io.ReadAll(t)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.control.name, err)
		}
		return parseStanza(b, 1)
	}
}

// isFor compares what a package says of itself with what the index says of it.
func (d *deb) isFor(e Entry) error {
	s, err := d.readControl()
	if err != nil {
		return err
	}
	got := [3]string{s.get("Package"), s.get("Version"), s.get("Architecture")}
	if want := [3]string{e.Resolved, e.Version, e.PackageArch}; got != want {
		return fmt.Errorf("%w: the file says it is %q, the index says %q", ErrMismatch, got, want)
	}
	return nil
}

// copyData writes the decompressed data.tar to w, at most limit bytes.
func (d *deb) copyData(w io.Writer, limit int64) error {
	r, err := decompress(path.Ext(d.data.name), d.data)
	if err != nil {
		return fmt.Errorf("%s: %w", d.data.name, err)
	}
	defer r.Close()
	n, err := io.Copy(w, io.LimitReader(r, limit+1))
	if err != nil {
		return fmt.Errorf("%s: decompressing: %w", d.data.name, err)
	}
	if n > limit {
		return fmt.Errorf("%w: %s decompresses to more than %d bytes, which is more than the package says it installs", ErrTooLarge, d.data.name, limit)
	}
	return nil
}

// tarLimit is how large the data.tar of a package may be that installs so many
// KiB. Installed-Size counts a file in whole KiB, tar needs up to three blocks of
// 512 bytes around it (header, long name), so double it, and leave room for the
// small ones.
func tarLimit(installedKiB int64) int64 {
	return min(2*installedKiB<<10+1<<20, maxTar)
}

// decompress reads what is in r, packed as the file name extension ext says.
func decompress(ext string, r io.Reader) (io.ReadCloser, error) {
	// ulikunitz/xz reads single bytes: 42 s for a 43 MB package without
	// bufio, 5.4 s with it.
	buffered := bufio.NewReaderSize(r, 1<<16)
	switch ext {
	case ".xz":
		z, err := xz.NewReader(buffered)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(z), nil
	case ".zst":
		z, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case ".gz":
		return gzip.NewReader(buffered)
	case ".tar", "":
		return io.NopCloser(buffered), nil
	}
	return nil, fmt.Errorf("no decompressor for %q: xz, zst, gz or none are known", ext)
}
