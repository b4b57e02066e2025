// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

// noticedWithin is how long the agent may take to restore a guard.
const noticedWithin = time.Second

// harmless are the intrusions that do not touch the guard.
func harmless() []string {
	return []string{
		"rename", "set the MAC", "add an address", "be promiscuous", "move the MAC filter", "make it a port of a bridge",
	}
}

// Whatever a pod with CAP_NET_ADMIN does to net1, what is not its own does not get out:
// at no moment where the guard sits on links, or on the node's end of the cable, and a
// second later on kernels that have none.
func TestNetnsTamper(t *testing.T) {
	for _, kind := range []string{"macvlan", "bridge"} {
		names := append(harmless(), "delete the qdisc", "delete the filters", "put a filter first")
		if kind == "bridge" {
			names = append(names, "make a macvlan on it")
		}
		for _, name := range names {
			t.Run(kind+": "+name, func(t *testing.T) { tamper(t, kind, name) })
		}
	}
}

// What takes kinds of interfaces that not every kernel has.
func TestKernelsTamper(t *testing.T) {
	for _, kind := range []string{"macvlan", "bridge"} {
		t.Run(kind+": make a VLAN on it", func(t *testing.T) { tamper(t, kind, "make a VLAN on it") })
	}
	for _, name := range []string{"rename", "add an address", "be promiscuous", "delete the qdisc", "delete the filters", "put a filter first"} {
		t.Run("ipvlan: "+name, func(t *testing.T) { tamper(t, "ipvlan", name) })
	}
}

// guardedPod is a pod whose net1 is of a kind, on the hook to stay, and the machine as it
// is without its networks.
func (n *Node) guardedPod(t *testing.T, kind string) (p *Pod, before snapshot) {
	t.Helper()
	warmUp(n)
	network := lanObject()
	switch kind {
	case "bridge":
		n.bridgeOnLAN("br1")
		network = object{"type": "bridge", "bridge": "br1", "ipam": network["ipam"]}
	case "ipvlan":
		network["type"] = "ipvlan"
	}
	idle := n.idle()
	n.Network("lan", listOf("1.0.0", network))
	p = n.Pod("web", "lan")
	before = n.with(idle, p)
	n.mustAdd(p)
	n.awaitHook(p)
	return p, before
}

func tamper(t *testing.T, kind, name string) {
	n := newNode(t)
	pod, _ := n.guardedPod(t, kind)
	// What a pod does to its own end of a cable does not reach the other.
	reached := n.hook() == "clsact" && kind != "bridge" && !slices.Contains(harmless(), name) && !strings.HasPrefix(name, "make a")
	link := pod.Link("net1").Attrs()
	i := intrusion{Name: name, Index: link.Index}
	if reached {
		i.Wait = noticedWithin
	}
	for _, s := range spoofsOf(t, link.HardwareAddr) {
		i.Frames = append(i.Frames, s.frame)
	}
	i.Frames = append(i.Frames, foreignFrame(t))
	arrived := n.outside.Capture("eth1")
	pod.intrude(t, i)
	time.Sleep(50 * time.Millisecond)
	for _, f := range arrived.Stop() {
		if !f.Outgoing && isForeign(f.Data, i.Frames) {
			t.Errorf("what is not the pod's has arrived: % x", f.Data[:min(len(f.Data), 42)])
		}
	}
	n.checkRestored(t, pod, reached)
	n.mustDel(pod)
}

// foreignFrame is from a MAC and an address that are not the pod's.
func foreignFrame(t *testing.T) []byte {
	t.Helper()
	mac, err := net.ParseMAC(foreignMAC)
	if err != nil {
		t.Fatal(err)
	}
	return lan.Frame(t,
		&layers.Ethernet{SrcMAC: mac, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeIPv4},
		&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.ParseIP(foreignAddress), DstIP: net.ParseIP(outsideAddress)},
		&layers.UDP{SrcPort: 1234, DstPort: 4321}, gopacket.Payload("foreign"))
}

