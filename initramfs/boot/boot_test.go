package boot

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/fogwright/fogwright/initramfs/boot/journal"
	"github.com/fogwright/fogwright/initramfs/boot/supervise"
	"github.com/fogwright/fogwright/initramfs/state"
)

// The test program plays two more parts: init of a PID namespace, and a daemon.
func TestMain(m *testing.M) {
	switch os.Getenv("FOGWRIGHT_TEST_ROLE") {
	case "":
		os.Exit(m.Run())
	case "init":
		fmt.Fprintln(os.Stderr, playInit(os.Getenv("FOGWRIGHT_TEST_DIR")))
		os.Exit(1)
	case "daemon":
		c := make(chan os.Signal, 1)
		signal.Notify(c, unix.SIGTERM)
		fmt.Println("hello from the daemon")
		<-c
	case "crash":
		fmt.Println("hello from the crash")
		os.Exit(7)
	}
}

// playInit is the real Main as far as this machine must not notice: no sysctl, no
// module, no mount but /proc, no console; reboot(2) is real, in a PID namespace it
// ends the namespace.
func playInit(dir string) error {
	daemon := func(name, role string) supervise.Service {
		return supervise.Service{Name: name, Path: "/proc/self/exe", Env: []string{"FOGWRIGHT_TEST_ROLE=" + role}, UID: 103, GID: Group}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err // /proc must not be mounted over the host's
	}
	return Main(context.Background(), Config{
		StateDir:    dir,
		Resolvers:   filepath.Join(dir, "etc/resolv.conf"),
		Kmsg:        filepath.Join(dir, "kmsg"),
		BoardFile:   filepath.Join(dir, "board.json"),
		Mounts:      []Mount{{"proc", "/proc", "proc", 0, ""}},
		Sysctls:     []Sysctl{},
		Watchdog:    filepath.Join(dir, "watchdog"),
		Services:    []supervise.Service{daemon("good", "daemon"), daemon("bad", "crash")},
		Backoff:     &supervise.Backoff{Min: time.Millisecond, Max: time.Millisecond, Stable: time.Hour, Crashes: 3, Slow: 10 * time.Millisecond},
		StorageWait: 30 * time.Second,
		Halt: func(a Action) error {
			how := unix.LINUX_REBOOT_CMD_RESTART
			if a == PowerOff {
				how = unix.LINUX_REBOOT_CMD_POWER_OFF
			}
			return unix.Reboot(how)
		},
	})
}

// A whole life of PID 1: it boots although phases fail, keeps daemons, answers on
// its socket, and ends in good order.
func TestLife(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("run as root: PID 1 takes namespaces of its own and daemons with other users")
	}
	tests := []struct {
		path string
		end  syscall.Signal // reboot(2): how a PID namespace ends
	}{
		{"/reboot", unix.SIGHUP},
		{"/poweroff", unix.SIGINT},
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			dir := t.TempDir()
			if err := state.Write(dir, "board.json", state.Board{Name: "test", Watchdog: 60}); err != nil {
				t.Fatal(err)
			}
			if err := state.Write(dir, state.StorageFile, state.Storage{Ready: true, Errors: []string{"data: made up"}}); err != nil {
				t.Fatal(err)
			}
			dog := filepath.Join(dir, "watchdog")
			if err := os.WriteFile(dog, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			kmsg := filepath.Join(dir, "kmsg")
			if err := os.WriteFile(kmsg, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			init := exec.Command("/proc/self/exe")
			init.Env = []string{"FOGWRIGHT_TEST_ROLE=init", "FOGWRIGHT_TEST_DIR=" + dir}
			init.Stderr = os.Stderr
			init.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS,
				Pdeathsig:  unix.SIGKILL,
			}
			if err := init.Start(); err != nil {
				t.Fatal(err)
			}
			state.Watch(t.Context(), dir, state.ServicesFile, func(b []byte) bool {
				var s state.Services
				return json.Unmarshal(b, &s) != nil || s.Services[1].State != "crashloop"
			})
			var got state.Boot
			state.Watch(t.Context(), dir, state.BootFile, func(b []byte) bool {
				return json.Unmarshal(b, &got) != nil || !got.Ready
			})
			checkPhases(t, got)
			c := http.Client{Transport: &http.Transport{Dial: func(string, string) (net.Conn, error) {
				return net.Dial("unix", filepath.Join(dir, SocketFile))
			}}}
			checkLogs(t, c)
			resp, err := c.Post("http://init"+tt.path, "", nil)
			if err != nil || resp.StatusCode != http.StatusAccepted {
				t.Fatalf("asking for the end: %v, %v", resp, err)
			}
			err = init.Wait()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != tt.end {
				t.Errorf("init ended with %v, want signal %v", err, tt.end)
			}
			console, err := os.ReadFile(kmsg)
			for _, want := range []string{"phase board ok", "phase storage failed", "service bad ended: exit status 7; crashloop", "ready at", "state degraded", "stopping for " + tt.path[1:], "service good stopped", "stopped at"} {
				if !strings.Contains(string(console), "<13>fogwright: "+want) {
					t.Errorf("console, %v, has no line %q:\n%s", err, want, console)
				}
			}
			food, err := os.ReadFile(dog)
			if disarmed := strings.HasSuffix(string(food), "V"); err != nil || len(food) == 0 || disarmed != (tt.path == "/poweroff") {
				t.Errorf("watchdog was written %q, %v", food, err)
			}
		})
	}
}

