// SPDX-License-Identifier: Apache-2.0

package devices_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/devices"
)

const (
	pci = `{"type":"pci","version":"1.1.0","pci":{"pci-address":"0000:01:02.2","pf-pci-address":"0000:01:02.0"},"later":true}` + "\n"
	vfA = "0000:01:02.2"
)

// infoDir has the file of device vfA as device plugins write it.
func infoDir(t *testing.T) devices.Info {
	t.Helper()
	i := devices.Info{Dir: t.TempDir()}
	if err := os.Mkdir(filepath.Join(i.Dir, "dp"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(i.Dir, "dp", "example.com-vf-0000:01:02.2-device.json"), pci)
	return i
}

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func infoPath(t *testing.T, i devices.Info) string {
	t.Helper()
	path, err := i.Path("default/lan", "abc123", "net1")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func filesOf(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestInfoLife(t *testing.T) {
	t.Parallel()
	i := infoDir(t)
	path := infoPath(t, i)
	if err := i.Remove(path); err != nil {
		t.Errorf("removing before there is anything: %v", err)
	}
	if _, err := i.Read(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading before there is anything: %v", err)
	}
	// A second ADD, after an agent that was killed in the first.
	write(t, filepath.Join(i.Dir, "cni", ".default-lan-abc123_net1.tmp"), "half")
	for range 2 {
		if err := i.Copy(vf, vfA, path); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"default-lan-abc123_net1"}, filesOf(t, filepath.Join(i.Dir, "cni"))); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != pci {
		t.Errorf("%v: %s", err, data)
	}
	want := &nadv1.DeviceInfo{Type: "pci", Version: "1.1.0", Pci: &nadv1.PciDevice{PciAddress: vfA, PfPciAddress: "0000:01:02.0"}}
	got, err := i.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	write(t, filepath.Join(i.Dir, "cni", ".default-lan-abc123_net1.tmp"), "half")
	for range 2 {
		if err := i.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if left := filesOf(t, filepath.Join(i.Dir, "cni")); left != nil {
		t.Errorf("left: %q", left)
	}
}

func TestInfoPath(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("n", 317)
	id := strings.Repeat("c", 64)
	for _, c := range []struct{ name, network, containerID, ifname, want string }{
		{"as Multus", "default/lan", "abc", "net1", "default-lan-abc_net1"},
		{"cluster network", "lan", "abc", "eth0", "lan-abc_eth0"},
		{"long", long, id, "net1", strings.Repeat("n", 180) + "-" + id + "_net1"},
		{"dots", "..", "..", "..", "..-.._.."},
		{"slashes", "../../etc", "../x", "a/b", "..-..-etc-..-x_a-b"},
		{"no network", "", "abc", "net1", ""},
		{"no container", "lan", "", "net1", ""},
		{"no interface", "lan", "abc", "", ""},
		{"NUL", "lan", "abc\x00", "net1", ""},
		{"too long", "lan", strings.Repeat("c", 250), "net1", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			i := devices.Info{}
			path, err := i.Path(c.network, c.containerID, c.ifname)
			switch {
			case c.want == "" && !errors.Is(err, fs.ErrInvalid):
				t.Errorf("%q, %v", path, err)
			case c.want != "" && (err != nil || path != "/var/run/k8s.cni.cncf.io/devinfo/cni/"+c.want):
				t.Errorf("%q, %v", path, err)
			}
		})
	}
	i := infoDir(t)
	longest, err := i.Path(long, id, "net1")
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Copy(vf, vfA, longest); err != nil {
		t.Error(err)
	}
}

func TestInfoOutsideItsDirectoryIsRefused(t *testing.T) {
	t.Parallel()
	i := infoDir(t)
	write(t, filepath.Join(i.Dir, "precious"), pci)
	for _, path := range []string{
		"", ".", "/", "/etc/passwd", i.Dir, i.Dir + "/cni", i.Dir + "/cni/", i.Dir + "/cni/.", i.Dir + "/cni/..",
		i.Dir + "/precious", i.Dir + "/cni/../precious", i.Dir + "/cni/x/../../precious", i.Dir + "/cni//x", "cni/x",
		i.Dir + "/dp/example.com-vf-0000:01:02.2-device.json",
	} {
		_, read := i.Read(path)
		for what, err := range map[string]error{"Read": read, "Copy": i.Copy(vf, vfA, path), "Remove": i.Remove(path)} {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%s %q: %v", what, path, err)
			}
		}
	}
	if data, err := os.ReadFile(filepath.Join(i.Dir, "precious")); err != nil || string(data) != pci {
		t.Errorf("%v: %s", err, data)
	}
	for _, names := range [][2]string{{"", vfA}, {vf, ""}, {vf, "a\x00"}} {
		if err := i.Copy(names[0], names[1], infoPath(t, i)); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v", names, err)
		}
	}
	// What would climb is flat, and there is no such file.
	if err := i.Copy("../precious", "../../x", infoPath(t, i)); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestInfoNeedNotExist(t *testing.T) {
	t.Parallel()
	for _, i := range []devices.Info{infoDir(t), {Dir: filepath.Join(t.TempDir(), "none")}} {
		if err := i.Copy(vf, "0000:09:00.0", infoPath(t, i)); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		if _, err := os.Lstat(filepath.Join(i.Dir, "cni")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a directory was made for nothing: %v", err)
		}
	}
}

func TestInfoThatIsNoFile(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		make func(t *testing.T, path string) error
		want string
	}{
		{"link", func(_ *testing.T, path string) error { return os.Symlink(filepath.Dir(path)+"/real", path) }, "symbolic link"},
		{"link to nothing", func(_ *testing.T, path string) error { return os.Symlink("/nowhere", path) }, "symbolic link"},
		{"link to itself", func(_ *testing.T, path string) error { return os.Symlink(path, path) }, "symbolic link"},
		{"directory", func(_ *testing.T, path string) error { return os.Mkdir(path, 0o755) }, "no regular file"},
		{"pipe", func(_ *testing.T, path string) error { return unix.Mkfifo(path, 0o644) }, "no regular file"},
		{"huge", func(t *testing.T, path string) error { write(t, path, ""); return os.Truncate(path, 1<<40) }, "longer than"},
		{"a little too long", func(t *testing.T, path string) error { write(t, path, pci+strings.Repeat(" ", 64<<10)); return nil }, "longer than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			i := infoDir(t)
			path := infoPath(t, i)
			write(t, filepath.Join(i.Dir, "cni", "real"), pci)
			if err := c.make(t, path); err != nil {
				t.Fatal(err)
			}
			if _, err := i.Read(path); err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Read: %v", err)
			}
			source := filepath.Join(i.Dir, "dp", "example.com-vf-bad-device.json")
			if err := c.make(t, source); err != nil {
				t.Fatal(err)
			}
			other := path + "x"
			if err := i.Copy(vf, "bad", other); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Copy: %v", err)
			}
			if _, err := os.Lstat(other); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("copied: %v", err)
			}
			if err := i.Remove(path); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(i.Dir, "cni", "real")); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCopyReplacesALinkAndNotItsTarget(t *testing.T) {
	t.Parallel()
	i := infoDir(t)
	path := infoPath(t, i)
	target := filepath.Join(i.Dir, "precious")
	write(t, target, "precious")
	for _, link := range []string{path, filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
	}
	if err := i.Copy(vf, vfA, path); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(target); err != nil || string(data) != "precious" {
		t.Errorf("%v: %s", err, data)
	}
	if _, err := i.Read(path); err != nil {
		t.Error(err)
	}
}

