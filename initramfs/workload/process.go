package workload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is one run of a workload.
type process struct {
	w         *Workload
	config    string // paths
	reportDir string
	data      string
	log       *logger
	stopAfter time.Duration
}

func (p *process) report() string { return filepath.Join(p.reportDir, "report.json") }

// run starts the program and waits for its end, or stops it when ctx ends. started
// is called with its process id. The returned text says how it ended.
func (p *process) run(ctx context.Context, started func(pid int)) string {
	// The parent-death signal comes when the thread that forked ends, so that
	// thread must last as long as the workload (prctl(2), PR_SET_PDEATHSIG).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	cmd, output, err := p.start()
	if err != nil {
		return err.Error()
	}
	logged := make(chan string, 1)
	go func() { logged <- p.log.pump(output, p.w.Name) }()
	started(cmd.Process.Pid)

	ended := make(chan struct{})
	go p.stopWith(ctx, cmd.Process.Pid, ended)
	awaitExit(cmd.Process.Pid)
	// Its children go with it, as long as the process id cannot be another's:
	// it is not reaped yet.
	unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	close(ended)
	err = cmd.Wait()

	// A child in a session of its own may still hold the pipe.
	output.SetReadDeadline(time.Now().Add(time.Second))
	last := <-logged
	output.Close()
	if err == nil {
		return "it ended by itself" + suffix(last)
	}
	return err.Error() + suffix(last)
}

func suffix(last string) string {
	if last == "" {
		return ""
	}
	return ": " + last
}

// start runs this same program as the launch step.
func (p *process) start() (*exec.Cmd, *os.File, error) {
	spec, err := json.Marshal(launch{
		Parent:  os.Getpid(),
		Program: p.w.Program,
		Args:    p.w.Args,
		// Nothing of workd's own environment: variables steer libraries.
		Env: []string{
			"FOGWRIGHT_CONFIG=" + p.config,
			"FOGWRIGHT_REPORT=" + p.report(),
			"FOGWRIGHT_DATA=" + p.data,
			"HOME=" + p.data,
		},
		Dir: p.data, UID: p.w.UID, Limits: p.w.Limits,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("encoding the launch: %w", err)
	}
	told, tell, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("launching: %w", err)
	}
	defer told.Close()
	defer tell.Close()
	output, w, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("launching: %w", err)
	}
	defer w.Close()
	cmd := &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        []string{"workd", launchArg},
		Env:         []string{},
		Dir:         "/",
		Stdout:      w,
		Stderr:      w,
		ExtraFiles:  []*os.File{told},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
	}
	if err := cmd.Start(); err != nil {
		output.Close()
		return nil, nil, fmt.Errorf("launching: %w", err)
	}
	// Less than the 64 KiB that a pipe takes without a reader.
	if _, err := tell.Write(spec); err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		output.Close()
		return nil, nil, fmt.Errorf("launching: %w", err)
	}
	return cmd, output, nil
}

// stopWith ends the process group when ctx ends: politely, then not.
func (p *process) stopWith(ctx context.Context, pid int, ended <-chan struct{}) {
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	unix.Kill(-pid, unix.SIGTERM)
	select {
	case <-ended:
	case <-time.After(p.stopAfter):
		unix.Kill(-pid, unix.SIGKILL)
	}
}

// awaitExit waits until the process has ended, and does not reap it.
func awaitExit(pid int) {
	for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
}

// errNotInstalled is an end that trying again does not change.
var errNotInstalled = errors.New("is not installed")

// prepare makes everything that the program needs on disk, anew for each run, so
// that no report of an earlier run is taken for this one's.
func (p *process) prepare() error {
	if st, err := os.Stat(p.w.Program); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("workload %q: %s %w: write it to the factory partition", p.w.Name, p.w.Program, errNotInstalled)
	} else if err != nil {
		return fmt.Errorf("the program of workload %q: %w", p.w.Name, err)
	} else if !st.Mode().IsRegular() || st.Mode().Perm()&0o111 == 0 {
		return fmt.Errorf("the program of workload %q: %s is not executable (%v)", p.w.Name, p.w.Program, st.Mode())
	}
	config, err := p.w.configFile()
	if err != nil {
		return err
	}
	for _, dir := range []string{filepath.Dir(p.config), filepath.Dir(p.data)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("preparing workload %q: %w", p.w.Name, err)
		}
	}
	if err := os.WriteFile(p.config+".new", config, 0o600); err != nil {
		return fmt.Errorf("writing the configuration of workload %q: %w", p.w.Name, err)
	}
	if err := p.give(p.config + ".new"); err != nil {
		return err
	}
	if err := os.Rename(p.config+".new", p.config); err != nil {
		return fmt.Errorf("writing the configuration of workload %q: %w", p.w.Name, err)
	}
	if err := p.makeReportDir(); err != nil {
		return err
	}
	if err := os.Mkdir(p.data, 0o700); err != nil && !os.IsExist(err) {
		return fmt.Errorf("making the data folder of workload %q: %w", p.w.Name, err)
	}
	return p.give(p.data)
}

// makeReportDir gives the workload a tiny file system of its own for the report:
// /run is memory, and a workload must not fill it.
func (p *process) makeReportDir() error {
	for unix.Unmount(p.reportDir, unix.MNT_DETACH) == nil {
	}
	if err := os.RemoveAll(p.reportDir); err != nil {
		return fmt.Errorf("clearing the report folder of workload %q: %w", p.w.Name, err)
	}
	if err := os.Mkdir(p.reportDir, 0o700); err != nil {
		return fmt.Errorf("making the report folder of workload %q: %w", p.w.Name, err)
	}
	options := fmt.Sprintf("size=%d,nr_inodes=16,mode=0700,uid=%d,gid=%d", 2*maxReport, p.w.UID, p.w.UID)
	err := unix.Mount("report", p.reportDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options)
	if errors.Is(err, unix.EPERM) {
		slog.Warn("the report folder of the workload is not bounded: no CAP_SYS_ADMIN to mount one", "workload", p.w.Name)
		return p.give(p.reportDir)
	}
	if err != nil {
		return fmt.Errorf("mounting the report folder of workload %q: %w", p.w.Name, err)
	}
	return nil
}

func (p *process) give(path string) error {
	if p.w.UID == os.Geteuid() {
		return nil
	}
	if err := os.Lchown(path, p.w.UID, p.w.UID); err != nil {
		return fmt.Errorf("giving %q to workload %q: %w", path, p.w.Name, err)
	}
	return nil
}

// clear removes what a run leaves in memory.
func (p *process) clear() {
	unix.Unmount(p.reportDir, unix.MNT_DETACH)
	os.RemoveAll(p.reportDir)
	os.Remove(p.config)
}