func checkPhases(t *testing.T, got state.Boot) {
	t.Helper()
	var names, failed []string
	for _, p := range got.Phases {
		names = append(names, p.Name)
		if p.Error != "" {
			failed = append(failed, p.Name)
		}
		if p.End < p.Start || p.Start == 0 {
			t.Errorf("times of phase %+v", p)
		}
	}
	var want []string
	for _, p := range (&initProcess{}).phases() {
		want = append(want, p.name)
	}
	if !slices.Equal(names, want) {
		t.Errorf("phases %v, want %v", names, want)
	}
	if !slices.Contains(failed, "storage") {
		t.Errorf("failed phases %v, want storage among them: stored said so", failed)
	}
	if got.BootID == "" {
		t.Error("no boot id")
	}
}

func checkLogs(t *testing.T, c http.Client) {
	t.Helper()
	resp, err := c.Get("http://init/logs?follow=1&service=good")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	var e state.LogEntry
	if err == nil {
		err = json.Unmarshal([]byte(line), &e)
	}
	if err != nil || e.Text != "hello from the daemon" || e.Service != "good" || e.Seq == 0 {
		t.Errorf("first line %q, %v", line, err)
	}
}

func TestPhasesGoOn(t *testing.T) {
	clock := 0.0
	now := func() float64 { clock++; return clock }
	var got []state.Phase
	reports := 0
	run(t.Context(), []phase{
		{"good", func(context.Context) error { return nil }},
		{"bad", func(context.Context) error { return errors.Join(errors.New("one"), errors.New("two")) }},
		{"mad", func(context.Context) error { panic("three") }},
		{"last", func(context.Context) error { return nil }},
	}, now, func(all []state.Phase) { got = all; reports++ })
	want := []state.Phase{
		{Name: "good", Start: 1, End: 2},
		{Name: "bad", Start: 3, End: 4, Error: "one; two"},
		{Name: "mad", Start: 5, End: 6, Error: "crashed: three"},
		{Name: "last", Start: 7, End: 8},
	}
	if diff := cmp.Diff(want, got); diff != "" || reports != 8 {
		t.Errorf("%d reports; phases (-want +got):\n%s", reports, diff)
	}
	if got, want := phaseLine(want[0]), "phase good ok 1.000s at 2.000s"; got != want {
		t.Errorf("line %q, want %q", got, want)
	}
	if got, want := phaseLine(want[1]), "phase bad failed after 1.000s at 4.000s: one; two"; got != want {
		t.Errorf("line %q, want %q", got, want)
	}
}

// tree makes files below a folder; a name that ends in / is a folder.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestBootSlot(t *testing.T) {
	disk := state.Disk{
		Partitions: map[string]int{"factory": 1, "slot-a": 2, "slot-b": 3},
		GUIDs:      map[string]string{"factory": "8d2a4f10-0000-4000-8000-0000000000ff", "slot-b": "8d2a4f10-0000-4000-8000-0000000000ab"},
	}
	const efi = "sys/firmware/efi/efivars/" + loaderDevice
	utf16 := func(s string) string { // as efivarfs has it
		b := []byte{6, 0, 0, 0}
		for _, c := range s + "\x00" {
			b = binary.LittleEndian.AppendUint16(b, uint16(c))
		}
		return string(b)
	}
	tests := []struct {
		name  string
		files map[string]string
		want  string
		fails bool
	}{
		{"command line", map[string]string{"proc/cmdline": "console=ttyS0 fogwright.slot=b\n"}, "b", false},
		{"nonsense on the command line", map[string]string{"proc/cmdline": "fogwright.slot=c\n"}, "", false},
		{"efi", map[string]string{
			"proc/cmdline": "quiet", efi: utf16("8D2A4F10-0000-4000-8000-0000000000AB"),
		}, "b", false},
		{"efi names a strange partition", map[string]string{
			"proc/cmdline": "quiet", efi: utf16("8D2A4F10-0000-4000-8000-0000000000FF"),
		}, "", true},
		{"efi, cut off", map[string]string{"proc/cmdline": "quiet", efi: "\x06\x00\x00"}, "", true},
		{"efi without the stub", map[string]string{"proc/cmdline": "quiet", "sys/firmware/efi/": ""}, "", false},
		{"raspberry pi", map[string]string{
			"proc/cmdline": "quiet", "proc/device-tree/chosen/bootloader/partition": "\x00\x00\x00\x02",
		}, "a", false},
		{"raspberry pi, other partition", map[string]string{
			"proc/cmdline": "quiet", "proc/device-tree/chosen/bootloader/partition": "\x00\x00\x00\x01",
		}, "", false},
		{"nothing", map[string]string{"proc/cmdline": "quiet"}, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := bootSlot(tree(t, tt.files), disk)
			if got != tt.want || (err != nil) != tt.fails {
				t.Errorf("slot %q, %v; want %q, error %v", got, err, tt.want, tt.fails)
			}
		})
	}
}

