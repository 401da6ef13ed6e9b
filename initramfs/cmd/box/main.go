// Command box is the whole userland of a box: one program under several names.
// The kernel starts it as /init; init starts it again under each daemon's name.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/fogwright/fogwright/initramfs/boot"
	"github.com/fogwright/fogwright/initramfs/control/ctld"
	"github.com/fogwright/fogwright/initramfs/network"
	"github.com/fogwright/fogwright/initramfs/storage"
	"github.com/fogwright/fogwright/initramfs/workload"
)

// applets are box's names and what each does.
func applets() map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"init":   func(ctx context.Context) error { return boot.Main(ctx, boot.Config{}) },
		"stored": func(ctx context.Context) error { return storage.Main(ctx, storage.Config{Log: slog.Default()}) },
		"netd":   func(ctx context.Context) error { return network.Main(ctx, network.Config{}) },
		"workd":  func(ctx context.Context) error { return workload.Main(ctx, workload.Config{}) },
		"ctld":   func(ctx context.Context) error { return ctld.Main(ctx, ctld.Config{}) },
	}
}

func main() {
	if err := run(os.Args); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n", err)
		os.Exit(1)
	}
}

// run starts the applet that args name: the name of the program, or, as in
// "box netd", the word after it.
func run(args []string) error {
	name := filepath.Base(args[0])
	if name == "box" && len(args) > 1 {
		name = args[1]
	}
	applet, ok := applets()[name]
	if !ok {
		return fmt.Errorf("box: there is no applet %q; there are init, stored, netd, workd, ctld", name)
	}
	ctx := context.Background()
	if name != "init" { // which takes signals itself, each for what it is
		// No time stamps: init knows better when a line came.
		slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{
			ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey && len(groups) == 0 {
					return slog.Attr{}
				}
				return a
			},
		})))
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		// What ps shows; the program itself is called exe (/proc/self/exe).
		if err := os.WriteFile("/proc/self/comm", []byte(name), 0); err != nil {
			slog.Debug("naming the process", "error", err)
		}
	}
	if err := applet(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
