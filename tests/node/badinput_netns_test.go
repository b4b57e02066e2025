// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"cmp"
	"fmt"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/weir-cni/weir/cni"
)

// badInput is an ADD that fails.
type badInput struct {
	name     string
	networks string            // the pod's annotation
	defined  map[string]string // networks by name
	change   func(*Node, *call)
	code     uint
	// pod is the pod that the message names, where that is not the one of the test.
	pod string
	// unseen is set where the plugin refuses the call, and its DEL too, without the agent.
	unseen bool
	// want are parts of the message; that of the pod is always wanted.
	want []string
}

// theNetwork stands for the name of a network, which differs from test to test so
// that the agent cannot hold an older one for it.
const theNetwork = "LAN"

func withLAN(fields object) map[string]string { return map[string]string{theNetwork: macvlan(fields)} }

func withStatic(fields object) map[string]string {
	ipam := object{"type": "static"}
	for key, value := range fields {
		ipam[key] = value
	}
	return withLAN(object{"ipam": ipam})
}

func addresses(all ...object) object { return object{"addresses": all} }

func badConfigurations() []badInput {
	const invalid = types.ErrInvalidNetworkConfig
	lan := func(rest ...string) []string { return append([]string{"/lan"}, rest...) }
	return []badInput{
		{name: "the network does not exist", networks: "nowhere", code: invalid,
			want: []string{"/nowhere", "NetworkAttachmentDefinition"}},
		{name: "the configuration is not JSON", networks: theNetwork, defined: map[string]string{theNetwork: `{"type": macvlan}`},
			code: types.ErrDecodingFailure, want: lan("spec.config")},
		{name: "the configuration is not an object", networks: theNetwork, defined: map[string]string{theNetwork: `["macvlan"]`},
			code: types.ErrDecodingFailure, want: lan("spec.config")},
		{name: "the type is missing", networks: theNetwork, defined: withLAN(object{"type": nil}), code: invalid, want: lan("type")},
		{name: "the type is unknown", networks: theNetwork, defined: withLAN(object{"type": "nosuch"}), code: invalid,
			want: lan("type", `"nosuch"`)},
		{name: "a plugin of the list is unknown", networks: theNetwork, code: invalid, want: lan("type", `"nosuch"`),
			defined: map[string]string{theNetwork: `{"cniVersion":"1.0.0","plugins":[{"type":"nosuch"},{"type":"macvlan"}]}`}},
		{name: "the version is unknown", networks: theNetwork, defined: withLAN(object{"cniVersion": "7.0.0"}), code: types.ErrIncompatibleCNIVersion,
			want: lan("cniVersion", "7.0.0")},
		{name: "no master, no default route", networks: theNetwork, defined: withLAN(object{"master": nil}), code: invalid,
			want: lan("master", "default route")},
		{name: "the master does not exist", networks: theNetwork, defined: withLAN(object{"master": "eth9"}), code: invalid,
			want: lan(`master "eth9"`)},
		{name: "the master is the loopback", networks: theNetwork, defined: withLAN(object{"master": "lo"}), code: invalid,
			want: lan(`master "lo"`)},
		{name: "the mode is unknown", networks: theNetwork, defined: withLAN(object{"mode": "l2"}), code: invalid, want: lan(`mode "l2"`)},
		{name: "the MTU is larger than the master's", networks: theNetwork, defined: withLAN(object{"mtu": 9000}), code: invalid,
			want: lan("mtu 9000")},
		{name: "the MTU is below IPv4's", networks: theNetwork, defined: withLAN(object{"mtu": 67}), code: invalid, want: lan("mtu 67", "68")},
		{name: "the MTU is below IPv6's", networks: theNetwork, code: cni.CodeFailed, want: lan("IPv6", "1280", "has 1200"),
			defined: withLAN(object{"mtu": 1200, "ipam": object{"type": "static", "addresses": []object{{"address": "2001:db8::5/64"}}}})},
		{name: "a field of another type", networks: theNetwork, defined: withLAN(object{"mtu": "1500"}), code: invalid, want: lan("mtu")},
		{name: "the MAC is a group's", networks: theNetwork, defined: withLAN(object{"mac": "01:00:5e:00:00:01"}), code: invalid, want: lan("mac")},
		{name: "the enforcement is unknown", networks: theNetwork, defined: withLAN(object{"weir": object{"enforcement": "maybe"}}), code: invalid,
			want: lan("weir.enforcement", `"maybe"`)},
		{name: "the enforcement is no string", networks: theNetwork, defined: withLAN(object{"weir": object{"enforcement": 1}}), code: invalid,
			want: lan("weir.enforcement")},
	}
}

