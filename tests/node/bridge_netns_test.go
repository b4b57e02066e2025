// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"testing"

	"github.com/google/nftables"

	"github.com/weir-cni/weir/api"
)

// bridged is a network on a bridge with a gateway on the node.
func (n *Node) bridged(subnet string) string {
	return config(object{"type": "bridge", "bridge": "br0", "isGateway": true, "ipMasq": true, "ipam": n.hostLocal(subnet)}, nil)
}

// On a bridge the programs sit at the node's end of the cable, out of the pod's
// reach, and see its directions.
func TestNetnsBridge(t *testing.T) {
	n := newNode(t)
	n.Network("lan", n.bridged("10.86.0.0/16"))
	first := n.Pod("first", "lan")
	n.mustAdd(first) // and the bridge stays
	n.mustDel(first)
	idle := n.idle()
	first, other := n.Pod("web", "lan"), n.Pod("db", "lan")
	before := n.with(n.with(idle, first), other)
	n.mustAdd(first)
	n.mustAdd(other)
	for _, round := range []string{"as added", "as moved", "after a restart"} {
		t.Log(round)
		n.checkBridged(t, first, other)
		if got := n.masquerading(); got != 2 {
			t.Errorf("%d pods are masqueraded, want 2", got)
		}
		n.mustCheck(first)
		n.awaitHook(first)
		if round == "as moved" {
			n.Restart()
		}
	}
	n.checkNoPrograms(t, first, "net1")
	n.mustDel(other)
	n.mustDel(first)
	n.mustBe(before)
	if got := n.masquerading(); got != 0 {
		t.Errorf("%d pods are masqueraded after DEL", got)
	}
}

// masquerading counts the chains of pods in the node's table.
func (n *Node) masquerading() (chains int) {
	n.tb.Helper()
	n.machine.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		all, err := conn.ListChains()
		for _, c := range all {
			if c.Table.Name == "weir_masquerade" {
				chains++
			}
		}
		return err
	})
	return chains
}

func (n *Node) checkBridged(t *testing.T, p, other *Pod) {
	t.Helper()
	before := n.Attachment(p, "net1")
	if before.Type != "veth" || before.Master != "br0" || before.HostInterface == "" || len(before.Addresses) != 1 {
		t.Fatalf("weirctl says %+v", before)
	}
	const pings = 4
	if answered := n.ping(other.Host, addressOf(before), pings); answered != pings {
		t.Errorf("%d of %d pings from another pod were answered", answered, pings)
	}
	if answered := n.ping(n.machine, addressOf(before), pings); answered != pings {
		t.Errorf("%d of %d pings from the node were answered", answered, pings)
	}
	for _, s := range spoofsOf(t, p.Link("net1").Attrs().HardwareAddr) {
		p.Send("net1", s.frame)
	}
	after := n.Attachment(p, "net1")
	if after.Receive.Packets < before.Receive.Packets+2*pings || after.Transmit.Packets < before.Transmit.Packets+2*pings {
		t.Errorf("counted %v and %v, before %v and %v", after.Receive, after.Transmit, before.Receive, before.Transmit)
	}
	if len(after.Dropped) < 4 {
		t.Errorf("of spoofs, weirctl says %v", after.Dropped)
	}
	for _, d := range after.Dropped {
		if d.Direction != "egress" {
			t.Errorf("dropped %+v", d)
		}
	}
}

func addressOf(a api.AttachmentStatus) string { return a.Addresses[0].Addr().String() }
