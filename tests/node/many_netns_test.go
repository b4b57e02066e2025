// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/netns"
)

const (
	manyPods = 200
	atOnce   = 32
)

func interfacesOf(t *testing.T, p *Pod) []string {
	t.Helper()
	links, err := netns.Dump(p.Netlink().LinkList)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range links {
		if l.Attrs().Name != "lo" {
			names = append(names, l.Attrs().Name)
		}
	}
	return names
}

// Two hundred ADDs and DELs at once, each of its own process, all succeed, and
// nothing is left of them.
func TestNetnsManyAtOnce(t *testing.T) {
	n := newNode(t)
	n.Network("lan", macvlan(object{"ipam": n.hostLocal("10.99.0.0/16")}))
	warmUp(n)
	idle := n.idle()
	pods := n.manyPods()
	before := idle
	for _, p := range pods {
		before = n.with(before, p)
	}
	n.all(t, "ADD", pods)
	all, err := n.Attachments()
	if err != nil || len(all) != len(pods) {
		t.Errorf("weirctl lists %d attachments, error %v", len(all), err)
	}
	seen := map[string]bool{}
	for _, a := range all {
		seen[fmt.Sprint(a.Addresses)] = true
	}
	if len(seen) != len(all) {
		t.Errorf("%d attachments have %d addresses", len(all), len(seen))
	}
	n.all(t, "CHECK", pods)
	n.all(t, "DEL", pods)
	n.mustBe(before)
	n.all(t, "DEL", pods)
	n.mustBe(before)
}

// manyPods are pods of one manifest.
func (n *Node) manyPods() []*Pod {
	n.tb.Helper()
	items := make([]any, fewer(manyPods))
	pods := make([]*Pod, len(items))
	for i := range items {
		name := n.unique("many")
		items[i] = n.podObject(name, "lan")
		pods[i] = n.newPod(name)
	}
	n.writeObject("many", object{"apiVersion": "v1", "kind": "List", "items": items})
	return pods
}

// all executes a command for every pod, many at once.
func (n *Node) all(t *testing.T, command string, pods []*Pod) {
	t.Helper()
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, p := range pods {
		g.Go(func() error {
			if _, failure := n.Call(n.of(command, p)); failure != nil {
				return fmt.Errorf("%s of %s: %w", command, p.Name, failure)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// Containers whose IDs begin alike have pins of their own, and the end of one
// leaves the others guarded.
func TestNetnsContainersThatBeginAlike(t *testing.T) {
	n := newNode(t)
	n.Network("lan", macvlan(object{"ipam": n.hostLocal("10.99.0.0/16")}))
	warmUp(n)
	idle := n.idle()
	pods := []*Pod{n.Pod("one", "lan"), n.Pod("two", "lan")}
	const alike = "aaaaaaaaaaaa"
	for i, p := range pods {
		p.ID = alike + strings.Repeat(string(rune('0'+i)), 52)
	}
	before := n.with(n.with(idle, pods[0]), pods[1])
	for _, p := range pods {
		n.mustAdd(p)
	}
	names := map[string]bool{}
	entries, err := os.ReadDir(n.bpfDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		names[entry.Name()] = true
	}
	delete(names, loader.RingDir)
	if want := alike + "-net1"; len(names) != 2 || !names[want] || !names[pods[1].ID+"-net1"] {
		t.Errorf("the pins are in %v, want %s and the whole ID of the second", names, want)
	}
	n.mustDel(pods[0])
	n.mustCheck(pods[1])
	n.checkDrops(t, pods[1])
	n.mustDel(pods[1])
	n.mustBe(before)
}

// checkDrops sends a frame that is refused and looks for it among the drops.
func (n *Node) checkDrops(t *testing.T, p *Pod) {
	t.Helper()
	p.Send("net1", spoofsOf(t, p.Link("net1").Attrs().HardwareAddr)[0].frame)
	if got := n.Attachment(p, "net1").Dropped; len(got) != 1 || got[0].Packets != 1 {
		t.Errorf("of one spoof, weirctl says %v", got)
	}
}
