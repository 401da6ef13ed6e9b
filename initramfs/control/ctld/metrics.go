package ctld

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/fogwright/fogwright/initramfs/state"
)

// metrics writes the status as Prometheus reads it (text format 0.0.4).
func metrics(s *state.Status) string {
	var m exposition
	m.gauge("fogwright_info", "What this box is.", 1, "board", s.Board.Name, "version", s.Board.Version, "slot", s.Boot.Slot)
	for _, word := range []string{"booting", "offline", "online", "sharing", "degraded"} {
		m.gauge("fogwright_state", "The box in one word: 1 at the word that holds.", truth(s.State == word), "state", word)
	}
	m.gauge("fogwright_uptime_seconds", "Since the kernel started.", s.Uptime)
	m.gauge("fogwright_memory_total_bytes", "MemTotal.", float64(s.Memory.Total))
	m.gauge("fogwright_memory_available_bytes", "MemAvailable.", float64(s.Memory.Available))
	m.gauge("fogwright_clock_synchronised", "1 when the clock can be believed.", truth(s.Clock.Synchronised))
	for _, p := range s.Boot.Phases {
		m.gauge("fogwright_boot_phase_end_seconds", "When a phase of the boot ended, since the kernel started.", p.End, "phase", p.Name)
	}
	for _, v := range s.Services {
		m.gauge("fogwright_service_up", "1 while the daemon runs.", truth(v.PID != 0), "service", v.Name)
	}
	for _, v := range s.Services {
		m.counter("fogwright_service_restarts_total", "Starts of the daemon after its first.", float64(v.Restarts), "service", v.Name)
	}
	for _, name := range []string{"factory", "state", "data"} {
		if f, ok := s.Storage.FileSystems[name]; ok {
			m.gauge("fogwright_filesystem_size_bytes", "Size.", float64(f.Size), "filesystem", name)
		}
	}
	for _, name := range []string{"factory", "state", "data"} {
		if f, ok := s.Storage.FileSystems[name]; ok {
			m.gauge("fogwright_filesystem_free_bytes", "Free.", float64(f.Free), "filesystem", name)
		}
	}
	for _, w := range s.Workloads {
		if w.Report != nil {
			m.counter("fogwright_workload_served_bytes_total", "Payload given to peers.", float64(w.Report.BytesServed), "workload", w.Name)
		}
	}
	for _, w := range s.Workloads {
		if w.Report != nil {
			m.gauge("fogwright_workload_peers", "Peers connected.", float64(w.Report.Peers), "workload", w.Name)
		}
	}
	return m.String()
}

// exposition builds the text; the samples of one metric must come together.
type exposition struct {
	strings.Builder
	last string
}

func (m *exposition) gauge(name, help string, v float64, labels ...string) {
	m.sample("gauge", name, help, v, labels)
}

func (m *exposition) counter(name, help string, v float64, labels ...string) {
	m.sample("counter", name, help, v, labels)
}

func (m *exposition) sample(kind, name, help string, v float64, labels []string) {
	if name != m.last {
		fmt.Fprintf(m, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
		m.last = name
	}
	m.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		m.WriteByte(",{"[truthIndex(i == 0)])
		quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(labels[i+1])
		fmt.Fprintf(m, `%s="%s"`, labels[i], quoted)
	}
	if len(labels) > 0 {
		m.WriteByte('}')
	}
	m.WriteString(" " + strconv.FormatFloat(v, 'g', -1, 64) + "\n")
}

func truth(b bool) float64 { return float64(truthIndex(b)) }

func truthIndex(b bool) int {
	if b {
		return 1
	}
	return 0
}
