// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/weir-cni/weir/state"
)

func writeFiles(t *testing.T, files map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// typesOf are the types of a network's plugins in order.
func typesOf(t *testing.T, d *state.Delegate) []string {
	t.Helper()
	list, err := parseNetwork(d.Config)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, plugin := range list.Plugins {
		all = append(all, plugin.Network.Type)
	}
	return all
}

func TestSubdirectory(t *testing.T) {
	t.Parallel()
	const list = `{"cniVersion":"1.1.0","name":"cluster","plugins":[{"type":"bridge"}]}`
	tests := []struct {
		name  string
		file  string // what clusterNetwork names
		files map[string]string
		want  []string
		says  string
	}{
		{name: "none", file: "a.conflist", files: map[string]string{"a.conflist": list}, want: []string{"bridge"}},
		{
			name: "in the order of the files", file: "a.conflist",
			files: map[string]string{
				"a.conflist": list, "cluster/20-b.conf": `{"type":"tuning"}`, "cluster/10-a.conf": `{"type":"portmap"}`,
				"cluster/README": "", "other/30-c.conf": `{"type":"sbr"}`,
			},
			want: []string{"bridge", "portmap", "tuning"},
		},
		{
			name: "the list itself has none", file: "a.conflist",
			files: map[string]string{"a.conflist": `{"cniVersion":"1.1.0","name":"cluster"}`, "cluster/10-a.conf": `{"type":"bridge"}`},
			want:  []string{"bridge"},
		},
		{
			name: "not wanted", file: "a.conflist",
			files: map[string]string{
				"a.conflist":        `{"cniVersion":"1.1.0","name":"cluster","loadOnlyInlinedPlugins":true,"plugins":[{"type":"bridge"}]}`,
				"cluster/10-a.conf": `{"type":"portmap"}`,
			},
			want: []string{"bridge"},
		},
		{
			name: "a single configuration", file: "a.conf",
			files: map[string]string{"a.conf": `{"cniVersion":"1.1.0","name":"cluster","type":"bridge"}`, "cluster/10-a.conf": `{"type":"portmap"}`},
			want:  []string{"bridge"},
		},
		{
			name: "the first list of a directory", file: ".",
			files: map[string]string{"a.conflist": list, "b.conflist": `{`, "cluster/10-a.conf": `{"type":"portmap"}`},
			want:  []string{"bridge", "portmap"},
		},
		{
			name: "a name that leads elsewhere", file: "x/a.conflist",
			files: map[string]string{
				"x/a.conflist": `{"cniVersion":"1.1.0","name":"../cluster","plugins":[{"type":"bridge"}]}`, "cluster/10-a.conf": `{"type":"portmap"}`,
			},
			want: []string{"bridge"},
		},
		{
			name: "a broken one", file: "a.conflist", files: map[string]string{"a.conflist": list, "cluster/10-a.conf": `{"type":`},
			says: "a.conflist: error parsing configuration",
		},
		{
			name: "none at all", file: "a.conflist", files: map[string]string{"a.conflist": `{"cniVersion":"1.1.0","name":"cluster"}`},
			says: "type: missing",
		},
		{name: "a broken list", file: "a.conflist", files: map[string]string{"a.conflist": `{"name":7}`}, says: "invalid name type"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d, err := fileDelegate(filepath.Join(writeFiles(t, test.files), test.file))
			if test.says != "" {
				if err == nil || !strings.Contains(err.Error(), test.says) {
					t.Errorf("error %v, want %q", err, test.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, typesOf(t, d)); diff != "" {
				t.Errorf("plugins (-want +got):\n%s", diff)
			}
		})
	}
}

// What a plugin's configuration says stays to the letter, numbers too.
func TestSubdirectoryKeepsConfigurations(t *testing.T) {
	t.Parallel()
	dir := writeFiles(t, map[string]string{
		"a.conflist":      `{"cniVersion":"1.1.0","name":"c","plugins":[{"type":"bridge","big":12345678901234567890}],"disableCheck":true}`,
		"c/10-other.conf": `{"type":"other","kubeconfig":"/k","big":12345678901234567890}`,
	})
	d, err := fileDelegate(dir + "/a.conflist")
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"cniVersion":"1.1.0","disableCheck":true,"name":"c","plugins":[{"type":"bridge","big":12345678901234567890},` +
		`{"type":"other","kubeconfig":"/k","big":12345678901234567890}]}`
	if string(d.Config) != want {
		t.Errorf("configuration\n%s, want\n%s", d.Config, want)
	}
}

func TestAuxiliaryDelegate(t *testing.T) {
	t.Parallel()
	const list = `{"cniVersion":"1.0.0","name":"cluster","plugins":[{"type":"bridge"}]}`
	files := map[string]string{"a.conflist": list, "aux/20-b.conf": `{"type":"sbr"}`, "aux/10-a.conf": `{"type":"tuning"}`, "empty/README": ""}
	tests := []struct {
		name, file, chain string
		more              map[string]string
		want              []string
		says              string
	}{
		{name: "not wanted", file: "/a.conflist"},
		{name: "in the order of the files", file: "/a.conflist", chain: "aux", want: []string{"tuning", "sbr"}},
		{name: "beside the first file of a directory", file: "/", chain: "aux", want: []string{"tuning", "sbr"}},
		{name: "no plugins", file: "/a.conflist", chain: "empty"},
		{name: "no directory", file: "/a.conflist", chain: "nowhere"},
		{name: "no path", file: "", chain: "aux", says: `auxiliaryCNIChainName: clusterNetwork is "", and not the path`},
		{name: "a name that leads elsewhere", file: "/a.conflist", chain: "../aux", says: "auxiliaryCNIChainName: "},
		{name: "a broken one", file: "/a.conflist", chain: "bad", more: map[string]string{"bad/1.conf": `{`}, says: "auxiliaryCNIChainName: "},
		{name: "one of no type", file: "/a.conflist", chain: "bad", more: map[string]string{"bad/1.conf": `{}`}, says: "auxiliaryCNIChainName: "},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			all := map[string]string{}
			for _, some := range []map[string]string{files, test.more} {
				for name, text := range some {
					all[name] = text
				}
			}
			config := &Config{AuxiliaryCNIChainName: test.chain, PluginConf: types.PluginConf{CNIVersion: "1.0.0"}}
			if test.file != "" {
				config.ClusterNetwork = writeFiles(t, all) + test.file
			}
			d, err := auxiliaryDelegate(config)
			if test.says != "" {
				if err == nil {
					t.Fatalf("no error, want %q", test.says)
				}
				wantError(t, err, test.says, types.ErrInvalidNetworkConfig)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d == nil {
				if test.want != nil {
					t.Error("there is no chain")
				}
				return
			}
			if diff := cmp.Diff(test.want, typesOf(t, d)); diff != "" || !d.Auxiliary || d.Network != test.chain {
				t.Errorf("delegate %+v, plugins (-want +got):\n%s", d, diff)
			}
		})
	}
}

// A chain that made no interface is nothing to the pod's users.
func TestAuxiliaryStatus(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, result string
		want         []string // interfaces
	}{
		{"nothing", `{"cniVersion":"1.0.0"}`, []string{"eth0"}},
		{"an interface", `{"cniVersion":"1.0.0","interfaces":[{"name":"net1","sandbox":"/n"}]}`, []string{"eth0", "net1"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			record := &state.Record{Delegates: []state.Delegate{
				{Network: "cluster", Interface: "eth0", Default: true, Result: json.RawMessage(`{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/n"}]}`)},
				{Network: "aux", Interface: "net1", Auxiliary: true, Result: json.RawMessage(test.result)},
			}}
			status, err := (&Plugin{}).NetworkStatus(record)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range status {
				got = append(got, s.Interface)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("interfaces (-want +got):\n%s", diff)
			}
		})
	}
}