func TestReadersSeeAWholeFileOrNone(t *testing.T) {
	t.Parallel()
	i := infoDir(t)
	path := infoPath(t, i)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := i.Read(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 500 {
		if err := i.Copy(vf, vfA, path); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
}

func TestInfoFormat(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, data, err string }{
		{"pci", pci, ""},
		{"vdpa", `{"type":"vdpa","version":"1.1.0","vdpa":{"parent-device":"vdpa3","driver":"vhost","path":"/dev/vdpa-vhost0"}}`, ""},
		{"vhost-user", `{"type":"vhost-user","version":"1.1.0","vhost-user":{"mode":"server","path":"/var/run/vhost.sock"}}`, ""},
		{"memif", `{"type":"memif","version":"1.0.0","memif":{"role":"slave","path":"/var/run/memif.sock","mode":"ip"}}`, ""},
		{"empty", ``, "no JSON object"},
		{"no JSON", `type: pci`, "no JSON object"},
		{"cut off", pci[:40], "no JSON object"},
		{"two", pci + pci, "no JSON object"},
		{"list", `[]`, "no JSON object"},
		{"null", `null`, "version"},
		{"deep", strings.Repeat("[", 30000), "no JSON object"},
		{"wrong type", `{"type":7}`, "no JSON object"},
		{"no version", `{"type":"pci","pci":{"pci-address":"a"}}`, "version"},
		{"no such version", `{"type":"pci","version":"1","pci":{"pci-address":"a"}}`, "version"},
		{"no type", `{"version":"1.1.0","pci":{"pci-address":"a"}}`, "type: missing"},
		{"no such type", `{"version":"1.1.0","type":"usb"}`, `type: "usb"`},
		{"no pci", `{"version":"1.1.0","type":"pci"}`, "pci.pci-address: missing"},
		{"null pci", `{"version":"1.1.0","type":"pci","pci":null}`, "pci.pci-address: missing"},
		{"no address", `{"version":"1.1.0","type":"pci","pci":{}}`, "pci.pci-address: missing"},
		{"no vdpa", `{"version":"1.1.0","type":"vdpa"}`, "vdpa.parent-device: missing"},
		{"no such driver", `{"version":"1.1.0","type":"vdpa","vdpa":{"parent-device":"a","driver":"b","path":"c"}}`, `vdpa.driver: "b"`},
		{"no mode", `{"version":"1.1.0","type":"vhost-user","vhost-user":{"path":"c"}}`, "vhost-user.mode: missing"},
		{"no memif", `{"version":"1.1.0","type":"memif"}`, "memif.role: missing"},
		{"no such memif mode", `{"version":"1.1.0","type":"memif","memif":{"role":"master","path":"a","mode":"b"}}`, `memif.mode: "b"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			i := infoDir(t)
			path := infoPath(t, i)
			write(t, path, c.data)
			info, err := i.Read(path)
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			if err == nil && info.Type != c.name {
				t.Errorf("type %q", info.Type)
			}
		})
	}
}

func FuzzReadInfo(f *testing.F) {
	for _, seed := range []string{
		pci, "", "null", "{}", "[[[[", `{"type":"memif","version":"1.0.0","memif":{"role":"slave","path":"/m","mode":"ip"}}`,
		`{"type":"vdpa","version":"1.1.0","vdpa":{"parent-device":"a","driver":"vhost","path":"c"}}`,
		`{"type":"vhost-user","version":"1.1.0","vhost-user":{"mode":"client","path":"\ud800"}}`,
	} {
		f.Add([]byte(seed))
	}
	i := devices.Info{Dir: f.TempDir()}
	path, err := i.Path("lan", "fuzz", "net1")
	if err != nil {
		f.Fatal(err)
	}
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		info, err := i.Read(path)
		if err != nil {
			return
		}
		// What is taken can be published, and is taken again.
		again, err := json.Marshal(info)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, again, 0o600); err != nil {
			t.Fatal(err)
		}
		reread, err := i.Read(path)
		if err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		if diff := cmp.Diff(info, reread); diff != "" {
			t.Errorf("(-first +again):\n%s", diff)
		}
	})
}

func FuzzInfoPath(f *testing.F) {
	f.Add("default/lan", "abc", "net1", vf, vfA)
	f.Add("..", "../..", "/", "../../x", "..")
	i := devices.Info{Dir: f.TempDir()}
	f.Fuzz(func(t *testing.T, network, containerID, ifname, resource, deviceID string) {
		path, err := i.Path(network, containerID, ifname)
		if err != nil {
			return
		}
		if filepath.Dir(path) != i.Dir+"/cni" || filepath.Clean(path) != path || len(filepath.Base(path)) > 250 {
			t.Fatalf("%q leaves the directory", path)
		}
		if err := i.Copy(resource, deviceID, path); err == nil {
			t.Errorf("%q and %q have a file", resource, deviceID)
		}
		if err := i.Remove(path); err != nil {
			t.Error(err)
		}
	})
}
