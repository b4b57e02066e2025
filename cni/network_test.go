// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/state"
)

// cluster is a store with fixed content: networks by namespace/name, and the
// annotation of the pod pods/web.
type cluster struct {
	networks   map[string]string
	annotation string
	instead    string // v1.multus-cni.io/default-network
	hash       string // kubernetes.io/config.hash
	uid        string
}

func (c *cluster) Pod(_ context.Context, wanted attachment.Pod) (*corev1.Pod, error) {
	if wanted.Namespace != "pods" || wanted.Name != "web" {
		return nil, fmt.Errorf("pod %s: %w", wanted, ErrNotFound)
	}
	pod := &corev1.Pod{}
	pod.UID = "1"
	if c.uid != "" {
		pod.UID = "2"
	}
	pod.Annotations = map[string]string{
		nadv1.NetworkAttachmentAnnot: c.annotation, defaultNetworkAnnotation: c.instead, staticHash: c.hash,
	}
	return pod, nil
}

func (c *cluster) Network(_ context.Context, namespace, name string) (*nadv1.NetworkAttachmentDefinition, error) {
	config, ok := c.networks[namespace+"/"+name]
	if !ok {
		return nil, fmt.Errorf("network %s/%s: %w", namespace, name, ErrNotFound)
	}
	object := &nadv1.NetworkAttachmentDefinition{}
	object.Name, object.Namespace, object.Spec.Config = name, namespace, config
	return object, nil
}

func (c *cluster) SetNetworkStatus(context.Context, attachment.Pod, []NetworkStatus) error {
	return nil
}

func write(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestParseConfig(t *testing.T) {
	t.Parallel()
	c, err := ParseConfig([]byte(`{"cniVersion":"1.0.0","name":"weir","type":"weir","clusterNetwork":"x","kubeconfig":"/k","logLevel":"debug"}`))
	if err != nil {
		t.Fatal(err)
	}
	if c.MultusNamespace != "kube-system" || c.GlobalNamespaces != "default" || c.ConfDir != "/etc/cni/multus/net.d" {
		t.Errorf("defaults: %+v", c)
	}
	tests := map[string]struct {
		config string
		code   uint
	}{
		"not JSON": {"{", types.ErrDecodingFailure},
		"a list":   {"[]", types.ErrDecodingFailure},
		"mistyped": {`{"delegates":7}`, types.ErrDecodingFailure},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseConfig([]byte(test.config))
			if err == nil || Error(err).Code != test.code {
				t.Errorf("error %v, want code %d", err, test.code)
			}
		})
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"clusterNetwork":"x","delegates":[{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := ParseConfig(data); (c == nil) == (err == nil) {
			t.Errorf("%v, %v", c, err)
		}
	})
}

func TestNamespaceIsolation(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		isolated bool
		global   string
		network  string
		want     bool
	}{
		{"off", false, "", "other", true},
		{"its own", true, "", "pods", true},
		{"another", true, "default", "other", false},
		{"the default one", true, "default", "default", true},
		{"a list", true, "a, other ,b", "other", true},
		{"a list replaces the default", true, "other", "default", false},
	}
	for _, test := range tests {
		c := &Config{NamespaceIsolation: test.isolated, GlobalNamespaces: test.global}
		if got := c.mayUse("pods", test.network); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}

