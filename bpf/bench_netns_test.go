// SPDX-License-Identifier: Apache-2.0

//go:build netns

package bpf

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/weir-cni/weir/tests/lan"
)

// BenchmarkLoad loads a pair of programs and lets go of it.
func BenchmarkLoad(b *testing.B) {
	spec, err := CollectionSpec()
	if err != nil {
		b.Fatal(err)
	}
	if err := spec.Variables["weir_checks"].Set(uint32(all)); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		collection, err := ebpf.NewCollection(spec.Copy())
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		collection.Close()
		b.StartTimer()
	}
}

// priced is a packet whose time is measured.
type priced struct {
	what, packet string
	program      *ebpf.Program
	frame        []byte
	ns           []float64
}

// BenchmarkPacket is what packets cost, as one table: without checks, with all of them, with
// what else a network may have, and when they are dropped, for every verdict. The rows take
// turns, so that they meet the same machine, and the median counts.
func BenchmarkPacket(b *testing.B) {
	const rounds, repeat = 7, 300_000
	rows := append(passing(b), dropped(b)...)
	for b.Loop() {
		for range rounds {
			for i := range rows {
				_, perRun, err := rows[i].program.Benchmark(rows[i].frame, repeat, func() {})
				if err != nil {
					b.Fatal(err)
				}
				rows[i].ns = append(rows[i].ns, float64(perRun.Nanoseconds()))
			}
		}
	}
	bare := median(rows[0].ns)
	fmt.Print("| what | packet | ns | times nothing |\n| --- | --- | --- | --- |\n")
	for _, row := range rows {
		fmt.Printf("| %s | %s | %.0f | %.1f |\n", row.what, row.packet, median(row.ns), median(row.ns)/bare)
	}
	b.ReportMetric(0, "ns/op")
}

func median(values []float64) float64 {
	return slices.Sorted(slices.Values(values))[len(values)/2]
}

// passing are packets that pass. The first row is a program that does nothing: what the
// measurement itself costs.
func passing(b *testing.B) []priced {
	const v4, v6 = layers.EthernetTypeIPv4, layers.EthernetTypeIPv6
	payload := gopacket.Payload(make([]byte, 18))
	udp4, arrives := lan.Frame(b, eth(podMAC, v4), ipv4("192.0.2.8"), udp, payload), arriving(b, podMAC)
	udp6 := lan.Frame(b, eth(podMAC, v6), ipv6("2001:db8::8", layers.IPProtocolUDP), udp, payload)
	unchecked, checked := load(b, 0, own()...), load(b, all, own()...)
	member := loadMember(b, membership{role: "isolated"})
	limited := loadWith(b, map[string]any{"weir_limits_rate": true}, all, own()...)
	for _, d := range []Direction{Ingress, Egress} {
		limited.setRate(b, d, Rate{BitsPerSecond: 1e15, Burst: TicksPerSecond})
	}
	rows := []priced{
		{"nothing", "", nothing(b), udp4, nil},
		{"no checks, sent", "IPv4, UDP", unchecked.Programs[EgressProgram], udp4, nil},
		{"no checks, received", "IPv4, UDP", unchecked.Programs[IngressProgram], arrives, nil},
		{"all checks, sent", "IPv4, UDP", checked.Programs[EgressProgram], udp4, nil},
		{"", "IPv6, UDP", checked.Programs[EgressProgram], udp6, nil},
		{"", "ARP", checked.Programs[EgressProgram], lan.Frame(b, eth(podMAC, layers.EthernetTypeARP), arp(podMAC, "192.0.2.8", 1)), nil},
		{"", "neighbour advertisement", checked.Programs[EgressProgram], neighbour(b, "2001:db8::8", 136, "2001:db8::8", targetMAC(podMAC)...), nil},
		{"all checks, received", "IPv4, UDP", checked.Programs[IngressProgram], arrives, nil},
		{"and a bandwidth, sent", "IPv4, UDP", limited.Programs[EgressProgram], udp4, nil},
		{"and a bandwidth, received", "IPv4, UDP", limited.Programs[IngressProgram], arrives, nil},
		{"and isolation, sent", "IPv4, UDP", member.Programs[EgressProgram], udp4, nil},
		{"and isolation, received", "IPv4, UDP", member.Programs[IngressProgram], arrives, nil},
	}
	for _, n := range []int{1, 64} {
		egress := loadRules(b, all, lastOf(n), own()...).Programs[EgressProgram]
		rows = append(rows, priced{fmt.Sprintf("and rules: %d, sent", n), "IPv4, UDP", egress, udp4, nil}, priced{"", "IPv6, UDP", egress, udp6, nil})
	}
	return rows
}

// lastOf are so many rules of egress, of which the last allows what is sent.
func lastOf(n int) string {
	var text strings.Builder
	for i := range n - 1 {
		fmt.Fprintf(&text, `{"action":"deny","cidrs":["192.0.%d.0/28","2001:db8:%d::/64"],"protocol":"udp","ports":["%d-%d"]},`, i+3, i+3, i*100, i*100+77)
	}
	return "[" + text.String() + `{"action":"allow","cidrs":["192.0.2.0/24","2001:db8::/64"],"protocol":"udp","ports":["2000"]}]`
}