func TestClaimable(t *testing.T) {
	root := tree(t, map[string]string{
		"sys/class/virtio-ports/vport0p1/name": ControlPort + "\n",
		"sys/class/virtio-ports/vport0p2/name": "other\n",
		"sys/class/tty/ttyS0/device/":          "",
		"sys/class/tty/ttyS1/device/":          "",
		"sys/class/tty/tty1/":                  "",
		"proc/consoles":                        "ttyS0                -W- (EC p a)    4:64\n",
	})
	tests := []struct {
		device string
		ok     bool
	}{
		{"vport0p1", true},
		{"vport0p2", false},
		{"vport9p9", false},
		{"ttyS1", true},
		{"ttyS0", false}, // the console
		{"tty1", false},  // virtual
		{"mem", false},
		{"../mem", false},
		{"", false},
	}
	for _, tt := range tests {
		if err := claimable(root, tt.device); (err == nil) != tt.ok {
			t.Errorf("%q: %v, want ok %v", tt.device, err, tt.ok)
		}
	}
}

func TestPowerPressed(t *testing.T) {
	event := func(kind, code uint16, value uint32) []byte {
		b := make([]byte, inputEventSize-8)
		b = binary.NativeEndian.AppendUint16(b, kind)
		b = binary.NativeEndian.AppendUint16(b, code)
		return binary.NativeEndian.AppendUint32(b, value)
	}
	tests := []struct {
		name   string
		events []byte
		want   bool
	}{
		{"press", slices.Concat(event(0, 0, 0), event(evKey, keyPower, 1)), true},
		{"release", event(evKey, keyPower, 0), false},
		{"other key", event(evKey, 30, 1), false},
		{"half an event", event(evKey, keyPower, 1)[:inputEventSize-1], false},
		{"nothing", nil, false},
	}
	for _, tt := range tests {
		if got := powerPressed(tt.events); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestDeviceMounts(t *testing.T) {
	text := "rootfs / rootfs rw 0 0\nproc /proc proc rw 0 0\n/dev/vda4 /state ext4 rw 0 0\n/dev/vda5 /data\\040disk ext4 rw 0 0\nodd\n"
	if diff := cmp.Diff([]string{"/state", "/data disk"}, deviceMounts(text)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWatchdogIsFedOnlyWhileHealthy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "watchdog")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := watchdog{f: f, timeout: 4 * time.Millisecond}
	size := func() int64 {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	answers := make(chan bool)
	said := make(chan string, 10)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go w.keepFed(ctx, func(time.Duration) bool { return <-answers }, func(f string, _ ...any) { said <- f })
	answers <- true
	answers <- false // by now the first answer has been acted on
	if got := size(); got != 1 {
		t.Errorf("fed %d times, want once", got)
	}
	answers <- false
	if got := size(); got != 1 {
		t.Errorf("fed %d times while sick, want not again", got)
	}
	<-said
	answers <- true
	answers <- false
	if got := size(); got != 2 {
		t.Errorf("fed %d times, want twice: it was well again", got)
	}
}

func TestConsoleKeepsWhatCameTooEarly(t *testing.T) {
	j := journal.New(1<<20, func() float64 { return 0 })
	c := newConsole(j)
	c.Printf("early %d", 1)
	path := filepath.Join(t.TempDir(), "kmsg")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.open(path); err != nil {
		t.Fatal(err)
	}
	c.Printf("late\nwith a break")
	c.Printf("%s", strings.Repeat("ü", 2000))
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(got)), "\n")
	want := []string{"<13>fogwright: early 1", `<13>fogwright: late\nwith a break`, "<13>fogwright: " + strings.Repeat("ü", 450) + "…"}
	if diff := cmp.Diff(want, lines, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if all, _, _ := j.Since(0, "init", 0); len(all) != 3 {
		t.Errorf("the journal has %d lines, want 3", len(all))
	}
}
