package storage

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fogwright/fogwright/initramfs/state"
	"github.com/fogwright/fogwright/initramfs/storage/ext4"
)

// box is a machine made of files: a disk, its partitions as files of their own,
// and the folders of sysfs that tell of them.
type box struct {
	t      *testing.T
	cfg    Config
	dev    string
	log    bytes.Buffer
	calls  []string
	mounts map[string]error // what mounting a device answers
	// settled is what stored last published before it began to unmount.
	settled state.Storage
}

func newBox(t *testing.T, kind, id string, data int) *box {
	dir := t.TempDir()
	b := &box{t: t, dev: filepath.Join(dir, "dev"), mounts: map[string]error{}}
	sys := filepath.Join(dir, "sys")
	const size = 400 * mib
	img, err := os.ReadFile(makeTable(t, kind, oldSize))
	if err != nil {
		t.Fatal(err)
	}
	b.file("dev/mmcblk0", img, size)
	b.attribute("mmcblk0/size", size/sector)
	// Another's disk and an empty card reader are there, too.
	b.file("dev/sda", make([]byte, 4096), mib)
	b.attribute("sda/size", mib/sector)
	b.attribute("sr0/size", 0)
	partitions := map[string]int{"factory": 1, "slot-a": 2, "slot-b": 3, "state": data - 1, "data": data}
	for _, n := range partitions {
		node := "mmcblk0p" + strconv.Itoa(n)
		b.file("dev/"+node, nil, 300*mib)
		b.attribute("mmcblk0/"+node+"/partition", n)
		b.attribute(node+"/partition", n)
		b.attribute(node+"/size", 300*mib/sector)
	}
	run := filepath.Join(dir, "run")
	if err := os.Mkdir(run, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := state.Write(run, "board.json", state.Board{Disk: state.Disk{Table: kind, ID: id, Partitions: partitions}}); err != nil {
		t.Fatal(err)
	}
	b.cfg = Config{
		BoardFile: filepath.Join(run, "board.json"), StateDir: run, Root: filepath.Join(dir, "root"),
		Sys: sys, Dev: b.dev, MountInfo: filepath.Join(dir, "mountinfo"), Wait: time.Minute,
		Log: slog.New(slog.NewTextHandler(&b.log, nil)),
		kernel: kernel{
			open: func(name string) (device, error) {
				f, err := os.OpenFile(name, os.O_RDWR, 0)
				return unflushed{f}, err
			},
			mount: func(device, point, fstype string, flags uintptr, options string) error {
				name := filepath.Base(device)
				b.calls = append(b.calls, "mount "+name+" "+filepath.Base(point)+" "+fstype)
				err := b.mounts[name]
				delete(b.mounts, name)
				return err
			},
			unmount: func(point string) error {
				b.calls = append(b.calls, "unmount "+filepath.Base(point))
				if b.settled.FileSystems == nil {
					return state.Read(b.cfg.StateDir, state.StorageFile, &b.settled)
				}
				return nil
			},
			resizePartition: func(disk string, number int, e extent) error {
				b.calls = append(b.calls, fmt.Sprintf("resize %s %d to %d MiB", filepath.Base(disk), number, e.size/mib))
				b.attribute(fmt.Sprintf("mmcblk0p%d/size", number), int(e.size/sector))
				return nil
			},
			resizeExt4: func(mount string, blocks int64) error {
				b.calls = append(b.calls, fmt.Sprintf("grow %s to %d MiB", filepath.Base(mount), blocks*ext4.BlockSize/mib))
				return nil
			},
		},
	}
	return b
}

// unflushed spares the machine of the tests its flushes: nobody pulls its plug.
type unflushed struct{ *os.File }

func (unflushed) Sync() error { return nil }

func (b *box) file(name string, content []byte, size int64) {
	full := filepath.Join(filepath.Dir(b.dev), name)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(full, content, 0o644); err != nil {
		b.t.Fatal(err)
	}
	if err := os.Truncate(full, size); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) attribute(name string, value int) {
	b.file("sys/class/block/"+name, []byte(strconv.Itoa(value)+"\n"), int64(len(strconv.Itoa(value))+1))
}

// boot runs stored until it is ready and then stops it, and gives what it
// published last.
func (b *box) boot() state.Storage {
	b.t.Helper()
	b.calls, b.settled = nil, state.Storage{}
	ctx, cancel := context.WithCancel(b.t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- Main(ctx, b.cfg) }()
	watching, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	state.Watch(watching, b.cfg.StateDir, state.StorageFile, func([]byte) bool {
		var s state.Storage
		return state.Read(b.cfg.StateDir, state.StorageFile, &s) != nil || !s.Ready
	})
	cancel() // growing comes after ready, and stopping waits for it
	if err := <-done; err != nil {
		b.t.Fatalf("Main: %v\n%s", err, b.log.String())
	}
	return b.settled
}

func TestFirstAndSecondBoot(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.kind, func(t *testing.T) {
			b := newBox(t, k.kind, k.id, k.data)
			stateNode, dataNode := fmt.Sprintf("mmcblk0p%d", k.data-1), fmt.Sprintf("mmcblk0p%d", k.data)
			s := b.boot()
			fs := s.FileSystems
			if !s.Ready || len(s.Errors) != 0 || !fs["state"].Created || !fs["data"].Created || !fs["factory"].ReadOnly {
				t.Errorf("first boot: %+v", s)
			}
			want := []string{
				"mount mmcblk0p1 factory vfat",
				"mount " + stateNode + " state ext4",
				"mount " + dataNode + " data ext4",
				b.calls[3], // the partition's new size: held in TestGrow
				strings.Replace(b.calls[3], fmt.Sprintf("resize mmcblk0 %d", k.data), "grow data", 1),
				"unmount data", "unmount state", "unmount factory",
			}
			if diff := cmp.Diff(want, b.calls); diff != "" || !strings.HasPrefix(b.calls[3], "resize mmcblk0 ") {
				t.Errorf("first boot (-want +got):\n%s", diff)
			}
			for _, node := range []string{stateNode, dataNode} {
				run(t, "e2fsprogs", "", "e2fsck", "-fn", filepath.Join(b.dev, node))
			}
			if s := b.boot(); s.FileSystems["state"].Created || s.FileSystems["data"].Created || len(s.Errors) != 0 {
				t.Errorf("second boot: %+v", s)
			}
		})
	}
}

