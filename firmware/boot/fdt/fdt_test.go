package fdt

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const source = `/dts-v1/;
/memreserve/ 0x1000 0x2000;
/ {
	#address-cells = <1>;
	#size-cells = <1>;
	model = "Test";
	aliases {
		serial0 = "/soc/serial@7e201000";
		bt = "/soc/serial@7e201000/bluetooth";
		serial1 = "/soc/serial@7e2010001";
	};
	soc {
		#address-cells = <1>;
		#size-cells = <0>;
		serial@7e201000 {
			reg = <0x7e201000>;
			status = "okay";
			bluetooth { compatible = "x"; deep { a = [00 01 02]; }; };
			other { b; };
		};
		serial@7e2010001 { reg = <0x7e201001>; };
	};
};
`

// dtc runs Debian's device tree compiler.
func dtc(t testing.TB, from, to string, in []byte) []byte {
	t.Helper()
	cmd := exec.Command("dtc", "-q", "-I", from, "-O", to)
	cmd.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s (install device-tree-compiler): %v\n%s", cmd, err, &stderr)
	}
	return out
}

// dtc reads back the tree without what was deleted and with all the rest.
func TestDelete(t *testing.T) {
	for _, tc := range []struct {
		name  string
		paths []string
		gone  []string // lines of the source that must be gone
	}{
		{"nothing", nil, nil},
		{"leaf and its alias", []string{"/soc/serial@7e201000/bluetooth"}, []string{
			`		bt = "/soc/serial@7e201000/bluetooth";`,
			`			bluetooth { compatible = "x"; deep { a = [00 01 02]; }; };`,
		}},
		{"two", []string{"/soc/serial@7e201000/bluetooth/deep", "/soc/serial@7e2010001"}, []string{
			` deep { a = [00 01 02]; };`,
			`		serial@7e2010001 { reg = <0x7e201001>; };`,
			`		serial1 = "/soc/serial@7e2010001";`,
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			blob := dtc(t, "dts", "dtb", []byte(source))
			out, err := Delete(blob, tc.paths...)
			if err != nil {
				t.Fatal(err)
			}
			text := source
			for _, g := range tc.gone {
				if !strings.Contains(text, g) {
					t.Fatalf("the source has no %q", g)
				}
				text = strings.Replace(text, g, "", 1)
			}
			want := dtc(t, "dtb", "dts", dtc(t, "dts", "dtb", []byte(text)))
			if diff := cmp.Diff(string(want), string(dtc(t, "dtb", "dts", out))); diff != "" {
				t.Errorf("after Delete(%q), as dtc reads it (-want +got):\n%s", tc.paths, diff)
			}
			again, err := Delete(blob, tc.paths...)
			if err != nil || !bytes.Equal(out, again) {
				t.Errorf("the second time gave other bytes (error %v)", err)
			}
		})
	}
}

func TestDeleteRefuses(t *testing.T) {
	blob := dtc(t, "dts", "dtb", []byte(source))
	long := bytes.Clone(blob)
	long[3*4] = 0x7f // strings block at 2 GB
	for _, tc := range []struct {
		name string
		blob []byte
		path string
		want string
	}{
		{"root", blob, "/", "want the full path"},
		{"relative", blob, "soc", "want the full path"},
		{"trailing slash", blob, "/soc/", "want the full path"},
		{"missing", blob, "/soc/serial", `"/soc/serial": there is no such node`},
		{"empty", nil, "/soc", "not a device tree"},
		{"truncated", blob[:len(blob)-1], "/soc", "reaches beyond the end"},
		{"offset out of range", long, "/soc", "strings block"},
		{"not a tree", bytes.Repeat([]byte{1}, 40), "/soc", "not a device tree"},
	} {
		if _, err := Delete(tc.blob, tc.path); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want one with %q", tc.name, err, tc.want)
		}
	}
}

func TestEnable(t *testing.T) {
	const off = `/dts-v1/;
/ { soc {
	uart1 { a; status = "disabled"; b = [01]; };
	uart2 { status = "disabled"; inner { status = "disabled"; }; };
	uart3 { status = "okay"; };
	uart4 { c; };
	uart5 { status = "fail-x"; };
	uart6 { status = "no"; };
}; };
`
	blob := dtc(t, "dts", "dtb", []byte(off))
	out, err := Enable(blob, "/soc/uart1", "/soc/uart3", "/soc/uart4", "/soc/uart5")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(off, "disabled", "okay", 1) // of uart1
	text = strings.Replace(text, "fail-x", "okay", 1)
	want := dtc(t, "dtb", "dts", dtc(t, "dts", "dtb", []byte(text)))
	if diff := cmp.Diff(string(want), string(dtc(t, "dtb", "dts", out))); diff != "" {
		t.Errorf("after Enable, as dtc reads it (-want +got):\n%s", diff)
	}
	if _, err := Enable(blob, "/soc/uart9"); err == nil || !strings.Contains(err.Error(), `enabling device tree node "/soc/uart9": there is no such node`) {
		t.Errorf("a node that is not there: error %v", err)
	}
	if _, err := Enable(blob, "/soc/uart6"); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("a status too short to replace: error %v", err)
	}
}

func FuzzDelete(f *testing.F) {
	blob := dtc(f, "dts", "dtb", []byte(source))
	f.Add(blob, "/soc/serial@7e201000")
	f.Add(blob, "/aliases")
	f.Add(blob[:100], "/")
	f.Fuzz(func(t *testing.T, blob []byte, path string) {
		out, err := Delete(blob, path)
		if err != nil {
			return
		}
		if _, err := Enable(out); err != nil {
			t.Fatalf("what Delete wrote cannot be read: %v", err)
		}
		if out, err = Enable(blob, path); err != nil {
			return
		}
		if _, err := Delete(out); err != nil {
			t.Fatalf("what Enable wrote cannot be read: %v", err)
		}
	})
}