// isForeign tells frames that were sent as they are, and all that bear the foreign MAC or
// address or a tag.
func isForeign(frame []byte, sent [][]byte) bool {
	for _, s := range sent {
		if bytes.Equal(frame, s) {
			return true
		}
	}
	decoded := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	for _, layer := range decoded.Layers() {
		switch l := layer.(type) {
		case *layers.Ethernet:
			if l.SrcMAC.String() == foreignMAC {
				return true
			}
		case *layers.IPv4:
			if l.SrcIP.String() == foreignAddress {
				return true
			}
		case *layers.ARP:
			if net.IP(l.SourceProtAddress).String() == foreignAddress {
				return true
			}
		case *layers.Dot1Q:
			return true
		}
	}
	return false
}

// checkRestored compares what the agent says with what was done.
func (n *Node) checkRestored(t *testing.T, p *Pod, want bool) {
	t.Helper()
	said := bytes.Contains(n.readLog(), []byte("a guard was tampered with"))
	counted := n.restored(t, p) > 0
	if said != want || counted != want {
		t.Errorf("a restoration: %t; in the log: %t, in the metrics: %t", want, said, counted)
	}
}

// restored is how often the guard of net1 was restored.
func (n *Node) restored(t *testing.T, p *Pod) (times uint64) {
	t.Helper()
	for name, value := range n.numbersOf(t, n.scrape(), p, "net1") {
		if strings.HasPrefix(name, "weir_guard_restored_total") {
			times += value
		}
	}
	return times
}

// A pod that renames net1 keeps its guard; CHECK says that the interface is not as ADD
// made it, and DEL finds it all the same.
func TestNetnsRenamedInterface(t *testing.T) {
	for _, kind := range []string{"macvlan", "bridge"} {
		for _, taken := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, its name taken by another %t", kind, taken), func(t *testing.T) {
				n := newNode(t)
				pod, before := n.guardedPod(t, kind)
				pod.intrude(t, intrusion{Name: "rename", Index: pod.Link("net1").Attrs().Index})
				if taken {
					lan.Join(t, pod.Host, "net1", n.outside, "pod-end")
				}
				if failure := n.Check(pod); failure == nil {
					t.Error("CHECK succeeded")
				}
				n.Restart()
				if got := n.Attachment(pod, "net1").Hook; got != n.hook() {
					t.Errorf("the hook is %q", got)
				}
				n.mustDel(pod)
				if taken {
					// What is the pod's own may stay, under whatever name.
					if end, err := n.outside.Netlink().LinkByName("pod-end"); err == nil {
						_ = n.outside.Netlink().LinkDel(end)
					}
				}
				n.mustBe(before)
			})
		}
	}
}

// A pod that deletes net1 has nothing to guard any more, and is told so.
func TestNetnsDeletedInterface(t *testing.T) {
	for _, kind := range []string{"macvlan", "bridge"} {
		t.Run(kind, func(t *testing.T) {
			n := newNode(t)
			pod, before := n.guardedPod(t, kind)
			pod.intrude(t, intrusion{Name: "delete it", Index: pod.Link("net1").Attrs().Index})
			n.await("the agent to notice", func() bool { return n.Attachment(pod, "net1").Hook == "gone" })
			text := string(n.scrape())
			if !strings.Contains(text, "weir_attachments_without_interface 1") || !strings.Contains(text, `hook="gone"`) {
				t.Errorf("the metrics are\n%s", text)
			}
			time.Sleep(3 * time.Second)
			if said := bytes.Count(n.readLog(), []byte("was deleted or moved away")); said != 1 {
				t.Errorf("the agent says so %d times", said)
			}
			n.mustDel(pod)
			n.mustBe(before)
		})
	}
}

