// SPDX-License-Identifier: Apache-2.0

//go:build netns

package loader

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/policy"
	"github.com/weir-cni/weir/tests/lan"
)

// someRules are four of ingress and then five of egress, with a prefix of each kind.
const someRules = `[
	{"action": "deny", "direction": "egress", "cidrs": ["192.0.2.1/32", "2001:db8::1/128"], "protocol": "udp", "ports": ["2000-2002", "7"]},
	{"action": "allow", "cidrs": ["192.0.2.0/24", "2001:db8::/64"], "protocol": "udp"},
	{"action": "allow", "protocol": "icmp"},
	{"action": "deny", "protocol": "47"},
	{"action": "deny"}]`

func compiled(tb testing.TB, text string) Rules {
	tb.Helper()
	rules, err := policy.Parse([]byte(text))
	if err != nil {
		tb.Fatal(err)
	}
	return Rules{Ingress: policy.Compile(rules, policy.Ingress), Egress: policy.Compile(rules, policy.Egress)}
}

// newRuledBench is a bench whose guard is a loader's and has rules; text is empty for none.
func newRuledBench(t *testing.T, l *Loader, text string) *bench {
	t.Helper()
	b := newBenchWith(t, l)
	if err := errors.Join(b.guard.Detach(b.place()), b.guard.Close()); err != nil {
		t.Fatal(err)
	}
	b.spec.Dir = pinDir(t, "ruled")
	if text != "" {
		b.spec.Rules = compiled(t, text)
	}
	var err error
	if b.guard, err = b.loader.Load(b.spec); err != nil {
		t.Fatalf("%+v", err)
	}
	if err := b.loader.Attach(b.place(), b.guard, b.spec); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.guard.Close() })
	return b
}

// datagrams are sent by the pod: one to each port, over IPv4 and over IPv6.
func (b *bench) datagrams(t *testing.T, ports ...layers.UDPPort) {
	t.Helper()
	eth := func(kind layers.EthernetType) *layers.Ethernet {
		return &layers.Ethernet{
			SrcMAC: b.pod.Link("net1").Attrs().HardwareAddr, DstMAC: b.outside.Link("eth0").Attrs().HardwareAddr, EthernetType: kind,
		}
	}
	v4 := &layers.IPv4{Version: 4, TTL: 9, Protocol: layers.IPProtocolUDP, SrcIP: net.ParseIP(podAddress), DstIP: net.ParseIP(lanAddress)}
	v6 := &layers.IPv6{Version: 6, HopLimit: 9, NextHeader: layers.IPProtocolUDP, SrcIP: net.ParseIP("2001:db8::2"), DstIP: net.ParseIP("2001:db8::1")}
	payload := gopacket.Payload(make([]byte, 18))
	for _, port := range ports {
		udp := &layers.UDP{SrcPort: 7, DstPort: port}
		b.pod.Send("net1", lan.Frame(t, eth(layers.EthernetTypeIPv4), v4, udp, payload), lan.Frame(t, eth(layers.EthernetTypeIPv6), v6, udp, payload))
	}
}

