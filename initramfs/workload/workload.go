// Package workload is the daemon workd: it runs the programs that share what the
// owner of the box does not use.
//
// The parties are the owner, whose site.toml says what is shared; stored, which
// says in storage.json when the file systems are there; workd, which alone decides
// what runs; and the workload, a program by anybody, which is not trusted. workd
// tells it what to do through three environment variables:
//
//	FOGWRIGHT_CONFIG  JSON file, written by workd, read by the workload
//	FOGWRIGHT_REPORT  JSON file, written by the workload: a [state.Report]
//	FOGWRIGHT_DATA    the folder on the data partition that is its own
//
// and believes nothing of what comes back: the report is bounded, checked and
// stripped (see [ParseReport]), log lines are bounded in length and number and
// carry the workload's name. What workd knows goes to workloads.json.
//
// A workload runs as a user of its own, in a session of its own, with no groups,
// no capabilities, no_new_privs and resource limits, and dies with workd. It still
// sees the box's file systems and network: namespaces, cgroups and signed packages
// belong to the sandbox, for which [Workload] and the launch step (launch.go) are
// the seam.
//
// The one built-in workload is edgecache, a BitTorrent node that anybody's client
// can fetch from; its package doc says how, by hand.
package workload

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/fogwright/fogwright/initramfs/site"
)

// Workload is what workd has to know to run one program. Today it comes from
// [EdgeCache]; it is what a signed manifest will fill in.
type Workload struct {
	Name    string   // of letters, digits and hyphens; it names files and prefixes log lines
	Program string   // absolute path
	Args    []string // after the program's name
	// UID is its user and group. Every workload has one of its own, so that
	// the kernel keeps them apart.
	UID int
	// Ports that it may listen on, "tcp/6881".
	Ports []string
	// Config becomes the file of FOGWRIGHT_CONFIG; nil means that there is
	// nothing for this workload to do, and it stays idle.
	Config any
	Limits Limits
}

// Limits are set before the program's first instruction. 0 leaves a resource as it
// is for workd.
type Limits struct {
	OpenFiles int   // file descriptors
	Processes int   // processes and threads of its user
	Memory    int64 // bytes of private memory (RLIMIT_DATA)
	FileSize  int64 // bytes of any one file
}

// edgeCacheConfig is the part of edgecache's configuration that the box decides.
// Its reader is the program's own Config; edgecache/testdata/config.json holds the
// two to the same JSON.
type edgeCacheConfig struct {
	Content    []edgeCacheContent `json:"content"`
	ListenPort int                `json:"listen_port"`
}

type edgeCacheContent struct {
	Torrent  string   `json:"torrent"`
	InfoHash string   `json:"info_hash,omitempty"`
	WebSeeds []string `json:"web_seeds,omitempty"`
}

// edgeCachePort is BitTorrent's registered port (IANA).
const edgeCachePort = 6881

// EdgeCache is the built-in workload that shares the content of s. factory is
// where the factory partition is mounted.
func EdgeCache(factory string, s *site.Site) Workload {
	w := Workload{
		Name:    "edgecache",
		Program: factory + "/workloads/edgecache",
		UID:     10001,
		Ports:   []string{fmt.Sprintf("tcp/%d", edgeCachePort)},
		Limits: Limits{
			OpenFiles: 512, // 80 peers, two files for each of 100 items, the rest spare
			Processes: 64,  // threads of the Go runtime; 10 to 20 seen
			Memory:    192 << 20,
			FileSize:  1 << 40,
		},
	}
	if len(s.Content) == 0 {
		return w
	}
	c := edgeCacheConfig{ListenPort: edgeCachePort}
	for _, item := range s.Content {
		c.Content = append(c.Content, edgeCacheContent(item))
	}
	w.Config = c
	return w
}

// configFile encodes Config.
func (w *Workload) configFile() ([]byte, error) {
	b, err := json.MarshalIndent(w.Config, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the configuration of workload %q: %w", w.Name, err)
	}
	return append(b, '\n'), nil
}

// Config says where things are. The zero value is the real box.
type Config struct {
	StateDir string // default state.Dir
	// RunDir holds configuration and report files; default /run/workloads.
	RunDir string
	// DataDir is where the data partition is mounted; default what stored says.
	DataDir string
	// Workloads returns what shall run; default the built-in [EdgeCache].
	Workloads func(factory string, s *site.Site) []Workload
	// Restart and Poll shape time; the defaults are in seconds, tests use less.
	Restart Restart
	Poll    time.Duration // of reports; default 1 s
	// NetworkWait is how long the start waits for netd to be online, since
	// a program that is started without a network fails first and then backs
	// off; default 10 s. Without one it starts all the same.
	NetworkWait time.Duration
	// StopAfter is the time a workload has between TERM and KILL; default 5 s.
	StopAfter time.Duration
}
