// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"github.com/weir-cni/weir/state"
)

func TestNetworkStatus(t *testing.T) {
	t.Parallel()
	record := &state.Record{Delegates: []state.Delegate{
		{
			Interface: "eth0", Network: "default", Default: true,
			Result: json.RawMessage(`{"cniVersion":"1.1.0","interfaces":[{"name":"cni0","mac":"02:00:00:00:00:09"},
				{"name":"eth0","mac":"02:00:00:00:00:01","sandbox":"/n"}],
				"ips":[{"interface":1,"address":"10.0.0.2/24","gateway":"10.0.0.1"},{"interface":0,"address":"10.0.0.1/24"}],
				"dns":{"nameservers":["10.0.0.53"],"search":["a"]}}`),
		},
		{
			Interface: "net1", Network: "pods/lan",
			Result: json.RawMessage(`{"cniVersion":"1.1.0","interfaces":[{"name":"net1","mac":"02:00:00:00:00:02","mtu":9000,"sandbox":"/n"}],
				"ips":[{"interface":0,"address":"192.0.2.8/24"},{"interface":0,"address":"2001:db8::8/64"}]}`),
		},
		{Interface: "net2", Network: "pods/l2", Result: json.RawMessage(`{"cniVersion":"1.1.0"}`)},
		{Interface: "net3", Network: "pods/unfinished", Gateways: []netip.Addr{netip.MustParseAddr("192.0.2.254"), netip.MustParseAddr("2001:db8::fe")}},
	}}
	want := []NetworkStatus{
		{
			Name: "default", Interface: "eth0", IPs: []string{"10.0.0.2"}, Mac: "02:00:00:00:00:01", Default: true,
			DNS: nadv1.DNS{Nameservers: []string{"10.0.0.53"}, Search: []string{"a"}}, Gateway: []string{"10.0.0.1"},
		},
		{Name: "pods/lan", Interface: "net1", IPs: []string{"192.0.2.8", "2001:db8::8"}, Mac: "02:00:00:00:00:02", Mtu: 9000},
		{Name: "pods/l2", Interface: "net2"},
		{Name: "pods/unfinished", Interface: "net3", DefaultRoute: []string{"192.0.2.254", "2001:db8::fe"}},
	}
	got, err := (&Plugin{}).NetworkStatus(record)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
