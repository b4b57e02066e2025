// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/tests/lan"
)

// neighbours are three pods of one network on one node, of which the first sends past its
// guard: by leave of its network, or since its socket is older than its guard.
type neighbours struct {
	*Node
	t                       *testing.T
	attacker, victim, other *Pod
	send                    func(frame []byte)
}

func newNeighbours(t *testing.T, network object, leave bool) *neighbours {
	t.Helper()
	s := &neighbours{Node: newNode(t), t: t}
	weir := object{}
	if leave {
		weir["allow"] = []string{"qdisc-bypass"}
	}
	s.Network("lan", config(network, object{"ipam": object{"type": "static"}}))
	s.Network("attackers", config(network, object{"ipam": object{"type": "static"}, "weir": weir}))
	s.attacker = s.Pod("attacker", toJSON(t, []object{{"name": "attackers", "ips": []string{guardedAddress + "/24"}}}))
	s.victim = s.Pod("victim", toJSON(t, []object{{"name": "lan", "ips": []string{victimAddress + "/24"}}}))
	s.other = s.Pod("other", toJSON(t, []object{{"name": "lan", "ips": []string{friendAddress + "/24"}}}))
	s.attacker.UID = "de2cd5e3-91cf-44fc-b38f-f4dfa9c3606a"
	var socket int
	inCgroupOf(t, s.attacker, func() { socket = s.attacker.socketThatGoesRound(t) })
	for _, p := range []*Pod{s.attacker, s.victim, s.other} {
		s.mustAdd(p)
	}
	index := s.attacker.Link("net1").Attrs().Index
	s.send = func(frame []byte) {
		t.Helper()
		mustOrRefused(t, s.attacker.asContainer(func() error {
			return unix.Sendto(socket, frame, 0, &unix.SockaddrLinklayer{Ifindex: index})
		}))
	}
	return s
}

// inCgroupOf calls fn in a cgroup below the one that the kubelet makes for a pod, where the
// kernel tells whose a socket is by nothing else.
func inCgroupOf(t *testing.T, p *Pod, fn func()) {
	t.Helper()
	if loader.KnowsNamespaces() {
		fn()
		return
	}
	root := t.TempDir()
	mustDo(t, unix.Mount("cgroup2", root, "cgroup2", 0, ""))
	t.Cleanup(func() { mustDo(t, unix.Unmount(root, unix.MNT_DETACH)) })
	pod := filepath.Join(root, "kubepods", "burstable", "pod"+p.UID)
	container := filepath.Join(pod, "container")
	mustDo(t, os.MkdirAll(container, 0o755))
	t.Cleanup(func() {
		for _, dir := range []string{container, pod, filepath.Dir(pod), filepath.Dir(filepath.Dir(pod))} {
			mustDo(t, os.Remove(dir))
		}
	})
	was, err := os.ReadFile("/proc/self/cgroup")
	mustDo(t, err)
	_, path, _ := strings.Cut(string(was), "0::")
	path, _, _ = strings.Cut(path, "\n")
	enter := func(dir string) {
		mustDo(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0))
	}
	enter(container)
	defer enter(filepath.Join(root, path))
	fn()
}

func mustDo(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mustOrRefused fails but for what the kernel says of a frame that was refused on the master.
func mustOrRefused(t *testing.T, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, unix.ENOBUFS) {
		t.Fatal(err)
	}
}

// socketThatGoesRound is a packet socket of the pod that sends past tc. It keeps what it
// may do, should the pod be denied that later.
func (p *Pod) socketThatGoesRound(t *testing.T) (socket int) {
	t.Helper()
	if err := p.asContainer(func() (err error) {
		if socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.SetsockoptInt(socket, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(socket) })
	return socket
}

// datagram is a UDP packet that says it is from one host to another.
func (s *neighbours) datagram(from net.HardwareAddr, fromIP string, to net.HardwareAddr, toIP string) []byte {
	s.t.Helper()
	return lan.Frame(s.t, &layers.Ethernet{SrcMAC: from, DstMAC: to, EthernetType: layers.EthernetTypeIPv4},
		&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.ParseIP(fromIP), DstIP: net.ParseIP(toIP)},
		&layers.UDP{SrcPort: 4242, DstPort: 9999}, gopacket.Payload("marked by this test"))
}

