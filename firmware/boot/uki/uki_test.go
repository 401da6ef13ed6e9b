package uki

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"debug/pe"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	amd64 = 0x8664
	arm64 = 0xaa64
)

// program makes an EFI program the way linkers do: DOS stub, PE headers in
// headSize bytes, and one section of each content from 0x1000 on.
func program(machine uint16, headSize int, dllFlags uint16, contents ...string) []byte {
	const peOff, optSize, fileAlign = 0x80, 240, 512
	b := make([]byte, headSize)
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], peOff)
	copy(b[peOff:], "PE\x00\x00")
	coff := b[peOff+4:]
	le.PutUint16(coff, machine)
	le.PutUint16(coff[2:], uint16(len(contents)))
	le.PutUint32(coff[4:], 1700000000) // time stamp
	le.PutUint16(coff[16:], optSize)
	le.PutUint16(coff[18:], 0x22e) // executable, large addresses, stripped
	opt := b[peOff+24:]
	le.PutUint16(opt, magicPE32Plus)
	le.PutUint32(opt[16:], 0x1000) // entry point
	le.PutUint32(opt[20:], 0x1000) // base of code
	le.PutUint64(opt[24:], 0x140000000)
	le.PutUint32(opt[optSecAlign:], 4096)
	le.PutUint32(opt[optFileAlign:], fileAlign)
	le.PutUint32(opt[optHeadSize:], uint32(headSize))
	le.PutUint16(opt[optSubsystem:], efiProgram)
	le.PutUint16(opt[optDLLFlags:], dllFlags)
	le.PutUint32(opt[optDirCount:], 16)
	va := 0x1000
	for i, c := range contents {
		s := b[peOff+24+optSize+i*secHeaderSize:]
		copy(s, fmt.Sprintf(".s%d", i))
		raw := roundUp(len(c), fileAlign)
		le.PutUint32(s[8:], uint32(len(c)))
		le.PutUint32(s[12:], uint32(va))
		le.PutUint32(s[16:], uint32(raw))
		le.PutUint32(s[20:], uint32(len(b)))
		le.PutUint32(s[36:], 0x60000020)
		b = append(b, c...)
		b = append(b, make([]byte, raw-len(c))...)
		va += roundUp(len(c), 4096)
	}
	le.PutUint32(b[peOff+24+optImageSize:], uint32(va))
	return b
}

// sample is a small but complete set of parts.
func sample(machine uint16) UKI {
	return UKI{
		Stub:      program(machine, 1024, nxCompat|0x60, "stub code", strings.Repeat("r", 5000)),
		Kernel:    program(machine, 1024, nxCompat, strings.Repeat("kernel ", 2000)),
		Initrd:    bytes.Repeat([]byte("initramfs"), 1001),
		Cmdline:   "console=ttyS0 panic=10",
		OSRelease: "ID=fogwright\n",
		Uname:     "6.12.1",
		DTB:       []byte("\xd0\x0d\xfe\xed"),
	}
}

func build(t *testing.T, u UKI) []byte {
	t.Helper()
	b, err := u.Build()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func run(t *testing.T, install, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s (install %s): %v\n%s", cmd, install, err, out)
	}
	return string(out)
}

