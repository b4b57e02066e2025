// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/netns"
)

// promotionPatience is how long an attachment may take to get its links.
const promotionPatience = 3 * time.Second

// hook is where the guards end up on this kernel, which is asked by attaching a
// program to the node's loopback.
func (n *Node) hook() string {
	n.tb.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	})
	if err != nil {
		n.tb.Fatal(err)
	}
	defer program.Close()
	hook := "tcx"
	n.machine.Do(func() error {
		l, err := link.AttachTCX(link.TCXOptions{Interface: 1, Program: program, Attach: ebpf.AttachTCXEgress})
		if errors.Is(err, ebpf.ErrNotSupported) {
			hook = "clsact"
			return nil
		}
		if err != nil {
			return err
		}
		return l.Close()
	})
	return hook
}

// awaitHook waits until the guard of net1 is where it ends up, and only there.
func (n *Node) awaitHook(p *Pod) {
	n.tb.Helper()
	want := n.hook()
	n.await("the hook "+want, func() bool {
		return n.Attachment(p, "net1").Hook == want && n.hasFilters(p) == (want == "clsact")
	})
}

func (n *Node) hasFilters(p *Pod) bool {
	n.tb.Helper()
	host, name := p.Host, "net1"
	if end := n.Attachment(p, "net1").HostInterface; end != "" {
		host, name = n.machine, end
	}
	l := host.Link(name)
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := netns.Dump(func() ([]netlink.Filter, error) { return host.Netlink().FilterList(l, parent) })
		if err != nil {
			n.tb.Fatal(err)
		}
		if len(filters) > 0 {
			return true
		}
	}
	return false
}

// Where the kernel has tcx, the guard moves there soon after ADD and its filters
// go; elsewhere they stay. It enforces all the while, and its
// counters are those of the packets that were sent.
func TestNetnsPromotion(t *testing.T) {
	n := newNode(t)
	want := n.hook()
	t.Logf("this kernel's hook is %s", want)
	n.Network("lan", static())
	pod := n.Pod("web", selection)
	n.mustAdd(pod)
	began := time.Now()
	frame := spoofsOf(t, pod.Link("net1").Attrs().HardwareAddr)[1].frame
	sent := uint64(0)
	for n.Attachment(pod, "net1").Hook != want || n.hasFilters(pod) != (want == "clsact") {
		pod.Send("net1", frame)
		sent++
		if time.Since(began) > promotionPatience {
			t.Fatalf("the hook is %s after %s, filters: %t", n.Attachment(pod, "net1").Hook, promotionPatience, n.hasFilters(pod))
		}
	}
	pod.Send("net1", frame)
	sent++
	dropped := n.Attachment(pod, "net1").Dropped
	if len(dropped) != 1 || dropped[0].Reason != "spoofed_ipv4" || dropped[0].Packets != sent {
		t.Errorf("of %d spoofs, weirctl says %v", sent, dropped)
	}
	wide, err := n.ctl("-o", "wide")
	if err != nil {
		t.Fatal(err)
	}
	header, row, _ := strings.Cut(string(wide), "\n")
	if place := strings.Index(header, "HOOK"); place < 0 || !strings.HasPrefix(row[max(place, 0):], want+" ") {
		t.Errorf("weirctl get -o wide prints\n%s", wide)
	}
	n.mustCheck(pod)
	n.mustDel(pod)
}

// No packet is lost while a guard moves: a pod that was just added answers every
// ping, and each is counted.
func TestNetnsPromotionLosesNothing(t *testing.T) {
	n := newNode(t)
	n.Network("lan", static())
	pod := n.Pod("web", selection)
	for round := range fewer(20) {
		n.mustAdd(pod)
		ctx, stop := context.WithCancel(t.Context())
		flooded := n.flood(ctx, n.outside, time.Millisecond)
		n.awaitHook(pod)
		stop()
		sent, lost, err := flooded()
		if err != nil || len(lost) > 0 {
			t.Errorf("round %d: of %d pings %v were lost; error %v", round, sent, lost, err)
		}
		if a := n.Attachment(pod, "net1"); a.Receive.Packets < uint64(sent) || a.Transmit.Packets < uint64(sent) {
			t.Errorf("round %d: of %d pings and answers, weirctl says %v and %v", round, sent, a.Receive, a.Transmit)
		}
		n.mustDel(pod)
	}
}
