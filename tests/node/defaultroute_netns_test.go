// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
)

// reference makes a reference plugin one that is executed: under its own name it
// would not be.
func (n *Node) reference(name, plugin string) {
	n.tb.Helper()
	const plugins = "/usr/lib/cni"
	if !exists(plugins + "/" + plugin) {
		n.tb.Fatalf("%s/%s is missing (Debian package containernetworking-plugins)", plugins, plugin)
	}
	if err := os.Symlink(plugins+"/"+plugin, n.path("bin/"+name)); err != nil {
		n.tb.Fatal(err)
	}
}

// defaultRoutesOf are a pod's default routes in the main table, each as
// "interface gateway metric".
func defaultRoutesOf(t *testing.T, p *Pod) []string {
	t.Helper()
	routes, err := netns.Dump(func() ([]netlink.Route, error) { return p.Netlink().RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		t.Fatal(err)
	}
	all := []string{}
	for _, r := range routes {
		if r.Dst != nil && !netif.IsDefault(*r.Dst) {
			continue
		}
		link, err := p.Netlink().LinkByIndex(r.LinkIndex)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%s %s %d", link.Attrs().Name, r.Gw, r.Priority))
	}
	slices.Sort(all)
	return all
}

// Only the network that asks for it keeps a default route, whoever made the
// interfaces, and CHECK agrees.
func TestNetnsDefaultRoute(t *testing.T) {
	dual := object{"type": "static", "addresses": []object{
		{"address": "10.85.0.5/16", "gateway": "10.85.0.1"}, {"address": "2001:db8:85::5/64", "gateway": "2001:db8:85::1"},
	}, "routes": []object{{"dst": "0.0.0.0/0"}, {"dst": "::/0"}}}
	native := object{"cniVersion": "1.0.0", "name": "default", "type": "macvlan", "master": "eth0", "ipam": dual}
	executed := object{"cniVersion": "1.0.0", "name": "default", "type": "other-bridge", "bridge": "br0", "isDefaultGateway": true,
		"ipam": object{"type": "static", "addresses": []object{{"address": "10.85.0.5/16", "gateway": "10.85.0.1"}}}}
	const lan, ownRoute = `"name":"lan","ips":["` + podAddress + `/24","` + podAddress6 + `/64"]`, "net1 192.168.122.1 0"
	tests := []struct {
		name     string
		cluster  object
		network  string
		networks string
		want     []string
	}{
		{"nobody asks", native, "", `[{` + lan + `}]`, []string{"eth0 10.85.0.1 0", "eth0 2001:db8:85::1 1024"}},
		{"gateways", native, "", `[{` + lan + `,"default-route":["192.168.122.1","2001:db8:122::1"]}]`, []string{ownRoute, "net1 2001:db8:122::1 1024"}},
		{"one family", native, "", `[{` + lan + `,"default-route":["192.168.122.1"]}]`, []string{ownRoute}},
		{"two gateways, in order", native, "", `[{` + lan + `,"default-route":["192.168.122.1","192.168.122.2"]}]`,
			[]string{ownRoute, "net1 192.168.122.2 1"}},
		{"none, and none of its own", native, "", `[{` + lan + `,"default-route":[]}]`, []string{}},
		{"the default network is executed", executed, "", `[{` + lan + `,"default-route":["192.168.122.1"]}]`, []string{ownRoute}},
		{"both are executed", executed, "other", `[{"name":"other","default-route":["10.87.0.9"]}]`, []string{"net1 10.87.0.9 0"}},
		{"both are executed, and it keeps its own", executed, "other", `[{"name":"other","default-route":[]}]`, []string{"net1 10.87.0.1 0"}},
	}
	n := newNode(t)
	n.reference("other-bridge", "bridge")
	n.reference("static", "static")
	n.Network("lan", static())
	n.Network("other", config(object{"type": "other-bridge", "bridge": "br1", "isDefaultGateway": true,
		"ipam": object{"type": "static", "addresses": []object{{"address": "10.87.0.5/16", "gateway": "10.87.0.1"}}}}, nil))
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n.within(t)
			pod := n.Pod(n.unique("web"), test.networks)
			request := func(command string) call {
				c := n.of(command, pod)
				c.config["cniVersion"], c.config["delegates"] = "1.0.0", []any{test.cluster}
				return c
			}
			if _, failure := n.Call(request("ADD")); failure != nil {
				t.Fatal(failure)
			}
			if diff := cmp.Diff(test.want, defaultRoutesOf(t, pod)); diff != "" {
				t.Errorf("default routes (-want +got):\n%s", diff)
			}
			for _, command := range []string{"CHECK", "DEL"} {
				c := request(command)
				c.config["prevResult"] = object{"cniVersion": "1.0.0"}
				if _, failure := n.Call(c); failure != nil {
					t.Errorf("%s: %v", command, failure)
				}
			}
			pod.Remove()
		})
	}
}
