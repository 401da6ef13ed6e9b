//go:build !linux

package lab

import "syscall"

// dieWithParent can promise nothing here; machines die with their context.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }
