// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"testing"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
)

// A pod whose annotation or network is wrong stays pending, with an event that says
// why; it comes up when that is mended, and can be deleted before.
func TestE2EBadInput(t *testing.T) {
	w := installed(t)
	ns := w.namespace("bad")
	n := w.Nodes[0]
	good := macvlanOn("eth1", "192.168.122")
	w.network(ns, "lan", good)
	with := func(fields object) object {
		all := object{}
		for key, value := range good {
			all[key] = value
		}
		for key, value := range fields {
			all[key] = value
		}
		return all
	}
	tests := []struct {
		name     string
		networks string
		network  object // the configuration of the network with the name of the case
		says     []string
	}{
		{"no-network", "nowhere", nil, []string{"NoNetworkFound", "(nowhere)"}},
		{"not-json", `[{"name":`, nil, []string{"FailedAddNetworks", "not a JSON list"}},
		{"no-list", `{"name":"lan"}`, nil, []string{"FailedAddNetworks", "JSON list"}},
		{"no-name", `[{"interface":"net1"}]`, nil, []string{"element 1", "name"}},
		{"bad-name", "lan,_lan", nil, []string{"element 2", "name"}},
		{"bad-ips", `[{"name":"lan","ips":["nine"]}]`, nil, []string{"element 1 (lan)", "ips", "nine"}},
		{"ips-out-of-range", `[{"name":"lan","ips":["10.0.0.1"]}]`, nil, []string{"bad/lan", "10.0.0.1", "ranges"}},
		{"bad-mac", `[{"name":"lan","mac":"02:00"}]`, nil, []string{"element 1 (lan)", "mac"}},
		{"long-interface", "lan@sixteenletters00", nil, []string{"element 1 (lan)", "interface"}},
		{"same-interface", "lan@a,lan@a", nil, []string{"bad/lan", "interface a"}},
		{"no-capability", `[{"name":"lan","portMappings":[{"hostPort":80,"containerPort":80}]}]`, nil, []string{"bad/lan", "portMappings", "declares"}},
		{"two-default-routes", `[{"name":"lan","default-route":[]},{"name":"lan","default-route":[]}]`, nil, []string{"element 2 (lan)", "default-route"}},
		{"claim-and-ips", `[{"name":"lan","ips":["192.168.122.150"],"ipam-claim-reference":"x"}]`, nil, []string{"ipam-claim-reference"}},
		{"nad-no-type", "nad-no-type", with(object{"type": nil}), []string{"bad/nad-no-type", "type"}},
		{"nad-unknown-type", "nad-unknown-type", with(object{"type": "nosuch"}), []string{"bad/nad-unknown-type", "nosuch"}},
		{"nad-unknown-master", "nad-unknown-master", with(object{"master": "eth9"}), []string{"bad/nad-unknown-master", `master "eth9"`}},
		{"nad-bad-mode", "nad-bad-mode", with(object{"mode": "sideways"}), []string{"bad/nad-bad-mode", `mode "sideways"`}},
		{"nad-bad-mtu", "nad-bad-mtu", with(object{"mtu": 67}), []string{"bad/nad-bad-mtu", "mtu 67"}},
		{"nad-no-ipam", "nad-no-ipam", with(object{"ipam": object{"type": "nosuch"}}), []string{"bad/nad-no-ipam", "ipam.type", "nosuch"}},
	}
	for _, test := range tests {
		if test.network != nil {
			w.network(ns, test.name, test.network)
		}
		w.pod(ns, test.name, n, test.networks)
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := &weir{w.Cluster, t}
			w.awaitEvent(ns, test.name, append([]string{"Warning"}, test.says...)...)
			if out := w.MustKubectl("get", "pod", "-n", ns, test.name, "-o", "jsonpath={.status.phase}"); out != "Pending" {
				t.Errorf("the pod is %s", out)
			}
		})
	}
	t.Run("deleted before they are mended", func(*testing.T) {
		for i := 1; i < len(tests); i += 2 {
			w.MustKubectl("delete", "pod", "-n", ns, tests[i].name, "--wait=false")
		}
		for i := 1; i < len(tests); i += 2 {
			w.AwaitNoPod(ns, tests[i].name)
		}
	})
	for i := 0; i < len(tests); i += 2 {
		if tests[i].network != nil {
			w.network(ns, tests[i].name, good)
			continue
		}
		w.MustKubectl("annotate", "pod", "-n", ns, tests[i].name, "--overwrite", fmt.Sprintf("%s=lan", nadv1.NetworkAttachmentAnnot))
	}
	for i := 0; i < len(tests); i += 2 {
		t.Run(tests[i].name+", mended", func(t *testing.T) {
			w := &weir{w.Cluster, t}
			w.AwaitPod(ns, tests[i].name)
			w.checkInterfaces(ns, tests[i].name, "eth0", "net1")
		})
	}
}
