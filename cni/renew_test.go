// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/state"
)

func TestGuardSpec(t *testing.T) {
	t.Parallel()
	const addressless = bpf.CheckMAC | bpf.CheckVLAN | bpf.CheckDHCP | bpf.CheckRouter | bpf.CheckSourceRoute | bpf.CheckRoutingHeader |
		bpf.CheckEthertype | bpf.CheckARP | bpf.CheckNeighbour | bpf.CheckDoubleTag | bpf.CheckDestination | bpf.CheckQuerier
	const all = addressless | bpf.CheckIPv4 | bpf.CheckIPv6
	addresses := []netip.Prefix{netip.MustParsePrefix("192.0.2.8/24"), netip.MustParsePrefix("2001:db8::8/64")}
	tests := []struct {
		name, config, chained string
		addresses             []netip.Prefix
		sources               []string
		runtimeConfig         map[string]any
		checks                bpf.Check
		egress                loader.Rate
		storms                loader.Storms
		goesRound             bool
	}{
		{name: "native", config: `{"cniVersion":"1.0.0","name":"lan","type":"macvlan","ipam":{"type":"host-local","subnet":"192.0.2.0/24"}}`,
			addresses: addresses, checks: all},
		{name: "native without IPAM", config: `{"cniVersion":"1.0.0","name":"lan","type":"macvlan"}`, checks: addressless},
		{name: "a trunk", config: `{"cniVersion":"1.0.0","name":"lan","type":"bridge","vlanTrunk":[{"id":7}]}`, checks: addressless &^ bpf.CheckVLAN},
		{name: "with leave", config: `{"cniVersion":"1.0.0","name":"lan","type":"sriov","weir":{"allow":["router","other-ethertypes"]}}`,
			addresses: addresses, checks: all &^ bpf.CheckRouter &^ bpf.CheckEthertype},
		{name: "executed", config: `{"cniVersion":"1.0.0","name":"lan","type":"sriov"}`, addresses: addresses, checks: all},
		{name: "executed, without addresses", config: `{"cniVersion":"1.0.0","name":"lan","type":"sriov"}`, checks: addressless},
		{name: "further sources", config: `{"cniVersion":"1.0.0","name":"lan","type":"sriov","weir":{"sources":["198.51.100.0/24"]}}`,
			addresses: addresses, sources: []string{"198.51.100.0/24"}, checks: all},
		{name: "storm limits", config: `{"cniVersion":"1.0.0","name":"lan","type":"sriov","weir":{"stormLimit":{"broadcast":7,"multicast":8,"unknownUnicast":9}}}`,
			addresses: addresses, checks: all, storms: loader.Storms{Broadcast: 7, Multicast: 8, Unknown: 9}},
		{name: "sources and no addresses", config: `{"cniVersion":"1.0.0","name":"lan","type":"sriov","weir":{"sources":["198.51.100.0/24"]}}`,
			sources: []string{"198.51.100.0/24"}, checks: all},
		{name: "leave for everything", config: `{"cniVersion":"1.0.0","name":"lan","type":"sriov","weir":{"allow":["other-macs","other-addresses","arp-proxy",
			"nd-proxy","vlan","double-tags","dhcp-server","router","querier","source-routing","routing-header","other-ethertypes","other-destination","qdisc-bypass"]}}`, addresses: addresses, goesRound: true},
		{name: "chained", config: `{"cniVersion":"1.0.0","name":"lan","type":"weir"}`, chained: "net1", addresses: addresses, checks: all},
		{name: "with bandwidth", config: `{"cniVersion":"1.0.0","name":"lan","type":"macvlan"}`, checks: addressless,
			runtimeConfig: map[string]any{"bandwidth": map[string]any{"egressRate": 1000000}}, egress: loader.Rate{BitsPerSecond: 1000000}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			a := &attachment.Attachment{
				ID: attachment.ID{ContainerID: "abc", Interface: "net1"}, PinDir: "abc-net1", MAC: "02:00:5e:00:53:01", Addresses: test.addresses,
			}
			record := &state.Record{
				ContainerID: "abc", Chained: test.chained, Phase: state.Ready, Pod: attachment.Pod{Namespace: "pods", Name: "web"},
				Delegates: []state.Delegate{{
					Interface: "net1", Network: "pods/lan", Config: json.RawMessage(test.config), RuntimeConfig: test.runtimeConfig, Attachment: a,
				}},
			}
			if err := n.Records.Save(record); err != nil {
				t.Fatal(err)
			}
			got, err := n.GuardSpec(a)
			if err != nil {
				t.Fatal(err)
			}
			if got.Checks != test.checks || got.Egress != test.egress || got.MAC.String() != a.MAC || got.Pod != "pods/web" || got.Network != "pods/lan" {
				t.Errorf("spec %+v", got)
			}
			if got.GoesRound != test.goesRound {
				t.Errorf("the pod may send past tc: %t, want %t", got.GoesRound, test.goesRound)
			}
			storms := test.storms
			if storms == (loader.Storms{}) {
				storms.Broadcast = 1000 // the default
			}
			if got.Storms != storms {
				t.Errorf("storm limits %+v, want %+v", got.Storms, storms)
			}
			want := []string{"fe80::5eff:fe00:5301/128"}
			if test.addresses != nil {
				want = []string{"192.0.2.8/32", "2001:db8::8/128", "fe80::5eff:fe00:5301/128"}
			}
			want = append(want, test.sources...)
			var prefixes []string
			for _, p := range slices.Concat(got.Prefixes, got.Sources) {
				prefixes = append(prefixes, p.String())
			}
			if diff := cmp.Diff(want, prefixes); diff != "" {
				t.Errorf("sources (-want +got):\n%s", diff)
			}
		})
	}
}

func TestGuardSpecOfNobody(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	a := &attachment.Attachment{ID: attachment.ID{ContainerID: "abc", Interface: "net1"}}
	if _, err := n.GuardSpec(a); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}
