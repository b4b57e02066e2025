// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/loader"
)

// build is that of the programs on net1 of a pod.
func (n *Node) build(p *Pod) string {
	n.tb.Helper()
	metadata, err := loader.ReadMetadata(filepath.Join(n.bpfDir, p.ID[:12]+"-net1"))
	if err != nil {
		n.tb.Fatal(err)
	}
	return metadata.Build
}

// An agent of another build, newer or older, puts its own programs in the place of those
// that are there. No packet is lost, none passes that should not, and each is counted.
func TestNetnsUpgradeAndDowngrade(t *testing.T) {
	other := otherAgent(t)
	for _, kind := range []string{"macvlan", "bridge"} {
		t.Run(kind, func(t *testing.T) {
			n := newNode(t)
			warmUp(n)
			network := lanObject()
			if kind == "bridge" {
				n.bridgeOnLAN("br1")
				network = object{"type": "bridge", "bridge": "br1", "ipam": network["ipam"]}
			}
			idle := n.idle()
			n.Network("lan", listOf("1.0.0", network))
			pod := n.Pod("web", "lan")
			before := n.with(idle, pod)
			n.mustAdd(pod)
			n.awaitHook(pod)
			builds := map[string]bool{n.build(pod): true}
			agents := []string{other, n.bin.agent}
			sent := uint64(0)
			for _, agent := range agents {
				sent += n.upgrade(pod, agent)
				builds[n.build(pod)] = true
				if a := n.Attachment(pod, "net1"); a.Receive.Packets < sent || len(a.Dropped) != 1 {
					t.Errorf("%d pings in all: weirctl says %v, dropped %v", sent, a.Receive, a.Dropped)
				}
			}
			if len(builds) != 2 {
				t.Errorf("the builds were %v", builds)
			}
			n.mustCheck(pod)
			n.mustDel(pod)
			n.mustBe(before)
		})
	}
}

// bridgeOnLAN makes a bridge of the node's that is on the LAN of eth1.
func (n *Node) bridgeOnLAN(name string) {
	n.tb.Helper()
	if err := n.machine.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
		n.tb.Fatal(err)
	}
	if err := n.machine.Netlink().LinkSetMaster(n.machine.Link("eth1"), n.machine.Link(name)); err != nil {
		n.tb.Fatal(err)
	}
	// Its link-local address would come some time later.
	n.machine.Do(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0) })
	n.machine.Up(name)
}

// upgrade has another agent take over while the pod is pinged and sends what is not its
// own, and returns how many pings there were.
func (n *Node) upgrade(p *Pod, agent string) (sent uint64) {
	n.tb.Helper()
	was := n.build(p)
	spoof := spoofsOf(n.tb, p.Link("net1").Attrs().HardwareAddr)[1].frame
	arrived := n.outside.Capture("eth1")
	ctx, stop := context.WithCancel(context.Background())
	flooded := n.flood(ctx, n.outside, time.Millisecond)
	n.Kill()
	whole := n.bin
	n.bin = &binaries{weir: whole.weir, agent: agent, ctl: whole.ctl}
	n.Start()
	n.await("the programs of another build", func() bool {
		p.Send("net1", spoof)
		return n.build(p) != was
	})
	n.awaitHook(p)
	stop()
	count, lost, err := flooded()
	if err != nil || len(lost) > 0 {
		n.tb.Errorf("of %d pings %v were lost; error %v", count, lost, err)
	}
	for _, f := range arrived.Stop() {
		if string(f.Data) == string(spoof) {
			n.tb.Error("a spoofed frame arrived")
			break
		}
	}
	return uint64(count)
}
