// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"github.com/weir-cni/weir/state"
)

func TestLimitsOf(t *testing.T) {
	t.Parallel()
	const own = `{"name":"a","type":"x","weir":{"bandwidth":{"ingressRate":1000,"ingressBurst":500}}}`
	const declaring = `{"name":"a","plugins":[{"type":"x"},{"type":"bandwidth","capabilities":{"bandwidth":true}}]}`
	asked := &nadv1.BandwidthEntry{EgressRate: 2000}
	tests := []struct {
		name, config string
		asked        any
		want         bandwidth
		says         string
	}{
		{"none", `{"name":"a","type":"x"}`, nil, bandwidth{}, ""},
		{"the network's", own, nil, bandwidth{IngressRate: 1000, IngressBurst: 500}, ""},
		{"the pod's", `{"name":"a","type":"x"}`, asked, bandwidth{EgressRate: 2000}, ""},
		{"the pod's goes before the network's", own, asked, bandwidth{EgressRate: 2000}, ""},
		{"as read back from a record", own, map[string]any{"egressRate": 2000.0}, bandwidth{EgressRate: 2000}, ""},
		{"a plugin's affair", declaring, asked, bandwidth{}, ""},
		{"too little", `{"name":"a","type":"x"}`, &nadv1.BandwidthEntry{EgressRate: 1}, bandwidth{}, "egress"},
		{"not numbers", `{"name":"a","type":"x"}`, map[string]any{"egressRate": "1M"}, bandwidth{}, "egressRate"},
		{"not an object", `{"name":"a","type":"x"}`, 7, bandwidth{}, "bandwidth"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			stored := state.Delegate{Config: json.RawMessage(test.config)}
			if test.asked != nil {
				stored.RuntimeConfig = map[string]any{"bandwidth": test.asked}
			}
			d, err := (&Plugin{}).delegateOf(&state.Record{Delegates: []state.Delegate{stored}}, 0)
			if test.says != "" {
				if err == nil || Error(err).Code != types.ErrInvalidNetworkConfig || !strings.Contains(err.Error(), test.says) {
					t.Errorf("error %v, want %q", err, test.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := d.(*executed).limits; got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}