// captured is how often a frame was seen by a capture.
func captured(c *lan.Capture, frame []byte) (times int) {
	for _, f := range c.Stop() {
		if bytes.Equal(f.Data, frame) {
			times++
		}
	}
	return times
}

func dropsOf(a api.AttachmentStatus, direction, reason string) uint64 {
	for _, d := range a.Dropped {
		if d.Direction == direction && d.Reason == reason {
			return d.Packets
		}
	}
	return 0
}

const broadcast = "ff:ff:ff:ff:ff:ff"

func mustMAC(text string) net.HardwareAddr {
	mac, err := net.ParseMAC(text)
	if err != nil {
		panic(err)
	}
	return mac
}

// lies are what a pod says that it is, and the verdict on that.
func (s *neighbours) lies(to net.HardwareAddr, toIP string) []spoof {
	own, foreign := macOf(s.attacker), mustMAC("02:00:00:00:66:66")
	return []spoof{
		{reason: "spoofed_mac", frame: s.datagram(foreign, guardedAddress, to, toIP)},
		{reason: "spoofed_ipv4", frame: s.datagram(own, "192.168.122.66", to, toIP)},
		{reason: "spoofed_mac", frame: s.datagram(macOf(s.other), friendAddress, to, toIP)},
	}
}

// What goes round the guard of its sender meets it on the master, be it for a host outside
// or for a neighbour, whoever it says it is from.
func TestNetnsMastersAreGuarded(t *testing.T) {
	for _, leave := range []bool{true, false} {
		t.Run(fmt.Sprintf("leave %t", leave), func(t *testing.T) {
			s := newNeighbours(t, object{"type": "macvlan", "master": "eth1"}, leave)
			s.checkLies("outside", s.outside.Capture("eth1"), s.outside.Link("eth1").Attrs().HardwareAddr, nobodysAddress)
			s.checkLies("neighbour", s.victim.Capture("net1"), macOf(s.victim), victimAddress)
			s.checkShown(s.attacker, "egress", "spoofed_ipv4", 10)
			s.checkTruth()
		})
	}
}

// nobodysAddress is one that no host of the network has.
const nobodysAddress = "192.168.122.99"

func (s *neighbours) checkLies(name string, capture *lan.Capture, to net.HardwareAddr, toIP string) {
	s.t.Helper()
	const times = 5
	lies := s.lies(to, toIP)
	want := map[string]uint64{}
	for _, lie := range lies {
		want[lie.reason] += times
	}
	before := s.Attachment(s.attacker, "net1")
	for _, lie := range lies {
		for range times {
			s.send(lie.frame)
		}
	}
	for _, f := range capture.Stop() {
		if bytes.Contains(f.Data, []byte("marked by this test")) {
			s.t.Errorf("%s: a frame has arrived: %x", name, f.Data)
		}
	}
	after := s.Attachment(s.attacker, "net1")
	for reason, n := range want {
		if got := dropsOf(after, "egress", reason) - dropsOf(before, "egress", reason); got != n {
			s.t.Errorf("%s: %d frames were refused as %s, want %d", name, got, reason, n)
		}
	}
	if was, now := udpOf(before, "egress"), udpOf(after, "egress"); was != now {
		s.t.Errorf("%s: counted as sent are %+v, before %+v", name, now, was)
	}
}

// checkShown finds what was refused on a master among the drops of the attachment.
func (s *neighbours) checkShown(p *Pod, direction, reason string, count int) {
	s.t.Helper()
	for _, d := range s.awaitDrops(p, reason, count) {
		if d.Pod.Name != p.Name || d.Direction != direction || !bytes.Contains(d.Packet, []byte("marked by this test")) {
			s.t.Errorf("shown as %s of %s: %s", d.Direction, &d.Pod, d.Packet)
		}
	}
}

