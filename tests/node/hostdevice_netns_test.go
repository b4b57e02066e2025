// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"errors"
	"net"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/tests/lan"
)

// A device of the node is the pod's alone, guarded and counted, and the node's again
// afterwards, with its addresses, whatever became of record and agent meanwhile.
func TestNetnsHostDevice(t *testing.T) {
	n := newNode(t)
	lan.Join(t, n.machine, "dev0", n.outside, "dev0")
	n.machine.Address("dev0", "203.0.113.2/24")
	n.outside.Address("dev0", "198.51.100.1/24")
	n.Network("dev", config(object{"type": "host-device", "device": "dev0", "ipam": object{
		"type": "static", "addresses": []object{{"address": "198.51.100.7/24"}},
	}}, nil))
	warmUp(n)
	tests := []struct {
		name string
		lose func(*Pod)
	}{
		{"all is there", func(*Pod) {}},
		{"the agent was killed", func(*Pod) { n.Restart() }},
		{"the record is gone", func(p *Pod) { n.loseRecord(p) }},
		{"the record and the agent are gone, and the network", func(p *Pod) {
			n.loseRecord(p)
			n.forgetManifests()
			n.Restart()
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n.within(t)
			n.Network("dev", config(object{"type": "host-device", "device": "dev0", "ipam": object{
				"type": "static", "addresses": []object{{"address": "198.51.100.7/24"}},
			}}, nil))
			pod, other := n.Pod(n.unique("web"), "dev"), n.Pod(n.unique("late"), "dev")
			defer other.Remove()
			defer pod.Remove()
			before := n.with(n.with(n.idle(), pod), other)
			n.mustAdd(pod)
			if answered := n.ping(n.outside, "198.51.100.7", 3); answered != 3 {
				t.Errorf("%d of 3 pings were answered", answered)
			}
			_, failure := n.Add(other)
			if failure == nil {
				t.Fatal("another pod got the device too")
			}
			checkFailure(t, failure, types.ErrInvalidNetworkConfig, "/dev (net1)", `device "dev0"`)
			for _, s := range spoofsOf(t, pod.Link("net1").Attrs().HardwareAddr) {
				pod.Send("net1", s.frame)
			}
			if a := n.Attachment(pod, "net1"); len(a.Dropped) < 4 || a.Master != "dev0" || a.Receive.Packets < 3 {
				t.Errorf("weirctl says %+v", a)
			}
			n.mustCheck(pod)
			n.awaitHook(pod)
			test.lose(pod)
			for range 2 {
				n.mustDel(pod)
			}
			n.mustBe(before)
			n.checkNoPrograms(t, &Pod{Host: n.machine}, "dev0")
		})
	}
}

// card is a network card of the VM's.
const card = "0000:00:10.0"

// A card is the node's again, as it was, as soon as the pod's namespace has ended,
// and DEL finds nothing amiss. The kernel gives cards back to the first network
// namespace: so the node of this test is there.
func TestKernelsCardComesBack(t *testing.T) {
	n := newIdleNode(t)
	n.machine = lan.Root(t)
	n.Start()
	n.Network("card", config(object{"type": "host-device", "pciBusID": card}, nil))
	root := n.machine.Netlink()
	before, err := root.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	address, err := netlink.ParseAddr("192.0.2.7/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(root.AddrAdd(before, address), root.LinkSetUp(before)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = errors.Join(root.AddrDel(n.machine.Link("eth0"), address), root.LinkSetDown(n.machine.Link("eth0")))
	})
	pod := n.Pod("web", "card")
	add := n.of("ADD", pod)
	add.config["delegates"] = []any{object{"cniVersion": "1.0.0", "name": "default", "type": "bridge", "bridge": "card0"}}
	if _, failure := n.Call(add); failure != nil {
		t.Fatal(failure)
	}
	t.Cleanup(func() { _ = root.LinkDel(n.machine.Link("card0")) })
	if err := pod.Netlink().LinkSetHardwareAddr(pod.Link("net1"), net.HardwareAddr{2, 0, 0, 0, 0, 9}); err != nil {
		t.Fatal(err)
	}
	pod.Remove()
	n.await("the card to be as it was", func() bool {
		link, err := root.LinkByName("eth0")
		if err != nil {
			return false
		}
		addresses, err := root.AddrList(link, netlink.FAMILY_V4)
		a := link.Attrs()
		return err == nil && len(addresses) == 1 && a.Alias == "" && a.Flags&net.FlagUp != 0 &&
			a.HardwareAddr.String() == before.Attrs().HardwareAddr.String()
	})
	del := n.of("DEL", pod)
	del.config = add.config
	if _, failure := n.Call(del); failure != nil {
		t.Error(failure)
	}
}