func TestConfigOfANetwork(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{
		"10-a.conf":     `{"name":"files","type":"one"}`,
		"20-b.conflist": `{"name":"files","plugins":[{"type":"list"}]}`,
	})
	tests := []struct {
		name, config, want string
	}{
		{"named", `{"name":"mine","type":"x"}`, `{"name":"mine","type":"x"}`},
		{"unnamed", `{"type":"x"}`, `{"name":"files","type":"x"}`},
		{"an empty name", `{"name":"","type":"x"}`, `{"name":"files","type":"x"}`},
		{"empty: the list goes before the single file", " \n", `{"name":"files","plugins":[{"type":"list"}]}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			object := &nadv1.NetworkAttachmentDefinition{}
			object.Name, object.Spec.Config = "files", test.config
			got, err := configOf(object, dir)
			if err != nil || string(got) != test.want {
				t.Errorf("%s, %v; want %s", got, err, test.want)
			}
		})
	}
}

func TestConfigOfANetworkRefuses(t *testing.T) {
	t.Parallel()
	for _, config := range []string{"{", "[]", "null", "7", `"lan"`, "lan"} {
		object := &nadv1.NetworkAttachmentDefinition{}
		object.Name, object.Spec.Config = "files", config
		_, err := configOf(object, t.TempDir())
		if err == nil || Error(err).Code != types.ErrDecodingFailure || !strings.Contains(err.Error(), "spec.config") {
			t.Errorf("%s: %v", config, err)
		}
	}
	object := &nadv1.NetworkAttachmentDefinition{}
	object.Name = "files"
	if _, err := configOf(object, t.TempDir()); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "files") {
		t.Errorf("neither a config nor a file: %v", err)
	}
}

func TestNamedDelegateRefuses(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	garbage := write(t, t.TempDir(), map[string]string{"10-x.conf": "garbage"})
	conf := write(t, t.TempDir(), map[string]string{"a.conf": `{"name":"a","type":"x"}`})
	store := &cluster{networks: map[string]string{"kube-system/broken": "null", "kube-system/a": "{"}}
	tests := []struct {
		name, network, confDir, says string
		is                           error
	}{
		{"nowhere", "nowhere", conf, `"nowhere"`, fs.ErrNotExist},
		{"no configuration directory", "nowhere", filepath.Join(empty, "none"), `"nowhere"`, fs.ErrNotExist},
		{"an empty directory", empty, conf, empty, fs.ErrNotExist},
		{"a directory of garbage", garbage, conf, "10-x.conf", nil},
		{"a file that is not there", filepath.Join(empty, "none.conf"), conf, "none.conf", fs.ErrNotExist},
		{"a broken NetworkAttachmentDefinition", "broken", conf, "spec.config", nil},
		{"a file does not stand in for a broken object", "a", conf, "spec.config", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := &Plugin{Networks: store}
			_, err := p.namedDelegate(t.Context(), &Config{MultusNamespace: "kube-system", ConfDir: test.confDir}, test.network)
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Fatalf("error %v, want one that says %s", err, test.says)
			}
			if test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("error %v is not %v", err, test.is)
			}
		})
	}
}

// unreachable is a store that cannot be asked.
type unreachable struct{ cluster }

var errUnreachable = errors.New("connection refused")

func (*unreachable) Network(context.Context, string, string) (*nadv1.NetworkAttachmentDefinition, error) {
	return nil, errUnreachable
}

// A store that cannot say whether it has a network must not be taken to have none:
// a file of that name is another network.
func TestNamedDelegateOfAnUnreachableStore(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{"a.conf": `{"name":"a","type":"x"}`})
	p := &Plugin{Networks: &unreachable{}}
	if d, err := p.namedDelegate(t.Context(), &Config{ConfDir: dir}, "a"); !errors.Is(err, errUnreachable) {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestFileDelegateOfADirectoryIsItsFirstFile(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{
		"20-b.conf": `{"name":"b","type":"x"}`, "10-a.conflist": `{"name":"a","plugins":[{"type":"x"}]}`, "00-readme.txt": "none",
	})
	d, err := fileDelegate(dir)
	if err != nil || d.Network != "a" {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestConfigByNameRefuses(t *testing.T) {
	t.Parallel()
	if _, err := configByName(write(t, t.TempDir(), map[string]string{"a.conf": `{"name":"a","type":"x"}`}), "b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such name: %v", err)
	}
	_, err := configByName(write(t, t.TempDir(), map[string]string{"a.conf": "garbage"}), "b")
	if err == nil || !strings.Contains(err.Error(), "a.conf") {
		t.Errorf("a broken file: %v", err)
	}
}

func TestParseNetwork(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, config, wantType, says string }{
		{"single", `{"cniVersion":"0.3.1","name":"a","type":"x","extra":{"keep":1}}`, "x", ""},
		{"list", `{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"x"},{"type":"y"}]}`, "x", ""},
		{"not JSON", `{`, "", "not JSON"},
		{"no type", `{"name":"a"}`, "", "type"},
		{"a list without a name", `{"plugins":[{"type":"x"}]}`, "", "name"},
		{"a plugin without a type", `{"name":"a","plugins":[{}]}`, "", "type"},
		{"a plugin that is null", `{"name":"a","plugins":[null]}`, "", "type"},
		{"a plugin that is a list", `{"name":"a","plugins":[[]]}`, "", "array"},
		{"an empty list of plugins", `{"name":"a","plugins":[]}`, "", "type"},
		{"an empty list of plugins and a type", `{"name":"a","type":"x","plugins":[]}`, "x", ""},
		{"plugins in capitals", `{"name":"a","Plugins":[{"type":"x"}]}`, "", "plugins"},
		{"null", `null`, "", "type"},
		{"a list", `[]`, "", "not JSON"},
		{"a type that is a number", `{"name":"a","type":7}`, "", "type"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			list, err := parseNetwork([]byte(test.config))
			if test.says != "" {
				if err == nil || !strings.Contains(err.Error(), test.says) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := list.Plugins[0].Network.Type; got != test.wantType {
				t.Errorf("type %s", got)
			}
		})
	}
}

func FuzzParseNetwork(f *testing.F) {
	f.Add([]byte(`{"name":"a","type":"x"}`))
	f.Add([]byte(`{"name":"a","plugins":[{"type":"x"}]}`))
	f.Add([]byte(`{"name":"a","Plugins":[{"type":"x"}]}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := parseNetwork(data)
		if err != nil {
			return
		}
		if len(list.Plugins) == 0 {
			t.Fatalf("%q has no plugin and no error", data)
		}
		_, _ = optionsOf(list)
		p := &Plugin{}
		record := &state.Record{Delegates: []state.Delegate{{Config: data}}}
		if _, err := p.delegateOf(record, 0); err == nil && list.Plugins[0].Network.Type == "" {
			t.Errorf("%q is a delegate without a type", data)
		}
		object := &nadv1.NetworkAttachmentDefinition{}
		object.Name, object.Spec.Config = "n", string(data)
		config, err := configOf(object, "/nonexistent")
		if err != nil {
			t.Fatalf("%q is a network, but not that of an object: %v", data, err)
		}
		if _, err := mergeCNIArgs(config, map[string]any{"k": "v"}); err != nil {
			t.Errorf("%q: %v", config, err)
		}
	})
}

