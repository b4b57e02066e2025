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
	uid        string
}

func (c *cluster) Pod(_ context.Context, namespace, name string) (*corev1.Pod, error) {
	if namespace != "pods" || name != "web" {
		return nil, fmt.Errorf("pod %s/%s: %w", namespace, name, ErrNotFound)
	}
	pod := &corev1.Pod{}
	pod.UID = "1"
	if c.uid != "" {
		pod.UID = "2"
	}
	pod.Annotations = map[string]string{nadv1.NetworkAttachmentAnnot: c.annotation}
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

func (c *cluster) SetNetworkStatus(context.Context, attachment.Pod, []nadv1.NetworkStatus) error {
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
		"not JSON":           {"{", types.ErrDecodingFailure},
		"a list":             {"[]", types.ErrDecodingFailure},
		"no default network": {`{"name":"weir"}`, types.ErrInvalidNetworkConfig},
		"mistyped":           {`{"delegates":7}`, types.ErrDecodingFailure},
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
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := parseNetwork(data)
		if err != nil {
			return
		}
		if len(list.Plugins) == 0 {
			t.Fatalf("%q has no plugin and no error", data)
		}
		_, _ = optionsOf(list)
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

func TestApplySelection(t *testing.T) {
	t.Parallel()
	d := &state.Delegate{Config: json.RawMessage(`{"type":"x"}`)}
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
	refused := map[string]string{
		`{"name":"a","default-route":["192.0.2.1"]}`: "default-route",
		`{"name":"a","default-route":[]}`:            "default-route",
		`{"name":"a","ipam-claim-reference":"c"}`:    "ipam-claim-reference",
	}
	for text, key := range refused {
		var s Selection
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			t.Fatal(err)
		}
		if err := applySelection(d, &s); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", text, err)
		}
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
