// Package state is how the daemons of one box tell each other what is true.
//
// Every fact has exactly one writer. The writer keeps it in one JSON file under
// [Dir] and replaces that file atomically (write a temporary file, rename), so a
// reader sees the old fact or the new one and never half of either. Readers poll
// or [Watch]; nobody waits for anybody. Files are world-readable: no secret ever
// goes here. The folder lives in memory and is gone at power off.
//
//	file              writer   readers             holds
//	board.json        builder  everyone            [Board]: what this firmware was built for
//	boot.json         init     ctld                [Boot]: phases of this boot, slot, release
//	services.json     init     ctld                [Services]: the supervised daemons
//	storage.json      stored   init, workd, ctld   [Storage]: file systems, site configuration's folder
//	network.json      netd     workd, ctld         [Network]: links, addresses, gateways, resolvers
//	time.json         netd     ctld                [Time]: whether the clock is believed, and why
//	workloads.json    workd    ctld                [Workloads]: what runs, and what it shares
//
// board.json is the one that does not change: it is part of the image, at
// [BoardFile].
package state

import "time"

// Dir holds the state files of a running box.
const Dir = "/run/fogwright"

// BoardFile is the board's description inside the image.
const BoardFile = "/etc/fogwright/board.json"

// File names below [Dir].
const (
	BootFile      = "boot.json"
	ServicesFile  = "services.json"
	StorageFile   = "storage.json"
	NetworkFile   = "network.json"
	TimeFile      = "time.json"
	WorkloadsFile = "workloads.json"
)

// Board is what the builder tells the box about itself. The builder has its own
// copy of this type (firmware never imports initramfs); a test in ci holds the
// two together.
type Board struct {
	Name    string `json:"name"`
	Arch    string `json:"arch"`    // Go architecture name: amd64, arm64, arm
	Variant string `json:"variant"` // release or dev
	Version string `json:"version"` // of this firmware
	// BuildTime is SOURCE_DATE_EPOCH of the build, seconds since 1970: no
	// clock on this box may be earlier.
	BuildTime int64 `json:"build_time"`
	// Modules are the kernel modules to load at boot, in dependency order.
	Modules []Module `json:"modules"`
	Disk    Disk     `json:"disk"`
	// Watchdog is the hardware watchdog's time-out in seconds; 0 means none.
	Watchdog int `json:"watchdog"`
}

// Module is one kernel module in the image.
type Module struct {
	Path string `json:"path"`
	// Needs are the modules to be loaded before this one, as their places in
	// the list, all of them earlier.
	Needs []int `json:"needs,omitempty"`
}

// Disk tells the box how to find its own disk and the partitions on it.
type Disk struct {
	Table string `json:"table"` // gpt or mbr
	// ID names the disk: the GPT's disk GUID in lower case
	// (xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx), or the MBR's disk signature as
	// eight lower-case hexadecimal digits.
	ID string `json:"id"`
	// Partitions maps factory, slot-a, slot-b, state and data to the kernel's
	// partition number.
	Partitions map[string]int `json:"partitions"`
	// GUIDs are those of the partitions, in lower case; GPT only.
	GUIDs map[string]string `json:"guids,omitempty"`
}

// Boot is how far this boot has come.
type Boot struct {
	BootID string  `json:"boot_id"` // random, from the kernel
	Slot   string  `json:"slot"`    // a, b, or empty when unknown
	Phases []Phase `json:"phases"`
	Ready  bool    `json:"ready"` // every phase has run
}

// Phase is one named step of the boot. Times are seconds since the kernel
// started (CLOCK_BOOTTIME).
type Phase struct {
	Name  string  `json:"name"`
	Start float64 `json:"start"`
	End   float64 `json:"end,omitempty"`
	Error string  `json:"error,omitempty"` // the boot went on without it
}

// Services are the daemons that init supervises.
type Services struct {
	Services []Service `json:"services"`
}

// Service is one supervised daemon.
type Service struct {
	Name     string  `json:"name"`
	State    string  `json:"state"` // running, backoff, crashloop, stopped
	PID      int     `json:"pid,omitempty"`
	Restarts int     `json:"restarts"`
	Since    float64 `json:"since"`          // CLOCK_BOOTTIME seconds of the last change
	Last     string  `json:"last,omitempty"` // why it last ended
}

// Storage is what stored has mounted.
type Storage struct {
	Ready bool   `json:"ready"` // every file system that can be mounted is
	Disk  string `json:"disk"`  // /dev/mmcblk0
	// FileSystems by the name of the partition: factory, state, data.
	FileSystems map[string]FileSystem `json:"file_systems"`
	Errors      []string              `json:"errors,omitempty"`
}