func TestMergeCNIArgs(t *testing.T) {
	t.Parallel()
	pod := map[string]any{"a": "pod", "b": "pod"}
	tests := []struct{ name, config, want string }{
		{"none before", `{"type":"x"}`, `{"type":"x","args":{"cni":{"a":"pod","b":"pod"}}}`},
		{"the pod's go first", `{"type":"x","args":{"cni":{"a":"net","c":"net"},"other":1}}`,
			`{"type":"x","args":{"cni":{"a":"pod","b":"pod","c":"net"},"other":1}}`},
		{"every plugin of a list", `{"plugins":[{"type":"x"},{"type":"y"}]}`,
			`{"plugins":[{"type":"x","args":{"cni":{"a":"pod","b":"pod"}}},{"type":"y","args":{"cni":{"a":"pod","b":"pod"}}}]}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			merged, err := mergeCNIArgs([]byte(test.config), pod)
			if err != nil {
				t.Fatal(err)
			}
			var got, want any
			if err := errors.Join(json.Unmarshal(merged, &got), json.Unmarshal([]byte(test.want), &want)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestMergeCNIArgsRefuses(t *testing.T) {
	t.Parallel()
	for _, config := range []string{"", "{", "[]", "7"} {
		if merged, err := mergeCNIArgs(json.RawMessage(config), map[string]any{"a": 1}); err == nil {
			t.Errorf("%q: %s", config, merged)
		}
	}
}

func TestCapabilities(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		of   Selection
		want map[string]any
	}{
		{"none", Selection{Name: "a", InterfaceRequest: "net7"}, map[string]any{}},
		{"all", Selection{
			IPRequest: []string{"192.0.2.1/24"}, MacRequest: "02:00:00:00:00:01", InfinibandGUIDRequest: "guid", DeviceID: "0000:00:05.0",
			PortMappingsRequest: []*nadv1.PortMapEntry{{HostPort: 1}}, BandwidthRequest: &nadv1.BandwidthEntry{EgressRate: 1},
		}, map[string]any{
			"ips": []string{"192.0.2.1/24"}, "mac": "02:00:00:00:00:01", "infinibandGUID": "guid", "deviceID": "0000:00:05.0",
			"portMappings": []*nadv1.PortMapEntry{{HostPort: 1}}, "bandwidth": &nadv1.BandwidthEntry{EgressRate: 1},
		}},
	}
	for _, test := range tests {
		if diff := cmp.Diff(test.want, capabilities(&test.of)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestApplySelection(t *testing.T) {
	t.Parallel()
	d := &state.Delegate{Config: json.RawMessage(`{"name":"a","type":"x","capabilities":{"ips":true,"mac":true}}`)}
	s := &Selection{Name: "a", IPRequest: []string{"192.0.2.1/24", "2001:db8::1/64"}, MacRequest: "02:00:00:00:00:01"}
	if err := applySelection(d, s); err != nil {
		t.Fatal(err)
	}
	want := [][2]string{{"IP", "192.0.2.1/24,2001:db8::1/64"}, {"MAC", "02:00:00:00:00:01"}}
	if diff := cmp.Diff(want, d.Args); diff != "" {
		t.Errorf("CNI_ARGS (-want +got):\n%s", diff)
	}
	if len(d.RuntimeConfig) != 2 {
		t.Errorf("capabilities %v", d.RuntimeConfig)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, config, want, says string }{
		{"none", `{"name":"a","type":"x"}`, enforcementRequired, ""},
		{"best effort", `{"name":"a","type":"x","weir":{"enforcement":"bestEffort"}}`, enforcementBestEffort, ""},
		{"of a list", `{"name":"a","weir":{"enforcement":"bestEffort"},"plugins":[{"type":"x"}]}`, enforcementBestEffort, ""},
		{"unknown", `{"name":"a","type":"x","weir":{"enforcement":"never"}}`, "", "weir.enforcement"},
		{"mistyped", `{"name":"a","type":"x","weir":7}`, "", "weir"},
		{"leave", `{"name":"a","type":"x","weir":{"allow":["dhcp-server","router","source-routing","other-ethertypes"]}}`, enforcementRequired, ""},
		{"storm limits", `{"name":"a","type":"x","weir":{"stormLimit":{"broadcast":0,"multicast":5000,"unknownUnicast":100000000}}}`, enforcementRequired, ""},
		{"a storm limit that is too great", `{"name":"a","type":"x","weir":{"stormLimit":{"multicast":100000001}}}`, "", "weir.stormLimit: unusable storm limit: 100000001 packets a second of multicast are more than 100000000"},
		{"isolated", `{"name":"a","type":"x","weir":{"isolation":"isolated"}}`, enforcementRequired, ""},
		{"a community of a segment", `{"name":"a","type":"x","weir":{"isolation":{"community":"red"},"segment":"lan-7"}}`, enforcementRequired, ""},
		{"promiscuous in a segment", `{"name":"a","type":"x","weir":{"isolation":"promiscuous","segment":"lan-7"}}`, enforcementRequired, ""},
		{"an unknown isolation", `{"name":"a","type":"x","weir":{"isolation":"lonely"}}`, "", `weir: "lonely": invalid: want none, isolated, promiscuous or a community`},
		{"a community without a name", `{"name":"a","type":"x","weir":{"isolation":"community"}}`, "", `weir: invalid: a community has a name`},
		{"a community with a bad name", `{"name":"a","type":"x","weir":{"isolation":{"community":"a b"}}}`, "", `weir: community "a b": invalid: want 1 to 63 letters`},
		{"a community of no name", `{"name":"a","type":"x","weir":{"isolation":{"community":""}}}`, "", `weir: community "": invalid`},
		{"another shape of isolation", `{"name":"a","type":"x","weir":{"isolation":7}}`, "", `weir: invalid: want "none"`},
		{"a segment alone", `{"name":"a","type":"x","weir":{"segment":"lan-7"}}`, "", "weir.segment: a segment is of members"},
		{"a segment with a network's name", `{"name":"a","type":"x","weir":{"isolation":"isolated","segment":"default/lan"}}`, "", `weir.segment: "default/lan": invalid`},
		{"a storm limit below none", `{"name":"a","type":"x","weir":{"stormLimit":{"multicast":-1}}}`, "", "weir: json: cannot unmarshal number -1"},
		{"sources", `{"name":"a","type":"x","weir":{"sources":["198.51.100.0/24","2001:db8:1::/48"]}}`, enforcementRequired, ""},
		{"sources with host bits", `{"name":"a","type":"x","weir":{"sources":["198.51.100.1/24"]}}`, "", "weir.sources: 198.51.100.1/24 has host bits: want 198.51.100.0/24"},
		{"sources that are none", `{"name":"a","type":"x","weir":{"sources":["224.0.0.0/4"]}}`, "", "weir.sources: 224.0.0.0/4 is no source"},
		{"sources that are no prefixes", `{"name":"a","type":"x","weir":{"sources":["lan"]}}`, "", "weir: netip.ParsePrefix"},
		{"sources in another form", `{"name":"a","type":"x","weir":{"sources":["::ffff:192.0.2.0/120"]}}`, "", "is an IPv4 address in IPv6's form"},
		{"too many sources", `{"name":"a","type":"x","weir":{"sources":["1.0.0.0/8","2.0.0.0/8","3.0.0.0/8","4.0.0.0/8","5.0.0.0/8","6.0.0.0/8","7.0.0.0/8","8.0.0.0/8","9.0.0.0/8"]}}`, "", "weir.sources: 9 prefixes, want 8 at most"},
		{"leave for what is not known", `{"name":"a","type":"x","weir":{"allow":["everything"]}}`, "", `weir.allow: "everything" is none of`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			list, err := parseNetwork([]byte(test.config))
			if err != nil {
				t.Fatal(err)
			}
			got, err := optionsOf(list)
			if test.says != "" {
				if err == nil || !strings.Contains(err.Error(), test.says) || Error(err).Code != types.ErrInvalidNetworkConfig {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil || got.Enforcement != test.want {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestCheckCapabilities(t *testing.T) {
	t.Parallel()
	const declaring = `{"name":"a","plugins":[{"type":"x"},{"type":"portmap","capabilities":{"portMappings":true,"mac":false}}]}`
	tests := []struct {
		name, config, capability string
		refused                  bool
	}{
		{"of a native type", `{"name":"a","type":"macvlan"}`, "mac", false},
		{"of a native type, first of a list", `{"name":"a","plugins":[{"type":"ipvlan"},{"type":"x"}]}`, "ips", false},
		{"that a native type lacks", `{"name":"a","type":"macvlan"}`, "portMappings", true},
		{"that a native type lacks and the plugin behind it has", `{"name":"a","plugins":[{"type":"macvlan"},{"type":"portmap","capabilities":{"portMappings":true}}]}`, "portMappings", false},
		{"declared", declaring, "portMappings", false},
		{"declared as not there", declaring, "mac", true},
		{"of none", declaring, "ips", true},
		{"the guard's own", `{"name":"a","type":"x"}`, "bandwidth", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := &state.Delegate{Config: json.RawMessage(test.config), RuntimeConfig: map[string]any{test.capability: 1}}
			err := checkCapabilities(d)
			if (err != nil) != test.refused || err != nil && !strings.Contains(err.Error(), test.capability) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestRuntimeConfigOfNativeTypes(t *testing.T) {
	t.Parallel()
	list, err := parseNetwork([]byte(`{"name":"a","type":"macvlan"}`))
	if err != nil {
		t.Fatal(err)
	}
	j := job{list: list, stored: &state.Delegate{RuntimeConfig: map[string]any{"mac": "02:00:00:00:00:01", "dns": map[string]any{}}}}
	config, err := j.withRuntimeConfig([]string{"mac"})
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		RuntimeConfig map[string]any
	}
	if err := json.Unmarshal(config, &got); err != nil || len(got.RuntimeConfig) != 1 || got.RuntimeConfig["mac"] == "" {
		t.Errorf("%s, %v", config, err)
	}
}
