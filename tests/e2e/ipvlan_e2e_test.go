// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/tests/cluster"
)

// The walkthrough with ipvlan, on a node whose kernel has it: a VM.
func TestE2EIpvlan(t *testing.T) {
	w := installed(t)
	n := w.AddVM()
	w.ready()
	const ns = "example-multus"
	// Another walkthrough makes the same one.
	t.Cleanup(func() { w.MustKubectl("delete", "namespace", ns, "--ignore-not-found") })
	w.namespace(ns)
	for i, mode := range []string{"l2", "l3", "l3s"} {
		t.Run(mode, func(t *testing.T) {
			w := &weir{w.Cluster, t}
			address := fmt.Sprintf("192.168.122.%d", 191+i)
			if mode != "l2" {
				w.routeByNode(n, address)
			}
			w.walkThroughIpvlan(ns, n, mode, address)
		})
	}
	t.Run("example", func(t *testing.T) {
		w := &weir{w.Cluster, t}
		w.cordonOthers(n)
		w.MustKubectl("apply", "-n", ns, "-f", "../../deploy/examples/ipvlan.yaml")
		w.AwaitPod(ns, "ipvlan-pod")
		w.checkInterfaces(ns, "ipvlan-pod", "eth0", "net1")
		w.MustKubectl("delete", "pod", "-n", ns, "ipvlan-pod", "--now")
	})
}

func (w *weir) walkThroughIpvlan(ns string, n *cluster.Node, mode, address string) {
	w.t.Helper()
	w.network(ns, "example-nad", object{
		"cniVersion": "1.0.0", "type": "ipvlan", "master": "eth1", "mode": mode, "ipam": object{"type": "static"},
	})
	w.pod(ns, "example-nad-pod", n, `[{"name":"example-nad","namespace":"`+ns+`","ips":["`+address+`/24"]}]`)
	pod := w.AwaitPod(ns, "example-nad-pod")
	w.checkAttached(ns, pod.Name, pod.Status.PodIP, address)
	if out := w.ctl(n, "get", "-o", "json"); !containsAll(out, []string{`"type": "ipvlan"`, `"mode": "` + mode + `"`}) {
		w.t.Errorf("weirctl get -o json:\n%s", out)
	}
	if got := w.Outside.Ping(w.t.Context(), address, 4); got != 4 {
		w.t.Errorf("the outside host has %d of 4 answers", got)
	}
	if out := w.ctl(n, "get"); !strings.Contains(out, pod.Name) || !strings.Contains(out, address) {
		w.t.Errorf("weirctl get:\n%s", out)
	}
	w.remove(ns, pod.Name)
	w.awaitNothingLeft(n)
}

// routeByNode has the outside host send what is for an address to a node, and the node
// find the outside host: in l3 and l3s pods answer no ARP and use the node's routes.
func (w *weir) routeByNode(n *cluster.Node, address string) {
	w.t.Helper()
	const gateway = "192.168.122.196" // no other test has it: the outside host remembers its MAC
	n.MustRun("ip", "address", "add", gateway+"/24", "dev", "eth1")
	w.t.Cleanup(func() { n.MustRun("ip", "address", "del", gateway+"/24", "dev", "eth1") })
	route := &netlink.Route{
		LinkIndex: w.Outside.Link("eth1").Attrs().Index, Gw: net.ParseIP(gateway),
		Dst: &net.IPNet{IP: net.ParseIP(address).To4(), Mask: net.CIDRMask(32, 32)},
	}
	if err := w.Outside.Netlink().RouteAdd(route); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := w.Outside.Netlink().RouteDel(route); err != nil {
			w.t.Error(err)
		}
	})
}

// cordonOthers leaves the scheduler one node.
func (w *weir) cordonOthers(n *cluster.Node) {
	w.t.Helper()
	for _, other := range w.Nodes {
		if other == n {
			continue
		}
		w.MustKubectl("cordon", other.Name)
		w.t.Cleanup(func() { w.MustKubectl("uncordon", other.Name) })
	}
}
