// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/state"
)

const podArgsText = "IgnoreUnknown=1;K8S_POD_NAMESPACE=pods;K8S_POD_NAME=web;K8S_POD_UID=1"

func request(config, args string) *api.CNIRequest {
	return &api.CNIRequest{Command: "ADD", ContainerID: "c", Netns: "/n", IfName: "eth0", Args: args, Path: "/b:/a:/b", Config: []byte(config)}
}

// planned is what Add does before it touches anything.
func planned(t *testing.T, p *Plugin, req *api.CNIRequest) (*state.Record, error) {
	t.Helper()
	pod, err := PodOf(req.Args)
	if err != nil {
		return nil, err
	}
	record, err := p.plan(t.Context(), req, pod)
	if err != nil {
		return nil, aboutPod(pod, err)
	}
	return record, nil
}

func TestPlan(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{"10-named.conf": `{"name":"named","type":"x"}`})
	store := &cluster{
		networks: map[string]string{
			"kube-system/primary": `{"type":"p"}`,
			"kube-system/extra":   `{"type":"e"}`,
			"pods/lan":            `{"type":"macvlan"}`,
			"shop/san":            `{"type":"ipvlan"}`,
		},
		annotation: "lan, shop/san@data0, lan",
	}
	const annotated = "net1 pods/lan, data0 shop/san, net3 pods/lan"
	tests := []struct{ name, config, args, want string }{
		{"delegates", `{"delegates":[{"name":"d","type":"x"}]}`, podArgsText, "eth0 d, " + annotated},
		{"more delegates come first", `{"delegates":[{"name":"d","type":"x"},{"name":"e","type":"y"}]}`, podArgsText,
			"eth0 d, net1 e, net2 pods/lan, data0 shop/san, net4 pods/lan"},
		{"clusterNetwork is a NetworkAttachmentDefinition", `{"clusterNetwork":"primary"}`, podArgsText, "eth0 kube-system/primary, " + annotated},
		{"clusterNetwork is a name", `{"clusterNetwork":"named","confDir":"` + dir + `"}`, podArgsText, "eth0 named, " + annotated},
		{"clusterNetwork is a directory", `{"clusterNetwork":"` + dir + `"}`, podArgsText, "eth0 named, " + annotated},
		{"clusterNetwork is a file", `{"clusterNetwork":"` + filepath.Join(dir, "10-named.conf") + `"}`, podArgsText, "eth0 named, " + annotated},
		{"defaultNetworks", `{"clusterNetwork":"primary","defaultNetworks":["extra"]}`, podArgsText,
			"eth0 kube-system/primary, net1 kube-system/extra, net2 pods/lan, data0 shop/san, net4 pods/lan"},
		{"no defaultNetworks for a system namespace", `{"clusterNetwork":"primary","defaultNetworks":["extra"],"systemNamespaces":["pods"]}`,
			podArgsText, "eth0 kube-system/primary, " + annotated},
		{"a container of no pod", `{"delegates":[{"name":"d","type":"x"}]}`, "", "eth0 d"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := &Plugin{Networks: store, BinDir: "/agent"}
			record, err := planned(t, p, request(test.config, test.args))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for i, d := range record.Delegates {
				if d.Default != (i == 0) {
					t.Errorf("delegate %d: default %v", i, d.Default)
				}
				got = append(got, d.Interface+" "+d.Network)
			}
			if diff := cmp.Diff(test.want, strings.Join(got, ", ")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]string{"/agent", "/b", "/a"}, record.Path); diff != "" {
				t.Errorf("path (-want +got):\n%s", diff)
			}
			if record.Phase != state.Adding {
				t.Errorf("phase %s", record.Phase)
			}
		})
	}
}

