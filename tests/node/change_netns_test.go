// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"bytes"
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/weir-cni/weir/loader"
)

// settings are those of the guard on net1 of a pod.
func (n *Node) settings(p *Pod) string {
	n.tb.Helper()
	metadata, err := loader.ReadMetadata(filepath.Join(n.bpfDir, p.ID[:12]+"-net1"))
	if err != nil {
		n.tb.Fatal(err)
	}
	return metadata.Settings
}

// changing is a network of a kind that a test changes.
func (n *Node) changing(kind string) func(weir object) {
	network := lanObject()
	if kind == "bridge" {
		network = object{"type": "bridge", "bridge": "br1", "ipam": network["ipam"]}
	}
	return func(weir object) {
		network["weir"] = weir
		n.Network("lan", listOf("1.0.0", network))
	}
}

// A network's key weir changes while its pods are pinged and send what is not their own: no
// packet is lost, none passes that should not, and each is counted.
func TestNetnsNetworkChanges(t *testing.T) {
	for _, kind := range []string{"macvlan", "bridge"} {
		t.Run(kind, func(t *testing.T) {
			n := newNode(t)
			pod, before := n.guardedPod(t, kind)
			change := n.changing(kind)
			spoof := spoofsOf(t, pod.Link("net1").Attrs().HardwareAddr)[1].frame
			arrived := n.outside.Capture("eth1")
			ctx, stop := context.WithCancel(t.Context())
			flooded := n.flood(ctx, n.outside, time.Millisecond)
			spoofs := uint64(0)
			for round := range fewer(20) {
				was := n.settings(pod)
				change(object{"allow": []string{"router", "vlan"}[:1+round%2], "stormLimit": object{"multicast": 1000 + round},
					"sources": []string{"198.51.100.0/24"}[:round%2]})
				n.await("the change", func() bool {
					pod.Send("net1", spoof)
					spoofs++
					return n.settings(pod) != was
				})
			}
			stop()
			sent, lost, err := flooded()
			if err != nil || len(lost) > 0 {
				t.Errorf("of %d pings %v were lost; error %v", sent, lost, err)
			}
			for _, f := range arrived.Stop() {
				if bytes.Equal(f.Data, spoof) {
					t.Fatal("a spoofed frame arrived")
				}
			}
			a := n.Attachment(pod, "net1")
			if len(a.Dropped) != 1 || a.Dropped[0].Packets != spoofs || a.Receive.Packets < uint64(sent) || a.Transmit.Packets < uint64(sent) {
				t.Errorf("%d pings and %d spoofs: weirctl says %v, %v, dropped %v", sent, spoofs, a.Receive, a.Transmit, a.Dropped)
			}
			n.awaitHook(pod)
			n.mustCheck(pod)
			n.mustDel(pod)
			n.mustBe(before)
		})
	}
}

// What a network now allows passes, and what it does not allow any more does not. Where it
// says what is wrong, or is gone, what is in force stays, also with the next agent, which
// in turn does what was missed.
func TestNetnsNetworkThatChangesIsFollowed(t *testing.T) {
	n := newNode(t)
	pod, before := n.guardedPod(t, "macvlan")
	change := n.changing("macvlan")
	spoof := spoofsOf(t, pod.Link("net1").Attrs().HardwareAddr)[1].frame
	passes := func() bool {
		arrived := n.outside.Capture("eth1")
		pod.Send("net1", spoof)
		time.Sleep(20 * time.Millisecond)
		for _, f := range arrived.Stop() {
			if bytes.Equal(f.Data, spoof) {
				return true
			}
		}
		return false
	}
	if passes() {
		t.Fatal("it passes from the start")
	}
	change(object{"sources": []string{"192.168.122.96/30"}})
	n.await("leave", passes)
	n.Restart()
	n.awaitHook(pod)
	if !passes() {
		t.Error("the next agent has forgotten it")
	}
	settings := n.settings(pod)
	change(object{"sources": []string{"192.168.122.96/30", "224.0.0.0/4"}})
	n.await("the complaint", func() bool { return bytes.Contains(n.readLog(), []byte("is no source")) })
	n.forgetManifests()
	time.Sleep(time.Second)
	if !passes() || n.settings(pod) != settings {
		t.Error("what was in force is not any more")
	}
	n.mustCheck(pod)
	n.Kill()
	change(object{})
	n.Start()
	n.await("its end", func() bool { return !passes() })
	n.mustCheck(pod)
	n.mustDel(pod)
	n.mustBe(before)
}