// packets are the hits of the rules, as the open guard, another one and a reader of the
// pins have them.
func (b *bench) packets(t *testing.T) []uint64 {
	t.Helper()
	hits, err := b.guard.Hits()
	if err != nil {
		t.Fatal(err)
	}
	pinned, err := ReadHits(b.spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := Open(b.spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	others, err := opened.Hits()
	if diff := cmp.Diff(hits, pinned); err != nil || diff != "" || !slices.Equal(hits, others) {
		t.Errorf("the hits differ: %v, %v, error %v, %s", hits, others, err, diff)
	}
	var packets []uint64
	for _, n := range hits {
		packets = append(packets, n.Packets)
	}
	return packets
}

// deniedOfEgress is the number of the first rule of egress in the hits.
const deniedOfEgress = 4

func TestNetnsRulesOfAGuard(t *testing.T) {
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	b := newRuledBench(t, l, someRules)
	b.ping(t)
	b.datagrams(t, 7, 2000, 2002)
	before := b.packets(t)
	b.datagrams(t, 8, 1999, 2003, 2001, 7)
	after := b.packets(t)
	if len(after) != 9 {
		t.Fatalf("%d hits: %v", len(after), after)
	}
	if before[deniedOfEgress] != 6 || after[deniedOfEgress] != 10 {
		t.Errorf("%d and %d were denied, want 6 and 10", before[deniedOfEgress], after[deniedOfEgress])
	}
	if got := after[deniedOfEgress+1] - before[deniedOfEgress+1]; got < 6 {
		t.Errorf("%d were allowed, want 6", got)
	}
	if got := b.count(t, bpf.Egress, "rule_denied").Packets; got < 10 {
		t.Errorf("%d counted as denied, want 10", got)
	}
	if hits, err := b.guard.Hits(); err != nil || hits[deniedOfEgress] != (bpf.Count{Packets: 10, Bytes: 5*60 + 5*80}) {
		t.Errorf("%v, error %v", hits, err)
	}
}

// What one system call reads is what many do.
func TestNetnsHitsAreReadAlikeInBothWays(t *testing.T) {
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	b := newRuledBench(t, l, someRules)
	b.datagrams(t, 7)
	b.ping(t)
	one, err := readOneByOne(b.guard.hits)
	if err != nil {
		t.Fatal(err)
	}
	all, err := readAtOnce(b.guard.hits)
	if err != nil {
		t.Fatal(err)
	}
	if all[deniedOfEgress].Packets != 2 || one[deniedOfEgress] != all[deniedOfEgress] || len(one) != len(all) {
		t.Errorf("one by one %v, at once %v", one, all)
	}
}

func TestNetnsGuardWithoutRules(t *testing.T) {
	b := newBench(t)
	b.datagrams(t, 7)
	if got := b.packets(t); got != nil {
		t.Errorf("hits %v", got)
	}
	if exists(filepath.Join(b.spec.Dir, pinHits)) {
		t.Error("it has pinned hits")
	}
	if got := b.count(t, bpf.Egress, "rule_denied").Packets; got != 0 {
		t.Errorf("%d were denied", got)
	}
}

func TestNetnsCheckWantsThePinOfTheHits(t *testing.T) {
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	b := newRuledBench(t, l, someRules)
	if err := b.guard.Check(b.place()); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(b.spec.Dir, pinHits)); err != nil {
		t.Fatal(err)
	}
	if err := b.guard.Check(b.place()); !errors.Is(err, ErrDetached) {
		t.Errorf("error %v, want %v", err, ErrDetached)
	}
}

// The hits go on where there were any, and begin where the guard is of a build that knew
// no rules.
func TestNetnsReplacementCarriesHitsOver(t *testing.T) {
	for name, was := range map[string]string{"of rules": someRules, "without rules": ""} {
		t.Run(name, func(t *testing.T) {
			b := newRuledBench(t, otherBuild(t, true), was)
			if err := b.loader.Promote(b.place(), b.guard); err != nil {
				t.Fatal(err)
			}
			b.datagrams(t, 7)
			b.spec.Rules = compiled(t, someRules)
			b.replace(t)
			b.checkPins(t, true)
			want := uint64(2)
			if was == "" {
				want = 0
			}
			if got := b.packets(t)[deniedOfEgress]; got != want {
				t.Errorf("%d hits after the replacement, want %d", got, want)
			}
			b.datagrams(t, 2000)
			if got := b.packets(t)[deniedOfEgress]; got != want+2 {
				t.Errorf("%d hits, want %d", got, want+2)
			}
		})
	}
}

// A build that knows no rules, or has none to keep, leaves no hits behind.
func TestNetnsReplacementTakesRulesAway(t *testing.T) {
	b := newRuledBench(t, otherBuild(t, false), someRules)
	b.datagrams(t, 7)
	b.spec.Rules = Rules{}
	b.replace(t)
	b.datagrams(t, 7)
	if got := b.packets(t); got != nil {
		t.Errorf("hits %v", got)
	}
	if exists(filepath.Join(b.spec.Dir, pinHits)) {
		t.Error("the hits are still pinned")
	}
}

// An agent that dies anywhere in a replacement loses no hits.
func TestNetnsReplacementThatWasCutOffKeepsHits(t *testing.T) {
	steps := len((&replacement{}).steps())
	for done := range steps + 1 {
		t.Run(fmt.Sprintf("after step %d of %d", done, steps), func(t *testing.T) {
			b := newRuledBench(t, otherBuild(t, false), someRules)
			if err := b.loader.Promote(b.place(), b.guard); err != nil {
				t.Fatal(err)
			}
			b.datagrams(t, 7)
			b.dieAfter(t, done)
			b.datagrams(t, 7)
			b.replace(t)
			b.datagrams(t, 7)
			if got := b.packets(t)[deniedOfEgress]; got != 6 {
				t.Errorf("%d hits, want 6", got)
			}
		})
	}
}

// The most rules and entries that a network may have can be loaded.
func TestNetnsMostRules(t *testing.T) {
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	b := newRuledBench(t, l, manyRules(policy.RulesMax))
	b.ping(t)
	b.datagrams(t, 2000, 3)
	hits := b.packets(t)
	if last := hits[len(hits)-1]; len(hits) != 2*policy.RulesMax || last < 4 {
		t.Errorf("hits %v", hits)
	}
}

// manyRules deny ports of other networks, and the last allows all.
func manyRules(n int) string {
	text := ""
	for i := range n - 1 {
		text += fmt.Sprintf(`{"action":"deny","cidrs":["198.51.%d.0/28","2001:db8:%d::/64"],"protocol":"udp","ports":["%d-%d"]},`, i, i+3, i*100+1, i*100+977)
	}
	return "[" + text + `{"action":"allow"}]`
}

func TestKeysOfRules(t *testing.T) {
	peer := peerOf(bpf.Egress, netip.MustParsePrefix("192.0.2.0/24"))
	if peer.Bits != 32+24 || peer.Version != 4 || peer.Direction != uint8(bpf.Egress) || peer.Address[1] != 0 {
		t.Errorf("%+v", peer)
	}
	peer = peerOf(bpf.Ingress, netip.MustParsePrefix("2001:db8::/32"))
	if peer.Bits != 32+32 || peer.Version != 6 || peer.Address[0] == 0 || peer.Address[3] != 0 {
		t.Errorf("%+v", peer)
	}
	service := serviceOf(uint8(bpf.Egress)|bpf.PartLater, policy.Service{Protocol: 17, Bits: 8})
	if service != (bpf.Service{Bits: 16, Part: 3, Protocol: 17}) {
		t.Errorf("%+v", service)
	}
}

func BenchmarkLoadRules(b *testing.B) {
	l, err := New()
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{1, policy.RulesMax} {
		spec := Spec{Interface: "net1", Checks: allChecks, Rules: compiled(b, manyRules(n))}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				g, err := l.Load(spec)
				if err != nil {
					b.Fatalf("%+v", err)
				}
				if err := g.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkHits(b *testing.B) {
	l, err := New()
	if err != nil {
		b.Fatal(err)
	}
	g, err := l.Load(Spec{Interface: "net1", Checks: allChecks, Rules: compiled(b, manyRules(policy.RulesMax))})
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	for b.Loop() {
		if _, err := g.Hits(); err != nil {
			b.Fatal(err)
		}
	}
}
