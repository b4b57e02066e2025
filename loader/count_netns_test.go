// SPDX-License-Identifier: Apache-2.0

//go:build netns

package loader

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/bpf"
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

// The counters equal the wire to the packet and the byte, also where the stack
// handles many segments as one packet: what leaves is segmented behind the hook,
// what comes in is coalesced before it.
func TestNetnsCountersEqualTheWire(t *testing.T) {
	closer, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		t.Fatal(err)
	}
	defer closer.Close()
	tests := []struct {
		name     string
		pod, lan string
		many     bool
	}{
		{name: "IPv4, one by one", pod: podAddress, lan: lanAddress},
		{name: "IPv6, one by one", pod: "2001:db8::2", lan: "2001:db8::1"},
		{name: "IPv4, segmented and coalesced", pod: podAddress, lan: lanAddress, many: true},
		{name: "IPv6, segmented and coalesced", pod: "2001:db8::2", lan: "2001:db8::1", many: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			b.pod.Offload("net1", offloads(test.many))
			b.outside.Offload("eth0", offloads(false))
			b.ping(t)
			before, after, captured := b.transfer(t, test.lan, test.pod)
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
				if counted.Packets != seen.Packets || !test.many && counted.Bytes != seen.Bytes {
					t.Errorf("%s: counted %v, the interface at the other end %v", d, counted, seen)
				}
				runs := after.runs[d] - before.runs[d]
				if test.many && counted.Packets < 2*runs {
					t.Errorf("%s: %d packets in %d runs: nothing was segmented or coalesced", d, counted.Packets, runs)
				}
			}
		})
	}
}

// transfer sends bytes both ways until once no queue of the cable was full, since
// a capture sees what the cable then drops and the hook does not, and the cable
// was at rest when it was looked at: the hosts' own discoveries come at any time.
func (b *bench) transfer(t *testing.T, lan, pod string) (before, after snapshot, captured wire) {
	t.Helper()
	const size, attempts = 4 << 20, 20
	for range attempts {
		quiet := b.snapshot(t)
		capture := b.outside.Capture("eth0")
		before = b.snapshot(t)
		b.pod.SendTCP(b.outside, lan, size)
		b.outside.SendTCP(b.pod, pod, size)
		time.Sleep(200 * time.Millisecond) // the last acknowledgements
		after = b.snapshot(t)
		captured = wireOf(capture.Stop())
		if before == quiet && after == b.snapshot(t) && after.lost == before.lost {
			return before, after, captured
		}
	}
	t.Fatalf("the cable lost packets, or was never at rest, in %d attempts", attempts)
	return before, after, captured
}

// offloads are those that make one packet of many segments, at the hooks of the
// interface and not on the cable.
func offloads(on bool) map[string]bool {
	return map[string]bool{
		"tx-tcp-segmentation":     false,
		"tx-tcp6-segmentation":    false,
		"tx-generic-segmentation": on,
		"rx-gro":                  on,
	}
}

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
	s.lost = stats.TxDropped + b.pod.Link("net1").Attrs().Statistics.TxDropped
	s.link[bpf.Egress] = bpf.Count{Packets: stats.RxPackets, Bytes: stats.RxBytes}
	s.link[bpf.Ingress] = bpf.Count{Packets: stats.TxPackets, Bytes: stats.TxBytes}
	return s
}