// A pod may have a default network of its own (v1.multus-cni.io/default-network).
func TestPlanOwnDefaultNetwork(t *testing.T) {
	t.Parallel()
	networks := map[string]string{
		"kube-system/own": `{"type":"x","capabilities":{"ips":true,"mac":true}}`, "pods/own": `{"type":"y"}`, "pods/lan": `{"type":"x"}`,
	}
	const config = `{"delegates":[{"name":"d","type":"x"}],"runtimeConfig":{"portMappings":[1],"ips":["192.0.2.1"]}}`
	tests := []struct{ name, instead, annotation, want, says string }{
		{"none", "", "lan", `eth0 d map[ips:[192.0.2.1] portMappings:[1]], net1 pods/lan map[]`, ""},
		{"a name", "own", "lan", `eth0 kube-system/own map[ips:[192.0.2.1] portMappings:[1]], net1 pods/lan map[]`, ""},
		{"a name with a namespace", "pods/own", "", `eth0 pods/own map[ips:[192.0.2.1] portMappings:[1]]`, ""},
		{"a list with keys", `[{"name":"own","ips":["192.0.2.9"]}]`, "", `eth0 kube-system/own map[ips:[192.0.2.9] portMappings:[1]]`, ""},
		{"the runtime's interface", "own@eth0", "", `eth0 kube-system/own map[ips:[192.0.2.1] portMappings:[1]]`, ""},
		{"two", "own,pods/own", "", "", "v1.multus-cni.io/default-network: element 2"},
		{"another interface", "own@net0", "", "", "v1.multus-cni.io/default-network: element 1 (own): interface"},
		{"one that is not there", "nowhere", "", "", "kube-system/nowhere"},
		{"a key that is wrong", `[{"name":"own","mac":"x"}]`, "", "", "v1.multus-cni.io/default-network: element 1 (own): mac"},
		{"a capability that it lacks", `[{"name":"pods/own"}]`, "", "", "name"},
		{"two default routes", `[{"name":"own","default-route":[]}]`, `[{"name":"lan","default-route":["192.0.2.1"]}]`, "", "default-route"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := &Plugin{Networks: &cluster{networks: networks, annotation: test.annotation, instead: test.instead}}
			record, err := planned(t, p, request(config, podArgsText))
			if test.says != "" {
				if err == nil || !strings.Contains(err.Error(), test.says) || Error(err).Code != types.ErrInvalidNetworkConfig {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, d := range record.Delegates {
				got = append(got, fmt.Sprint(d.Interface, " ", d.Network, " ", d.RuntimeConfig))
			}
			if diff := cmp.Diff(test.want, strings.Join(got, ", ")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A static pod's image in the API has another UID than the runtime says.
func TestPlanStaticPod(t *testing.T) {
	t.Parallel()
	const config = `{"delegates":[{"name":"d","type":"x"}]}`
	p := &Plugin{Networks: &cluster{uid: "2", hash: "1"}}
	record, err := planned(t, p, request(config, podArgsText))
	if err != nil || record.Pod.UID != "2" {
		t.Errorf("%+v, %v", record, err)
	}
	p = &Plugin{Networks: &cluster{uid: "2", hash: "an older file's"}}
	if _, err := planned(t, p, request(config, podArgsText)); err == nil || Error(err).Code != types.ErrTryAgainLater {
		t.Errorf("error %v", err)
	}
}

// What is wrong is an error that names the pod, the network and the field.
func TestPlanRefuses(t *testing.T) {
	t.Parallel()
	const config = `{"delegates":[{"name":"d","type":"x"}]}`
	networks := map[string]string{"pods/lan": `{"type":"x"}`, "pods/broken": `{`, "shop/san": `{"type":"x"}`}
	tests := []struct {
		name, config, args, annotation, uid string
		code                                uint
		says                                []string
	}{
		{"CNI_ARGS", config, "K8S_POD_NAME", "", "", types.ErrInvalidEnvironmentVariables, []string{"CNI_ARGS"}},
		{"an unknown pod", config, "K8S_POD_NAMESPACE=pods;K8S_POD_NAME=nobody", "", "", types.ErrTryAgainLater, []string{"pods/nobody"}},
		{"another pod of that name", config, podArgsText, "", "2", types.ErrTryAgainLater, []string{"pods/web", "UID"}},
		{"an unknown network", config, podArgsText, "nowhere", "", types.ErrInvalidNetworkConfig, []string{"pods/web", "pods/nowhere"}},
		{"a broken network", config, podArgsText, "broken", "", types.ErrDecodingFailure, []string{"pods/web", "pods/broken", "spec.config"}},
		{"a bad annotation", config, podArgsText, `[{"name":"lan","mac":"x"}]`, "", types.ErrInvalidNetworkConfig, []string{"pods/web", "lan", "mac"}},
		{"a duplicate interface", config, podArgsText, "lan@a,lan@a", "", types.ErrInvalidNetworkConfig, []string{"pods/web", "pods/lan", "interface a"}},
		{"the default network's interface", config, podArgsText, "lan@eth0", "", types.ErrInvalidNetworkConfig, []string{"interface eth0", "network d"}},
		{"a name that is counted out too", config, podArgsText, "lan@net2,lan", "", types.ErrInvalidNetworkConfig, []string{"interface net2"}},
		{"isolation", `{"namespaceIsolation":true,"delegates":[{"name":"d","type":"x"}]}`, podArgsText, "shop/san", "", types.ErrInvalidNetworkConfig,
			[]string{"pods/web", "shop/san", "namespaceIsolation"}},
		{"two default routes", config, podArgsText, `[{"name":"lan","default-route":["192.0.2.1"]},{"name":"lan","default-route":[]}]`, "",
			types.ErrInvalidNetworkConfig, []string{"pods/web", "element 2 (lan)", "default-route", "element 1"}},
		{"a default route to nowhere", config, podArgsText, `[{"name":"lan","default-route":["0.0.0.0"]}]`, "", types.ErrInvalidNetworkConfig,
			[]string{"default-route", "0.0.0.0"}},
		{"no default network", `{"name":"weir"}`, podArgsText, "", "", types.ErrInvalidNetworkConfig, []string{"clusterNetwork", "delegates", "before it"}},
		{"a delegate without a type", `{"delegates":[{"name":"d"}]}`, podArgsText, "", "", types.ErrInvalidNetworkConfig, []string{"delegates[0]", "type"}},
		{"an unknown clusterNetwork", `{"clusterNetwork":"nowhere","confDir":"/nonexistent"}`, podArgsText, "", "", types.ErrInvalidNetworkConfig,
			[]string{"nowhere"}},
		{"a clusterNetwork that is no file", `{"clusterNetwork":"/nonexistent/x"}`, podArgsText, "", "", types.ErrInvalidNetworkConfig, []string{"/nonexistent/x"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := &Plugin{Networks: &cluster{networks: networks, annotation: test.annotation, uid: test.uid}}
			_, err := planned(t, p, request(test.config, test.args))
			if err == nil {
				t.Fatal("no error")
			}
			cniErr := Error(err)
			if cniErr.Code != test.code {
				t.Errorf("code %d, want %d: %v", cniErr.Code, test.code, err)
			}
			for _, want := range test.says {
				if !strings.Contains(cniErr.Msg, want) {
					t.Errorf("%q does not name %s", cniErr.Msg, want)
				}
			}
		})
	}
}

func TestErrorCodes(t *testing.T) {
	t.Parallel()
	delegated := types.NewError(11, "busy", "details")
	tests := []struct {
		name string
		err  error
		code uint
	}{
		{"a plain one", errors.New("x"), CodeFailed},
		{"one with a code", newError(7, errors.New("x")), 7},
		{"a delegate's that died without a word", fmt.Errorf("network a: %w", types.NewError(0, "netplugin failed", "")), CodeFailed},
		{"a delegate's that died, within one with a code", newError(8, types.NewError(0, "netplugin failed", "")), 8},
		{"a delegate's that was cut off", fmt.Errorf("%w: %w", context.DeadlineExceeded, types.NewError(0, "killed", "")), types.ErrTryAgainLater},
		{"a delegate's", fmt.Errorf("network a: %w", delegated), 11},
		{"a delegate's within one with a code", newError(7, delegated), 11},
		{"too late", fmt.Errorf("x: %w", context.DeadlineExceeded), types.ErrTryAgainLater},
		{"given up", fmt.Errorf("x: %w", context.Canceled), types.ErrTryAgainLater},
		{"of a store that is away", fmt.Errorf("x: %w", ErrAway), types.ErrTryAgainLater},
		{"joined", errors.Join(newError(8, errors.New("x")), errors.New("undoing: y")), 8},
	}
	for _, test := range tests {
		got := Error(test.err)
		// The details of a delegate are in its text.
		if got.Code != test.code || got.Msg != test.err.Error() || got.Details != "" {
			t.Errorf("%s: %+v", test.name, got)
		}
	}
}

func TestPodOf(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, args string
		want       attachment.Pod
		refused    bool
	}{
		{"none", "", attachment.Pod{}, false},
		{"all", podArgsText, attachment.Pod{Namespace: "pods", Name: "web", UID: "1"}, false},
		{"unknown ones", "FOO=1;K8S_POD_NAMESPACE=pods;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=c", attachment.Pod{Namespace: "pods", Name: "web"}, false},
		{"no value", "K8S_POD_NAME", attachment.Pod{}, true},
		{"two values", "K8S_POD_NAME=a=b", attachment.Pod{}, true},
		{"not a boolean", "IgnoreUnknown=perhaps", attachment.Pod{}, true},
	}
	for _, test := range tests {
		got, err := PodOf(test.args)
		if (err != nil) != test.refused || got != test.want {
			t.Errorf("%s: %+v, %v", test.name, got, err)
		}
		if err != nil && Error(err).Code != types.ErrInvalidEnvironmentVariables {
			t.Errorf("%s: code %d", test.name, Error(err).Code)
		}
	}
}

func TestSearchPath(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, config, agent, runtime string
		want                         []string
	}{
		{"in order", "/c", "/a", "/r:/s", []string{"/c", "/a", "/r", "/s"}},
		{"each once", "/c", "/c", "/r:/c:/r", []string{"/c", "/r"}},
		{"empty ones left out", "", "/a", ":/r::", []string{"/a", "/r"}},
		{"none", "", "", "", nil},
	}
	for _, test := range tests {
		p := &Plugin{BinDir: test.agent}
		if diff := cmp.Diff(test.want, p.searchPath(&Config{BinDir: test.config}, test.runtime)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// What the runtime itself got wrong is refused before anything is looked at.
func TestCheckRequest(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, containerID, ifname, says string }{
		{"good", "c0ffee", "eth0", ""},
		{"no container", "", "eth0", "CNI_CONTAINERID"},
		{"a path for a container", "../c", "eth0", "CNI_CONTAINERID"},
		{"no interface", "c0ffee", "", "CNI_IFNAME"},
		{"a long interface", "c0ffee", "abcdefghijklmnop", "CNI_IFNAME"},
	}
	for _, test := range tests {
		err := checkRequest(&api.CNIRequest{ContainerID: test.containerID, IfName: test.ifname})
		switch {
		case test.says == "" && err != nil:
			t.Errorf("%s: %v", test.name, err)
		case test.says != "" && (err == nil || Error(err).Code != types.ErrInvalidEnvironmentVariables || !strings.Contains(err.Error(), test.says)):
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
