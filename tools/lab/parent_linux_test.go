package lab

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestMachineDiesWithUs(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(patience(t), os.Args[0])
	cmd.Env = append(os.Environ(), doomedEnv+"="+dir, "TMPDIR="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	var pid int
	if _, err := fmt.Sscanf(line, "pid %d", &pid); err != nil {
		t.Fatalf("the child says %q", line)
	}
	if !alive(pid) {
		t.Errorf("QEMU (process %d) does not run", pid)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if err := until(patience(t), func() bool { return !alive(pid) }); err != nil {
		t.Errorf("QEMU (process %d) outlives the program that started it", pid)
	}
}

// alive tells whether a QEMU process runs; one that is dead and not yet reaped by
// the host's init does not.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(b), "(qemu") && !strings.Contains(string(b), ") Z ")
}
