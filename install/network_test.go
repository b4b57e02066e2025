// SPDX-License-Identifier: Apache-2.0

package install

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"
)

func TestReadNetwork(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, file, content string
		want                *Network
		err                 string
		meta                bool
	}{
		{name: "list", file: "a.conflist", content: flannel, want: &Network{Name: "cbr0", CNIVersion: "1.0.0",
			Capabilities: []string{"portMappings"}, Types: []string{"flannel", "portmap"}}},
		{name: "single", file: "a.conf", content: `{"cniVersion":"0.3.1","name":"a","type":"bridge","capabilities":{"ips":true,"mac":false}}`,
			want: &Network{Name: "a", CNIVersion: "0.3.1", Capabilities: []string{"ips"}, Types: []string{"bridge"}}},
		{name: "single as json", file: "a.json", content: `{"name":"a","type":"bridge"}`,
			want: &Network{Name: "a", Types: []string{"bridge"}}},
		{name: "capabilities of all plugins", file: "a.conflist",
			content: `{"name":"a","plugins":[{"type":"x","capabilities":{"z":true,"ips":false}},{"type":"y","capabilities":{"a":true,"z":false}}]}`,
			want:    &Network{Name: "a", Capabilities: []string{"a", "z"}, Types: []string{"x", "y"}}},
		{name: "a choice of versions", file: "a.conflist", content: `{"cniVersion":"0.4.0","cniVersions":["0.4.0","1.1.0","7.0.0"],"name":"a","plugins":[{"type":"x"}]}`,
			want: &Network{Name: "a", CNIVersion: "0.4.0", CNIVersions: []string{"0.4.0", "1.1.0", "7.0.0"}, Types: []string{"x"}}},
		{name: "Multus", file: "a.conf", content: multus, meta: true,
			want: &Network{Name: "multus-cni-network", CNIVersion: "0.3.1", Types: []string{"multus-shim"}}},
		{name: "thin Multus in a list", file: "a.conflist", content: `{"name":"m","plugins":[{"type":"multus"}]}`, meta: true,
			want: &Network{Name: "m", Types: []string{"multus"}}},
		{name: "weir behind another plugin", file: "a.conflist", content: `{"name":"m","plugins":[{"type":"bridge"},{"type":"weir"}]}`, meta: true,
			want: &Network{Name: "m", Types: []string{"bridge", "weir"}}},
		{name: "type in capitals", file: "a.conf", content: `{"name":"m","TYPE":"weir"}`, meta: true,
			want: &Network{Name: "m", Types: []string{"weir"}}},
		{name: "empty", file: "a.conf", err: "unexpected end"},
		{name: "half", file: "a.conflist", content: flannel[:40], err: "unexpected end"},
		{name: "null", file: "a.conf", content: "null", err: "type"},
		{name: "null list", file: "a.conflist", content: "null", err: "no name"},
		{name: "array", file: "a.conf", content: "[]", err: "array"},
		{name: "string", file: "a.conflist", content: `"x"`, err: "string"},
		{name: "two values", file: "a.conf", content: `{"name":"a","type":"x"}{}`, err: "after top-level"},
		{name: "list in a file for a single one", file: "a.conf", content: flannel, err: "missing 'type'"},
		{name: "single in a file for a list", file: "a.conflist", content: `{"name":"a","type":"bridge"}`, err: "plugins: missing"},
		{name: "no plugins", file: "a.conflist", content: `{"name":"a","plugins":[]}`, err: "no plugins"},
		{name: "plugins of another kind", file: "a.conflist", content: `{"name":"a","plugins":{"type":"x"}}`, err: "plugins"},
		{name: "a plugin without type", file: "a.conflist", content: `{"name":"a","plugins":[{"type":"x"},{}]}`, err: "missing 'type'"},
		{name: "a plugin that is null", file: "a.conflist", content: `{"name":"a","plugins":[null]}`, err: "missing 'type'"},
		{name: "no name", file: "a.conf", content: `{"type":"x"}`, err: "missing network name"},
		{name: "name of another kind", file: "a.conflist", content: `{"name":1,"plugins":[{"type":"x"}]}`, err: "invalid name type"},
		{name: "name that is a path", file: "a.conflist", content: `{"name":"../..","plugins":[{"type":"x"}]}`, err: "invalid characters"},
		{name: "version that is none", file: "a.conf", content: `{"cniVersion":"one","name":"a","type":"x"}`, err: "major version"},
		{name: "version of another kind", file: "a.conf", content: `{"cniVersion":1,"name":"a","type":"x"}`, err: "cniVersion"},
		{name: "capabilities of another kind", file: "a.conf", content: `{"name":"a","type":"x","capabilities":["ips"]}`, err: "capabilities"},
		{name: "not JSON at all", file: "a.conf", content: "\x00\xff", err: "invalid character"},
		{name: "too long", file: "a.conf", content: strings.Repeat(" ", sizeMax+1), err: "longer than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), c.file)
			if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := ReadNetwork(path)
			if errors.Is(err, ErrMeta) != c.meta {
				t.Errorf("%v", err)
			}
			if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) || c.err == "" && !c.meta && err != nil {
				t.Errorf("%v, want %q", err, c.err)
			}
			if c.want != nil {
				c.want.Path = path
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestPluginsOfTheNetworksOwnDirectoryCount(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "a"), 0o700); err != nil {
		t.Fatal(err)
	}
	write("a/10.conf", `{"type":"portmap","capabilities":{"portMappings":true}}`)
	write("10-a.conflist", `{"name":"a","plugins":[{"type":"bridge"}]}`)
	write("20-a.conflist", `{"name":"a","loadOnlyInlinedPlugins":true,"plugins":[{"type":"bridge"}]}`)
	for file, want := range map[string][]string{"10-a.conflist": {"bridge", "portmap"}, "20-a.conflist": {"bridge"}} {
		network, err := ReadNetwork(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, network.Types); diff != "" {
			t.Errorf("%s: %s", file, diff)
		}
	}
	write("a/20.conf", `{"type":"weir"}`)
	if _, err := ReadNetwork(filepath.Join(dir, "10-a.conflist")); !errors.Is(err, ErrMeta) {
		t.Errorf("%v", err)
	}
}