func file(t *testing.T, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSectionsOfBuild(t *testing.T) {
	for _, machine := range []uint16{amd64, arm64} {
		u := sample(machine)
		all, err := Sections(build(t, u))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		got := map[string]string{}
		for _, s := range all {
			names = append(names, s.Name)
			got[s.Name] = string(s.Data)
		}
		if diff := cmp.Diff([]string{".s0", ".s1", ".osrel", ".cmdline", ".dtb", ".uname", ".linux", ".initrd"}, names); diff != "" {
			t.Errorf("machine %#x: sections (-want +got):\n%s", machine, diff)
		}
		want := map[string]string{
			".s0": "stub code", ".s1": strings.Repeat("r", 5000),
			".osrel": u.OSRelease, ".cmdline": u.Cmdline, ".uname": u.Uname, ".dtb": string(u.DTB),
			".linux": string(u.Kernel), ".initrd": string(u.Initrd),
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("machine %#x: contents (-want +got):\n%s", machine, diff)
		}
	}
}

// The Go standard library's PE reader agrees, and the loader's rules hold: sections
// do not overlap in memory or leave gaps in the file, and the big ones begin at
// multiples of 4 KiB.
func TestLayout(t *testing.T) {
	u := sample(arm64)
	u.OSRelease, u.Uname, u.DTB = "", "", nil
	image := build(t, u)
	f, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	opt := f.OptionalHeader.(*pe.OptionalHeader64)
	var va, off uint32 = 0x1000, opt.SizeOfHeaders
	for _, s := range f.Sections {
		if s.VirtualAddress != va {
			t.Errorf("%s at address %#x, want %#x", s.Name, s.VirtualAddress, va)
		}
		if s.Offset != off {
			t.Errorf("%s at offset %#x, want %#x: gap or overlap", s.Name, s.Offset, off)
		}
		if (s.Name == ".linux" || s.Name == ".initrd") && s.Offset%4096 != 0 {
			t.Errorf("%s at offset %#x, not a multiple of 4 KiB", s.Name, s.Offset)
		}
		va += uint32(roundUp(int(s.VirtualSize), int(opt.SectionAlignment)))
		off += s.Size
	}
	if int(off) != len(image) || opt.SizeOfImage != va {
		t.Errorf("file ends at %#x and memory at %#x, headers say %#x and %#x", len(image), va, off, opt.SizeOfImage)
	}
	if got, want := f.TimeDateStamp, uint32(1700000000); got != want {
		t.Errorf("time stamp %d, want the stub's, %d", got, want)
	}
}

func TestBuildIsDeterministic(t *testing.T) {
	u := sample(amd64)
	stub := bytes.Clone(u.Stub)
	if a, b := build(t, u), build(t, u); !bytes.Equal(a, b) {
		t.Error("two builds differ")
	}
	if !bytes.Equal(stub, u.Stub) {
		t.Error("Build changed the stub that it was given")
	}
}

// A kernel that does not promise to keep data and code apart takes the promise from
// the whole image.
func TestNXCompat(t *testing.T) {
	for _, flags := range []uint16{0, nxCompat} {
		u := sample(amd64)
		u.Kernel = program(amd64, 1024, flags, "kernel")
		h, err := parse(build(t, u))
		if err != nil {
			t.Fatal(err)
		}
		if got := h.dllFlags; got != 0x60|flags {
			t.Errorf("kernel with flags %#x: image has %#x, want %#x", flags, got, 0x60|flags)
		}
	}
}

// A stub with little header padding has its SizeOfHeaders grown into it.
func TestHeaderRoom(t *testing.T) {
	u := sample(amd64)
	// 0x80+24+240 bytes of headers, 1 section: 6 more need 672 bytes.
	u.Stub = program(amd64, 1024, 0, "stub")
	le.PutUint32(u.Stub[0x80+24+optHeadSize:], 512)
	h, err := parse(build(t, u))
	if err != nil {
		t.Fatal(err)
	}
	if h.headSize != 1024 {
		t.Errorf("SizeOfHeaders %d, want 1024", h.headSize)
	}
	u.Stub = program(amd64, 512, 0, "stub")
	if _, err := u.Build(); err == nil || !strings.Contains(err.Error(), "no room for 6 more section headers") {
		t.Errorf("stub without room: error %v", err)
	}
}

func TestBuildRefuses(t *testing.T) {
	good := build(t, sample(amd64))
	for _, tc := range []struct {
		name   string
		change func(*UKI)
		want   string
	}{
		{"nothing", func(u *UKI) { *u = UKI{} }, "no EFI stub given\nno kernel given\nno initramfs given\nno kernel command line given"},
		{"NUL in command line", func(u *UKI) { u.Cmdline = "a\x00b" }, "kernel command line contains a NUL"},
		{"stub is text", func(u *UKI) { u.Stub = []byte("#!/bin/sh") }, "EFI stub: no MZ header"},
		{"stub truncated", func(u *UKI) { u.Stub = u.Stub[:len(u.Stub)-1] }, "truncated?"},
		{"symbols behind stub", func(u *UKI) { u.Stub = append(bytes.Clone(u.Stub), 1, 2, 3) }, "3 bytes follow its last section"},
		{"stub is a UKI", func(u *UKI) { u.Stub = good }, "it is a unified kernel image, not a stub"},
		{"stub signed", func(u *UKI) {
			u.Stub = bytes.Clone(u.Stub)
			le.PutUint32(u.Stub[0x80+24+optDirs+8*securityDir:], 4096)
		}, "it is signed"},
		{"stub not for EFI", func(u *UKI) {
			u.Stub = bytes.Clone(u.Stub)
			le.PutUint16(u.Stub[0x80+24+optSubsystem:], 3)
		}, "PE subsystem is 3"},
		{"kernel without EFI", func(u *UKI) { u.Kernel = []byte("\x1f\x8b") }, "kernel is not an EFI program"},
		{"kernel of another architecture", func(u *UKI) { u.Kernel = program(arm64, 1024, 0, "k") }, "kernel is for PE machine 0xaa64, EFI stub for 0x8664"},
	} {
		u := sample(amd64)
		tc.change(&u)
		if _, err := u.Build(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want one with %q", tc.name, err, tc.want)
		}
	}
}

func TestObjdump(t *testing.T) {
	out := run(t, "binutils", "objdump", "-h", file(t, "a.efi", build(t, sample(amd64))))
	if !strings.Contains(out, "pei-x86-64") {
		t.Errorf("objdump does not know the format:\n%s", out)
	}
	got := map[string]string{} // size and file offset
	for _, l := range strings.Split(out, "\n") {
		if f := strings.Fields(l); len(f) == 7 && strings.HasPrefix(f[1], ".") {
			got[f[1]] = f[2] + " " + f[5]
		}
	}
	for name, want := range map[string]string{".osrel": "0000000d 00001a00", ".cmdline": "00000016 00002000", ".initrd": "00002331 00009000"} {
		if got[name] != want {
			t.Errorf("%s: objdump says %q, want %q", name, got[name], want)
		}
	}
}

// key makes a key and a self-signed certificate for sbsign.
func key(t *testing.T) (keyFile, certFile string) {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0),
	}
	cert, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	return file(t, "k.pem", pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)})),
		file(t, "c.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))
}