// FileSystem is one mounted partition. Sizes are bytes.
type FileSystem struct {
	Device   string `json:"device"`
	Mount    string `json:"mount"`
	Type     string `json:"type"`
	ReadOnly bool   `json:"read_only"`
	Size     int64  `json:"size"`
	Free     int64  `json:"free"`
	Created  bool   `json:"created"` // made by this boot
	GrownBy  int64  `json:"grown_by,omitempty"`
	Error    string `json:"error,omitempty"`
}

// Network is what netd knows of the home network.
type Network struct {
	Hostname  string   `json:"hostname"`
	Links     []Link   `json:"links"`
	Resolvers []string `json:"resolvers,omitempty"`
	// Online: a link is up, it has an address of global or private scope and
	// a default route.
	Online bool `json:"online"`
}

// Link is one network interface.
type Link struct {
	Name      string    `json:"name"`
	MAC       string    `json:"mac"`
	MTU       int       `json:"mtu"`
	Carrier   bool      `json:"carrier"`
	Addresses []Address `json:"addresses,omitempty"`
	Gateways  []string  `json:"gateways,omitempty"`
	Prefixes  []string  `json:"on_link_prefixes,omitempty"`
	Lease     *Lease    `json:"lease,omitempty"`
}

// Address is one address of a link, in CIDR notation.
type Address struct {
	CIDR   string `json:"cidr"`
	Source string `json:"source"` // dhcp, ra, link-local
}

// Lease is the DHCPv4 lease in force.
type Lease struct {
	Server  string    `json:"server"`
	Expires time.Time `json:"expires"`
}

// Time tells whether the clock can be believed.
type Time struct {
	Synchronised bool          `json:"synchronised"`
	Source       string        `json:"source"` // ntp, floor, rtc
	Server       string        `json:"server,omitempty"`
	Offset       time.Duration `json:"offset_ns,omitempty"` // of the last step or slew
	LastSync     *time.Time    `json:"last_sync,omitempty"`
}

// Workloads are the programs that share.
type Workloads struct {
	Workloads []Workload `json:"workloads"`
}

// Workload is one sharing program.
type Workload struct {
	Name     string `json:"name"`
	State    string `json:"state"` // waiting, starting, sharing, idle, backoff, crashloop
	PID      int    `json:"pid,omitempty"`
	Restarts int    `json:"restarts"`
	Last     string `json:"last,omitempty"`
	// Ports that its manifest declares, "tcp/6881".
	Ports []string `json:"ports,omitempty"`
	// Report is the workload's own word, as it wrote it.
	Report *Report `json:"report,omitempty"`
}

// Report is what a workload states about itself, in the file named by the
// environment variable FOGWRIGHT_REPORT.
type Report struct {
	Sharing         bool      `json:"sharing"` // at least one item is whole and offered
	BytesServed     int64     `json:"bytes_served"`
	BytesDownloaded int64     `json:"bytes_downloaded"`
	Peers           int       `json:"peers"`
	Content         []Content `json:"content,omitempty"`
	Errors          []string  `json:"errors,omitempty"`
}

// Content is one item that a workload shares.
type Content struct {
	Name     string `json:"name"`
	InfoHash string `json:"info_hash,omitempty"`
	Size     int64  `json:"size"`
	Have     int64  `json:"have"`
	Error    string `json:"error,omitempty"`
}

// Status is the whole box on one page: what `fogwright ctl status` prints. ctld
// composes it from the files above and from /proc.
type Status struct {
	// State is the box in one word: booting, offline (no network), online
	// (network, nothing to share), sharing, degraded (a phase or a daemon
	// failed).
	State     string     `json:"state"`
	Board     Board      `json:"board"`
	Time      time.Time  `json:"time"`
	Uptime    float64    `json:"uptime"` // seconds
	Boot      Boot       `json:"boot"`
	Services  []Service  `json:"services"`
	Storage   Storage    `json:"storage"`
	Network   Network    `json:"network"`
	Clock     Time       `json:"clock"`
	Workloads []Workload `json:"workloads"`
	Memory    Memory     `json:"memory"`
	// Listening are the sockets that would answer somebody, read from
	// /proc/net/{tcp,tcp6,udp,udp6,raw,raw6}: "tcp [::]:6881". A raw socket
	// has its IP protocol in the port's place.
	Listening []string `json:"listening"`
}

// Memory in bytes, from /proc/meminfo.
type Memory struct {
	Total     int64 `json:"total"`
	Available int64 `json:"available"`
}

// LogEntry is one line that a daemon, the kernel or init said. Only init keeps
// them: in memory, the newest, bounded.
type LogEntry struct {
	// Seq counts up by one for every line of this boot, from 1. A gap in what
	// a reader gets means that lines were filtered out or had to make room.
	Seq     uint64  `json:"seq"`
	Time    float64 `json:"time"`    // CLOCK_BOOTTIME seconds
	Service string  `json:"service"` // a daemon's name, "kernel" or "init"
	Text    string  `json:"text"`    // without the line's end; valid UTF-8
}
