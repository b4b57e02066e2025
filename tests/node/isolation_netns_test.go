// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

// segmentPod is a pod of a segment and what it is reached by.
type segmentPod struct {
	*Pod
	role  string
	addrs []string
}

// isolations are those of the networks of a segment, by the networks' names.
func isolations() map[string]any {
	return map[string]any{
		"isolated": "isolated", "promiscuous": "promiscuous",
		"red": object{"community": "red"}, "blue": object{"community": "blue"},
	}
}

// mayTalk is RFC 5517.
func mayTalk(a, b string) bool {
	return a == "promiscuous" || b == "promiscuous" || a == b && a != "isolated"
}

// segmented writes a network for each isolation.
func (n *Node) segmented(base object) {
	n.tb.Helper()
	for name, isolation := range isolations() {
		n.Network(name, config(base, object{
			"ipam": object{"type": "static"}, "weir": object{"isolation": isolation, "segment": "lan"},
		}))
	}
}

// segmentPod makes a pod of a role, whose addresses end so.
func (n *Node) segmentPod(role string, last int) *segmentPod {
	n.tb.Helper()
	m := &segmentPod{role: role, addrs: []string{fmt.Sprintf("192.168.122.%d", last), fmt.Sprintf("2001:db8:122::%d", last)}}
	m.Pod = n.Pod(n.unique(role), fmt.Sprintf(`[{"name":%q,"ips":["%s/24","%s/64"]}]`, role, m.addrs[0], m.addrs[1]))
	n.mustAdd(m.Pod)
	return m
}

// reach is a try to reach an address, and what it is to come to.
type reach struct {
	from *lan.Host
	what string
	to   string
	want bool
}

// checkReach tries all at the same time.
func (n *Node) checkReach(t *testing.T, tries []reach) {
	t.Helper()
	var group sync.WaitGroup
	for _, try := range tries {
		group.Go(func() {
			answered := n.ping(try.from, try.to, 1)
			for again := 0; try.want && answered == 0 && again < 5; again++ {
				answered = n.ping(try.from, try.to, 1) // duplicate address detection takes a while
			}
			if got := answered > 0; got != try.want {
				t.Errorf("%s (%s): reached %v, want %v", try.what, try.to, got, try.want)
			}
		})
	}
	group.Wait()
}

func reaches(from, to *segmentPod) []reach {
	var all []reach
	for _, addr := range to.addrs {
		all = append(all, reach{from.Host, from.Name + " to " + to.Name, addr, mayTalk(from.role, to.role)})
	}
	return all
}

func (n *Node) reachesGateway(m *segmentPod) []reach {
	return []reach{
		{m.Host, m.Name + " to the gateway", outsideAddress, true}, {m.Host, m.Name + " to the gateway", outsideAddress6, true},
		{n.outside, "the gateway to " + m.Name, m.addrs[0], true}, {n.outside, "the gateway to " + m.Name, m.addrs[1], true},
	}
}

// isolatedIn counts what a member was kept from in a direction.
func (n *Node) isolatedIn(m *segmentPod, direction string) uint64 {
	n.tb.Helper()
	for _, drop := range n.Attachment(m.Pod, "net1").Dropped {
		if drop.Reason == "isolated" && drop.Direction == direction {
			return drop.Packets
		}
	}
	return 0
}

// checkUnknown fails when a host has learnt the MAC of a member.
func checkUnknown(t *testing.T, of *segmentPod, other *segmentPod) {
	t.Helper()
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		neighbours, err := netns.Dump(func() ([]netlink.Neigh, error) {
			return of.Netlink().NeighList(of.Link("net1").Attrs().Index, family)
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, neighbour := range neighbours {
			if bytes.Equal(neighbour.HardwareAddr, other.Link("net1").Attrs().HardwareAddr) {
				t.Errorf("%s has learnt of %s: %v", of.Name, other.Name, neighbour)
			}
		}
	}
}

// Pods of one node, on each type on which they have MACs: who may not talk to another can
// neither reach nor learn of it, and all reach the gateway.
func TestNetnsIsolation(t *testing.T) {
	bases := map[string]object{
		"macvlan": {"type": "macvlan", "master": "eth1"},
		"bridge":  {"type": "bridge", "bridge": "br0"},
	}
	for name, base := range bases {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			warmUp(n)
			n.segmented(base)
			if name == "bridge" {
				n.uplink(t, "br0")
			}
			n.checkSegment(t)
		})
	}
}