// checkTruth sends what is the sender's own past its guard: it arrives, and each side counts
// it once.
func (s *neighbours) checkTruth() {
	s.t.Helper()
	const times = 5
	frame := s.datagram(macOf(s.attacker), guardedAddress, macOf(s.victim), victimAddress)
	capture := s.victim.Capture("net1")
	sent, received := udpOf(s.Attachment(s.attacker, "net1"), "egress"), udpOf(s.Attachment(s.victim, "net1"), "ingress")
	for range times {
		s.send(frame)
	}
	if got := captured(capture, frame); got != times {
		s.t.Errorf("%d of %d frames have arrived", got, times)
	}
	s.checkCounted("sent", sent, udpOf(s.Attachment(s.attacker, "net1"), "egress"), times, len(frame))
	s.checkCounted("received", received, udpOf(s.Attachment(s.victim, "net1"), "ingress"), times, len(frame))
}

// udpOf is what was allowed of UDP to one host.
func udpOf(a api.AttachmentStatus, direction string) api.Traffic {
	for _, share := range a.Allowed {
		if share.Direction == direction && share.Class == "unicast" && share.Protocol == "udp" {
			return api.Traffic{Packets: share.Packets, Bytes: share.Bytes}
		}
	}
	return api.Traffic{}
}

func (s *neighbours) checkCounted(what string, before, after api.Traffic, packets, length int) {
	s.t.Helper()
	want := before
	want.Packets += uint64(packets)
	want.Bytes += uint64(packets * length)
	if after != want {
		s.t.Errorf("counted as %s are %+v, want %+v", what, after, want)
	}
}

// A copy of a broadcast, which the kernel gives to neighbours without the master, is refused
// by these where its sender has no leave.
func TestNetnsBroadcastsThatGoRound(t *testing.T) {
	for _, leave := range []bool{true, false} {
		t.Run(fmt.Sprintf("leave %t", leave), func(t *testing.T) {
			s := newNeighbours(t, object{"type": "macvlan", "master": "eth1"}, leave)
			const times = 5
			outside := s.outside.Capture("eth1")
			truth := s.datagram(macOf(s.attacker), guardedAddress, mustMAC(broadcast), "192.168.122.255")
			lie := s.datagram(macOf(s.other), friendAddress, mustMAC(broadcast), "192.168.122.255")
			for range times {
				s.send(truth)
				s.send(lie)
			}
			if got := captured(outside, truth); got != times {
				t.Errorf("%d of %d broadcasts have left the node", got, times)
			}
			if got := captured(outside, lie); got != 0 {
				t.Errorf("%d broadcasts in another's name have left the node", got)
			}
			want := map[bool]uint64{true: times, false: 2 * times}[leave]
			s.await("the copies are refused", func() bool {
				return dropsOf(s.Attachment(s.victim, "net1"), "ingress", "bypassed") == want
			})
			s.checkShown(s.victim, "ingress", "bypassed", int(want))
		})
	}
}

// What rules refuse on its way in no packet socket of the pod can read either.
func TestNetnsMastersHideWhatIsRefused(t *testing.T) {
	n := newNode(t)
	n.Network("lan", macvlan(object{"ipam": object{"type": "static"}, "weir": object{
		"rules": []object{{"direction": "ingress", "action": "deny", "protocol": "udp"}},
	}}))
	n.Network("open", macvlan(object{"ipam": object{"type": "static"}}))
	victim := n.Pod("victim", toJSON(t, []object{{"name": "lan", "ips": []string{victimAddress + "/24"}}}))
	sender := n.Pod("sender", toJSON(t, []object{{"name": "open", "ips": []string{guardedAddress + "/24"}}}))
	s := &neighbours{Node: n, t: t, attacker: sender, victim: victim}
	n.mustAdd(victim)
	n.mustAdd(sender)
	const times = 5
	fromPod := s.datagram(macOf(sender), guardedAddress, macOf(victim), victimAddress)
	fromOutside := s.datagram(n.outside.Link("eth1").Attrs().HardwareAddr, nobodysAddress, macOf(victim), victimAddress)
	capture := victim.Capture("net1")
	for range times {
		sender.Send("net1", fromPod)
		n.outside.Send("eth1", fromOutside)
	}
	n.await("all to be refused", func() bool {
		return dropsOf(n.Attachment(victim, "net1"), "ingress", "rule_denied") == 2*times
	})
	for _, f := range capture.Stop() {
		if bytes.Contains(f.Data, []byte("marked by this test")) {
			t.Errorf("a packet socket has read %x", f.Data)
		}
	}
}

