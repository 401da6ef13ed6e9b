package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	Reexec()
	if dir := os.Getenv(doomedEnv); dir != "" {
		os.Exit(doomed(dir))
	}
	goleak.VerifyTestMain(m)
}

// addrs of the origin in these tests.
var (
	originAddrs = []netip.Addr{netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("2001:db8:ffff::10")}
	film        = Content{Name: "film.bin", Size: 16<<20 + 12345, Seed: 7}
)

// patience is for what must happen; it is not a measurement.
func patience(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func newHome(t *testing.T, o Options) *Home {
	t.Helper()
	home, err := NewHome(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := home.Close(); err != nil {
			t.Errorf("closing the home: %v", err)
		}
	})
	return home
}

// client is an HTTP client on a host of the lab.
func client(h *Host, network string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return h.Dial(ctx, network, addr)
		},
	}}
}

func sumOf(t *testing.T, c *http.Client, url string) string {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s", url, resp.Status)
	}
	h := sha256.New()
	if _, err := io.Copy(h, resp.Body); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func TestLaptopFetchesFromOrigin(t *testing.T) {
	home := newHome(t, Options{})
	origin, err := home.Internet.Origin("origin.example", originAddrs, film)
	if err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"tcp4", "tcp6"} {
		t.Run(network, func(t *testing.T) {
			got := sumOf(t, client(home.Laptop, network), origin.URL+"/film.bin")
			if diff := cmp.Diff(film.SHA256(), got); diff != "" {
				t.Errorf("SHA-256 (-want +got):\n%s", diff)
			}
		})
	}
	if got, want := origin.Served(), 2*film.Size; got != want {
		t.Errorf("the origin served %d bytes, want %d", got, want)
	}
	if err := origin.Stop(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if c, err := home.Dial(ctx, "tcp", "origin.example:80"); err == nil {
		c.Close()
		t.Error("a stopped origin still answers")
	}
}

func TestForwardCarriesBothWays(t *testing.T) {
	home := newHome(t, Options{})
	box, err := home.Join("box")
	if err != nil {
		t.Fatal(err)
	}
	l, err := box.Listen("tcp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
	for _, a := range box.Addresses() {
		f, err := home.Forward("127.0.0.1:0", "tcp", netip.AddrPortFrom(a, 7).String())
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", f.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		if err != nil || string(got) != "hello" {
			t.Errorf("through %v: got %q, %v; want the echo of hello and its end", a, got, err)
		}
		c.Close()
	}
}

func TestServeOnLoopback(t *testing.T) {
	home := newHome(t, Options{})
	base, err := home.Serve("127.0.0.1:0", func(base string) http.Handler { return NewSite(base, film) })
	if err != nil {
		t.Fatal(err)
	}
	if got, want := sumOf(t, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, base+"/film.bin"), film.SHA256(); got != want {
		t.Errorf("SHA-256 %s, want %s", got, want)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	_, err := NewHome(Options{
		LAN4: netip.MustParsePrefix("10.0.0.0/28"),
		LAN6: netip.MustParsePrefix("2001:db8::/56"),
		ULA:  netip.MustParsePrefix("2001:db8:1::/64"),
	})
	want := "making a virtual home: LAN4 10.0.0.0/28 is not an IPv4 network of /24 or larger\n" +
		"LAN6 2001:db8::/56 is not an IPv6 /64\n" +
		"ULA 2001:db8:1::/64 is not a unique-local IPv6 /64"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// writable makes a file in a test's folder.
func writable(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func BenchmarkLaptopFromOrigin(b *testing.B) {
	home, err := NewHome(Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer home.Close()
	origin, err := home.Internet.Origin("origin.example", originAddrs, film)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(film.Size)
	for b.Loop() {
		resp, err := client(home.Laptop, "tcp4").Get(origin.URL + "/film.bin")
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if n != film.Size || err != nil {
			b.Fatalf("got %d bytes of %d: %v", n, film.Size, err)
		}
	}
}
