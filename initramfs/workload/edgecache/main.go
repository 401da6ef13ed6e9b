package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	// Mozilla's roots, used only when the box has none of its own: its image
	// carries no certificates, and origins and trackers speak HTTPS.
	_ "golang.org/x/crypto/x509roots/fallback"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, os.Getenv, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "edgecache:", err)
		os.Exit(1)
	}
}

// run shares until ctx ends.
func run(ctx context.Context, getenv func(string) string, stderr io.Writer) error {
	var missing []error
	path := func(name string) string {
		v := getenv(name)
		if v == "" {
			missing = append(missing, fmt.Errorf("environment variable %s is not set; workd sets it", name))
		}
		return v
	}
	config, report, data := path("FOGWRIGHT_CONFIG"), path("FOGWRIGHT_REPORT"), path("FOGWRIGHT_DATA")
	if err := errors.Join(missing...); err != nil {
		return err
	}
	text, err := os.ReadFile(config)
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	cfg, err := ParseConfig(text)
	if err != nil {
		return fmt.Errorf("configuration %s: %w", config, err)
	}
	// The collector runs early and often: memory is the box's scarcest good,
	// and serving from the page cache makes little garbage.
	debug.SetMemoryLimit(cfg.MemoryBytes)
	debug.SetGCPercent(50)

	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	n, err := newNode(cfg, data, log)
	if err != nil {
		return err
	}
	w := &reportWriter{path: report}
	n.run(ctx, func(r Report) {
		if err := w.write(r); err != nil {
			log.Error("keeping the report", "error", err)
		}
	})
	return n.close(2 * time.Second)
}

// withoutTime leaves the time to whoever collects the lines: the box's clock may
// not be set yet.
func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
