package userland

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/u-root/gobusybox/src/pkg/golang"
	"github.com/u-root/mkuimage/cpio"
	"github.com/u-root/mkuimage/uimage"
	"github.com/u-root/mkuimage/uimage/initramfs"
	"github.com/u-root/uio/llog"
)

// AddDevTools puts u-root's shell and commands into the archive, for somebody at
// the serial console. Which commands, the tool directives of go.mod say.
//
// Building them takes most of a minute, since u-root's busybox builder compiles
// everything anew, so they are built once for every version of u-root and of Go,
// and kept in the cache.
func (c Compiler) AddDevTools(ctx context.Context, t Target, a *Archive) error {
	commands, err := c.devCommands(ctx)
	if err != nil {
		return err
	}
	toolchain, err := c.Toolchain(ctx)
	if err != nil {
		return err
	}
	key := sha256.Sum256([]byte(toolchain.Version + "\n" + strings.Join(commands, "\n")))
	dir := filepath.Join(c.Cache, "devtools")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("dev tools: %w", err)
	}
	file := filepath.Join(dir, fmt.Sprintf("%s-%x.cpio", t, key[:8]))
	unlock, err := Lock(file + ".lock")
	if err != nil {
		return fmt.Errorf("dev tools: %w", err)
	}
	defer unlock()
	if _, err := os.Stat(file); err != nil {
		if err := c.buildDevTools(t, commands, file); err != nil {
			return fmt.Errorf("dev tools for %s: %w", t, err)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("dev tools: %w", err)
	}
	a.base, err = cpio.ArchiveFromReader(cpio.Newc.Reader(bytes.NewReader(data)))
	if err != nil {
		return fmt.Errorf("dev tools: %s: %w", file, err)
	}
	return nil
}

// devCommands lists the import paths of the u-root commands in go.mod, each with
// its version behind an @ sign.
func (c Compiler) devCommands(ctx context.Context) ([]string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-f", "{{with .Module}}{{$.ImportPath}}@{{.Version}}{{end}}", "tool")
	cmd.Dir = c.Dir
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("dev tools: listing the tools of go.mod: %w", err)
	}
	var list []string
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "github.com/u-root/u-root/cmds/") {
			list = append(list, line)
		}
	}
	slices.Sort(list) // go list has no order of its own here, and the cache's key does
	if len(list) == 0 {
		return nil, fmt.Errorf("dev tools: go.mod names no u-root command as a tool")
	}
	return list, nil
}

// buildDevTools leaves the finished archive at file, or nothing.
func (c Compiler) buildDevTools(t Target, commands []string, file string) error {
	tmp, err := os.MkdirTemp("", "fogwright-devtools-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	var packages []string
	for _, c := range commands {
		path, _, _ := strings.Cut(c, "@")
		packages = append(packages, path)
	}
	env := golang.Default(golang.DisableCGO(), golang.WithGOOS("linux"), golang.WithGOARCH(t.Arch), golang.WithWorkingDir(c.Dir))
	out := filepath.Join(tmp, "devtools.cpio")
	var log bytes.Buffer
	err = uimage.Create(llog.New(slog.LevelWarn, llog.WritePrintf(&log)),
		uimage.WithReplaceEnv(env),
		uimage.WithTempDir(tmp),
		uimage.WithBaseArchive(cpio.InMemArchive()),
		uimage.WithSkipLDD(),
		uimage.WithBusyboxCommands(packages...),
		uimage.WithShell("gosh"),
		uimage.WithOutput(&initramfs.CPIOFile{Path: out}))
	if err != nil {
		return fmt.Errorf("%w\n%s", err, bytes.TrimSpace(log.Bytes()))
	}
	data, err := os.ReadFile(out)
	if err != nil {
		return err
	}
	part := file + ".part"
	defer os.Remove(part)
	if err := os.WriteFile(part, data, 0o644); err != nil {
		return err
	}
	return os.Rename(part, file)
}