func badAddresses() []badInput {
	const invalid = types.ErrInvalidNetworkConfig
	lan := func(rest ...string) []string { return append([]string{"/lan"}, rest...) }
	hostLocal := func(sets ...any) map[string]string {
		return withLAN(object{"ipam": object{"type": "host-local", "ranges": sets}})
	}
	seventeen := make([]object, 17)
	for i := range seventeen {
		seventeen[i] = object{"address": fmt.Sprintf("192.168.122.%d/24", 100+i)}
	}
	return []badInput{
		{name: "an address without prefix", networks: theNetwork, defined: withStatic(addresses(object{"address": "192.168.122.5"})),
			code: invalid, want: lan(`ipam.addresses[0].address "192.168.122.5"`)},
		{name: "an address that is none", networks: theNetwork, defined: withStatic(addresses(object{"address": "192.168.122.500/24"})),
			code: invalid, want: lan("ipam.addresses[0].address")},
		{name: "a gateway of the other family", networks: theNetwork, code: invalid, want: lan("ipam.addresses[0].gateway", "family"),
			defined: withStatic(addresses(object{"address": "192.168.122.5/24", "gateway": "2001:db8::1"}))},
		{name: "a route of the other family", networks: theNetwork, code: invalid, want: lan("ipam.routes[0].gw", "family"),
			defined: withStatic(object{"addresses": []object{{"address": "192.168.122.5/24"}},
				"routes": []object{{"dst": "0.0.0.0/0", "gw": "2001:db8::1"}}})},
		{name: "static without addresses", networks: theNetwork, defined: withStatic(nil), code: invalid, want: lan("ipam.addresses", "no address")},
		{name: "more addresses than the guard holds", networks: theNetwork, defined: withStatic(addresses(seventeen...)), code: cni.CodeFailed,
			want: lan("more than 16 IPv4 prefixes")},
		{name: "an address of the annotation without prefix", networks: `[{"name":"LAN","ips":["192.168.122.5"]}]`, defined: withStatic(nil),
			code: invalid, want: lan(`"192.168.122.5"`)},
		{name: "ranges that overlap", networks: theNetwork, code: invalid, want: lan("ipam.ranges[1]", "overlap"),
			defined: hostLocal([]any{object{"subnet": "10.1.0.0/16"}}, []any{object{"subnet": "10.1.2.0/24"}})},
		{name: "ranges of two families in one set", networks: theNetwork, code: invalid, want: lan("ipam.ranges[0]", "family"),
			defined: hostLocal([]any{object{"subnet": "10.1.0.0/16"}, object{"subnet": "2001:db8::/64"}})},
		{name: "a range that starts outside its subnet", networks: theNetwork, code: invalid, want: lan("ipam.ranges[0][0].rangeStart"),
			defined: hostLocal([]any{object{"subnet": "10.1.0.0/16", "rangeStart": "10.2.0.1"}})},
		{name: "a wish outside the ranges", networks: `[{"name":"LAN","ips":["10.2.0.5"]}]`, code: invalid, want: lan("10.2.0.5", "ranges"),
			defined: hostLocal([]any{object{"subnet": "10.1.0.0/16"}})},
		{name: "an IPAM plugin that does not exist", networks: theNetwork, defined: withLAN(object{"ipam": object{"type": "nosuch"}}),
			code: invalid, want: lan("ipam.type", `"nosuch"`)},
	}
}