// A pod that never ceases to take its guard off, also while it is being put back, keeps
// neither the agent busy nor the guard off for longer than a second each time, as its frames
// show that the guard would refuse.
func TestNetnsTamperWithoutEnd(t *testing.T) {
	n := newNode(t)
	pod, _ := n.guardedPod(t, "macvlan")
	const blindRounds, rounds = 60, 12
	for range blindRounds {
		pod.takeOff()
		time.Sleep(40 * time.Millisecond)
	}
	arrived := n.outside.Capture("eth1")
	ctx, stop := context.WithCancel(t.Context())
	var sent []time.Time
	var sender sync.WaitGroup
	sender.Go(func() { sent = pod.sendForeign(ctx, t) })
	for range rounds {
		n.await("the guard", func() bool { return n.hook() == "tcx" || pod.hasEgressFilter(t) })
		time.Sleep(100 * time.Millisecond) // in which frames are refused
		pod.takeOff()
	}
	time.Sleep(noticedWithin)
	stop()
	sender.Wait()
	n.mustCheck(pod)
	times, off := n.restored(t, pod), longestOff(sent, arrived.Stop())
	t.Logf("restored %d times in %d rounds; off for %v at most", times, blindRounds+rounds, off)
	if n.hook() == "tcx" && times != 0 || n.hook() == "clsact" && (times < rounds || times > blindRounds+rounds) {
		t.Errorf("the guard was restored %d times", times)
	}
	if n.hook() == "tcx" && off != 0 || off > noticedWithin {
		t.Errorf("the guard was off for %v", off)
	}
	log := n.readLog()
	if said := bytes.Count(log, []byte("tampered with and is in force again")); said > 1 {
		t.Errorf("the agent says so %d times within a minute", said)
	}
	if bytes.Contains(log, []byte("cannot be restored yet")) {
		t.Error("the guard could not be restored")
	}
	n.mustDel(pod)
}

// takeOff removes what of the guard a pod can. It may be off already.
func (p *Pod) takeOff() { _ = p.Netlink().QdiscDel(clsact(p.Link("net1"))) }

func (p *Pod) hasEgressFilter(t *testing.T) bool {
	t.Helper()
	filters, err := netns.Dump(func() ([]netlink.Filter, error) {
		return p.Netlink().FilterList(p.Link("net1"), netlink.HANDLE_MIN_EGRESS)
	})
	return err == nil && len(filters) > 0
}

// foreignMark begins what frames carry that sendForeign has sent.
const foreignMark = "foreign frame "

// sendForeign sends a frame every few milliseconds that is not the pod's own, each with its
// number, until ctx ends, and says when each was sent.
func (p *Pod) sendForeign(ctx context.Context, t *testing.T) (sent []time.Time) {
	link := &layers.Ethernet{SrcMAC: macOf(p), DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeIPv4}
	for ctx.Err() == nil {
		frame := lan.Frame(t, link,
			&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.ParseIP(foreignAddress), DstIP: net.ParseIP(outsideAddress)},
			&layers.UDP{SrcPort: 1234, DstPort: 4321}, gopacket.Payload(fmt.Sprintf(foreignMark+"%06d", len(sent))))
		sent = append(sent, time.Now())
		p.Send("net1", frame)
		time.Sleep(5 * time.Millisecond)
	}
	return sent
}

// longestOff is the longest time in which all that was sent has arrived: from the first such
// frame to the next that has not.
func longestOff(sent []time.Time, arrived []lan.Captured) (longest time.Duration) {
	passed := make([]bool, len(sent))
	for _, f := range arrived {
		at := bytes.LastIndex(f.Data, []byte(foreignMark))
		if at < 0 || f.Outgoing {
			continue
		}
		if number, err := strconv.Atoi(string(f.Data[at+len(foreignMark):][:6])); err == nil {
			passed[number] = true
		}
	}
	off := -1
	for i := range sent {
		switch {
		case passed[i] && off < 0:
			off = i
		case !passed[i] && off >= 0:
			longest, off = max(longest, sent[i].Sub(sent[off])), -1
		}
	}
	if off >= 0 {
		longest = max(longest, time.Since(sent[off]))
	}
	return longest
}
