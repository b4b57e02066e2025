// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// asContainer calls fn in the pod with the one capability of an ordinary container that
// has to do with networks: CAP_NET_RAW. What fn says is returned.
func (p *Pod) asContainer(fn func() error) (said error) {
	p.Do(func() (err error) {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var whole, raw [2]unix.CapUserData
		if err := unix.Capget(&header, &whole[0]); err != nil {
			return fmt.Errorf("reading the capabilities: %w", err)
		}
		raw = whole
		raw[0].Effective, raw[1].Effective = 1<<unix.CAP_NET_RAW, 0
		if err := unix.Capset(&header, &raw[0]); err != nil {
			return fmt.Errorf("dropping capabilities: %w", err)
		}
		said = fn()
		return unix.Capset(&header, &whole[0])
	})
	return said
}

// bypass asks for a packet socket that sends past tc, xdp for one of AF_XDP's options.
func (p *Pod) bypass() error { return p.option(unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS) }
func (p *Pod) xdp() error    { return p.option(unix.SOL_XDP, unix.XDP_TX_RING) }

func (p *Pod) option(level, name int) error {
	return p.asContainer(func() error {
		socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening a packet socket: %w", err)
		}
		defer unix.Close(socket)
		return unix.SetsockoptInt(socket, level, name, 1)
	})
}

func (n *Node) mustBeDenied(when string, pods ...*Pod) {
	n.tb.Helper()
	for _, p := range pods {
		if err := p.bypass(); !errors.Is(err, unix.EPERM) {
			n.tb.Errorf("%s: PACKET_QDISC_BYPASS in %s: %v", when, p.Name, err)
		}
		if err := p.xdp(); !errors.Is(err, unix.EPERM) {
			n.tb.Errorf("%s: AF_XDP in %s: %v", when, p.Name, err)
		}
	}
}

func (n *Node) mustBeFree(when string, pods ...*Pod) {
	n.tb.Helper()
	for _, p := range pods {
		if err := p.bypass(); err != nil {
			n.tb.Errorf("%s: PACKET_QDISC_BYPASS in %s: %v", when, p.Name, err)
		}
		if err := p.xdp(); errors.Is(err, unix.EPERM) {
			n.tb.Errorf("%s: AF_XDP in %s: %v", when, p.Name, err)
		}
	}
}

// A container with CAP_NET_RAW is denied the sockets that send past its guard, whatever
// becomes of the agent, and is free of that without a guard of its own or by its network's
// leave.
func TestNetnsSocketsThatGoRound(t *testing.T) {
	n := newNode(t)
	warmUp(n)
	n.Network("lan", macvlan(object{"ipam": n.hostLocal("192.0.2.0/24")}))
	n.Network("free", macvlan(object{"ipam": n.hostLocal("198.51.100.0/24"), "weir": object{"allow": []string{"qdisc-bypass"}}}))
	n.Network("bridged", n.bridged("203.0.113.0/24"))
	first, second := n.Pod("first", "lan"), n.Pod("second", "lan")
	free, both, bridged := n.Pod("free", "free"), n.Pod("both", "lan,free"), n.Pod("bridged", "bridged")
	pods := []*Pod{first, second, free, both, bridged}
	n.mustBeFree("before ADD", pods...)
	for _, p := range pods {
		n.mustAdd(p)
	}
	n.mustBeDenied("after ADD", first, second)
	n.mustBeFree("after ADD", free, both, bridged)
	n.Kill()
	n.mustBeDenied("without an agent", first, second)
	n.mustBeFree("without an agent", free, both, bridged)
	n.Start()
	n.mustBeDenied("with another agent", first, second)
	n.mustBeFree("with another agent", free, both, bridged)
	n.mustDel(first)
	n.mustBeFree("after DEL", first)
	n.mustBeDenied("after another's DEL", second)
	for _, p := range pods[1:] {
		n.mustDel(p)
	}
	n.mustBeFree("after DEL", pods...)
}

// sendRound sends a frame from net1 by a packet socket that goes round tc.
func (p *Pod) sendRound(frame []byte) error {
	index := p.Link("net1").Attrs().Index
	return p.asContainer(func() error {
		socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(socket)
		if err := unix.SetsockoptInt(socket, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
			return err
		}
		return unix.Sendto(socket, frame, 0, &unix.SockaddrLinklayer{Ifindex: index})
	})
}

// What goes round the pod's own tc meets a guard on the node's end of the cable, which
// refuses it and counts it like anything else.
func TestNetnsBridgeIsNotGoneRound(t *testing.T) {
	n := newNode(t)
	n.bridgeOnLAN("br1")
	n.Network("lan", listOf("1.0.0", object{"type": "bridge", "bridge": "br1", "ipam": lanObject()["ipam"]}))
	pod := n.Pod("web", "lan")
	n.mustAdd(pod)
	n.awaitHook(pod)
	n.checkSpoofsBy(t, pod, func(frame []byte) {
		if err := pod.sendRound(frame); err != nil {
			t.Fatal(err)
		}
	})
	n.mustDel(pod)
}
