package state

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWriteReadRoundTrip(t *testing.T) {
	dir := t.TempDir()
	want := Boot{BootID: "x", Slot: "b", Phases: []Phase{{Name: "mounts", Start: 1, End: 2, Error: "no"}}, Ready: true}
	if err := Write(dir, BootFile, want); err != nil {
		t.Fatal(err)
	}
	var got Boot
	if err := Read(dir, BootFile, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	st, err := os.Stat(filepath.Join(dir, BootFile))
	if err != nil || st.Mode().Perm() != 0o644 {
		t.Errorf("mode %v, %v; want 0644: readers are other users", st.Mode(), err)
	}
	if err := Read(dir, TimeFile, &got); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file gives %v, want fs.ErrNotExist", err)
	}
}

// Readers that never stop see whole facts only, and nothing is left over.
func TestWriteIsAtomic(t *testing.T) {
	dir := t.TempDir()
	fact := func(n int) Network {
		return Network{Hostname: strings.Repeat("x", n), Resolvers: make([]string, n)}
	}
	if err := Write(dir, NetworkFile, fact(0)); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				var got Network
				if err := Read(dir, NetworkFile, &got); err != nil || len(got.Hostname) != len(got.Resolvers) {
					t.Errorf("half a fact: %d, %d, %v", len(got.Hostname), len(got.Resolvers), err)
					return
				}
			}
		})
	}
	for n := range 100 {
		if err := Write(dir, NetworkFile, fact(n)); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	all, err := os.ReadDir(dir)
	if err != nil || len(all) != 1 {
		t.Errorf("%d files left, %v; want one", len(all), err)
	}
}

func TestWriteFailureLeavesTheOldFact(t *testing.T) {
	dir := t.TempDir()
	if err := Write(dir, TimeFile, Time{Source: "ntp"}); err != nil {
		t.Fatal(err)
	}
	if err := Write(dir, TimeFile, func() {}); err == nil {
		t.Error("a function was written as JSON")
	}
	var got Time
	if err := Read(dir, TimeFile, &got); err != nil || got.Source != "ntp" {
		t.Errorf("got %+v, %v; want the old fact", got, err)
	}
}

func TestWatch(t *testing.T) {
	dir := t.TempDir()
	seen := make(chan string)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		Watch(ctx, dir, TimeFile, func(b []byte) bool {
			var v Time
			if err := json.Unmarshal(b, &v); err != nil {
				t.Error(err)
			}
			seen <- v.Source
			return v.Source != "last"
		})
	}()
	for _, source := range []string{"floor", "ntp", "last"} {
		if err := Write(dir, TimeFile, Time{Source: source}); err != nil {
			t.Fatal(err)
		}
		if got := <-seen; got != source {
			t.Errorf("saw %q, want %q", got, source)
		}
	}
	<-done // by itself: changed said so
	cancel()
	Watch(ctx, dir, TimeFile, func([]byte) bool { return true }) // returns
}

func TestWord(t *testing.T) {
	up := Status{Boot: Boot{Ready: true, Phases: []Phase{{Name: "mounts"}}}}
	with := func(edit func(*Status)) Status {
		s := up
		edit(&s)
		return s
	}
	sharing := func(s *Status) {
		s.Network.Online = true
		s.Workloads = []Workload{{State: "idle"}, {State: "sharing"}}
	}
	tests := []struct {
		want string
		s    Status
	}{
		{"booting", Status{}},
		{"offline", up},
		{"online", with(func(s *Status) { s.Network.Online = true })},
		{"online", with(func(s *Status) { sharing(s); s.Workloads[1].State = "starting" })},
		{"sharing", with(sharing)},
		{"offline", with(func(s *Status) { sharing(s); s.Network.Online = false })},
		{"sharing", with(func(s *Status) { sharing(s); s.Services = []Service{{State: "backoff"}} })},
		{"degraded", with(func(s *Status) { sharing(s); s.Services = []Service{{State: "crashloop"}} })},
		{"degraded", with(func(s *Status) { sharing(s); s.Workloads[0].State = "crashloop" })},
		{"degraded", with(func(s *Status) { sharing(s); s.Boot.Phases = []Phase{{Error: "no"}} })},
	}
	for _, tt := range tests {
		if got := tt.s.Word(); got != tt.want {
			t.Errorf("%+v is %q, want %q", tt.s, got, tt.want)
		}
	}
}

func TestLoadTakesWhatThereIs(t *testing.T) {
	dir := t.TempDir()
	if err := Write(dir, BootFile, Boot{Slot: "a"}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ServicesFile), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Write(dir, WorkloadsFile, Workloads{[]Workload{{Name: "edgecache"}}}); err != nil {
		t.Fatal(err)
	}
	var s Status
	if err := s.Load(dir); err == nil || !strings.Contains(err.Error(), ServicesFile) {
		t.Errorf("error %v, want one that names %s", err, ServicesFile)
	}
	if s.Boot.Slot != "a" || len(s.Workloads) != 1 {
		t.Errorf("the whole files were not taken: %+v", s)
	}
}