// uplink makes eth1 of the node a port of a bridge.
func (n *Node) uplink(t *testing.T, bridge string) {
	t.Helper()
	made := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}}
	if err := n.machine.Netlink().LinkAdd(made); err != nil {
		t.Fatal(err)
	}
	if err := n.machine.Netlink().LinkSetMaster(n.machine.Link("eth1"), n.machine.Link(bridge)); err != nil {
		t.Fatal(err)
	}
	n.machine.Up(bridge)
}

// checkSegment has pods of all roles try to reach each other, as they came up, as their
// programs were moved to links, and with another agent.
func (n *Node) checkSegment(t *testing.T) {
	t.Helper()
	var members []*segmentPod
	for i, role := range []string{"isolated", "isolated", "red", "red", "blue", "promiscuous"} {
		members = append(members, n.segmentPod(role, 101+i))
	}
	for _, round := range []string{"at first", "as moved", "after a restart"} {
		t.Log(round)
		var tries []reach
		for i, from := range members {
			tries = append(tries, n.reachesGateway(from)...)
			for j, to := range members {
				if i != j {
					tries = append(tries, reaches(from, to)...)
				}
			}
		}
		n.checkReach(t, tries)
		for _, m := range members {
			n.awaitHook(m.Pod)
		}
		if round == "as moved" {
			n.Kill()
			n.Start()
		}
	}
	checkUnknown(t, members[0], members[1])
	checkUnknown(t, members[2], members[4])
	n.checkHairpin(t, members[0], members[1])
	n.checkBroadcasts(t, members[0], members[1], members[5])
	n.checkShown(t, members)
	for _, m := range members {
		n.mustCheck(m.Pod)
		n.mustDel(m.Pod)
	}
	if n.segmentSize() != 0 {
		t.Error("the segment is still there without its members")
	}
}

// segmentSize is the metric weir_segment_addresses of the segment lan; 0 where there is none.
func (n *Node) segmentSize() (size int) {
	n.tb.Helper()
	for line := range strings.Lines(string(n.scrape())) {
		if number, found := strings.CutPrefix(line, `weir_segment_addresses{segment="lan"} `); found {
			if _, err := fmt.Sscan(number, &size); err != nil {
				n.tb.Fatal(err)
			}
		}
	}
	return size
}

// checkShown compares what weirctl and Prometheus show with what there is: of each
// restricted member a MAC, its link-local address, and two addresses.
func (n *Node) checkShown(t *testing.T, members []*segmentPod) {
	t.Helper()
	restricted := 0
	for _, m := range members {
		want := m.role
		switch m.role {
		case "red", "blue":
			want = "community:" + m.role
		}
		if m.role != "promiscuous" {
			restricted++
		}
		if got := n.Attachment(m.Pod, "net1").Isolation; got != want {
			t.Errorf("%s is shown as %q, want %q", m.Name, got, want)
		}
	}
	n.await("the members in the metrics", func() bool { return n.segmentSize() == restricted*4 })
}