func TestDamage(t *testing.T) {
	b := newBox(t, "gpt", gptID, dataGPT)
	b.boot()
	b.mounts["mmcblk0p5"] = unix.EUCLEAN
	b.file("dev/mmcblk0p4", append([]byte("somebody else's data"), make([]byte, startSize)...), 300*mib)
	s := b.boot()
	if !s.FileSystems["state"].Created || !s.FileSystems["data"].Created {
		t.Errorf("not made anew: %+v", s.FileSystems)
	}
	if len(s.Errors) != 2 || !strings.Contains(s.Errors[0], "736f6d65626f6479") || !strings.Contains(s.Errors[1], "structure needs cleaning") {
		t.Errorf("evidence: %q", s.Errors)
	}
}

// A disk that cannot be read is no reason to make a file system on it.
func TestMountFails(t *testing.T) {
	b := newBox(t, "gpt", gptID, dataGPT)
	b.boot()
	b.mounts["mmcblk0p4"] = unix.EIO
	s := b.boot()
	if fs := s.FileSystems["state"]; fs.Created || !strings.Contains(fs.Error, "input/output error") {
		t.Errorf("state: %+v", fs)
	}
	if fs := s.FileSystems["data"]; fs.Created || fs.Error != "" {
		t.Errorf("data: %+v", fs)
	}
}

// What an earlier life of stored has mounted is taken over.
func TestRestart(t *testing.T) {
	b := newBox(t, "mbr", mbrID, dataMBR)
	b.boot()
	var lines string
	for _, name := range []string{"factory", "state", "data"} {
		lines += "36 35 98:0 / " + filepath.Join(b.cfg.Root, name) + " rw - ext4 /dev/x rw\n"
	}
	if err := os.WriteFile(b.cfg.MountInfo, []byte(lines), 0o644); err != nil {
		t.Fatal(err)
	}
	b.boot()
	for _, c := range b.calls {
		if strings.HasPrefix(c, "mount") {
			t.Errorf("mounted again: %s", c)
		}
	}
}

func TestDiskDoesNotAppear(t *testing.T) {
	b := newBox(t, "gpt", "00000000-0000-0000-0000-000000000000", dataGPT)
	b.cfg.Wait = time.Millisecond
	err := Main(t.Context(), b.cfg)
	if err == nil || !strings.Contains(err.Error(), "not among [mmcblk0 sda]") {
		t.Errorf("got %v", err)
	}
	var s state.Storage
	if err := state.Read(b.cfg.StateDir, state.StorageFile, &s); err != nil || len(s.Errors) != 1 || s.Ready {
		t.Errorf("published %+v, %v", s, err)
	}
}

// Quotas need the kernel's module, and are for what workloads write.
func TestQuotas(t *testing.T) {
	for _, module := range []bool{false, true} {
		b := newBox(t, "gpt", gptID, dataGPT)
		if module {
			b.file("sys/module/quota_v2/initstate", nil, 0)
		}
		b.boot()
		for _, p := range []struct {
			node string
			want bool
		}{{"mmcblk0p4", false}, {"mmcblk0p5", module}} {
			out := run(t, "e2fsprogs", "", "tune2fs", "-l", filepath.Join(b.dev, p.node))
			if got := strings.Contains(out, " project"); got != p.want {
				t.Errorf("module %v, %s: project quotas %v, want %v\n%s", module, p.node, got, p.want, out)
			}
		}
	}
}
