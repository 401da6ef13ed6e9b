package lab

import "syscall"

// dieWithParent makes the kernel kill a child when we die, even by SIGKILL.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
