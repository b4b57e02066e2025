// SPDX-License-Identifier: Apache-2.0

//go:build netns

package loader

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"net"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/segment"
	"github.com/weir-cni/weir/tests/lan"
)

// datagramTo is what the pod, or who has the source, sends to a port of the other.
func (b *bench) datagramTo(t *testing.T, from, to string, port layers.UDPPort) []byte {
	t.Helper()
	return lan.Frame(t,
		&layers.Ethernet{
			SrcMAC: b.pod.Link("net1").Attrs().HardwareAddr, DstMAC: b.outside.Link("eth0").Attrs().HardwareAddr,
			EthernetType: layers.EthernetTypeIPv4,
		},
		&layers.IPv4{Version: 4, TTL: 9, Protocol: layers.IPProtocolUDP, SrcIP: net.ParseIP(from), DstIP: net.ParseIP(to)},
		&layers.UDP{SrcPort: 7, DstPort: port}, gopacket.Payload(make([]byte, 18)))
}

// trial is one of the bench's guard, which ends with the test.
func (b *bench) trial(t *testing.T) *Trial {
	t.Helper()
	trial, err := b.loader.NewTrial(b.spec.Dir)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { _ = trial.Close() })
	return trial
}

func (b *bench) tries(t *testing.T, trial *Trial, frame []byte, reason string, rule int) {
	t.Helper()
	got, err := trial.Run(bpf.Egress, frame)
	if err != nil || got.Verdict.Reason() != reason || got.Rule != rule {
		t.Errorf("%s by rule %d, error %v, want %s by rule %d", got.Verdict.Reason(), got.Rule, err, reason, rule)
	}
}

// written is all that a guard's programs write, byte by byte.
func (b *bench) written(t *testing.T) map[string][]ebpf.MapKV {
	t.Helper()
	var programs [2]*ebpf.Program
	if err := errors.Join(
		openProgram(&programs[0], filepath.Join(b.spec.Dir, pinIngress)),
		openProgram(&programs[1], filepath.Join(b.spec.Dir, pinEgress)),
	); err != nil {
		t.Fatal(err)
	}
	defer programs[0].Close()
	defer programs[1].Close()
	all, err := mapsOf(programs)
	defer closeAll(all)
	if err != nil {
		t.Fatal(err)
	}
	written := map[string][]ebpf.MapKV{}
	for _, name := range []string{bpf.CountersMap, bpf.HitsMap, bpf.RateMap, bpf.StormMap, bpf.HeardMap} {
		m := all[name]
		if m == nil {
			continue
		}
		if written[name], err = wholeOf(m); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return written
}

// wholeOf is contentsOf, where the values of all CPUs are one after the other.
func wholeOf(m *ebpf.Map) ([]ebpf.MapKV, error) {
	if m.Type() != ebpf.PerCPUArray {
		return contentsOf(m)
	}
	var all []ebpf.MapKV
	for i := range m.MaxEntries() {
		var perCPU []rawValue
		if err := m.Lookup(i, &perCPU); err != nil {
			return nil, err
		}
		key := binary.NativeEndian.AppendUint32(nil, i)
		all = append(all, ebpf.MapKV{Key: key, Value: []byte(slices.Concat(perCPU...))})
	}
	return all, nil
}

// A trial says what the guard does, and why, and the guard does not notice: not in its
// counters, hits and rates, whatever there is of these.
func TestNetnsTrial(t *testing.T) {
	tests := []struct {
		name   string
		change func(s *Spec)
		// reason and rule are what becomes of a datagram to port 7 of the outside host.
		reason string
		rule   int
	}{
		{"plain", func(*Spec) {}, "allowed", -1},
		{"no checks", func(s *Spec) { s.Checks = 0 }, "allowed", -1},
		{"rules", func(s *Spec) { s.Rules = compiled(t, someRules) }, "rule_denied", 4},
		{"storms", func(s *Spec) { s.Storms = Storms{Broadcast: 10, Multicast: 10, Unknown: 100} }, "allowed", -1},
		{"rates", func(s *Spec) { s.Egress = Rate{BitsPerSecond: 1e6} }, "allowed", -1},
		{"isolation", func(s *Spec) {
			s.Place = segment.Place{Segment: "lan", Isolation: segment.Of(segment.Isolated)}
		}, "isolated", -1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			test.change(&b.spec)
			if b.spec.Place.Isolation.Restricted() {
				members, err := b.loader.NewMembers()
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = members.Close() })
				if err := members.Add(tableOf(segment.Of(segment.Isolated), lanAddress)); err != nil {
					t.Fatal(err)
				}
				b.spec.Members = members
			}
			b.reload(t)
			b.promote(t)
			b.judgedAlike(t, test.reason, test.rule)
		})
	}
}

