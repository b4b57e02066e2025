// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/devices"
	"github.com/weir-cni/weir/state"
)

// given is what a kubelet says; each answer is the caller's own.
type given struct {
	ids   devices.IDs
	err   error
	asked int
}

func (g *given) Devices(context.Context, *corev1.Pod) (devices.IDs, error) {
	g.asked++
	ids := devices.IDs{}
	for resource, all := range g.ids {
		ids[resource] = append([]string(nil), all...)
	}
	return ids, g.err
}

const vf = "example.com/vf"

func sriov(name, ifname, resource string) state.Delegate {
	return state.Delegate{
		Network: "pods/" + name, Interface: ifname, Resource: resource,
		Config: json.RawMessage(`{"cniVersion":"1.0.0","name":"` + name + `","type":"sriov"}`),
	}
}

func TestAllocate(t *testing.T) {
	t.Parallel()
	held := sriov("held", "net1", vf)
	held.DeviceID = "0000:01:00.0"
	tests := []struct {
		name     string
		networks []state.Delegate
		others   []state.Delegate
		given    *given
		want     []string // device IDs
		says     string
		code     uint
	}{
		{name: "none is needed", networks: []state.Delegate{sriov("lan", "net1", "")}, given: &given{}, want: []string{""}},
		{name: "no kubelet, none is needed", networks: []state.Delegate{sriov("lan", "net1", "")}, want: []string{""}},
		{
			name: "in the order of the networks", given: &given{ids: devices.IDs{vf: {"0000:01:00.1", "0000:01:00.0"}, "example.com/other": {"9"}}},
			networks: []state.Delegate{sriov("a", "net1", vf), sriov("b", "net2", ""), sriov("c", "net3", "example.com/other"), sriov("a", "net4", vf)},
			want:     []string{"0000:01:00.1", "", "9", "0000:01:00.0"},
		},
		{
			name: "what another network holds is not given again", given: &given{ids: devices.IDs{vf: {"0000:01:00.0", "0000:01:00.1"}}},
			networks: []state.Delegate{sriov("a", "net2", vf)}, others: []state.Delegate{held},
			want: []string{"0000:01:00.1"},
		},
		{
			name: "too few", given: &given{ids: devices.IDs{vf: {"0000:01:00.0"}}},
			networks: []state.Delegate{sriov("a", "net1", vf), sriov("b", "net2", vf)},
			says:     `network pods/b (net2): k8s.v1.cni.cncf.io/resourceName "example.com/vf": the pod was given no device of it that is not another network's already`,
			code:     types.ErrInvalidNetworkConfig,
		},
		{
			name: "no kubelet", networks: []state.Delegate{sriov("a", "net1", vf)},
			says: `network pods/a: k8s.v1.cni.cncf.io/resourceName "example.com/vf": this agent knows of no kubelet`, code: types.ErrInvalidNetworkConfig,
		},
		{
			name: "a kubelet that does not answer", networks: []state.Delegate{sriov("a", "net1", vf)}, given: &given{err: errors.New("no answer")},
			says: "finding the devices of the pod: no answer", code: types.ErrTryAgainLater,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := &Plugin{DeviceInfo: devices.Info{Dir: t.TempDir()}}
			if test.given != nil {
				p.Devices = test.given
			}
			err := p.allocate(t.Context(), &corev1.Pod{}, "abc", test.networks, test.others)
			if test.says != "" {
				wantError(t, err, test.says, test.code)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for i := range test.networks {
				got = append(got, test.networks[i].DeviceID)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("devices (-want +got):\n%s", diff)
			}
		})
	}
}

func wantError(t *testing.T, err error, says string, code uint) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), says) {
		t.Fatalf("error %v, want %q", err, says)
	}
	if got := Error(err).Code; got != code {
		t.Errorf("code %d, want %d", got, code)
	}
}

// A plugin finds its device by the keys that SR-IOV plugins read, and by the
// capabilities; every plugin of a list does.
func TestAllocatedDeviceIsInTheConfiguration(t *testing.T) {
	t.Parallel()
	p := &Plugin{Devices: &given{ids: devices.IDs{vf: {"0000:01:00.0"}}}, DeviceInfo: devices.Info{Dir: "/info"}}
	networks := []state.Delegate{{
		Network: "pods/fast", Interface: "net1", Resource: vf,
		Config: json.RawMessage(`{"cniVersion":"1.0.0","name":"fast","plugins":[{"type":"sriov","vlan":7},{"type":"tuning"}]}`),
	}}
	if err := p.allocate(t.Context(), &corev1.Pod{}, "abc", networks, nil); err != nil {
		t.Fatal(err)
	}
	var got any
	if err := json.Unmarshal(networks[0].Config, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"cniVersion": "1.0.0", "name": "fast", "plugins": []any{
		map[string]any{"type": "sriov", "vlan": 7.0, "deviceID": "0000:01:00.0", "pciBusID": "0000:01:00.0"},
		map[string]any{"type": "tuning", "deviceID": "0000:01:00.0", "pciBusID": "0000:01:00.0"},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	runtimeConfig := map[string]any{"deviceID": "0000:01:00.0", "CNIDeviceInfoFile": "/info/cni/pods-fast-abc_net1"}
	if diff := cmp.Diff(runtimeConfig, networks[0].RuntimeConfig); diff != "" {
		t.Errorf("runtimeConfig (-want +got):\n%s", diff)
	}
}

// What the device plugin wrote about a device is the attachment's own until DEL, and in
// the network status.
func TestDeviceInfo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := &Plugin{Devices: &given{ids: devices.IDs{vf: {"0000:01:00.0"}}}, DeviceInfo: devices.Info{Dir: dir}, Log: slog.New(slog.DiscardHandler)}
	const info = `{"type":"pci","version":"1.1.0","pci":{"pci-address":"0000:01:00.0"}}`
	if err := os.Mkdir(filepath.Join(dir, "dp"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "dp", "example.com-vf-0000:01:00.0-device.json"), []byte(info), 0o644); err != nil {
		t.Fatal(err)
	}
	record := &state.Record{
		Pod: attachment.Pod{Namespace: "pods", Name: "web"}, ContainerID: "abc",
		Delegates: []state.Delegate{sriov("fast", "net1", vf), sriov("lan", "net2", "")},
	}
	if err := p.allocate(t.Context(), &corev1.Pod{}, "abc", record.Delegates, nil); err != nil {
		t.Fatal(err)
	}
	for i := range record.Delegates {
		if err := p.copyDeviceInfo(&record.Delegates[i]); err != nil {
			t.Fatal(err)
		}
	}
	status, err := p.NetworkStatus(record)
	if err != nil {
		t.Fatal(err)
	}
	want := &nadv1.DeviceInfo{Type: "pci", Version: "1.1.0", Pci: &nadv1.PciDevice{PciAddress: "0000:01:00.0"}}
	if diff := cmp.Diff(want, status[0].DeviceInfo); diff != "" {
		t.Errorf("device-info (-want +got):\n%s", diff)
	}
	if status[1].DeviceInfo != nil {
		t.Errorf("a network without a device has device-info %v", status[1].DeviceInfo)
	}
	if err := p.DeviceInfo.Remove(record.Delegates[0].DeviceInfo); err != nil {
		t.Fatal(err)
	}
	if status, err := p.NetworkStatus(record); err != nil || status[0].DeviceInfo != nil {
		t.Errorf("without the file: %v, %v", status, err)
	}
}
