package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fogwright/fogwright/initramfs/site"
	"github.com/fogwright/fogwright/initramfs/state"
	"golang.org/x/sys/unix"
)

// folderPatience is how long netd's folder on the state partition is waited for:
// at the first boot init makes it, after stored has made all the file systems.
const folderPatience = 2 * time.Minute

// watchStorage follows stored's state file and sends what becomes known, until
// nothing more can.
func watchStorage(ctx context.Context, stateDir string, log *slog.Logger, out chan<- facts) {
	var f facts
	send := func() {
		select {
		case out <- f:
		case <-ctx.Done():
		}
	}
	mount := ""
	state.Watch(ctx, stateDir, state.StorageFile, func(content []byte) bool {
		var s state.Storage
		if err := json.Unmarshal(content, &s); err != nil {
			log.Error("reading "+state.StorageFile, "err", err)
			return true
		}
		if fsys, ok := s.FileSystems["factory"]; f.site == nil && (ok || s.Ready) {
			f.site = readSite(fsys, log)
			send()
		}
		if fsys, ok := s.FileSystems["state"]; ok && fsys.Error == "" && !fsys.ReadOnly {
			mount = fsys.Mount
		}
		return f.site == nil || mount == "" && !s.Ready
	})
	if mount != "" {
		dir := filepath.Join(mount, dirName)
		if err := awaitFolder(ctx, dir); err != nil {
			log.Error("nothing is remembered over a reboot", "err", err)
		} else {
			f.dir = dir
		}
	}
	f.final = true
	send()
}

// awaitFolder waits until dir can be written to, and makes it where netd may.
func awaitFolder(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, folderPatience)
	defer cancel()
	for {
		err := os.Mkdir(dir, 0o700)
		if err == nil || errors.Is(err, fs.ErrExist) {
			if err = unix.Access(dir, unix.W_OK|unix.X_OK); err == nil {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("folder %s: %w", dir, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// readSite reads the owner's configuration; a box without one, or with a broken
// one, works with the default.
func readSite(factory state.FileSystem, log *slog.Logger) *site.Site {
	if factory.Error != "" || factory.Mount == "" {
		return site.Default()
	}
	text, err := os.ReadFile(filepath.Join(factory.Mount, site.File))
	if errors.Is(err, fs.ErrNotExist) {
		return site.Default()
	}
	if err == nil {
		var s *site.Site
		if s, err = site.Parse(site.File, text); err == nil {
			return s
		}
	}
	log.Error("site configuration is not used", "err", err)
	return site.Default()
}

func readBoard(path string, b *state.Board) error {
	return state.Read(filepath.Dir(path), filepath.Base(path), b)
}