// checkHairpin has the gateway bring two together that are kept apart: it forwards, and
// answers ARP for all. A pod that has a route by the gateway does not reach the other, nor
// does what the gateway forwards.
func (n *Node) checkHairpin(t *testing.T, a, b *segmentPod) {
	t.Helper()
	for _, name := range []string{"ipv4/ip_forward", "ipv4/conf/eth1/proxy_arp", "ipv6/conf/all/forwarding"} {
		sysctl(t, n.outside, name, "1")
	}
	for i, gateway := range []string{outsideAddress, outsideAddress6} {
		bits := []int{32, 128}[i]
		route := &netlink.Route{
			LinkIndex: a.Link("net1").Attrs().Index, Gw: net.ParseIP(gateway),
			Dst: &net.IPNet{IP: net.ParseIP(b.addrs[i]), Mask: net.CIDRMask(bits, bits)},
		}
		if err := a.Netlink().RouteAdd(route); err != nil {
			t.Fatal(err)
		}
	}
	before := n.isolatedIn(a, "egress")
	n.checkReach(t, reaches(a, b))
	if dropped := n.isolatedIn(a, "egress") - before; dropped < 2 {
		t.Errorf("%d packets through the gateway were dropped, want one of each family", dropped)
	}
	before = n.isolatedIn(b, "ingress")
	n.outside.Send("eth1", forwarded(t, n.outside.Link("eth1").Attrs().HardwareAddr, a, b))
	n.await("what the gateway forwards", func() bool { return n.isolatedIn(b, "ingress") == before+1 })
}

// forwarded is a packet from a to b as a gateway sends it.
func forwarded(tb testing.TB, gateway net.HardwareAddr, a, b *segmentPod) []byte {
	tb.Helper()
	return lan.Frame(tb,
		&layers.Ethernet{SrcMAC: gateway, DstMAC: b.Link("net1").Attrs().HardwareAddr, EthernetType: layers.EthernetTypeIPv4},
		&layers.IPv4{Version: 4, TTL: 63, Protocol: layers.IPProtocolUDP, SrcIP: net.ParseIP(a.addrs[0]), DstIP: net.ParseIP(b.addrs[0])},
		&layers.UDP{SrcPort: 1000, DstPort: 2000}, gopacket.Payload(make([]byte, 30)))
}

// checkBroadcasts has an isolated member send to all and to a group: another isolated one
// drops it, a promiscuous one receives it.
func (n *Node) checkBroadcasts(t *testing.T, from, apart, free *segmentPod) {
	t.Helper()
	mac := from.Link("net1").Attrs().HardwareAddr
	var frames [][]byte
	for _, to := range []net.HardwareAddr{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {0x01, 0x00, 0x5e, 0x00, 0x00, 0x01}} {
		frames = append(frames, lan.Frame(t,
			&layers.Ethernet{SrcMAC: mac, DstMAC: to, EthernetType: layers.EthernetTypeIPv4},
			&layers.IPv4{Version: 4, TTL: 1, Protocol: layers.IPProtocolUDP, SrcIP: net.ParseIP(from.addrs[0]), DstIP: net.ParseIP("224.0.0.1")},
			&layers.UDP{SrcPort: 1000, DstPort: 2000}, gopacket.Payload(make([]byte, 30))))
	}
	dropped, received := n.isolatedIn(apart, "ingress"), udpToMany(n.Attachment(free.Pod, "net1"))
	from.Send("net1", frames...)
	n.await("a broadcast and a multicast to be dropped", func() bool { return n.isolatedIn(apart, "ingress") >= dropped+2 })
	n.await("a broadcast and a multicast to be received", func() bool { return udpToMany(n.Attachment(free.Pod, "net1")) == received+2 })
	if got := udpToMany(n.Attachment(apart.Pod, "net1")); got != 0 {
		t.Errorf("%s has received %d packets to all", apart.Name, got)
	}
}

// udpToMany counts the broadcast and multicast that a pod has received over UDP.
func udpToMany(a api.AttachmentStatus) (packets uint64) {
	for _, share := range a.Allowed {
		if share.Direction == "ingress" && share.Protocol == "udp" && share.Class != "unicast" {
			packets += share.Packets
		}
	}
	return packets
}

// sysctl writes a setting of a host's network.
func sysctl(t *testing.T, h *lan.Host, name, value string) {
	t.Helper()
	h.Do(func() error { return os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0o644) })
}