// judgedAlike has a trial say what the guard will do with two datagrams, and then the guard
// itself do it.
func (b *bench) judgedAlike(t *testing.T, reason string, rule int) {
	t.Helper()
	good, bad := b.datagramTo(t, podAddress, lanAddress, 7), b.datagramTo(t, "192.0.2.66", lanAddress, 7)
	spoofed := "spoofed_ipv4"
	if b.spec.Checks == 0 {
		spoofed = reason
	}
	b.isNotNoticed(t, func() {
		trial := b.trial(t)
		for range 3 {
			b.tries(t, trial, good, reason, rule)
			b.tries(t, trial, bad, spoofed, -1)
		}
	})
	counted := b.count(t, bpf.Egress, reason).Packets
	b.pod.Send("net1", good)
	if now := b.count(t, bpf.Egress, reason).Packets; now == counted {
		t.Errorf("the guard does not count a packet of %s", reason)
	}
}

// isNotNoticed proves that a guard stays as it is. What the kernels say of themselves may come
// between, so there are several attempts.
func (b *bench) isNotNoticed(t *testing.T, do func()) {
	t.Helper()
	for range 20 {
		before := b.written(t)
		do()
		if sameEntries(before, b.written(t)) {
			return
		}
	}
	t.Error("the guard has noticed it, or packets never cease")
}

func sameEntries(a, b map[string][]ebpf.MapKV) bool {
	if len(a) != len(b) {
		return false
	}
	for name := range a {
		if !slices.EqualFunc(a[name], b[name], func(x, y ebpf.MapKV) bool {
			return string(x.Key.([]byte)) == string(y.Key.([]byte)) && string(x.Value.([]byte)) == string(y.Value.([]byte))
		}) {
			return false
		}
	}
	return true
}

// A trial begins with the rates and storms as they are, and goes on with its own.
func TestNetnsTrialOfAnExhaustedGuard(t *testing.T) {
	b := newBench(t)
	b.spec.Egress = Rate{BitsPerSecond: 8, BurstBits: 8}
	b.reload(t)
	frame := b.datagramTo(t, podAddress, lanAddress, 7)
	fresh := b.trial(t)
	b.pod.Send("net1", frame, frame) // a minute's worth, and more
	b.tries(t, b.trial(t), frame, "rate_limited", -1)
	if _, err := fresh.Run(bpf.Egress, frame); err != nil {
		t.Error(err)
	}
	b.tries(t, fresh, frame, "rate_limited", -1)
}

func TestNetnsTrialOfOtherPrograms(t *testing.T) {
	b := newBench(t)
	for name, l := range map[string]*Loader{"build": otherBuild(t, false), "instructions": b.loader} {
		if name == "instructions" {
			l.spec = l.spec.Copy()
			egress := l.spec.Programs[bpf.EgressProgram]
			egress.Instructions = slices.Insert(egress.Instructions, 1, asm.Mov.Imm(asm.R0, 0))
		}
		if _, err := l.NewTrial(b.spec.Dir); !errors.Is(err, ErrOtherPrograms) {
			t.Errorf("another %s: error %v", name, err)
		}
	}
	if _, err := b.loader.NewTrial(filepath.Join(b.spec.Dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of nothing: error %v", err)
	}
}
