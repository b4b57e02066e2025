// SPDX-License-Identifier: Apache-2.0

//go:build netns

package bpf

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/weir-cni/weir/policy"
	"github.com/weir-cni/weir/tests/lan"
)

// loadRules loads the programs with rules, given as in a network's configuration.
func loadRules(tb testing.TB, checks Check, text string, prefixes ...string) *loaded {
	tb.Helper()
	return loadRulesWith(tb, map[string]any{}, checks, text, prefixes...)
}

// loadRulesWith sets further constants of the programs.
func loadRulesWith(tb testing.TB, constants map[string]any, checks Check, text string, prefixes ...string) *loaded {
	tb.Helper()
	rules, err := policy.Parse([]byte(text))
	if err != nil {
		tb.Fatal(err)
	}
	tables := []policy.Table{policy.Compile(rules, policy.Ingress), policy.Compile(rules, policy.Egress)}
	sizes := map[string]uint32{HitsMap: uint32(max(1, tables[0].Rules+tables[1].Rules)), PeersMap: 4096, ServicesMap: 65536}
	constants["weir_rules"] = [2]uint32{uint32(tables[0].Rules), uint32(tables[1].Rules)}
	constants["weir_denies"] = [2]uint64{uint64(tables[0].Denies), uint64(tables[1].Denies)}
	l := loadSized(tb, sizes, constants, checks, prefixes...)
	l.model.rules = rules
	for d, t := range tables {
		writeTable(tb, l, uint8(d), &t)
	}
	return l
}

func writeTable(tb testing.TB, l *loaded, direction uint8, t *policy.Table) {
	tb.Helper()
	for p, rules := range t.Peers {
		key := Peer{Bits: uint32(32 + p.Bits()), Direction: direction, Version: 4}
		raw := p.Addr().AsSlice()
		if len(raw) > 4 {
			key.Version = 6
		}
		for i := range len(raw) / 4 {
			key.Address[i] = binary.NativeEndian.Uint32(raw[i*4:])
		}
		put(tb, l.Maps[PeersMap], key, uint64(rules))
	}
	for part, table := range []map[policy.Service]policy.Bitmap{t.Services, t.Later} {
		for s, rules := range table {
			port := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, s.Port))
			key := Service{Bits: uint32(8 + s.Bits), Part: direction | uint8(part)*PartLater, Protocol: s.Protocol, Port: port}
			put(tb, l.Maps[ServicesMap], key, uint64(rules))
		}
	}
}

func put(tb testing.TB, m *ebpf.Map, key, value any) {
	tb.Helper()
	if err := m.Put(key, value); err != nil {
		tb.Fatal(err)
	}
}

// hits are the packets of every rule, those of ingress first.
func (l *loaded) hits(tb testing.TB) []uint64 {
	tb.Helper()
	hits := make([]uint64, l.Maps[HitsMap].MaxEntries())
	for i := range hits {
		var perCPU []Count
		if err := l.Maps[HitsMap].Lookup(uint32(i), &perCPU); err != nil {
			tb.Fatal(err)
		}
		for _, n := range perCPU {
			hits[i] += n.Packets
		}
	}
	return hits
}

// few is a list with a rule of each kind.
const few = `[
	{"action": "deny", "direction": "egress", "cidrs": ["192.0.2.1/32", "2001:db8::1/128"], "protocol": "udp", "ports": ["2000-2002"]},
	{"action": "allow", "cidrs": ["192.0.2.0/24", "2001:db8::/64"], "protocol": "udp"},
	{"action": "allow", "direction": "egress", "protocol": "tcp", "ports": ["2000"]},
	{"action": "allow", "protocol": "icmp", "direction": "egress"},
	{"action": "deny"}]`

