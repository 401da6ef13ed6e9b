package release

import (
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// debianLicences maps the short names of Debian's machine-readable copyright format
// (https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/, section
// "License specification"), lower-cased, to SPDX identifiers.
func debianLicences() map[string]string {
	ids := map[string]string{
		"expat": "MIT", "mit": "MIT", "x11": "X11", "isc": "ISC", "zlib": "Zlib",
		"apache-2.0": "Apache-2.0", "mpl-2.0": "MPL-2.0", "mpl-1.1": "MPL-1.1",
		"bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause", "bsd-4-clause": "BSD-4-Clause",
		"bsd-2-clause-patent": "BSD-2-Clause-Patent", "0bsd": "0BSD",
		"cc0": "CC0-1.0", "cc0-1.0": "CC0-1.0", "cc-by-sa-4.0": "CC-BY-SA-4.0",
		"openssl": "OpenSSL", "artistic": "Artistic-1.0", "python-2.0": "Python-2.0",
		"bzip2-1.0.6": "bzip2-1.0.6", "beer-ware": "Beerware", "ibm-pibs": "IBM-pibs",
	}
	// The GNU licences come with and without ".0", and with "+" for any later
	// version.
	for _, l := range []struct {
		name     string
		versions []string
	}{
		{"GPL", []string{"1.0", "2.0", "3.0"}},
		{"LGPL", []string{"2.0", "2.1", "3.0"}},
		{"AGPL", []string{"3.0"}},
		{"GFDL", []string{"1.1", "1.2", "1.3"}},
	} {
		for _, v := range l.versions {
			for _, short := range []string{v, strings.TrimSuffix(v, ".0")} {
				key := strings.ToLower(l.name + "-" + short)
				ids[key] = l.name + "-" + v + "-only"
				ids[key+"+"] = l.name + "-" + v + "-or-later"
			}
		}
	}
	return ids
}

// copyrightLicences lists the licences that a Debian copyright file names, sorted:
// SPDX identifiers where the name is one licence that SPDX knows, and the file's own
// words where it is not ("GPL-2 or BSD-2-clause"). A file that is not in the
// machine-readable format names none.
func copyrightLicences(text []byte) cdx.Licenses {
	ids := debianLicences()
	var all cdx.Licenses
	seen := map[string]bool{}
	if !strings.HasPrefix(string(text), "Format:") {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		name := strings.TrimSpace(value)
		if !strings.EqualFold(key, "License") || name == "" {
			continue
		}
		l := &cdx.License{ID: ids[strings.ToLower(name)]}
		if l.ID == "" {
			l.Name = name
		}
		if !seen[l.ID+l.Name] {
			seen[l.ID+l.Name] = true
			all = append(all, cdx.LicenseChoice{License: l})
		}
	}
	slices.SortFunc(all, func(a, b cdx.LicenseChoice) int {
		return strings.Compare(a.License.ID+a.License.Name, b.License.ID+b.License.Name)
	})
	return all
}

// fingerprint is a sentence that only one licence has. Sentences are compared in
// lower case, with every run of other characters than letters, digits and dots as
// one space.
type fingerprint struct{ id, has, hasNot string }

// fingerprints cover what Go modules use. A file may match several: some modules
// put the licences of borrowed parts into one file.
func fingerprints() []fingerprint {
	const bsd = "redistributions in binary form must reproduce the above copyright notice"
	return []fingerprint{
		{"Apache-2.0", "apache license version 2.0", ""},
		{"MPL-2.0", "mozilla public license version 2.0", ""},
		{"MIT", "permission is hereby granted free of charge to any person obtaining a copy of this software", ""},
		{"ISC", "permission to use copy modify and or distribute this software for any purpose with or without fee is hereby granted provided that the above", ""},
		{"ISC", "permission to use copy modify and distribute this software for any purpose with or without fee is hereby granted provided that the above", ""},
		{"BSD-3-Clause", "used to endorse or promote products", "all advertising materials mentioning"},
		{"BSD-2-Clause", bsd, "endorse or promote products"},
		{"BSD-4-Clause", "all advertising materials mentioning", ""},
		{"Unlicense", "this is free and unencumbered software released into the public domain", ""},
		{"CC0-1.0", "cc0 1.0 universal", ""},
		{"GPL-2.0-only", "gnu general public license version 2 june 1991", ""},
		{"GPL-3.0-only", "gnu general public license version 3 29 june 2007", ""},
		{"LGPL-3.0-only", "gnu lesser general public license version 3 29 june 2007", ""},
	}
}

// textLicences lists the SPDX identifiers of the licences that a licence file holds,
// sorted.
func textLicences(text []byte) []string {
	words := normalise(text)
	var ids []string
	for _, f := range fingerprints() {
		if strings.Contains(words, f.has) && (f.hasNot == "" || !strings.Contains(words, f.hasNot)) {
			ids = append(ids, f.id)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// normalise writes text as fingerprints are written. Every build reads some hundred
// licences, so this is a loop and not a regular expression.
func normalise(text []byte) string {
	var b strings.Builder
	b.Grow(len(text))
	gap := false
	for _, c := range text {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '.' {
			if gap {
				b.WriteByte(' ')
			}
			gap = false
			b.WriteByte(c)
		} else {
			gap = true
		}
	}
	return b.String()
}

// licenceFile is how modules call the files with their licences.
var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|unlicense)([.-].*)?$`)

// moduleLicences reads the licence files in the root of an unpacked Go module.
func moduleLicences(cache fs.FS, modulePath, version string) (cdx.Licenses, error) {
	dir := path.Clean(escapeModule(modulePath) + "@" + escapeModule(version))
	entries, err := fs.ReadDir(cache, dir)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() || !licenceFile.MatchString(e.Name()) {
			continue
		}
		text, err := fs.ReadFile(cache, path.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		ids = append(ids, textLicences(text)...)
	}
	slices.Sort(ids)
	var all cdx.Licenses
	for _, id := range slices.Compact(ids) {
		all = append(all, cdx.LicenseChoice{License: &cdx.License{ID: id}})
	}
	return all, nil
}

// escapeModule writes a module path or version as the module cache does, where file
// names must differ without regard to case: an upper-case letter becomes "!" and the
// lower-case one (https://go.dev/ref/mod#module-cache).
func escapeModule(s string) string {
	var b strings.Builder
	for _, r := range s {
		if 'A' <= r && r <= 'Z' {
			b.WriteByte('!')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}