func badAnnotations() []badInput {
	const invalid = types.ErrInvalidNetworkConfig
	defined := withLAN(nil)
	annotation := func(rest ...string) []string {
		return append([]string{"annotation k8s.v1.cni.cncf.io/networks"}, rest...)
	}
	return badInputs{
		{name: "not JSON", networks: `[{"name":"LAN"`, code: invalid, want: annotation("JSON")},
		{name: "an object", networks: `{"name":"LAN"}`, code: invalid, want: annotation("JSON list")},
		{name: "without name", networks: `[{"interface":"net1"}]`, code: invalid, want: annotation("element 1", "name")},
		{name: "a name that is none", networks: `LAN,_lan`, code: invalid, want: annotation("element 2", "name", `"_lan"`)},
		{name: "two elements with one interface", networks: "LAN@lan0,LAN@lan0", code: invalid, want: []string{"/lan", "interface lan0"}},
		{name: "an interface with the name of one that is numbered", networks: "LAN@net2,LAN", code: invalid, want: []string{"/lan", "interface net2"}},
		{name: "an interface with the name of the default network's", networks: "LAN@eth0", code: invalid, want: []string{"/lan", "interface eth0"}},
		{name: "an interface with a long name", networks: "LAN@sixteenletters00", code: invalid,
			want: annotation("element 1 (lan-", "interface", `"sixteenletters00"`)},
		{name: "an interface with a slash", networks: `[{"name":"LAN","interface":"a/b"}]`, code: invalid,
			want: annotation("element 1 (lan-", "interface", `"a/b"`)},
		{name: "an interface that exists", networks: "LAN@lo", code: invalid, want: []string{"/lan", "interface lo"}},
		{name: "ips that are none", networks: `[{"name":"LAN","ips":["nine"]}]`, code: invalid, want: annotation("ips", `"nine"`)},
		{name: "a MAC that is none", networks: `[{"name":"LAN","mac":"02:00"}]`, code: invalid, want: annotation("mac", `"02:00"`)},
		{name: "port mappings on a macvlan", networks: `[{"name":"LAN","portMappings":[{"hostPort":80,"containerPort":80}]}]`, code: invalid,
			want: []string{"/lan", "portMappings", "declares"}},
		{name: "a burst without a rate", networks: `[{"name":"LAN","bandwidth":{"ingressBurst":1000}}]`, code: invalid,
			want: annotation("bandwidth", "ingressRate")},
		{name: "two default routes", networks: `[{"name":"LAN","default-route":["192.168.122.1"]},{"name":"LAN","default-route":[]}]`, code: invalid,
			want: []string{"element 2", "default-route", "element 1"}},
		{name: "a default route to all", networks: `[{"name":"LAN","default-route":["0.0.0.0"]}]`, code: invalid, want: annotation("default-route", "0.0.0.0")},
		{name: "a default route out of reach", networks: `[{"name":"LAN","default-route":["203.0.113.1"]}]`, code: cni.CodeFailed,
			want: []string{"net1", "0.0.0.0/0 via 203.0.113.1", "unreachable"}},
	}.with(defined)
}

type badInputs []badInput

func (all badInputs) with(defined map[string]string) badInputs {
	for i := range all {
		all[i].defined = defined
	}
	return all
}

func (all badInputs) unseen() []badInput {
	for i := range all {
		all[i].unseen = true
	}
	return all
}

func badCalls() []badInput {
	const invalid = types.ErrInvalidNetworkConfig
	return badInputs{
		{name: "the namespace does not exist", change: func(n *Node, c *call) { c.netns = n.path("nowhere") }, code: types.ErrInvalidNetNS,
			want: []string{"CNI_NETNS", "nowhere"}},
		{name: "the namespace is a file", change: func(n *Node, c *call) { c.netns = n.path("agent.log") }, code: types.ErrInvalidNetNS,
			want: []string{"CNI_NETNS", "agent.log"}},
		{name: "the namespace is the node's", change: func(n *Node, c *call) { c.netns = n.machine.Path() }, code: types.ErrInvalidNetNS,
			want: []string{"CNI_NETNS", "node"}},
		{name: "the pod is unknown", change: func(n *Node, c *call) {
			c.args = "K8S_POD_NAMESPACE=" + n.namespace + ";K8S_POD_NAME=nobody"
		}, code: types.ErrTryAgainLater, pod: "nobody"},
		{name: "the default network's configuration cannot be", code: invalid, want: []string{"network default", `mode "sideways"`},
			change: ofDefault(object{"type": "macvlan", "master": "eth1", "mode": "sideways"})},
		{name: "the default network's plugin is missing", code: invalid, want: []string{"network default", `"nosuch"`},
			change: ofDefault(object{"type": "nosuch"})},
		{name: "a plugin behind the default network's is missing", code: invalid, want: []string{"network default", `"nosuch"`},
			change: ofDefault(object{"plugins": []object{{"type": "macvlan", "master": "eth1"}, {"type": "nosuch"}}})},
		{name: "the default network's IPAM plugin is missing", code: invalid, want: []string{"network default", `"nosuch"`},
			change: ofDefault(object{"type": "macvlan", "master": "eth1", "ipam": object{"type": "nosuch"}})},
	}.with(withLAN(nil))
}

