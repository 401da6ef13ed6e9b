package source

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
)

// Environment variables that name the mirrors, below [Config]'s own fields and
// above the host's apt configuration.
const (
	EnvMirror         = "FOGWRIGHT_MIRROR"
	EnvSecurityMirror = "FOGWRIGHT_SECURITY_MIRROR"
)

// DefaultMirror is taken when nothing names another. The project's own name for
// its archive (https://www.debian.org/mirror/list).
const DefaultMirror = "https://ftp.debian.org/debian"

// mirrors are the archives' root addresses.
type mirrors struct {
	main, security *url.URL
}

// chooseMirrors: configuration, then environment, then apt, then the default. The
// security archive, when nothing names it, is the main mirror's neighbour.
func chooseMirrors(cfg Config, getenv func(string) string, apt aptConfig) (mirrors, error) {
	first := func(s ...string) string {
		if i := slices.IndexFunc(s, func(s string) bool { return s != "" }); i >= 0 {
			return s[i]
		}
		return ""
	}
	var m mirrors
	var err, serr error
	m.main, err = parseMirror(first(cfg.Mirror, getenv(EnvMirror), apt.main, DefaultMirror))
	if err != nil {
		return m, err
	}
	security := first(cfg.SecurityMirror, getenv(EnvSecurityMirror), apt.security)
	if security == "" {
		u := *m.main
		u.Path = path.Join("/", path.Dir(path.Clean(u.Path)), "debian-security")
		security = u.String()
	}
	m.security, serr = parseMirror(security)
	return m, errors.Join(err, serr)
}

func parseMirror(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("mirror %q: %w", s, err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("mirror %q is not an http or https address such as %s", s, DefaultMirror)
	}
	return u, nil
}

// at is the address of a file below a mirror's root.
func at(root *url.URL, parts ...string) string {
	u := *root
	u.Path = path.Join(append([]string{"/", u.Path}, parts...)...)
	u.RawPath = ""
	return u.String()
}

// aptConfig is what the host's own apt says about Debian.
type aptConfig struct {
	main, security string // archive roots, or empty
	proxy          string // of http transfers, or empty
}

// readApt reads apt's configuration folder (/etc/apt). What is missing or cannot
// be understood is not there: apt's files are apt's business, and a default
// stands behind them.
func readApt(etc fs.FS) aptConfig {
	var c aptConfig
	var sources []aptSource
	for _, pattern := range []string{"sources.list", "sources.list.d/*"} {
		names, _ := fs.Glob(etc, pattern) // the patterns are well-formed: no error
		for _, n := range names {
			b, err := fs.ReadFile(etc, n)
			if err != nil {
				continue
			}
			switch path.Ext(n) {
			case ".list":
				sources = append(sources, parseSourcesList(b)...)
			case ".sources":
				sources = append(sources, parseSources(b)...)
			}
		}
	}
	for _, s := range sources {
		main, security := s.debian()
		if main && c.main == "" {
			c.main = s.uri
		}
		if security && c.security == "" {
			c.security = s.uri
		}
	}
	for _, pattern := range []string{"apt.conf.d/*", "apt.conf"} { // apt's order; the last word counts
		names, _ := fs.Glob(etc, pattern)
		for _, n := range names {
			if b, err := fs.ReadFile(etc, n); err == nil {
				if p, ok := aptProxy(b); ok {
					c.proxy = p
				}
			}
		}
	}
	return c
}

// aptSource is one archive that apt uses: one address and one suite of it.
type aptSource struct {
	uri, suite string
	components []string
	signedBy   string
}

// debian tells whether s is Debian's main archive, or its security archive, and
// not somebody else's for Debian: Docker, Microsoft and Raspberry Pi all have
// ".../debian", Ubuntu has other suites. Nothing is believed because of this (the
// signature decides), but a wrong guess would send the build to a useless place.
func (s aptSource) debian() (main, security bool) {
	u, err := url.Parse(s.uri)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || !slices.Contains(s.components, "main") {
		return false, false
	}
	if strings.Contains(u.Host, "raspberrypi") || (s.signedBy != "" && !strings.HasPrefix(path.Base(s.signedBy), "debian-archive-")) {
		return false, false
	}
	release, _, _ := strings.Cut(s.suite, "-")
	release, _, _ = strings.Cut(release, "/")
	if !slices.Contains([]string{"stable", "oldstable", "oldoldstable", "testing", "unstable", "sid",
		"bullseye", "bookworm", "trixie", "forky", "duke"}, release) {
		return false, false
	}
	dir := path.Base(u.Path)
	if dir != "debian" && dir != "debian-security" && s.signedBy == "" {
		return false, false
	}
	security = strings.HasSuffix(s.suite, "-security") || dir == "debian-security"
	return !security, security
}

// parseSourcesList reads sources.list(5)'s one-line form:
//
//	deb [arch=amd64 signed-by=/x.gpg] http://host/debian trixie main contrib
func parseSourcesList(b []byte) []aptSource {
	var all []aptSource
	for line := range strings.Lines(string(b)) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb")
		if !ok || rest == "" || strings.TrimLeft(rest, " \t") == rest {
			continue // deb-src, or no entry
		}
		var s aptSource
		rest = strings.TrimSpace(rest)
		if opts, after, ok := strings.Cut(rest, "]"); ok && strings.HasPrefix(opts, "[") {
			rest = after
			for o := range strings.FieldsSeq(opts[1:]) {
				if k, v, _ := strings.Cut(o, "="); strings.EqualFold(k, "signed-by") {
					s.signedBy = v
				}
			}
		}
		f := strings.Fields(rest)
		if len(f) < 3 {
			continue
		}
		s.uri, s.suite, s.components = f[0], f[1], f[2:]
		all = append(all, s)
	}
	return all
}

// parseSources reads sources.list(5)'s deb822 form.
func parseSources(b []byte) []aptSource {
	var all []aptSource
	for line, raw := range rawStanzas(b) {
		s, err := parseStanza(raw, line)
		if err != nil || strings.EqualFold(s.get("Enabled"), "no") ||
			!slices.Contains(strings.Fields(s.get("Types")), "deb") {
			continue
		}
		signedBy := s.get("Signed-By")
		if strings.Contains(signedBy, "\n") {
			signedBy = "" // the key itself, not the name of its file
		}
		for uri := range strings.FieldsSeq(s.get("URIs")) {
			for suite := range strings.FieldsSeq(s.get("Suites")) {
				all = append(all, aptSource{uri, suite, strings.Fields(s.get("Components")), signedBy})
			}
		}
	}
	return all
}

// aptProxy finds `Acquire::http::Proxy "http://host:port";`, the form that
// installers and people write.
func aptProxy(b []byte) (proxy string, ok bool) {
	for line := range strings.Lines(string(b)) {
		key, value, found := strings.Cut(strings.TrimSpace(line), " ")
		if !found || !strings.EqualFold(key, "Acquire::http::Proxy") {
			continue
		}
		proxy, ok = strings.Trim(strings.TrimSpace(value), `";`), true
		if strings.EqualFold(proxy, "DIRECT") || strings.EqualFold(proxy, "false") {
			proxy = ""
		}
	}
	return proxy, ok
}

// proxyFor is the proxy rule of http.Transport: the environment's, or else apt's,
// which is for plain http only.
func proxyFor(apt string) func(*http.Request) (*url.URL, error) {
	return func(r *http.Request) (*url.URL, error) {
		u, err := http.ProxyFromEnvironment(r)
		if u != nil || err != nil || apt == "" || r.URL.Scheme != "http" {
			return u, err
		}
		return url.Parse(apt)
	}
}
