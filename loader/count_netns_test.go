// SPDX-License-Identifier: Apache-2.0

//go:build netns

package loader

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

// wire is what passed a cable in each direction of the pod, as the interface and
// a capture at its other end saw it.
type wire [2]bpf.Count

func wireOf(frames []lan.Captured) wire {
	var w wire
	for _, f := range frames {
		d := bpf.Egress
		if f.Outgoing {
			d = bpf.Ingress
		}
		w[d].Packets++
		w[d].Bytes += uint64(len(f.Data))
	}
	return w
}

// flow is traffic that the pod and the host outside send to each other.
type flow struct {
	name string
	ipv6 bool
	mtu  int // 0 for the default
	// many has the stack handle many segments as one packet; list has it keep those of UDP
	// in a list (NETIF_F_GRO_FRAGLIST).
	many, list bool
	// summed has the sender make checksums, which the card does otherwise.
	summed bool
	// datagrams are sent instead of 4 MiB of TCP.
	datagrams lan.Datagrams
}

func flows() []flow {
	return []flow{
		{name: "IPv4, one by one"},
		{name: "IPv6, one by one", ipv6: true},
		{name: "IPv4, segmented and coalesced", many: true},
		{name: "IPv6, segmented and coalesced", ipv6: true, many: true},
		{name: "jumbo frames", mtu: jumboMTU},
		{name: "jumbo frames, segmented and coalesced", mtu: jumboMTU, many: true},
		{name: "checksums made by the sender", summed: true},
		{name: "UDP", datagrams: lan.Datagrams{Size: 1200, Count: 500}},
		{name: "UDP, checksums made by the sender", summed: true, datagrams: lan.Datagrams{Size: 1200, Count: 500}},
		{name: "UDP, jumbo frames", mtu: jumboMTU, datagrams: lan.Datagrams{Size: 8900, Count: 200}},
		{name: "UDP, segmented and coalesced", many: true, datagrams: lan.Datagrams{Size: 40_000, Count: 50, Segment: 1200, Coalesce: true}},
		{name: "UDP over IPv6, segmented and coalesced", ipv6: true, many: true, datagrams: lan.Datagrams{Size: 40_123, Count: 50, Segment: 1200, Coalesce: true}},
		{name: "UDP, segmented and coalesced in a list", many: true, list: true, datagrams: lan.Datagrams{Size: 40_123, Count: 50, Segment: 1200}},
		{name: "fragments", datagrams: lan.Datagrams{Size: 60_000, Count: 50}},
		{name: "fragments of IPv6", ipv6: true, datagrams: lan.Datagrams{Size: 60_000, Count: 50}},
		{name: "fragments, segmented and coalesced", many: true, datagrams: lan.Datagrams{Size: 60_000, Count: 50}},
		{name: "fragments in jumbo frames", mtu: jumboMTU, datagrams: lan.Datagrams{Size: 60_000, Count: 50}},
	}
}

// The counters equal the wire to the packet and the byte, also where the stack
// handles many segments as one packet: what leaves is segmented behind the hook,
// what comes in is coalesced before it.
func TestNodesCountersEqualTheWire(t *testing.T) {
	closer, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		t.Fatal(err)
	}
	defer closer.Close()
	for kind, build := range map[string]func(*testing.T) *bench{"cable": newBench, "macvlan": newMacvlanBench, "bridge": newBridgeBench} {
		for _, f := range flows() {
			t.Run(kind+": "+f.name, func(t *testing.T) { build(t).equalsTheWire(t, f) })
		}
	}
}

func (b *bench) equalsTheWire(t *testing.T, f flow) {
	t.Helper()
	if f.mtu != 0 {
		b.setMTU(t, f.mtu)
	}
	b.node.Offload(b.port, f.offloads(f.many))
	b.outside.Offload("eth0", f.offloads(false))
	b.pingOnce(t)
	before, after, captured := b.transfer(t, f)
	for _, d := range []bpf.Direction{bpf.Ingress, bpf.Egress} {
		counted := difference(after.counted[d], before.counted[d])
		if counted != captured[d] {
			t.Errorf("%s: counted %v, captured %v", d, counted, captured[d])
		}
		if shares := difference(after.shares[d], before.shares[d]); shares != counted {
			t.Errorf("%s: counted %v, by class and family %v", d, counted, shares)
		}
		seen := difference(after.link[d], before.link[d])
		// A veth that coalesces leaves Ethernet headers out of its bytes.
		if counted.Packets != seen.Packets || !f.many && counted.Bytes != seen.Bytes {
			t.Errorf("%s: counted %v, the interface at the other end %v", d, counted, seen)
		}
		runs := after.runs[d] - before.runs[d]
		if least := f.perRun(); counted.Packets < uint64(least*float64(runs)) {
			t.Errorf("%s: %d packets in %d runs: nothing was segmented or coalesced", d, counted.Packets, runs)
		}
	}
}

// perRun is how many packets there are, at least, to a run of the programs. Fragments are
// made before egress, and put together behind ingress.
func (f *flow) perRun() float64 {
	switch {
	case !f.many || f.datagrams.Count > 0 && f.datagrams.Segment == 0:
		return 1
	case f.mtu == jumboMTU: // few in 64 KiB, beside acknowledgements
		return 1.2
	}
	return 1.5
}

// offloads are those that make one packet of many segments, at the hooks of the
// interface and not on the cable.
func (f *flow) offloads(many bool) map[string]bool {
	return map[string]bool{
		"tx-tcp-segmentation":     false,
		"tx-tcp6-segmentation":    false,
		"tx-udp-segmentation":     false,
		"tx-generic-segmentation": many,
		"tx-checksum-ip-generic":  !f.summed,
		"rx-gro":                  many,
		"rx-gro-list":             many && f.list,
		"rx-udp-gro-forwarding":   many && !f.list, // for who is not of the node itself
	}
}

