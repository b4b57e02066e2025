// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"testing"

	"github.com/containernetworking/cni/pkg/types"

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