func TestFindPassesOverWhatCannotBeUsed(t *testing.T) {
	t.Parallel()
	n := newNode(t, map[string]string{
		"00-multus.conf": multus, "00-weir.conflist": `{"name":"w","plugins":[{"type":"weir"}]}`, "05-broken.json": "{",
		"06-flannel.conflist.bak": flannel, "07-empty.conf": "", "20-calico.conflist": calico, "30-flannel.conflist": flannel,
	})
	n.must(os.Mkdir(n.path("01-dir.conf"), 0o700))
	n.must(syscall.Mkfifo(n.path("02-pipe.conf"), 0o600))
	n.must(os.Symlink("nowhere", n.path("03-dangling.conf")))
	all, err := Find(n.ConfDir)
	n.must(err)
	var names []string
	for _, found := range all {
		names = append(names, filepath.Base(found.Path))
	}
	want := []string{"00-multus.conf", "00-weir.conflist", "02-pipe.conf", "03-dangling.conf", "05-broken.json", "07-empty.conf",
		"20-calico.conflist", "30-flannel.conflist"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	if got := Default(all); got == nil || got.Name != "k8s-pod-network" {
		t.Errorf("%+v", got)
	}
	if all, err := Find(n.path("none")); err != nil || Default(all) != nil {
		t.Errorf("%v %v", all, err)
	}
}

// FuzzReadNetwork: whatever a file holds, it is refused or makes an entry that a
// runtime reads.
func FuzzReadNetwork(f *testing.F) {
	for _, seed := range []string{flannel, calico, multus, "", "null", "[]", `{"plugins":[{}]}`, `{"name":"a","type":"x"}`,
		`{"name":"a","cniVersions":["1.0.0",2],"plugins":[{"type":"x","capabilities":{"a":1}}]}`} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte, isList bool) {
		path := filepath.Join(dir, "x.conf")
		if isList {
			path += "list"
		}
		network, err := parseNetwork(path, data)
		if err != nil {
			return
		}
		entry, err := EntryFor(network, "", map[string]any{"socket": "/s"}).Render()
		if err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		list, err := libcni.NetworkConfFromBytes(entry)
		if err != nil || len(list.Plugins) != 1 || list.Name != network.Name || list.CNIVersion == "" {
			t.Fatalf("%q becomes %s: %v", data, entry, err)
		}
		for _, c := range network.Capabilities {
			if !list.Plugins[0].Network.Capabilities[c] {
				t.Fatalf("%q: capability %q is lost", data, c)
			}
		}
	})
}
