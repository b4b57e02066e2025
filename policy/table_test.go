// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// packet is what rules look at.
type packet struct {
	peer     netip.Addr
	protocol uint8
	port     uint16
	later    bool
}

// naive goes through the rules one by one; -1 when none matches.
func naive(rules []Rule, d Direction, p packet) int {
	for n, i := range Of(rules, d) {
		if rules[i].naivelyMatches(p) {
			return n
		}
	}
	return -1
}

func (r *Rule) naivelyMatches(p packet) bool {
	if len(r.CIDRs) > 0 && !slices.ContainsFunc(r.CIDRs, func(c netip.Prefix) bool { return c.Contains(p.peer) }) {
		return false
	}
	numbers, _ := r.protocols()
	if len(numbers) > 0 && !slices.Contains(numbers, p.protocol) {
		return false
	}
	if len(r.Ports) == 0 {
		return true
	}
	if p.later {
		return r.Action == Allow
	}
	return slices.ContainsFunc(r.Ports, func(q Ports) bool { return q.First <= p.port && p.port <= q.Last })
}

// decide looks a packet up as the programs do.
func (t *Table) decide(p packet) int {
	var peer Bitmap
	for length := p.peer.BitLen(); length >= 0; length-- {
		prefix, _ := p.peer.Prefix(length)
		if rules, found := t.Peers[prefix]; found {
			peer = rules
			break
		}
	}
	services := t.Services
	if p.later {
		services, p.port = t.Later, 0
	}
	longest, service := -1, Bitmap(0)
	for s, rules := range services {
		if s.Bits > longest && s.contains(Service{p.protocol, p.port, protocolBits + portBits}) {
			longest, service = s.Bits, rules
		}
	}
	if peer&service == 0 {
		return -1
	}
	return bits.TrailingZeros64(uint64(peer & service))
}

func drawRule(t *rapid.T) Rule {
	r := Rule{
		Direction: rapid.SampledFrom([]Direction{"", Ingress, Egress}).Draw(t, "direction"),
		Action:    rapid.SampledFrom([]Action{Allow, Deny}).Draw(t, "action"),
		Protocol:  rapid.SampledFrom([]string{"", "tcp", "udp", "sctp", "icmp", "47"}).Draw(t, "protocol"),
	}
	for range rapid.IntRange(0, 3).Draw(t, "cidrs") {
		addr := drawAddress(t)
		p, _ := addr.Prefix(rapid.IntRange(0, addr.BitLen()).Draw(t, "bits"))
		if !slices.Contains(r.CIDRs, p) {
			r.CIDRs = append(r.CIDRs, p)
		}
	}
	if slices.Contains([]string{"tcp", "udp", "sctp"}, r.Protocol) {
		for range rapid.IntRange(0, 3).Draw(t, "ports") {
			a, b := rapid.Uint16().Draw(t, "from"), rapid.Uint16().Draw(t, "to")
			r.Ports = append(r.Ports, Ports{min(a, b), max(a, b)})
		}
	}
	return r
}

// drawAddress has few different bits, so that prefixes lie in each other.
func drawAddress(t *rapid.T) netip.Addr {
	last := rapid.Byte().Draw(t, "last")
	if rapid.Bool().Draw(t, "isIPv4") {
		return netip.AddrFrom4([4]byte{10, 0, last & 3, last})
	}
	return netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 7: last & 3, 15: last})
}

func TestTableAgreesWithGoingThroughTheRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules := rapid.SliceOfN(rapid.Custom(drawRule), 0, RulesMax).Draw(t, "rules")
		tables := map[Direction]Table{Ingress: Compile(rules, Ingress), Egress: Compile(rules, Egress)}
		var edges []uint16
		for _, r := range rules {
			for _, p := range r.Ports {
				edges = append(edges, p.First-1, p.First, p.Last, p.Last+1)
			}
		}
		for range 50 {
			p := packet{
				peer:     drawAddress(t),
				protocol: rapid.SampledFrom([]uint8{icmp, tcp, udp, 47, icmpv6, sctp, 99}).Draw(t, "protocol"),
				later:    rapid.Bool().Draw(t, "later"),
			}
			if slices.Contains(withPorts(), p.protocol) {
				p.port = rapid.SampledFrom(append(edges, 0, 80, 65535)).Draw(t, "port")
			}
			for d, table := range tables {
				if got, want := table.decide(p), naive(rules, d, p); got != want {
					t.Fatalf("%s of %+v: rule %d, want %d", d, p, got, want)
				}
			}
		}
	})
}

func TestPrefixesOfPorts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Uint16().Draw(t, "from"), rapid.Uint16().Draw(t, "to")
		ports := Ports{min(a, b), max(a, b)}
		prefixes := prefixesOf(tcp, ports)
		if len(prefixes) > 30 {
			t.Fatalf("%d prefixes for %v", len(prefixes), ports)
		}
		next := uint32(ports.First)
		for _, p := range prefixes {
			if uint32(p.Port) != next {
				t.Fatalf("%v: a prefix from %d, want %d", ports, p.Port, next)
			}
			next += 1 << (protocolBits + portBits - p.Bits)
		}
		if next != uint32(ports.Last)+1 {
			t.Fatalf("%v: prefixes up to %d", ports, next)
		}
	})
}

// scattered are rules of egress whose ranges have few prefixes in common.
func scattered(rules, ranges int) []Rule {
	list := make([]Rule, rules)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range list {
		list[i] = Rule{Direction: Egress, Action: Allow, Protocol: []string{"tcp", "udp", "sctp"}[i%len(withPorts())]}
		for j := range CIDRsMax {
			n := uint16(i*CIDRsMax + j)
			list[i].CIDRs = append(list[i].CIDRs, netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, byte(n >> 8), byte(n)}), 17+j*6).Masked())
		}
		for range ranges {
			a, b := uint16(random.Uint32()), uint16(random.Uint32())
			list[i].Ports = append(list[i].Ports, Ports{min(a, b), max(a, b)})
		}
	}
	return list
}

func TestParseRefusesMoreEntriesThanTheMapsHold(t *testing.T) {
	for _, test := range []struct {
		rules, ranges int
		fits          bool
	}{{RulesMax, 4, true}, {RulesMax, PortsMax, false}} {
		rules := scattered(test.rules, test.ranges)
		table := Compile(rules, Egress)
		text, err := json.Marshal(rules)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Parse(text)
		if fits := err == nil; fits != test.fits || fits != (table.entries() <= EntriesMax) {
			t.Errorf("%d rules of %d ranges take %d entries: %v", test.rules, test.ranges, table.entries(), err)
		}
		if !test.fits && (!errors.Is(err, ErrRule) || !strings.Contains(err.Error(), "rules: the ports of egress take ")) {
			t.Errorf("error %v", err)
		}
	}
}

// BenchmarkCompile is of about the most that Parse takes, and of what it has to refuse.
func BenchmarkCompile(b *testing.B) {
	for _, ranges := range []int{4, PortsMax} {
		rules := scattered(RulesMax, ranges)
		b.Run(fmt.Sprintf("%d entries", Compile(rules, Egress).entries()), func(b *testing.B) {
			for b.Loop() {
				Compile(rules, Egress)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`[{"name":"web","direction":"egress","action":"allow","cidrs":["10.0.0.0/8"],"protocol":"tcp","ports":["80","8000-8100"]}]`))
	f.Add([]byte(`[{"action":"deny"},{}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rules, err := Parse(data)
		if err != nil {
			return
		}
		again, err := json.Marshal(rules)
		if err != nil {
			t.Fatal(err)
		}
		if len(rules) == 0 {
			return
		}
		if _, err := Parse(again); err != nil {
			t.Fatalf("%s was taken, and is not as %s: %v", data, again, err)
		}
		Compile(rules, Ingress)
	})
}
