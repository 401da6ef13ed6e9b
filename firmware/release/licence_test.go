package release

import (
	"encoding/json"
	"io/fs"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTextLicences(t *testing.T) {
	const (
		mit  = "Permission is hereby granted, free of charge, to any person obtaining\n  a copy of this software and..."
		bsd2 = "1. Redistributions of source code must retain...\n2. Redistributions in binary form must reproduce the above copyright\n// notice"
		bsd3 = bsd2 + "\n * Neither the name of X nor its contributors may be used to endorse or promote products"
		isc  = "Permission to use, copy, modify, and/or distribute this software for any\npurpose with or without fee is hereby granted, provided that the above copyright"
		bsd0 = "Permission to use, copy, modify, and/or distribute this software for any\npurpose with or without fee is hereby granted.\n"
	)
	for _, tc := range []struct {
		text string
		want []string
	}{
		{"", nil},
		{"All rights reserved.", nil},
		{mit, []string{"MIT"}},
		{bsd2, []string{"BSD-2-Clause"}},
		{bsd3, []string{"BSD-3-Clause"}},
		{bsd3 + "All advertising materials mentioning features", []string{"BSD-4-Clause"}},
		{isc, []string{"ISC"}},
		{bsd0, nil},
		{"  Apache License\n  Version 2.0, January 2004", []string{"Apache-2.0"}},
		{"Mozilla Public License, version 2.0", []string{"MPL-2.0"}},
		{"Mozilla Public License Version 2.0", []string{"MPL-2.0"}},
		{bsd3 + "\n---\n" + mit, []string{"BSD-3-Clause", "MIT"}},
	} {
		if diff := cmp.Diff(tc.want, textLicences([]byte(tc.text))); diff != "" {
			t.Errorf("textLicences(%q) (-want +got):\n%s", tc.text, diff)
		}
	}
}

// Every module that this repository depends on and that is here has a licence that
// we recognise.
func TestModulesHereHaveLicences(t *testing.T) {
	cache := os.DirFS(goTool(t, "env", "GOMODCACHE"))
	// Its README says MIT, and there is no file with a licence.
	without := map[string]bool{"github.com/mattn/go-localereader": true}
	n := 0
	var mod struct {
		Require []struct{ Path, Version string }
	}
	if err := json.Unmarshal([]byte(goTool(t, "mod", "edit", "-json")), &mod); err != nil {
		t.Fatal(err)
	}
	for _, m := range mod.Require {
		if _, err := fs.Stat(cache, escapeModule(m.Path)+"@"+escapeModule(m.Version)); err != nil {
			continue // required by what we do not compile, so never downloaded
		}
		l, err := moduleLicences(cache, m.Path, m.Version)
		if err != nil || (len(l) == 0) != without[m.Path] {
			t.Errorf("%s %s: licences %v, error %v", m.Path, m.Version, l, err)
		}
		n++
	}
	if n < 10 {
		t.Errorf("only %d modules found", n)
	}
}

func FuzzCopyrightLicences(f *testing.F) {
	f.Add([]byte("Format: x\nLicense: GPL-2\n\nlicense: Expat\nLicense:\nLicense: a: b\n"))
	f.Add([]byte("License: GPL-2\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, l := range copyrightLicences(b) {
			if (l.License.ID == "") == (l.License.Name == "") {
				t.Fatalf("licence %+v has both or neither of identifier and name", l.License)
			}
		}
		textLicences(b)
	})
}
