package state

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Write replaces dir/name with v as JSON, atomically. The file is readable by
// everyone. dir is in memory, so nothing is flushed.
func Write(dir, name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("state %s: %w", name, err)
	}
	f, err := os.CreateTemp(dir, "."+name+".*")
	if err != nil {
		return fmt.Errorf("state %s: %w", name, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Chmod(0o644)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return fmt.Errorf("state %s: %w", name, err)
	}
	return nil
}

// Read fills v from dir/name. A file that is not there yet is fs.ErrNotExist.
func Read(dir, name string, v any) error {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("state %s: %w", name, err)
	}
	return nil
}

// Watch calls changed with dir/name's contents now (when it exists) and after
// every change, until ctx ends or changed returns false. It polls: state changes
// a few times a minute, and a file in memory costs nothing to look at.
func Watch(ctx context.Context, dir, name string, changed func(content []byte) bool) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last []byte
	for {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil && !bytes.Equal(b, last) {
			last = b
			if !changed(b) {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