// The programs are on a master while it has attachments, whatever becomes of the agent, and
// go some seconds after the last one.
func TestNetnsMastersAreLeft(t *testing.T) {
	n := newNode(t)
	n.Network("lan", macvlan(object{"ipam": object{"type": "static"}, "weir": object{"allow": []string{"qdisc-bypass"}}}))
	pods := []*Pod{}
	for i, address := range []string{guardedAddress, victimAddress} {
		p := n.Pod(fmt.Sprintf("pod%d", i), toJSON(t, []object{{"name": "lan", "ips": []string{address + "/24"}}}))
		n.mustAdd(p)
		pods = append(pods, p)
	}
	s := &neighbours{Node: n, t: t, attacker: pods[0], victim: pods[1], other: pods[1]}
	s.send = func(frame []byte) {
		t.Helper()
		mustOrRefused(t, pods[0].sendRound(frame))
	}
	check := func(when string) {
		t.Helper()
		lie := s.datagram(macOf(pods[0]), victimAddress, n.outside.Link("eth1").Attrs().HardwareAddr, nobodysAddress)
		capture := n.outside.Capture("eth1")
		s.send(lie)
		if got := captured(capture, lie); got != 0 {
			t.Errorf("%s: a frame in another's name has left the node", when)
		}
	}
	check("at first")
	n.Kill()
	check("without an agent")
	n.Start()
	check("with another agent")
	s.checkTruth()
	n.mustDel(pods[1])
	n.mustDel(pods[0])
	ring := filepath.Join(n.bpfDir, loader.RingDir)
	n.await("the masters to be left", func() bool {
		_, err := os.Stat(ring)
		return os.IsNotExist(err)
	})
}

// An interface that a pod makes on its own is another one on the master, and filters there
// can set the stamp of a guard. Then stamps are not believed, until it is gone.
func TestNetnsMastersDistrustForgers(t *testing.T) {
	n := newNode(t)
	n.Network("lan", macvlan(object{"ipam": object{"type": "static"}}))
	forger := n.Pod("forger", toJSON(t, []object{{"name": "lan", "ips": []string{guardedAddress + "/24"}}}))
	forger.UID = "de2cd5e3-91cf-44fc-b38f-f4dfa9c3606b"
	victim := n.Pod("victim", toJSON(t, []object{{"name": "lan", "ips": []string{victimAddress + "/24"}}}))
	s := &neighbours{Node: n, t: t, attacker: forger, victim: victim, other: victim}
	var socket int
	inCgroupOf(t, forger, func() {
		forger.Do(func() (err error) {
			socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
			return err
		})
	})
	t.Cleanup(func() { _ = unix.Close(socket) })
	n.mustAdd(forger)
	n.mustAdd(victim)
	evil := forger.forge(t)
	lie := s.datagram(evil.Attrs().HardwareAddr, nobodysAddress, n.outside.Link("eth1").Attrs().HardwareAddr, "192.168.122.98")
	send := func() bool {
		capture := n.outside.Capture("eth1")
		mustOrRefused(t, unix.Sendto(socket, lie, 0, &unix.SockaddrLinklayer{Ifindex: evil.Attrs().Index}))
		return captured(capture, lie) > 0
	}
	n.await("the lie to be refused", func() bool { return !send() })
	for range 5 {
		if send() {
			t.Error("a lie with a forged stamp has left the node")
		}
	}
	if dropsOf(n.Attachment(forger, "net1"), "egress", "spoofed_mac") < 5 {
		t.Errorf("dropped are %+v", n.Attachment(forger, "net1").Dropped)
	}
	before := udpOf(n.Attachment(victim, "net1"), "egress")
	frame := s.datagram(macOf(victim), victimAddress, n.outside.Link("eth1").Attrs().HardwareAddr, nobodysAddress)
	capture := n.outside.Capture("eth1")
	for range 5 {
		victim.Send("net1", frame)
	}
	if got := captured(capture, frame); got != 5 {
		t.Errorf("%d of 5 frames of another pod have left the node", got)
	}
	s.checkCounted("sent by another pod", before, udpOf(n.Attachment(victim, "net1"), "egress"), 5, len(frame))
	mustDo(t, forger.Netlink().LinkDel(evil))
}

