package source

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

//go:embed keys/*.asc
var keyFiles embed.FS

// readKeys is the keyring: the given keys, or Debian's when there are none.
func readKeys(keys [][]byte) (openpgp.EntityList, error) {
	if keys == nil {
		names, err := keyFiles.ReadDir("keys")
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			b, err := keyFiles.ReadFile(path.Join("keys", n.Name()))
			if err != nil {
				return nil, err
			}
			keys = append(keys, b)
		}
	}
	var ring openpgp.EntityList
	for i, k := range keys {
		read := openpgp.ReadKeyRing
		if bytes.HasPrefix(k, []byte("-----BEGIN")) {
			read = openpgp.ReadArmoredKeyRing
		}
		es, err := read(bytes.NewReader(k))
		if err != nil {
			return nil, fmt.Errorf("reading archive key %d: %w", i, err)
		}
		ring = append(ring, es...)
	}
	return ring, nil
}

// release is what a signed InRelease file says.
type release struct {
	suite, codename string
	date            time.Time
	validUntil      time.Time // zero: the archive sets no limit, as for a stable point release
	byHash          bool
	files           map[string]sum // path below dists/SUITE/ -> what must be there
}

type sum struct {
	size   int64
	sha256 string
}

// verifyRelease checks the signature of an InRelease file and reads what it
// signs. Only the signed text counts: anything before or after is an error.
func verifyRelease(inRelease []byte, ring openpgp.EntityList, now time.Time) (*release, error) {
	block, rest := clearsign.Decode(inRelease)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 || !bytes.HasPrefix(inRelease, []byte("-----BEGIN PGP SIGNED MESSAGE-----")) {
		return nil, fmt.Errorf("%w: not one OpenPGP clear-signed message (a proxy's or portal's page in its place?)", ErrSignature)
	}
	_, err := block.VerifySignature(ring, &packet.Config{Time: func() time.Time { return now }})
	if errors.Is(err, pgperrors.ErrUnknownIssuer) {
		return nil, fmt.Errorf("%w: signed, but by none of the archive's keys that Fogwright knows", ErrSignature)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return parseRelease(block.Plaintext)
}

func parseRelease(text []byte) (*release, error) {
	s, err := parseStanza(text, 1)
	if err != nil {
		return nil, err
	}
	r := &release{suite: s.get("Suite"), codename: s.get("Codename"), byHash: s.get("Acquire-By-Hash") == "yes", files: map[string]sum{}}
	if r.date, err = parseDate(s.get("Date")); err != nil {
		return nil, fmt.Errorf("field Date: %w", err)
	}
	if v := s.get("Valid-Until"); v != "" {
		if r.validUntil, err = parseDate(v); err != nil {
			return nil, fmt.Errorf("field Valid-Until: %w", err)
		}
	}
	for l := range strings.Lines(s.get("SHA256")) {
		f := strings.Fields(l)
		if len(f) == 0 {
			continue
		}
		if len(f) != 3 || !isSHA256(f[0]) {
			return nil, fmt.Errorf("field SHA256: %q is not a hash, a size and a path", strings.TrimSpace(l))
		}
		n, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("field SHA256: size %q of %s is not a number of bytes", f[1], f[2])
		}
		r.files[f[2]] = sum{size: n, sha256: f[0]}
	}
	return r, nil
}

// parseDate reads the dates of Release files: RFC 1123, always UTC.
func parseDate(s string) (time.Time, error) {
	zoned := strings.TrimSuffix(s, "UTC")
	if zoned == s {
		if zoned = strings.TrimSuffix(s, "+0000"); zoned == s {
			return time.Time{}, fmt.Errorf("%q is not a date in UTC", s)
		}
	}
	return time.Parse("Mon, 2 Jan 2006 15:04:05", strings.TrimSpace(zoned))
}

// maxAhead is how far an index may be dated in our future before we say that
// one of the two clocks is wrong.
const maxAhead = 10 * time.Minute