func TestNetnsRuleVerdicts(t *testing.T) {
	const v4, v6 = layers.EthernetTypeIPv4, layers.EthernetTypeIPv6
	payload := gopacket.Payload(make([]byte, 18))
	to := func(port layers.UDPPort) *layers.UDP { return &layers.UDP{SrcPort: 1000, DstPort: port} }
	tests := []struct {
		name  string
		frame []byte
		want  string
		rule  int // of egress
	}{
		{"denied port", lan.Frame(t, eth(podMAC, v4), ipv4("192.0.2.8"), to(2000), payload), "rule_denied", 0},
		{"last denied port", lan.Frame(t, eth(podMAC, v4), ipv4("192.0.2.8"), to(2002), payload), "rule_denied", 0},
		{"port behind the range", lan.Frame(t, eth(podMAC, v4), ipv4("192.0.2.8"), to(2003), payload), "allowed", 1},
		{"port before the range", lan.Frame(t, eth(podMAC, v4), ipv4("192.0.2.8"), to(1999), payload), "allowed", 1},
		{"later fragment", patch(lan.Frame(t, eth(podMAC, v4), ipv4("192.0.2.8"), to(2000), payload), 21, 3), "allowed", 1},
		{"IPv6, denied port", lan.Frame(t, eth(podMAC, v6), ipv6("2001:db8::8", layers.IPProtocolUDP), to(2001), payload), "rule_denied", 0},
		{"IPv6, another port", lan.Frame(t, eth(podMAC, v6), ipv6("2001:db8::8", layers.IPProtocolUDP), to(53), payload), "allowed", 1},
		{"IPv6 behind a header, denied port", behind(t, "2001:db8::8", 60, []byte{17, 0, 1, 4, 0, 0, 0, 0, 3, 232, 7, 208, 0, 8, 0, 0}), "rule_denied", 0},
		{"later fragment of IPv6", behind(t, "2001:db8::8", 44, []byte{17, 0, 0, 8, 0, 0, 0, 7, 3, 232, 7, 208}), "allowed", 1},
		{"later fragment of a protocol that is denied", behind(t, "2001:db8::8", 44, []byte{132, 0, 0, 8, 0, 0, 0, 7, 3, 232, 7, 208}), "rule_denied", 4},
		{"later fragment of a protocol with an allowed port", behind(t, "2001:db8::8", 44, []byte{6, 0, 0, 8, 0, 0, 0, 7, 3, 232, 7, 208}), "allowed", 2},
		{"allowed TCP", lan.Frame(t, eth(podMAC, v4), tcpOver4(), tcp, payload), "allowed", 2},
		{"TCP without ports", lan.Frame(t, eth(podMAC, v4), tcpOver4(), gopacket.Payload{0, 7})[:36], "malformed", -1},
		{"SCTP", lan.Frame(t, eth(podMAC, v4), sctp(), gopacket.Payload(make([]byte, 12))), "rule_denied", 4},
		{"echo", lan.Frame(t, eth(podMAC, v4), icmpv4(), gopacket.Payload{8, 0, 0, 0, 0, 0, 0, 0}), "allowed", 3},
		{"echo of IPv6", lan.Frame(t, eth(podMAC, v6), ipv6("2001:db8::8", layers.IPProtocolICMPv6), icmpv6(128), payload), "allowed", 3},
		{"ICMPv6 without a type", lan.Frame(t, eth(podMAC, v6), ipv6("2001:db8::8", layers.IPProtocolICMPv6))[:54], "malformed", -1},
		{"neighbour discovery", neighbour(t, "2001:db8::8", 135, "2001:db8::1", sourceMAC(podMAC)...), "allowed", -1},
		{"MLD", mldReport(t), "allowed", -1},
		{"ARP", lan.Frame(t, eth(podMAC, layers.EthernetTypeARP), arp(podMAC, "192.0.2.8", 1)), "allowed", -1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := loadRules(t, sources, few, "192.0.2.8/32", "2001:db8::8/128")
			if got := l.send(t, test.frame); got != test.want {
				t.Errorf("verdict %s, want %s: %x", got, test.want, test.frame)
			}
			if got := l.model.judge(test.frame); got != test.want {
				t.Errorf("the model says %s, want %s", got, test.want)
			}
			const ofIngress = 2
			for i, n := range l.hits(t) {
				if want := i == ofIngress+test.rule && test.rule >= 0; (n == 1) != want {
					t.Errorf("hit %d has %d packets", i, n)
				}
			}
		})
	}
}

func TestNetnsRulesOfIngress(t *testing.T) {
	l := loadRules(t, CheckDestination, few)
	if got := l.receive(t, arriving(t, podMAC)); got != "allowed" {
		t.Errorf("from 192.0.2.1: %s", got)
	}
	link := &layers.Ethernet{SrcMAC: otherMAC, DstMAC: podMAC, EthernetType: layers.EthernetTypeIPv4}
	if got := l.receive(t, lan.Frame(t, link, ipv4("198.51.100.1"), udp)); got != "rule_denied" {
		t.Errorf("from elsewhere: %s", got)
	}
	hits := l.hits(t)
	if fmt.Sprint(hits) != "[1 1 0 0 0 0 0]" {
		t.Errorf("hits %v", hits)
	}
}

// TestNetnsRulesAgreeWithTheModel sends frames that are wrong in random ways through programs
// with random rules, in both directions.
func TestNetnsRulesAgreeWithTheModel(t *testing.T) {
	lists, frames := 20, 5_000
	if _, err := exec.LookPath("go"); err != nil {
		lists, frames = 10, 1_000 // in a VM, where a second is a minute
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	seeds := seedFrames(t)
	for range lists {
		text := randomRules(random)
		checks := []Check{0, sources, all}[random.IntN(3)]
		l := loadRules(t, checks, text, "192.0.2.8/32", "2001:db8::8/128", "fe80::42:acff:fe11:2/128")
		for range frames {
			frame := mutate(random, seeds[random.IntN(len(seeds))])
			if got, want := l.send(t, frame), l.model.judge(frame); got != want {
				t.Fatalf("checks %d, rules %s: sent, the program says %s, the model %s: %x", checks, text, got, want, frame)
			}
			if got, want := l.receive(t, frame), l.model.judgeArrival(frame); got != want {
				t.Fatalf("checks %d, rules %s: received, the program says %s, the model %s: %x", checks, text, got, want, frame)
			}
		}
		l.Close()
	}
}

// randomRules are about what seedFrames has.
func randomRules(random *rand.Rand) string {
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	text := ""
	for range 1 + random.IntN(20) {
		rule := `{"action":"` + pick("allow", "deny") + `"`
		rule += pick("", `,"direction":"ingress"`, `,"direction":"egress"`)
		address := netip.MustParseAddr(pick("192.0.2.1", "192.0.2.8", "2001:db8::1", "2001:db8::8", "fe80::42:acff:fe11:2"))
		prefix, _ := address.Prefix(random.IntN(address.BitLen() + 1))
		rule += pick("", `,"cidrs":["`+prefix.String()+`"]`)
		from := random.IntN(3000)
		ports := fmt.Sprintf(`,"ports":["%d-%d"]`, from, from+random.IntN(3000))
		rule += pick("", `,"protocol":"tcp"`, `,"protocol":"udp"`, `,"protocol":"udp"`+ports, `,"protocol":"tcp"`+ports, `,"protocol":"icmp"`, `,"protocol":"sctp"`)
		text += "," + rule + "}"
	}
	return "[" + text[1:] + "]"
}