// ofDefault gives weir another default network.
func ofDefault(config object) func(*Node, *call) {
	return func(_ *Node, c *call) {
		c.config["delegates"] = []any{withFields(config, object{"cniVersion": "1.0.0", "name": "default"})}
	}
}

// refusedByPlugin are calls that never reach the agent: their errors come from the
// CNI project's own library and name no pod.
func refusedByPlugin() []badInput {
	return badInputs{
		{name: "the namespace is the node's, and the plugin's own", code: types.ErrInvalidNetNS, want: []string{"netns"},
			change: func(n *Node, c *call) { c.netns, c.inNode = n.machine.Path(), true }},
		{name: "a container ID with a slash", change: func(_ *Node, c *call) { c.id = "../a" }, code: types.ErrInvalidEnvironmentVariables,
			want: []string{"ID"}},
		{name: "no container ID", change: func(_ *Node, c *call) { c.id = "" }, code: types.ErrInvalidEnvironmentVariables,
			want: []string{"CNI_CONTAINERID"}},
		{name: "an interface with a long name", change: func(_ *Node, c *call) { c.ifname = "sixteenletters00" },
			code: types.ErrInvalidEnvironmentVariables, want: []string{"interface"}},
	}.with(withLAN(nil)).unseen()
}

// Each bad input gets an error that says where the fault is, and changes nothing.
func TestNetnsBadInput(t *testing.T) {
	n := newNode(t)
	warmUp(n)
	idle := n.idle()
	tables := map[string][]badInput{
		"configuration": badConfigurations(), "addresses": badAddresses(), "annotation": badAnnotations(), "call": badCalls(),
	}
	for group, table := range tables {
		t.Run(group, func(t *testing.T) {
			for _, test := range table {
				t.Run(test.name, func(t *testing.T) {
					test.run(t, n, idle, func(p *Pod) { test.want = append(test.want, "pod "+n.namespace+"/"+cmp.Or(test.pod, p.Name)) })
				})
			}
		})
	}
	t.Run("plugin", func(t *testing.T) {
		for _, test := range refusedByPlugin() {
			t.Run(test.name, func(t *testing.T) { test.run(t, n, idle, func(*Pod) {}) })
		}
	})
}

func (test *badInput) run(t *testing.T, n *Node, idle snapshot, amend func(*Pod)) {
	t.Helper()
	n.within(t)
	network := n.unique("lan")
	for name, config := range test.defined {
		n.Network(strings.ReplaceAll(name, theNetwork, network), config)
	}
	defer n.forget()
	pod := n.Pod(n.unique("web"), strings.ReplaceAll(test.networks, theNetwork, network))
	defer pod.Remove()
	add := n.of("ADD", pod)
	amend(pod)
	if test.change != nil {
		test.change(n, &add)
	}
	before := n.with(idle, pod)
	out, failure := n.Call(add)
	if failure == nil {
		n.mustDel(pod)
		t.Fatalf("ADD succeeded: %s", out)
	}
	checkFailure(t, failure, test.code, test.want...)
	n.mustBe(before)
	if test.unseen {
		return
	}
	n.delRefused(add)
	n.mustBe(before)
}

// delRefused is the DEL that a runtime has follow on an ADD that failed: with the
// same configuration, as often as it takes.
func (n *Node) delRefused(add call) {
	n.tb.Helper()
	add.command = "DEL"
	for range 2 {
		if _, failure := n.Call(add); failure != nil {
			n.tb.Errorf("DEL after the ADD that was refused: %v", failure)
		}
	}
}

// forget takes the networks and pods from the agent's folder, and from snapshots.
func (n *Node) forget() {
	n.tb.Helper()
	n.forgetManifests()
	n.pods = nil
}

func (n *Node) forgetManifests() {
	n.tb.Helper()
	removeAll(n.tb, n.path("manifests"))
}

func checkFailure(t *testing.T, failure *types.Error, code uint, want ...string) {
	t.Helper()
	if failure.Code != code {
		t.Errorf("the code is %d, want %d", failure.Code, code)
	}
	text := failure.Msg + failure.Details
	for _, part := range want {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in the message", part)
		}
	}
	t.Logf("code %d: %s", failure.Code, failure)
}