func nothing(b *testing.B) *ebpf.Program {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.SchedCLS,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		License:      "Dual BSD/GPL",
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = program.Close() })
	return program
}

// dropped are packets of every verdict but the first, which is no drop.
func dropped(b *testing.B) (rows []priced) {
	const v4, v6, v4ARP = layers.EthernetTypeIPv4, layers.EthernetTypeIPv6, layers.EthernetTypeARP
	payload := gopacket.Payload(make([]byte, 18))
	udp4 := func() []byte { return lan.Frame(b, eth(podMAC, v4), ipv4("192.0.2.8"), udp, payload) }
	checked, member := load(b, all, own()...), loadMember(b, membership{role: "isolated"})
	member.meet(b, membership{role: "isolated"}, otherMAC.String())
	limited := loadWith(b, map[string]any{"weir_limits_rate": true}, all, own()...)
	limited.setRate(b, Egress, Rate{BitsPerSecond: 8, Paid: 1 << 62})
	const never = 1 << 50 // ticks
	storm := func(ticks StormTicks) *loaded {
		return loadWith(b, map[string]any{"weir_storm_ticks": ticks}, all, own()...)
	}
	frames := map[string]struct {
		by    *loaded
		frame []byte
	}{
		"spoofed_mac":       {checked, lan.Frame(b, eth(otherMAC, v4), ipv4("192.0.2.8"), udp, payload)},
		"vlan_tagged":       {checked, lan.Frame(b, eth(podMAC, layers.EthernetTypeDot1Q), &layers.Dot1Q{VLANIdentifier: 7, Type: v4}, ipv4("192.0.2.8"), udp)},
		"double_tagged":     {checked, lan.Frame(b, eth(podMAC, layers.EthernetTypeDot1Q), &layers.Dot1Q{VLANIdentifier: 1, Type: layers.EthernetTypeDot1Q}, &layers.Dot1Q{VLANIdentifier: 7, Type: v4}, ipv4("192.0.2.8"), udp)},
		"malformed":         {checked, patch(udp4(), 14, 0x55)},
		"spoofed_ipv4":      {checked, lan.Frame(b, eth(podMAC, v4), ipv4("192.0.2.9"), udp, payload)},
		"spoofed_ipv6":      {checked, lan.Frame(b, eth(podMAC, v6), ipv6("2001:db8::9", layers.IPProtocolUDP), udp, payload)},
		"spoofed_arp_mac":   {checked, lan.Frame(b, eth(podMAC, v4ARP), arp(otherMAC, "192.0.2.8", 2))},
		"spoofed_arp_ip":    {checked, lan.Frame(b, eth(podMAC, v4ARP), arp(podMAC, "192.0.2.9", 2))},
		"spoofed_neighbour": {checked, neighbour(b, "2001:db8::8", 136, "2001:db8::9", targetMAC(podMAC)...)},
		"rogue_dhcp":        {checked, lan.Frame(b, eth(podMAC, v4), ipv4("192.0.2.8"), dhcpServer, payload)},
		"rogue_router":      {checked, lan.Frame(b, eth(podMAC, v6), ipv6("2001:db8::8", layers.IPProtocolICMPv6), icmpv6(134), payload)},
		"rogue_querier":     {checked, lan.Frame(b, eth(podMAC, v4), igmp(), gopacket.Payload{17, 100, 0, 0, 0, 0, 0, 0})},
		"source_routed":     {checked, lan.Frame(b, eth(podMAC, v4), withOptions(131), udp, payload)},
		"routing_header":    {checked, behind(b, "2001:db8::8", 43, []byte{17, 0, 0, 1, 0, 0, 0, 0, 3, 232, 7, 208, 0, 8, 0, 0})},
		"foreign_ethertype": {checked, lan.Frame(b, eth(podMAC, layers.EthernetTypeLinkLayerDiscovery), payload)},
		"broadcast_storm":   {storm(StormTicks{Broadcast: never}), sent(b, net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})},
		"multicast_storm":   {storm(StormTicks{Multicast: never}), sent(b, net.HardwareAddr{0x01, 0x00, 0x5e, 0x01, 0x02, 0x03})},
		"unknown_storm":     {storm(StormTicks{Unknown: never}), udp4()},
		"isolated":          {member, udp4()},
		"rule_denied":       {loadRules(b, all, few, own()...), udp4()},
		"rate_limited":      {limited, udp4()},
	}
	for v := range Verdicts() {
		reason := v.Reason()
		switch f, known := frames[reason]; {
		case reason == "allowed":
		case reason == "foreign_destination":
			rows = append(rows, priced{"dropped, received", "`" + reason + "`", checked.Programs[IngressProgram], arriving(b, otherMAC), nil})
		case reason == "bypassed":
			rows = append(rows, priced{"dropped, received", "`" + reason + "`", besideOther(b, 0).Programs[IngressProgram], arriving(b, podMAC), nil})
		case !known:
			b.Errorf("no packet that is %s", reason)
		default:
			_ = f.by.send(b, f.frame) // a storm's first passes
			if got := f.by.send(b, f.frame); got != reason {
				b.Errorf("%s, want %s", got, reason)
			}
			rows = append(rows, priced{"dropped, sent", "`" + reason + "`", f.by.Programs[EgressProgram], f.frame, nil})
		}
	}
	return rows
}