// forge makes a macvlan on net1 whose filter gives the stamp to all that it sends.
func (p *Pod) forge(t *testing.T) netlink.Link {
	t.Helper()
	mustDo(t, p.Netlink().LinkAdd(&netlink.Macvlan{
		LinkAttrs: netlink.LinkAttrs{Name: "evil", ParentIndex: p.Link("net1").Attrs().Index}, Mode: netlink.MACVLAN_MODE_BRIDGE,
	}))
	p.Up("evil")
	evil := p.Link("evil")
	mustDo(t, p.Netlink().QdiscAdd(&netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: evil.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}))
	const stamp = 0x7701
	mustDo(t, p.Netlink().FilterAdd(&netlink.U32{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: evil.Attrs().Index, Parent: netlink.HANDLE_MIN_EGRESS, Priority: 1, Protocol: unix.ETH_P_ALL,
		},
		ClassId: stamp,
	}))
	return evil
}

// Masters that an agent has left behind, with all that it knew lost, are the next one's.
func TestNetnsMastersOfAnAgentThatLostAll(t *testing.T) {
	n := newNode(t)
	n.Network("lan", macvlan(object{"ipam": object{"type": "static"}, "weir": object{"allow": []string{"qdisc-bypass"}}}))
	before := n.Pod("before", toJSON(t, []object{{"name": "lan", "ips": []string{victimAddress + "/24"}}}))
	n.mustAdd(before)
	n.Kill()
	pins, err := filepath.Glob(filepath.Join(n.bpfDir, "*-net1"))
	mustDo(t, err)
	for _, dir := range append(pins, n.path("state")) {
		mustDo(t, os.RemoveAll(dir))
	}
	n.Start()
	after := n.Pod("after", toJSON(t, []object{{"name": "lan", "ips": []string{guardedAddress + "/24"}}}))
	n.mustAdd(after)
	s := &neighbours{Node: n, t: t, attacker: after, victim: before, other: before}
	lie := s.datagram(macOf(after), nobodysAddress, n.outside.Link("eth1").Attrs().HardwareAddr, victimAddress)
	capture := n.outside.Capture("eth1")
	for began := time.Now(); time.Since(began) < 6*time.Second; time.Sleep(time.Second) { // which has a look at the masters in it
		mustOrRefused(t, after.sendRound(lie))
	}
	if got := captured(capture, lie); got != 0 {
		t.Errorf("%d lies have left the node", got)
	}
	n.mustDel(after)
}

// What somebody takes off a master is put back.
func TestNetnsMastersArePutBack(t *testing.T) {
	s := newNeighbours(t, object{"type": "macvlan", "master": "eth1"}, true)
	links, err := filepath.Glob(filepath.Join(s.bpfDir, loader.RingDir, "*", "link_*"))
	mustDo(t, err)
	for _, path := range links {
		mustDo(t, os.Remove(path))
	}
	if err := s.machine.Netlink().QdiscDel(&netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: s.machine.Link("eth1").Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}); err != nil && len(links) == 0 { // with links there need not be one
		t.Fatal(err)
	}
	// Of links whose pins go the kernel lets go a moment later: new pins are of new links.
	s.await("the links to be back", func() bool {
		now, err := filepath.Glob(filepath.Join(s.bpfDir, loader.RingDir, "*", "link_*"))
		return err == nil && len(now) == len(links)
	})
	lie := s.datagram(macOf(s.attacker), nobodysAddress, s.outside.Link("eth1").Attrs().HardwareAddr, victimAddress)
	s.await("the programs to be back", func() bool {
		capture := s.outside.Capture("eth1")
		s.send(lie)
		return captured(capture, lie) == 0
	})
	s.checkTruth()
}
