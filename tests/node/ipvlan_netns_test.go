// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"fmt"
	"net"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/cni"
	"github.com/weir-cni/weir/tests/lan"
)

// The walkthrough with each mode of ipvlan: the pod is reached from outside and
// from another slave of its master, what it must not send is refused, and what
// the hooks see of it is what docs/guard.md says.
func TestKernelsIpvlanWalkthrough(t *testing.T) {
	tests := []struct {
		mode string
		// resolves is set where the pod answers ARP.
		resolves bool
	}{
		{mode: "l2", resolves: true},
		{mode: "l3"},
		{mode: "l3s"},
	}
	for _, test := range tests {
		t.Run(test.mode, func(t *testing.T) {
			n := newNode(t)
			warmUp(n)
			lan.Join(t, n.machine, "eth2", n.outside, "eth2")
			n.outside.Address("eth2", "192.0.2.1/24")
			n.machine.Address("eth2", "192.0.2.2/24")
			n.Network("lan", config(object{"type": "ipvlan", "mode": test.mode, "master": "eth2"},
				object{"ipam": object{"type": "static"}}))
			idle := n.idle()

			pod := n.Pod("web", `[{"name":"lan","ips":["192.0.2.188/24"]}]`)
			peer := n.Pod("peer", `[{"name":"lan","ips":["192.0.2.189/24"]}]`)
			before := n.with(n.with(idle, pod), peer)
			n.mustAdd(pod)
			n.mustAdd(peer)
			n.awaitHook(pod)
			if a := n.Attachment(pod, "net1"); a.Type != "ipvlan" || a.Mode != test.mode || a.Master != "eth2" {
				t.Errorf("weirctl says %+v", a)
			}
			if !test.resolves {
				before.Links["outside"] = n.routeByNode(t, "192.0.2.188")
			}
			fromOutside := n.seen(t, pod, n.outside, "192.0.2.188")
			if !fromOutside.transmit || !fromOutside.receive {
				t.Errorf("from outside: %+v", fromOutside)
			}
			if fromPeer := n.seen(t, pod, peer.Host, "192.0.2.188"); !fromPeer.transmit || !fromPeer.receive {
				t.Errorf("from another slave: %+v", fromPeer)
			}
			n.checkRefusal(t, pod)
			n.mustCheck(pod)
			n.mustDel(pod)
			n.mustDel(peer)
			n.mustBe(before)
		})
	}
}

// routeByNode tells the outside host that an address is behind the node, and
// returns the host's links and routes with that.
func (n *Node) routeByNode(t *testing.T, address string) []string {
	t.Helper()
	route := &netlink.Route{
		LinkIndex: n.outside.Link("eth2").Attrs().Index, Gw: net.ParseIP("192.0.2.2"),
		Dst: &net.IPNet{IP: net.ParseIP(address).To4(), Mask: net.CIDRMask(32, 32)},
	}
	if err := n.outside.Netlink().RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	return n.linksOf(n.outside)
}

// sight says in which directions the hooks saw the pings and their answers.
type sight struct{ receive, transmit bool }

func (n *Node) seen(t *testing.T, p *Pod, from *lan.Host, address string) sight {
	t.Helper()
	const pings = 8
	before := n.Attachment(p, "net1")
	if answered := n.ping(from, address, pings); answered != pings {
		t.Errorf("%d of %d pings were answered", answered, pings)
	}
	after := n.Attachment(p, "net1")
	saw := func(before, after api.Traffic) bool { return after.Packets-before.Packets >= pings }
	return sight{receive: saw(before.Receive, after.Receive), transmit: saw(before.Transmit, after.Transmit)}
}

// checkRefusal sends from an address that is not the pod's.
func (n *Node) checkRefusal(t *testing.T, p *Pod) {
	t.Helper()
	frame := spoofsOf(t, p.Link("net1").Attrs().HardwareAddr)[1].frame
	capture := n.outside.Capture("eth2")
	p.Send("net1", frame, frame, frame)
	for _, f := range capture.Stop() {
		if string(f.Data[14:]) == string(frame[14:]) {
			t.Error("a spoofed packet has left the node")
		}
	}
	dropped := n.Attachment(p, "net1").Dropped
	if len(dropped) != 1 || dropped[0].Reason != "spoofed_ipv4" || dropped[0].Packets != 3 {
		t.Errorf("of 3 spoofs, weirctl says %v", dropped)
	}
}

// A master carries macvlan or ipvlan. The second of them is refused, whoever has
// the first, and undoes the pod's other networks.
func TestKernelsMasterOfTheOtherKind(t *testing.T) {
	n := newNode(t)
	n.Network("mac", macvlan(object{"ipam": n.hostLocal("10.98.0.0/16")}))
	n.Network("ipv", config(object{"type": "ipvlan", "master": "eth1"}, object{"ipam": n.hostLocal("10.99.0.0/16")}))
	warmUp(n)
	idle := n.idle()
	for _, test := range []struct{ first, second string }{{"mac", "ipv"}, {"ipv", "mac"}} {
		t.Run(test.second+" after "+test.first, func(t *testing.T) {
			n.within(t)
			for _, networks := range []string{test.first + "," + test.second, test.second} {
				holder := n.Pod(n.unique("holder"), test.first)
				pod := n.Pod(n.unique("web"), networks)
				n.mustAdd(holder)
				n.awaitHook(holder)
				before := n.Snapshot()
				_, failure := n.Add(pod)
				if failure == nil {
					t.Fatal("ADD succeeded")
				}
				if failure.Code != types.ErrInvalidNetworkConfig && failure.Code != cni.CodeFailed {
					t.Errorf("the code is %d", failure.Code)
				}
				checkFailure(t, failure, failure.Code, "pod "+n.namespace+"/"+pod.Name, fmt.Sprintf("/%s (net", test.second),
					`master "eth1"`, "macvlan", "ipvlan")
				n.mustBe(before)
				n.mustDel(holder)
				holder.Remove()
				pod.Remove()
			}
		})
	}
	n.pods = nil
	n.mustBe(idle)
}
