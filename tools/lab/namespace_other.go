//go:build !linux

package lab

import (
	"context"
	"errors"
	"net/netip"
	"os/exec"
)

// Namespace is a host on the LAN for programs of the real computer, on Linux
// only.
type Namespace struct {
	Name         string
	Addr4, Addr6 netip.Addr
	Port         *Port
}

// Reexec must be called first in main or TestMain of a program that uses
// [Home.Namespace].
func Reexec() {}

// Namespace fails: there are network namespaces on Linux only.
func (h *Home) Namespace(name string) (*Namespace, error) {
	return nil, errors.ErrUnsupported
}

// Command is never reached, for want of a Namespace.
func (n *Namespace) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, name, args...)
}