// second is another node on the LAN of this one, whose networks are the same.
func (n *Node) second(t *testing.T) *Node {
	t.Helper()
	other := newIdleNode(t)
	other.namespace = n.namespace
	lan.Join(t, n.outside, "eth9", other.outside, "eth9")
	for _, h := range []*lan.Host{n.outside, other.outside} {
		if err := h.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "lan0"}}); err != nil {
			t.Fatal(err)
		}
		for _, port := range []string{"eth1", "eth9"} {
			if err := h.Netlink().LinkSetMaster(h.Link(port), h.Link("lan0")); err != nil {
				t.Fatal(err)
			}
		}
		for _, addr := range []string{outsideAddress + "/24", outsideAddress6 + "/64"} {
			parsed, err := netlink.ParseAddr(addr)
			if err != nil {
				t.Fatal(err)
			}
			if err := h.Netlink().AddrDel(h.Link("eth1"), parsed); err != nil {
				t.Fatal(err)
			}
		}
		h.Up("lan0", "eth9")
	}
	n.outside.Address("lan0", outsideAddress+"/24", outsideAddress6+"/64")
	other.Start()
	return other
}

// tell gives the network status of a member to the agent of another node, as a cluster
// would.
func (n *Node) tell(t *testing.T, other *Node, m *segmentPod) {
	t.Helper()
	status, err := os.ReadFile(n.path("state/network-status/" + n.namespace + "." + m.Name + ".json"))
	if err != nil {
		t.Fatal(err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, status); err != nil {
		t.Fatal(err)
	}
	pod := n.podObject(m.Name, "[]")
	pod["metadata"].(object)["annotations"].(object)["k8s.v1.cni.cncf.io/network-status"] = compact.String()
	other.writeObject("pod-"+m.Name, pod)
}

// Two pods on two nodes are kept apart as soon as one side knows of the other, by whichever
// side that is, also while no agent runs.
func TestNodesIsolation(t *testing.T) {
	n := newNode(t)
	other := n.second(t)
	for _, node := range []*Node{n, other} {
		node.segmented(object{"type": "macvlan", "master": "eth1"})
	}
	a, c := n.segmentPod("isolated", 101), n.segmentPod("red", 103)
	b, d := other.segmentPod("isolated", 102), other.segmentPod("red", 104)
	free := other.segmentPod("promiscuous", 105)
	all := slices.Concat(reaches(a, free), reaches(free, a), reaches(c, free), n.reachesGateway(a), n.reachesGateway(c), reaches(c, d), reaches(d, c))
	n.checkReach(t, all)

	n.tell(t, other, a)
	other.await("the first to be known", func() bool { return other.segmentSize() == 12 })
	n.checkReach(t, slices.Concat(reaches(a, b), reaches(b, a), reaches(a, d), reaches(d, a)))
	checkUnknown(t, a, b)
	checkUnknown(t, b, a)
	if n.isolatedIn(a, "egress") != 0 || other.isolatedIn(b, "ingress") == 0 || other.isolatedIn(b, "egress") == 0 {
		t.Errorf("dropped by the one that does not know: %d, by the other: %d and %d",
			n.isolatedIn(a, "egress"), other.isolatedIn(b, "ingress"), other.isolatedIn(b, "egress"))
	}

	for _, m := range []*segmentPod{b, d, free} {
		other.tell(t, n, m)
	}
	n.tell(t, other, c)
	n.await("all to be known", func() bool { return n.segmentSize() == 16 && other.segmentSize() == 16 })
	everything := slices.Concat(all, reaches(a, b), reaches(b, a), reaches(a, d), reaches(d, a), reaches(b, c), reaches(c, b))
	n.checkReach(t, everything)
	// The kernel asks for a neighbour that did not answer only after a while.
	n.await("a drop where it is sent", func() bool { return n.ping(a.Host, b.addrs[0], 1) == 0 && n.isolatedIn(a, "egress") > 0 })

	before := n.membersOf(t)
	n.Kill()
	n.checkReach(t, everything)
	n.Start()
	n.checkReach(t, everything)
	if after := n.membersOf(t); before != after {
		t.Errorf("the table was map %d, and is %d", before, after)
	}

	if err := os.Remove(n.path("manifests/pod-" + b.Name + ".json")); err != nil {
		t.Fatal(err)
	}
	other.mustDel(b.Pod)
	n.await("one to be forgotten", func() bool { return n.segmentSize() == 12 })
	for _, m := range []*segmentPod{a, c} {
		n.mustDel(m.Pod)
	}
	for _, m := range []*segmentPod{d, free} {
		other.mustDel(m.Pod)
	}
}

// membersOf is the one map that all pins named members are.
func (n *Node) membersOf(t *testing.T) ebpf.MapID {
	t.Helper()
	pins, err := filepath.Glob(filepath.Join(n.bpfDir, "*", "members"))
	if err != nil || len(pins) != 2 {
		t.Fatalf("the pins are %q, %v", pins, err)
	}
	ids := map[ebpf.MapID]bool{}
	var id ebpf.MapID
	for _, pin := range pins {
		m, err := ebpf.LoadPinnedMap(pin, &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		info, err := m.Info()
		if err != nil {
			t.Fatal(err)
		}
		id, _ = info.ID()
		ids[id] = true
		_ = m.Close()
	}
	if len(ids) != 1 {
		t.Fatalf("the tables are %v, want one", ids)
	}
	return id
}

// A network whose isolation changes: pods that run are known by the new one.
func TestNetnsIsolationIsChanged(t *testing.T) {
	n := newNode(t)
	warmUp(n)
	n.segmented(object{"type": "macvlan", "master": "eth1"})
	idle := n.idle()
	a, b := n.segmentPod("isolated", 101), n.segmentPod("isolated", 102)
	n.checkReach(t, slices.Concat(reaches(a, b), reaches(b, a)))
	n.Network("isolated", config(object{"type": "macvlan", "master": "eth1"}, object{
		"ipam": object{"type": "static"}, "weir": object{"isolation": "promiscuous", "segment": "lan"},
	}))
	n.await("the members to be let go", func() bool { return n.segmentSize() == 0 })
	a.role, b.role = "promiscuous", "promiscuous"
	n.checkReach(t, slices.Concat(reaches(a, b), reaches(b, a)))
	n.Network("isolated", `{"cniVersion":"1.0.0","type":"macvlan","weir":{"isolation":"nonsense"}}`)
	n.Network("red", `{"isolation`)
	n.checkReach(t, slices.Concat(reaches(a, b), reaches(b, a)))
	n.mustDel(a.Pod)
	n.mustDel(b.Pod)
	a.Remove()
	b.Remove()
	n.mustBe(idle)
}

// Slaves of one master have its MAC: they are told apart by their addresses.
func TestKernelsIsolationIpvlan(t *testing.T) {
	for _, mode := range []string{"l2", "l3"} {
		t.Run(mode, func(t *testing.T) {
			n := newNode(t)
			warmUp(n)
			// The master must be free of the macvlans of other networks.
			lan.Join(t, n.machine, "eth2", n.outside, "eth2")
			n.segmented(object{"type": "ipvlan", "mode": mode, "master": "eth2"})
			var members []*segmentPod
			for i, role := range []string{"isolated", "isolated", "red", "red", "promiscuous"} {
				members = append(members, n.segmentPod(role, 101+i))
			}
			for _, round := range []string{"at first", "with another agent"} {
				t.Log(round)
				var tries []reach
				for i, from := range members {
					for j, to := range members {
						if i != j {
							tries = append(tries, reaches(from, to)...)
						}
					}
				}
				n.checkReach(t, tries)
				n.Restart()
			}
			for _, m := range members {
				n.mustDel(m.Pod)
			}
		})
	}
}