// send sends the traffic one way and tells whether all has arrived.
func (f *flow) send(from, to *lan.Host, address string) bool {
	if f.datagrams.Count > 0 {
		return from.SendUDP(to, address, f.datagrams)
	}
	const size = 4 << 20
	from.SendTCP(to, address, size)
	return true
}

// newMacvlanBench has the guard on a macvlan, whose node has the cable.
func newMacvlanBench(t *testing.T) *bench {
	t.Helper()
	b := newNodeBench(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = "slave", b.node.Link("eth0").Attrs().Index
	if err := b.node.Netlink().LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}); err != nil {
		t.Fatal(err)
	}
	b.node.Hand("slave", b.pod, "net1")
	b.finish(t)
	return b
}

// newBridgeBench has the guard on the node's end of the pod's cable, which is a port of the
// node's bridge as the cable to outside is.
func newBridgeBench(t *testing.T) *bench {
	t.Helper()
	b := newNodeBench(t)
	lan.Join(t, b.node, "opposite", b.pod, "net1")
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br"
	if err := b.node.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	for _, port := range []string{"eth0", "opposite"} {
		if err := b.node.Netlink().LinkSetMaster(b.node.Link(port), b.node.Link("br")); err != nil {
			t.Fatal(err)
		}
	}
	b.node.Up("br")
	ns, err := netns.Open(b.node.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	b.at = Place{Namespace: ns, Interface: "opposite", Opposite: true}
	b.finish(t)
	return b
}

// newNodeBench has a node with a cable to outside, and itself nothing to say there.
func newNodeBench(t *testing.T) *bench {
	t.Helper()
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	loader, err := New()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{pod: lan.NewHost(t), outside: lan.NewHost(t), node: lan.NewHost(t), port: "eth0", loader: loader}
	b.node.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
	})
	lan.Join(t, b.node, "eth0", b.outside, "eth0")
	return b
}

// transfer sends bytes both ways until once no queue of the cable was full, since
// a capture sees what the cable then drops and the hook does not, and the cable
// was at rest when it was looked at: the hosts' own discoveries come at any time.
func (b *bench) transfer(t *testing.T, f flow) (before, after snapshot, captured wire) {
	t.Helper()
	const attempts = 20
	toPod, toLAN := podAddress, lanAddress
	if f.ipv6 {
		toPod, toLAN = podIPv6, lanIPv6
	}
	for range attempts {
		quiet := b.snapshot(t)
		capture := b.outside.Capture("eth0")
		before = b.snapshot(t)
		whole := f.send(b.pod, b.outside, toLAN) && f.send(b.outside, b.pod, toPod)
		time.Sleep(200 * time.Millisecond) // the last acknowledgements
		after = b.snapshot(t)
		frames := capture.Stop()
		captured = wireOf(frames)
		if !whole || slices.ContainsFunc(frames, isForGroup) {
			continue
		}
		if before == quiet && after == b.snapshot(t) && after.lost == before.lost {
			return before, after, captured
		}
	}
	t.Fatalf("the cable lost packets, or was never at rest, in %d attempts", attempts)
	return before, after, captured
}

// isForGroup tells what every host sends now and then, the node's bridge included. A macvlan
// takes none for groups that its pod is not in.
func isForGroup(f lan.Captured) bool { return f.Data[0]&1 != 0 && f.Data[0] != 0xff }

func difference(a, b bpf.Count) bpf.Count {
	return bpf.Count{Packets: a.Packets - b.Packets, Bytes: a.Bytes - b.Bytes}
}

type snapshot struct {
	counted, link wire
	shares        wire // of what was allowed, all classes and families together
	runs          [2]uint64
	lost          uint64 // by the cable
}

// shares adds up what was allowed of each class, and of each family, which must agree.
func (b *bench) shares(t *testing.T, d bpf.Direction) bpf.Count {
	t.Helper()
	counters, err := b.guard.Counters()
	if err != nil {
		t.Fatal(err)
	}
	var byClass, byFamily bpf.Count
	for class := range bpf.Classes() {
		n := counters.OfClass(d, class)
		byClass.Packets, byClass.Bytes = byClass.Packets+n.Packets, byClass.Bytes+n.Bytes
	}
	for family := range bpf.Families() {
		n := counters.OfFamily(d, family)
		byFamily.Packets, byFamily.Bytes = byFamily.Packets+n.Packets, byFamily.Bytes+n.Bytes
	}
	if byClass != byFamily {
		t.Errorf("%s: by class %v, by family %v", d, byClass, byFamily)
	}
	return byClass
}

func (b *bench) snapshot(t *testing.T) snapshot {
	t.Helper()
	var s snapshot
	for _, d := range []bpf.Direction{bpf.Ingress, bpf.Egress} {
		s.counted[d] = b.count(t, d, "allowed")
		s.shares[d] = b.shares(t, d)
	}
	for d, program := range []*ebpf.Program{b.guard.ingress, b.guard.egress} {
		stats, err := program.Stats()
		if err != nil {
			t.Fatal(err)
		}
		s.runs[d] = stats.RunCount
	}
	stats := b.outside.Link("eth0").Attrs().Statistics
	s.lost = stats.TxDropped + b.node.Link(b.port).Attrs().Statistics.TxDropped
	s.link[bpf.Egress] = bpf.Count{Packets: stats.RxPackets, Bytes: stats.RxBytes}
	s.link[bpf.Ingress] = bpf.Count{Packets: stats.TxPackets, Bytes: stats.TxBytes}
	return s
}
