package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The tests run in a network namespace of their own, so that the port is always
// free, nothing leaves the machine, and every socket seen is theirs. hostAddress
// is on its loopback interface: real clients refuse peers in 127.0.0.0/8.
const (
	hostAddress = "192.0.2.1"
	roleVar     = "EDGECACHE_TEST_ROLE"
)

// TestMain is first the parent that makes the namespace, then the tests in it,
// and, for what they start, the program itself.
func TestMain(m *testing.M) {
	switch os.Getenv(roleVar) {
	case "program":
		main()
	case "tests":
		os.Exit(m.Run())
	default:
		os.Exit(inNamespace())
	}
}

func inNamespace() int {
	const setup = `ip link set lo up && ip addr add ` + hostAddress + `/32 dev lo && exec "$0" "$@"`
	cmd := exec.Command("sh", append([]string{"-c", setup}, os.Args...)...)
	cmd.Env = append(os.Environ(), roleVar+"=tests")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	for fd := uintptr(3); fd < 6; fd++ { // a fuzzing coordinator talks to its workers through these
		if _, _, e := syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_GETFD, 0); e == 0 {
			cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(fd, ""))
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return exit.ExitCode()
	case err != nil:
		fmt.Fprintln(os.Stderr, "the tests need a network namespace (root, or unprivileged user namespaces) and the package iproute2:", err)
		return 1
	}
	return 0
}

// program is one edgecache process.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	report string
	log    bytes.Buffer
	done   chan error
}

func start(t *testing.T, dir string, cfg Config) *program {
	t.Helper()
	text, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, report: filepath.Join(t.TempDir(), "report.json"), done: make(chan error, 1)}
	p.cmd = exec.Command("/proc/self/exe")
	p.cmd.Env = []string{roleVar + "=program", "FOGWRIGHT_CONFIG=" + config, "FOGWRIGHT_REPORT=" + p.report, "FOGWRIGHT_DATA=" + dir}
	p.cmd.Stderr = &p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.done <- p.cmd.Wait() }()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		p.done <- <-p.done
		if t.Failed() {
			t.Logf("edgecache said:\n%s", &p.log)
		}
	})
	return p
}

// await polls the report until ok holds. The limit only ends a hang.
func (p *program) await(what string, ok func(Report) bool) Report {
	p.t.Helper()
	var r Report
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		b, err := os.ReadFile(p.report)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		r = Report{}
		if err := json.Unmarshal(b, &r); err != nil {
			p.t.Fatalf("half a report: %v\n%s", err, b)
		}
		if ok(r) {
			return r
		}
		select {
		case err := <-p.done:
			p.done <- err
			p.t.Fatalf("edgecache ended (%v) while waiting until %s", err, what)
		default:
		}
	}
	p.t.Fatalf("never: %s; the last report is %+v", what, r)
	return r
}

// stop ends the program as workd does and returns how it ended.
func (p *program) stop() error {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	err := <-p.done
	p.done <- err
	return err
}

// tracker is a BitTorrent tracker over HTTP (BEP 3, BEP 23): it tells everybody
// who else announced the same content.
type tracker struct {
	mu    sync.Mutex
	peers map[string]map[string]bool // info hash -> address
}

func (tr *tracker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	q := r.URL.Query()
	self := net.JoinHostPort(host, q.Get("port"))
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.peers == nil {
		tr.peers = map[string]map[string]bool{}
	}
	swarm := tr.peers[q.Get("info_hash")]
	if swarm == nil {
		swarm = map[string]bool{}
		tr.peers[q.Get("info_hash")] = swarm
	}
	compact := ""
	for p := range swarm {
		a, err := net.ResolveTCPAddr("tcp4", p)
		if err == nil && p != self {
			compact += string(a.IP.To4()) + string([]byte{byte(a.Port >> 8), byte(a.Port)})
		}
	}
	if swarm[self] = true; q.Get("event") == "stopped" {
		delete(swarm, self)
	}
	fmt.Fprintf(w, "d8:intervali1e5:peers%d:%se", len(compact), compact)
}

// serve answers on the host address until the test ends or stop is called.
func serve(t *testing.T, h http.Handler) (url string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", hostAddress+":0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return "http://" + l.Addr().String(), func() { s.Close() }
}

// content writes size bytes that no compression or sparse file makes smaller.
func content(t *testing.T, path string, size int64) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.CopyN(f, &stream{seed: path}, size); err != nil {
		t.Fatal(err)
	}
}

// stream is SHA-256 in counter mode.
type stream struct {
	seed string
	n    int
	left []byte
}

func (s *stream) Read(b []byte) (int, error) {
	if len(s.left) == 0 {
		sum := sha256.Sum256(fmt.Append(nil, s.seed, s.n))
		s.n++
		s.left = bytes.Repeat(sum[:], 128)
	}
	n := copy(b, s.left)
	s.left = s.left[n:]
	return n, nil
}

func digest(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// tool runs a program of a Debian package.
func tool(t *testing.T, pkg, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), need(t, pkg, name), args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func need(t *testing.T, pkg, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v; install the Debian package %s", err, pkg)
	}
	return path
}