// fits tells whether r is what was asked for, today.
func (r *release) fits(suite string, now time.Time) error {
	switch {
	case r.codename != suite && r.suite != suite:
		return fmt.Errorf("%w: it is for %s (%s)", ErrWrongSuite, r.codename, r.suite)
	case !r.validUntil.IsZero() && now.After(r.validUntil):
		return fmt.Errorf("%w: valid until %s, now it is %s: the mirror is out of date (choose another) or this clock is wrong",
			ErrExpired, r.validUntil.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case r.date.After(now.Add(maxAhead)):
		return fmt.Errorf("%w: dated %s, now it is %s: set this machine's clock",
			ErrExpired, r.date.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

// candidate is one paragraph of a verified Packages file.
type candidate struct {
	raw     []byte
	archive string
}

// index is every package of one suite and architecture, by name, over all the
// archives. Of equal versions the first counts: the main archive's.
type index struct {
	suite, arch string
	packages    map[string][]candidate
}

// add takes in the contents of a Packages file. It keeps b.
func (x *index) add(archive string, b []byte) {
	for _, raw := range rawStanzas(b) {
		name, ok := packageField(raw)
		if ok {
			x.packages[name] = append(x.packages[name], candidate{raw, archive})
		}
	}
}

// packageField is the value of raw's Package field, without parsing the rest.
func packageField(raw []byte) (string, bool) {
	key := []byte("Package:")
	for l := range bytes.Lines(raw) {
		if len(l) > len(key) && bytes.EqualFold(l[:len(key)], key) {
			return string(bytes.TrimSpace(l[len(key):])), true
		}
	}
	return "", false
}

// newest is the newest package of that name, or of exactly that version when
// version is not empty.
func (x *index) newest(name, version string) (*stanza, string, error) {
	var best *stanza
	var archive string
	for _, c := range x.packages[name] {
		s, err := parseStanza(c.raw, 1)
		if err != nil {
			return nil, "", fmt.Errorf("the index's paragraph for %s: %w", name, err)
		}
		if version != "" && s.get("Version") != version {
			continue
		}
		if best == nil || Compare(s.get("Version"), best.get("Version")) > 0 {
			best, archive = s, c.archive
		}
	}
	if best == nil {
		if version != "" {
			name += " (= " + version + ")"
		}
		return nil, "", fmt.Errorf("%w: no package %s for %s in %s, its updates or its security archive", ErrNotFound, name, x.arch, x.suite)
	}
	return best, archive, nil
}

// resolve finds the package that name stands for. A kernel's meta package
// (linux-image-amd64) has no kernel in it: its Depends names the one that has.
func (x *index) resolve(name string) (Entry, error) {
	s, archive, err := x.newest(name, "")
	for range 3 {
		if err != nil {
			return Entry{}, err
		}
		next, version := kernelOf(s)
		if next == "" {
			return x.entry(name, s, archive)
		}
		s, archive, err = x.newest(next, version)
	}
	return Entry{}, fmt.Errorf("package %s leads from one kernel meta package to another", name)
}

// kernelOf is the kernel package that the meta package s depends on with an
// exact version, if s is one.
func kernelOf(s *stanza) (name, version string) {
	const prefix = "linux-image-"
	if !strings.HasPrefix(s.get("Package"), prefix) {
		return "", ""
	}
	for dep := range strings.SplitSeq(s.get("Depends"), ",") {
		n, v, ok := strings.Cut(strings.TrimSpace(dep), " (= ")
		if v, closed := strings.CutSuffix(v, ")"); ok && closed && strings.HasPrefix(n, prefix) {
			return n, strings.TrimSpace(v)
		}
	}
	return "", ""
}

func (x *index) entry(name string, s *stanza, archive string) (Entry, error) {
	e := Entry{
		Ref:         Ref{Suite: x.suite, Arch: x.arch, Name: name},
		Resolved:    s.get("Package"),
		PackageArch: s.get("Architecture"),
		Version:     s.get("Version"),
		Archive:     archive,
		Filename:    s.get("Filename"),
		SHA256:      s.get("SHA256"),
	}
	// "Source: linux (6.12.1-1)"; the version only where it differs, the
	// field only where the name does (Policy 5.6.1).
	src, v, versioned := strings.Cut(s.get("Source"), " (")
	if e.Source = src; src == "" {
		e.Source = e.Resolved
	}
	if e.SourceVersion = strings.TrimSuffix(v, ")"); !versioned {
		e.SourceVersion = e.Version
	}
	var err error
	if e.Size, err = strconv.ParseInt(s.get("Size"), 10, 64); err != nil {
		return e, fmt.Errorf("the index's paragraph for %s: Size: %w", e.Resolved, err)
	}
	if v := s.get("Installed-Size"); v != "" {
		if e.InstalledSize, err = strconv.ParseInt(v, 10, 64); err != nil {
			return e, fmt.Errorf("the index's paragraph for %s: Installed-Size: %w", e.Resolved, err)
		}
	}
	if err := e.check(); err != nil {
		return e, fmt.Errorf("the index's paragraph for %s: %w", e.Resolved, err)
	}
	return e, nil
}

// components hold everything that a board may need: non-free-firmware is the
// Raspberry Pi's loader. contrib and non-free are not asked for.
func components() []string { return []string{"main", "non-free-firmware"} }

// packagesFiles are the paths, below dists/SUITE/, of the Packages files of arch
// that r lists, without their suffix. Packages for all architectures stand in
// each architecture's file too, in every suite that Debian has published so far.
func (r *release) packagesFiles(arch string) []string {
	var paths []string
	for _, c := range components() {
		p := c + "/binary-" + arch + "/Packages"
		if _, ok := r.files[p+".xz"]; ok {
			paths = append(paths, p)
		}
	}
	return paths
}

// unpackIndex decompresses a verified Packages.xz.
func unpackIndex(xzFile io.Reader, want sum) ([]byte, error) {
	r, err := decompress(".xz", xzFile)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	limit := int64(maxIndex)
	if want.size > 0 && want.size < limit {
		limit = want.size
	}
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("decompressing: %w", err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%w: decompresses to more than %d bytes", ErrTooLarge, limit)
	}
	return b, nil
}
