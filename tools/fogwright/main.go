// Fogwright builds the firmware of shared-computing boxes, runs it in a virtual
// home, and talks to boxes. `fogwright help` teaches it by example.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Exit codes, for scripts.
const (
	exitOK     = 0
	exitFailed = 1 // the work was tried and failed
	exitUsage  = 2 // the command line is wrong; nothing was tried
)

// stdio is what a command talks to.
type stdio struct {
	in       io.Reader
	out, err io.Writer
	terminal bool // err is a terminal, so progress may redraw a line
}

func main() {
	// A second Ctrl-C, during the clean shutdown, kills: stop() gives the
	// signal its usual meaning back.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr, isTerminal(os.Stderr)}))
}

// run carries out one command line and returns the exit code.
func run(ctx context.Context, args []string, s stdio) int {
	cmd, rest, err := find(commands(), args)
	if err == nil && cmd.run == nil {
		printGroupHelp(s.out, cmd)
		return exitOK
	}
	if err == nil {
		err = cmd.start(ctx, rest, s)
	}
	var usage *usageError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errHelp):
		return exitOK
	case errors.As(err, &usage):
		fmt.Fprintf(s.err, "fogwright: %v\n", usage)
		return exitUsage
	default:
		fmt.Fprintf(s.err, "fogwright: %v\n", err)
		return exitFailed
	}
}