// sbsign signs the image without complaint, sbverify accepts it, and taking the
// signature away again gives our bytes, checksum included.
func TestSecureBootSigning(t *testing.T) {
	keyFile, certFile := key(t)
	for _, machine := range []uint16{amd64, arm64} {
		image := build(t, sample(machine))
		path := file(t, "a.efi", image)
		out := run(t, "sbsigntool", "sbsign", "--key", keyFile, "--cert", certFile, "--output", path+".signed", path)
		if strings.Contains(out, "warning") {
			t.Errorf("sbsign warns:\n%s", out)
		}
		run(t, "sbsigntool", "sbverify", "--cert", certFile, path+".signed")
		run(t, "sbsigntool", "sbattach", "--remove", path+".signed")
		got, err := os.ReadFile(path + ".signed")
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, image) {
			t.Errorf("machine %#x: signing and removing the signature changed %d bytes into %d others", machine, len(image), len(got))
		}
	}
}

func FuzzSections(f *testing.F) {
	good, err := sample(amd64).Build()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:600])
	f.Add(program(arm64, 512, 0, "a", "b"))
	f.Add([]byte("MZ"))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := Sections(b)
		if err != nil {
			return
		}
		for _, s := range all {
			if len(s.Data) > len(b) {
				t.Fatalf("section %q of %d bytes in an image of %d", s.Name, len(s.Data), len(b))
			}
		}
	})
}

// Whatever the stub, Build returns an image that can be read back, or an error.
func FuzzBuild(f *testing.F) {
	f.Add(sample(amd64).Stub)
	f.Add(program(amd64, 512, 0, "a"))
	f.Fuzz(func(t *testing.T, stub []byte) {
		u := sample(amd64)
		u.Stub = stub
		b, err := u.Build()
		if err != nil {
			return
		}
		all, err := Sections(b)
		if err != nil {
			t.Fatalf("built an image that cannot be read: %v", err)
		}
		if got := all[len(all)-1]; got.Name != ".initrd" || !bytes.Equal(got.Data, u.Initrd) {
			t.Fatalf("last section is %q with %d bytes", got.Name, len(got.Data))
		}
	})
}

func BenchmarkBuild(b *testing.B) {
	u := sample(arm64)
	u.Kernel = program(arm64, 1024, 0, strings.Repeat("kernel ", 5<<20))
	u.Initrd = make([]byte, 24<<20)
	b.SetBytes(int64(len(u.Kernel) + len(u.Initrd)))
	for b.Loop() {
		if _, err := u.Build(); err != nil {
			b.Fatal(err)
		}
	}
}
