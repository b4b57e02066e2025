// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"fmt"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

// A network and a pod that are written an instant before the ADD are known to it.
func TestNetnsManifestsAreRead(t *testing.T) {
	n := newNode(t)
	for i := range fewer(20) {
		network := fmt.Sprintf("lan-%d", i)
		n.Network(network, macvlan(object{"ipam": object{"type": "static",
			"addresses": []object{{"address": fmt.Sprintf("192.168.122.%d/24", 100+i)}}}}))
		pod := n.Pod(n.unique("web"), network)
		n.mustAdd(pod)
		if got := addressesOf(t, pod, "net1"); len(got) != 1 && !got[fmt.Sprintf("192.168.122.%d/24", 100+i)] {
			t.Errorf("round %d: net1 has %v", i, got)
		}
		n.mustDel(pod)
	}
}

// A change is followed; DEL undoes what ADD did, whatever the network says by
// then; a file that becomes wrong keeps what it said before.
func TestNetnsManifestsAreFollowed(t *testing.T) {
	n := newNode(t)
	withMTU := func(mtu int) string { return macvlan(object{"mtu": mtu}) }
	n.Network("lan", withMTU(1400))
	pod := n.Pod("web", "lan")
	n.mustAdd(pod)
	n.expectMTU(t, pod, 1400)

	n.Network("lan", config(object{"type": "nosuch"}, nil))
	n.mustCheck(pod)
	n.mustDel(pod)
	n.await("the change to be followed", func() bool {
		_, failure := n.Add(pod)
		if failure == nil {
			n.mustDel(pod)
		}
		return failure != nil && failure.Code == types.ErrInvalidNetworkConfig
	})

	n.Network("lan", withMTU(1300))
	n.await("the change to be followed", func() bool { return n.addsWithMTU(pod) == 1300 })

	n.Write("manifests/network-lan.json", `{"kind":`, 0o600)
	for range 5 {
		if got := n.addsWithMTU(pod); got != 1300 {
			t.Errorf("with a broken manifest, net1 has an MTU of %d", got)
		}
	}
	n.Network("lan", withMTU(1200))
	n.await("the mended manifest", func() bool { return n.addsWithMTU(pod) == 1200 })

	n.forgetManifests()
	n.await("the pod to be forgotten", func() bool {
		_, failure := n.Add(pod)
		if failure == nil {
			n.mustDel(pod)
		}
		return failure != nil && failure.Code == types.ErrTryAgainLater
	})
}

func (n *Node) expectMTU(t *testing.T, p *Pod, want int) {
	t.Helper()
	if got := p.Link("net1").Attrs().MTU; got != want {
		t.Errorf("net1 has an MTU of %d, want %d", got, want)
	}
}

// addsWithMTU adds and deletes a pod and says which MTU net1 had; 0 when ADD has
// failed.
func (n *Node) addsWithMTU(p *Pod) int {
	n.tb.Helper()
	if _, failure := n.Add(p); failure != nil {
		return 0
	}
	mtu := p.Link("net1").Attrs().MTU
	n.mustDel(p)
	return mtu
}
