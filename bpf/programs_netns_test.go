// SPDX-License-Identifier: Apache-2.0

//go:build netns

package bpf

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/weir-cni/weir/tests/lan"
)

var (
	podMAC   = net.HardwareAddr{0x02, 0x42, 0xac, 0x11, 0x00, 0x02}
	otherMAC = net.HardwareAddr{0x02, 0x42, 0xac, 0x11, 0x00, 0x99}
	sources  = CheckMAC | CheckIPv4 | CheckIPv6 | CheckVLAN | CheckARP
	all      = sources | CheckDHCP | CheckRouter | CheckSourceRoute | CheckEthertype | CheckNeighbour | CheckDoubleTag |
		CheckRoutingHeader | CheckDestination | CheckQuerier
)

// loaded is a pair of programs in the kernel, attached to nothing.
type loaded struct {
	*ebpf.Collection
	model model
}

func load(tb testing.TB, checks Check, prefixes ...string) *loaded {
	tb.Helper()
	return loadWith(tb, nil, checks, prefixes...)
}

// loadWith sets further constants of the programs.
func loadWith(tb testing.TB, constants map[string]any, checks Check, prefixes ...string) *loaded {
	tb.Helper()
	return loadSized(tb, nil, constants, checks, prefixes...)
}

// loadSized gives maps another number of entries, too.
func loadSized(tb testing.TB, sizes map[string]uint32, constants map[string]any, checks Check, prefixes ...string) *loaded {
	tb.Helper()
	// Before 5.11 maps count as locked memory, of which there is little.
	if err := rlimit.RemoveMemlock(); err != nil {
		tb.Fatal(err)
	}
	spec, err := CollectionSpec()
	if err != nil {
		tb.Fatal(err)
	}
	for name, entries := range sizes {
		spec.Maps[name].MaxEntries = entries
	}
	if err := spec.Variables["weir_checks"].Set(uint32(checks)); err != nil {
		tb.Fatal(err)
	}
	for name, value := range constants {
		if err := spec.Variables[name].Set(value); err != nil {
			tb.Fatal(err)
		}
	}
	collection, err := ebpf.NewCollection(spec)
	if err != nil {
		tb.Fatalf("loading the programs (root is needed): %+v", err)
	}
	tb.Cleanup(collection.Close)
	l := &loaded{collection, model{mac: podMAC, checks: checks}}
	facts := &Facts{Mac: [6]uint8(podMAC)}
	for _, text := range prefixes {
		l.allow(facts, netip.MustParsePrefix(text))
	}
	if err := collection.Maps[FactsMap].Put(uint32(0), facts); err != nil {
		tb.Fatal(err)
	}
	return l
}

func (l *loaded) allow(facts *Facts, p netip.Prefix) {
	l.model.prefixes = append(l.model.prefixes, p)
	mask := net.CIDRMask(p.Bits(), p.Addr().BitLen())
	raw := p.Masked().Addr().AsSlice()
	if p.Addr().Is4() {
		slot := &facts.Prefixes4[facts.Prefixes4Len]
		slot.Address, slot.Mask = binary.NativeEndian.Uint32(raw), binary.NativeEndian.Uint32(mask)
		facts.Prefixes4Len++
		return
	}
	slot := &facts.Prefixes6[facts.Prefixes6Len]
	for i := range 2 {
		slot.Address.Half[i] = binary.NativeEndian.Uint64(raw[i*8:])
		slot.Mask.Half[i] = binary.NativeEndian.Uint64(mask[i*8:])
	}
	facts.Prefixes6Len++
}

// counters reads what the programs counted.
func (l *loaded) counters(tb testing.TB) Counters {
	tb.Helper()
	var perCPU []Counters
	if err := l.Maps[CountersMap].Lookup(uint32(0), &perCPU); err != nil {
		tb.Fatal(err)
	}
	return Sum(perCPU)
}

// send runs weir_egress on a frame and returns the reason that was counted; the
// return code must agree with it.
func (l *loaded) send(tb testing.TB, frame []byte) string {
	tb.Helper()
	return l.run(tb, Egress, EgressProgram, frame)
}

// receive does so with weir_ingress.
func (l *loaded) receive(tb testing.TB, frame []byte) string {
	tb.Helper()
	return l.run(tb, Ingress, IngressProgram, frame)
}

func (l *loaded) run(tb testing.TB, d Direction, program string, frame []byte) string {
	tb.Helper()
	before := l.counters(tb)
	code, _, err := l.Programs[program].Test(frame)
	if err != nil {
		tb.Fatalf("running %s on %x: %v", program, frame, err)
	}
	after := l.counters(tb)
	reason := "nothing"
	for v := range Verdicts() {
		counted := after.Verdicts[d][v].Packets - before.Verdicts[d][v].Packets
		if counted == 0 {
			continue
		}
		if counted != 1 || reason != "nothing" {
			tb.Fatalf("frame %x: %d counted for %s beside %s", frame, counted, v.Reason(), reason)
		}
		if size := after.Verdicts[d][v].Bytes - before.Verdicts[d][v].Bytes; size != uint64(len(frame)) {
			tb.Fatalf("frame of %d bytes counted as %d", len(frame), size)
		}
		reason = v.Reason()
	}
	const actOK, actShot = 0, 2
	want := uint32(actShot)
	if reason == "allowed" {
		want = actOK
	}
	l.checkTraffic(tb, d, &before, &after, reason, frame)
	if code != want {
		tb.Fatalf("frame %x: counted as %s, returned %d", frame, reason, code)
	}
	return reason
}

// checkTraffic fails unless an allowed frame, and none else, is counted by class and family
// where the model has it.
func (l *loaded) checkTraffic(tb testing.TB, d Direction, before, after *Counters, reason string, frame []byte) {
	tb.Helper()
	wantClass, wantFamily := l.model.trafficOf(frame)
	for class := range Classes() {
		for family := range Families() {
			counted := after.Allowed[d][class][family].Packets - before.Allowed[d][class][family].Packets
			want := uint64(0)
			if reason == "allowed" && class.Name() == wantClass && family.Name() == wantFamily {
				want = 1
			}
			if counted != want {
				tb.Fatalf("frame %x, %s: %d counted as %s %s, want %s %s", frame, reason, counted, class.Name(), family.Name(), wantClass, wantFamily)
			}
		}
	}
}

func eth(source net.HardwareAddr, ethertype layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: source, DstMAC: otherMAC, EthernetType: ethertype}
}

func ipv4(source string) *layers.IPv4 {
	return &layers.IPv4{
		Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP,
		SrcIP: net.ParseIP(source), DstIP: net.ParseIP("192.0.2.1"),
	}
}

func ipv6(source string, next layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{
		Version: 6, HopLimit: 255, NextHeader: next,
		SrcIP: net.ParseIP(source), DstIP: net.ParseIP("2001:db8::1"),
	}
}

func arp(mac net.HardwareAddr, ip string, operation uint16) *layers.ARP {
	return &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4,
		HwAddressSize: 6, ProtAddressSize: 4, Operation: operation,
		SourceHwAddress: mac, SourceProtAddress: net.ParseIP(ip).To4(),
		DstHwAddress: make([]byte, 6), DstProtAddress: net.ParseIP("192.0.2.1").To4(),
	}
}

var (
	udp = &layers.UDP{SrcPort: 1000, DstPort: 2000}
	tcp = &layers.TCP{SrcPort: 1000, DstPort: 2000, DataOffset: 5, SYN: true}
)

func tcpOver4() *layers.IPv4 {
	ip := ipv4("192.0.2.8")
	ip.Protocol = layers.IPProtocolTCP
	return ip
}

func sctp() *layers.IPv4 {
	ip := ipv4("192.0.2.8")
	ip.Protocol = layers.IPProtocolSCTP
	return ip
}

func icmpv6(kind uint8) *layers.ICMPv6 {
	return &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
}

func TestNetnsEgressVerdicts(t *testing.T) {
	const v4, v6, v4ARP = layers.EthernetTypeIPv4, layers.EthernetTypeIPv6, layers.EthernetTypeARP
	payload := gopacket.Payload(make([]byte, 18))
	tests := []struct {
		name   string
		checks Check
		frame  []byte
		want   string
	}{
		{"own IPv4", all, lan.Frame(t, eth(podMAC, v4), ipv4("192.0.2.8"), udp, payload), "allowed"},
		{"another prefix of its own", all, lan.Frame(t, eth(podMAC, v4), ipv4("198.51.100.77"), udp, payload), "allowed"},
		{"foreign IPv4", all, lan.Frame(t, eth(podMAC, v4), ipv4("192.0.2.9"), udp, payload), "spoofed_ipv4"},
		{"foreign IPv4, unchecked", CheckMAC, lan.Frame(t, eth(podMAC, v4), ipv4("192.0.2.9"), udp, payload), "allowed"},
		{"foreign MAC", all, lan.Frame(t, eth(otherMAC, v4), ipv4("192.0.2.8"), udp, payload), "spoofed_mac"},
		{"foreign MAC, unchecked", CheckIPv4, lan.Frame(t, eth(otherMAC, v4), ipv4("192.0.2.8"), udp, payload), "allowed"},
		{"DHCP request", all, lan.Frame(t, eth(podMAC, v4), ipv4("0.0.0.0"), &layers.UDP{SrcPort: 68, DstPort: 67}, payload), "allowed"},
		{"DHCP answer from nowhere", all, lan.Frame(t, eth(podMAC, v4), ipv4("0.0.0.0"), &layers.UDP{SrcPort: 67, DstPort: 68}, payload), "spoofed_ipv4"},
		{"IPv4 of version 5", all, patch(lan.Frame(t, eth(podMAC, v4), ipv4("192.0.2.8"), udp), 14, 0x55), "malformed"},
		{"IPv4 with a header of 16 bytes", all, patch(lan.Frame(t, eth(podMAC, v4), ipv4("192.0.2.8"), udp), 14, 0x44), "malformed"},
		{"own IPv6", all, lan.Frame(t, eth(podMAC, v6), ipv6("2001:db8::8", layers.IPProtocolUDP), udp, payload), "allowed"},
		{"own link-local", all, lan.Frame(t, eth(podMAC, v6), ipv6("fe80::42:acff:fe11:2", layers.IPProtocolUDP), udp, payload), "allowed"},
		{"foreign IPv6", all, lan.Frame(t, eth(podMAC, v6), ipv6("2001:db8::9", layers.IPProtocolUDP), udp, payload), "spoofed_ipv6"},
		{"foreign link-local", all, lan.Frame(t, eth(podMAC, v6), ipv6("fe80::9", layers.IPProtocolUDP), udp, payload), "spoofed_ipv6"},
		{"DAD", all, neighbour(t, "::", 135, "2001:db8::8"), "allowed"},
		{"DAD for a foreign address", all, neighbour(t, "::", 135, "2001:db8::9"), "spoofed_neighbour"},
		{"DAD for a foreign address, unchecked", sources, neighbour(t, "::", 135, "2001:db8::9"), "allowed"},
		{"DAD with a MAC", all, neighbour(t, "::", 135, "2001:db8::8", sourceMAC(podMAC)...), "malformed"},
		{"solicitation", all, neighbour(t, "2001:db8::8", 135, "2001:db8::1", sourceMAC(podMAC)...), "allowed"},
		{"solicitation with a foreign MAC", all, neighbour(t, "2001:db8::8", 135, "2001:db8::1", sourceMAC(otherMAC)...), "spoofed_neighbour"},
		{"solicitation with a foreign MAC, unchecked", all &^ CheckMAC, neighbour(t, "2001:db8::8", 135, "2001:db8::1", sourceMAC(otherMAC)...), "allowed"},
		{"solicitation with a foreign MAC behind a nonce", all, neighbour(t, "2001:db8::8", 135, "2001:db8::1", append(nonce(), sourceMAC(otherMAC)...)...), "spoofed_neighbour"},
		{"solicitation with an option of no length", all, neighbour(t, "2001:db8::8", 135, "2001:db8::1", make([]byte, 8)...), "malformed"},
		{"solicitation with half an option", all, neighbour(t, "2001:db8::8", 135, "2001:db8::1", 14, 1, 0, 0), "malformed"},
		{"solicitation with 17 options", all, neighbour(t, "2001:db8::8", 135, "2001:db8::1", bytes.Repeat(nonce(), 17)...), "malformed"},
		{"solicitation with 16 options", all, neighbour(t, "2001:db8::8", 135, "2001:db8::1", bytes.Repeat(nonce(), 16)...), "allowed"},
		{"solicitation from afar", all, patch(neighbour(t, "2001:db8::8", 135, "2001:db8::1"), 21, 254), "malformed"},
		{"solicitation of code 1", all, patch(neighbour(t, "2001:db8::8", 135, "2001:db8::1"), 55, 1), "malformed"},
		{"solicitation padded to the least frame", all, append(neighbour(t, "2001:db8::8", 135, "2001:db8::1"), 0, 0, 0, 0), "allowed"},
		{"solicitation in a fragment", all, behind(t, "2001:db8::8", 44, append([]byte{58, 0, 0, 0, 0, 0, 0, 7, 135}, make([]byte, 23)...)), "malformed"},
		{"router solicitation", all, lan.Frame(t, eth(podMAC, v6), ipv6("fe80::42:acff:fe11:2", layers.IPProtocolICMPv6), icmpv6(133), gopacket.Payload(append(make([]byte, 4), sourceMAC(podMAC)...))), "allowed"},
		{"router solicitation with a foreign MAC", all, lan.Frame(t, eth(podMAC, v6), ipv6("fe80::42:acff:fe11:2", layers.IPProtocolICMPv6), icmpv6(133), gopacket.Payload(append(make([]byte, 4), sourceMAC(otherMAC)...))), "spoofed_neighbour"},
		{"advertisement", all, neighbour(t, "2001:db8::8", 136, "2001:db8::8", targetMAC(podMAC)...), "allowed"},
		{"advertisement of a foreign address", all, neighbour(t, "2001:db8::8", 136, "2001:db8::9", targetMAC(podMAC)...), "spoofed_neighbour"},
		{"advertisement of a foreign MAC", all, neighbour(t, "2001:db8::8", 136, "2001:db8::8", targetMAC(otherMAC)...), "spoofed_neighbour"},
		{"IPv4 longer than the frame", all, patch(lan.Frame(t, eth(podMAC, v4), ipv4("192.0.2.8"), udp, payload), 17, 255), "malformed"},
		{"IPv4 shorter than its header", all, patch(lan.Frame(t, eth(podMAC, v4), ipv4("192.0.2.8"), udp, payload), 17, 19), "malformed"},
		{"IPv4 with padding", all, append(lan.Frame(t, eth(podMAC, v4), ipv4("192.0.2.8"), udp), make([]byte, 18)...), "allowed"},
		{"IPv6 longer than the frame", all, patch(lan.Frame(t, eth(podMAC, v6), ipv6("2001:db8::8", layers.IPProtocolUDP), udp), 19, 255), "malformed"},
		{"MLD behind a hop-by-hop header", all, mldReport(t), "allowed"},
		{"advertisement from ::", all, lan.Frame(t, eth(podMAC, v6), ipv6("::", layers.IPProtocolICMPv6), icmpv6(136), payload), "spoofed_ipv6"},
		{"UDP from ::", all, lan.Frame(t, eth(podMAC, v6), ipv6("::", layers.IPProtocolUDP), udp, payload), "spoofed_ipv6"},
		{"own ARP", all, lan.Frame(t, eth(podMAC, v4ARP), arp(podMAC, "192.0.2.8", 1)), "allowed"},
		{"ARP probe", all, lan.Frame(t, eth(podMAC, v4ARP), arp(podMAC, "0.0.0.0", 1)), "allowed"},
		{"ARP answer from nowhere", all, lan.Frame(t, eth(podMAC, v4ARP), arp(podMAC, "0.0.0.0", 2)), "spoofed_arp_ip"},
		{"ARP for a foreign address", all, lan.Frame(t, eth(podMAC, v4ARP), arp(podMAC, "192.0.2.9", 2)), "spoofed_arp_ip"},
		{"ARP with a foreign MAC", all, lan.Frame(t, eth(podMAC, v4ARP), arp(otherMAC, "192.0.2.8", 2)), "spoofed_arp_mac"},
		{"ARP for a foreign address, unchecked", CheckMAC, lan.Frame(t, eth(podMAC, v4ARP), arp(podMAC, "192.0.2.9", 2)), "allowed"},
		{"ARP for a foreign address by a proxy", all &^ CheckARP, lan.Frame(t, eth(podMAC, v4ARP), arp(podMAC, "192.0.2.9", 2)), "allowed"},
		{"ARP cut", all, lan.Frame(t, eth(podMAC, v4ARP), arp(podMAC, "192.0.2.8", 1))[:41], "malformed"},
		{"ARP for another protocol", all, patch(lan.Frame(t, eth(podMAC, v4ARP), arp(podMAC, "192.0.2.8", 1)), 16, 0x09), "malformed"},
		{"VLAN", all, lan.Frame(t, eth(podMAC, layers.EthernetTypeDot1Q), &layers.Dot1Q{VLANIdentifier: 7, Type: v4}, ipv4("192.0.2.8"), udp), "vlan_tagged"},
		{"QinQ", all, lan.Frame(t, eth(podMAC, layers.EthernetTypeQinQ), &layers.Dot1Q{VLANIdentifier: 7, Type: v4}, ipv4("192.0.2.8"), udp), "double_tagged"},
		{"QinQ on a trunk", all &^ CheckVLAN, lan.Frame(t, eth(podMAC, layers.EthernetTypeQinQ), &layers.Dot1Q{VLANIdentifier: 7, Type: v4}, ipv4("192.0.2.8"), udp), "double_tagged"},
		{"two VLAN tags", all &^ CheckVLAN, lan.Frame(t, eth(podMAC, layers.EthernetTypeDot1Q), &layers.Dot1Q{VLANIdentifier: 1, Type: layers.EthernetTypeDot1Q}, &layers.Dot1Q{VLANIdentifier: 7, Type: v4}, ipv4("192.0.2.8"), udp), "double_tagged"},
		{"two VLAN tags, unchecked", all &^ CheckDoubleTag, lan.Frame(t, eth(podMAC, layers.EthernetTypeDot1Q), &layers.Dot1Q{VLANIdentifier: 1, Type: layers.EthernetTypeDot1Q}, &layers.Dot1Q{VLANIdentifier: 7, Type: v4}, ipv4("192.0.2.8"), udp), "allowed"},
		{"a VLAN tag and nothing else", all &^ CheckVLAN, lan.Frame(t, eth(podMAC, layers.EthernetTypeDot1Q), gopacket.Payload{0, 7}), "allowed"},
		{"VLAN, unchecked", CheckMAC, lan.Frame(t, eth(podMAC, layers.EthernetTypeDot1Q), &layers.Dot1Q{VLANIdentifier: 7, Type: v4}, ipv4("192.0.2.8"), udp), "allowed"},
		{"another ethertype", all, lan.Frame(t, eth(podMAC, layers.EthernetTypeLinkLayerDiscovery), payload), "foreign_ethertype"},
		{"another ethertype, unchecked", sources, lan.Frame(t, eth(podMAC, layers.EthernetTypeLinkLayerDiscovery), payload), "allowed"},
		{"DHCP server", all, lan.Frame(t, eth(podMAC, v4), ipv4("192.0.2.8"), dhcpServer, payload), "rogue_dhcp"},
		{"DHCP server, unchecked", sources, lan.Frame(t, eth(podMAC, v4), ipv4("192.0.2.8"), dhcpServer, payload), "allowed"},
		{"DHCP relay to a server", all, lan.Frame(t, eth(podMAC, v4), ipv4("192.0.2.8"), &layers.UDP{SrcPort: 67, DstPort: 67}, payload), "allowed"},
		{"DHCP server in a later fragment", all, patch(lan.Frame(t, eth(podMAC, v4), ipv4("192.0.2.8"), dhcpServer, payload), 21, 3), "allowed"},
		{"UDP without ports", all, lan.Frame(t, eth(podMAC, v4), ipv4("192.0.2.8"), gopacket.Payload{0, 67})[:36], "malformed"},
		{"DHCPv6 server", all, lan.Frame(t, eth(podMAC, v6), ipv6("2001:db8::8", layers.IPProtocolUDP), dhcpv6Server, payload), "rogue_dhcp"},
		{"DHCPv6 client", all, lan.Frame(t, eth(podMAC, v6), ipv6("fe80::42:acff:fe11:2", layers.IPProtocolUDP), &layers.UDP{SrcPort: 546, DstPort: 547}, payload), "allowed"},
		{"IGMP query", all, lan.Frame(t, eth(podMAC, v4), igmp(), gopacket.Payload{17, 100, 0, 0, 0, 0, 0, 0}), "rogue_querier"},
		{"IGMP query with a router alert", all, patch(lan.Frame(t, eth(podMAC, v4), withOptions(148), gopacket.Payload{17, 0, 0, 0, 0, 0, 0, 0}), 23, 2), "rogue_querier"},
		{"IGMP query, unchecked", sources, lan.Frame(t, eth(podMAC, v4), igmp(), gopacket.Payload{17, 100, 0, 0, 0, 0, 0, 0}), "allowed"},
		{"IGMP report", all, lan.Frame(t, eth(podMAC, v4), igmp(), gopacket.Payload{22, 0, 0, 0, 0, 0, 0, 0}), "allowed"},
		{"IGMP without a type", all, lan.Frame(t, eth(podMAC, v4), igmp())[:34], "malformed"},
		{"MLD query", all, behind(t, "fe80::42:acff:fe11:2", 0, []byte{58, 0, 5, 2, 0, 0, 0, 0, 130, 0, 0, 0}), "rogue_querier"},
		{"MLD query, unchecked", all &^ CheckQuerier, behind(t, "fe80::42:acff:fe11:2", 0, []byte{58, 0, 5, 2, 0, 0, 0, 0, 130, 0, 0, 0}), "allowed"},
		{"MLD report", all, behind(t, "fe80::42:acff:fe11:2", 0, []byte{58, 0, 5, 2, 0, 0, 0, 0, 143, 0, 0, 0}), "allowed"},
		{"redirect", all, lan.Frame(t, eth(podMAC, v4), icmpv4(), gopacket.Payload{5, 1, 0, 0, 0, 0, 0, 0}), "rogue_router"},
		{"echo", all, lan.Frame(t, eth(podMAC, v4), icmpv4(), gopacket.Payload{8, 0, 0, 0, 0, 0, 0, 0}), "allowed"},
		{"router advertisement", all, lan.Frame(t, eth(podMAC, v6), ipv6("fe80::42:acff:fe11:2", layers.IPProtocolICMPv6), icmpv6(134), payload), "rogue_router"},
		{"router advertisement, unchecked", sources, lan.Frame(t, eth(podMAC, v6), ipv6("fe80::42:acff:fe11:2", layers.IPProtocolICMPv6), icmpv6(134), payload), "allowed"},
		{"router advertisement behind headers", all, behind(t, "fe80::42:acff:fe11:2", 0, []byte{60, 0, 1, 4, 0, 0, 0, 0, 44, 0, 1, 4, 0, 0, 0, 0, 58, 0, 0, 1, 0, 0, 0, 7, 134, 0, 0, 0}), "rogue_router"},
		{"options behind a fragment header", all, behind(t, "2001:db8::8", 44, []byte{60, 0, 0, 1, 0, 0, 0, 7, 17, 0, 1, 4, 0, 0, 0, 0, 3, 232, 7, 208, 0, 8, 0, 0}), "malformed"},
		{"authentication behind a fragment header", all, behind(t, "2001:db8::8", 44, []byte{51, 0, 0, 1, 0, 0, 0, 7, 17, 0, 0, 0, 0, 0, 0, 0, 3, 232, 7, 208, 0, 8, 0, 0}), "allowed"},
		{"hop-by-hop options that are not first", all, behind(t, "2001:db8::8", 60, []byte{0, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0, 3, 232, 7, 208, 0, 8, 0, 0}), "malformed"},
		{"redirect of IPv6", all, lan.Frame(t, eth(podMAC, v6), ipv6("fe80::42:acff:fe11:2", layers.IPProtocolICMPv6), icmpv6(137), payload), "rogue_router"},
		{"a later fragment of IPv6", all, behind(t, "2001:db8::8", 44, []byte{58, 0, 0, 8, 0, 0, 0, 7, 134, 0, 0, 0}), "allowed"},
		{"loose source route", all, lan.Frame(t, eth(podMAC, v4), withOptions(131), udp, payload), "source_routed"},
		{"strict source route behind a NOP", all, lan.Frame(t, eth(podMAC, v4), withOptions(1, 137), udp, payload), "source_routed"},
		{"router alert", all, lan.Frame(t, eth(podMAC, v4), withOptions(148), udp, payload), "allowed"},
		{"source route, unchecked", sources, lan.Frame(t, eth(podMAC, v4), withOptions(131), udp, payload), "allowed"},
		{"routing header of type 0", all, behind(t, "2001:db8::8", 43, []byte{17, 0, 0, 1, 0, 0, 0, 0, 3, 232, 7, 208, 0, 8, 0, 0}), "routing_header"},
		{"routing header of type 4", all, behind(t, "2001:db8::8", 43, []byte{17, 0, 4, 1, 0, 0, 0, 0, 3, 232, 7, 208, 0, 8, 0, 0}), "allowed"},
		{"seven headers", all, behind(t, "2001:db8::8", 60, bytes.Repeat([]byte{60, 0, 1, 4, 0, 0, 0, 0}, 7)), "malformed"},
		{"a header that is missing", all, behind(t, "2001:db8::8", 60, []byte{60, 9, 1, 4, 0, 0, 0, 0}), "malformed"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := load(t, test.checks, "192.0.2.8/32", "198.51.100.0/24", "2001:db8::8/128", "fe80::42:acff:fe11:2/128")
			if got := l.send(t, test.frame); got != test.want {
				t.Errorf("verdict %s, want %s: %x", got, test.want, test.frame)
			}
			if got := l.model.judge(test.frame); got != test.want {
				t.Errorf("the model says %s, want %s", got, test.want)
			}
		})
	}
}

var (
	dhcpServer   = &layers.UDP{SrcPort: 67, DstPort: 68}
	dhcpv6Server = &layers.UDP{SrcPort: 547, DstPort: 546}
)

func igmp() *layers.IPv4 {
	ip := ipv4("192.0.2.8")
	ip.Protocol = layers.IPProtocolIGMP
	return ip
}

func icmpv4() *layers.IPv4 {
	ip := ipv4("192.0.2.8")
	ip.Protocol = layers.IPProtocolICMPv4
	return ip
}

// withOptions has options of these kinds, those that have a length with room for one
// address.
func withOptions(kinds ...uint8) *layers.IPv4 {
	ip := ipv4("192.0.2.8")
	for _, kind := range kinds {
		option := layers.IPv4Option{OptionType: kind, OptionLength: 1}
		if kind > 1 {
			option.OptionLength, option.OptionData = 7, make([]byte, 5)
		}
		ip.Options = append(ip.Options, option)
	}
	return ip
}

// behind is an IPv6 packet with a payload that begins with the header next.
func behind(tb testing.TB, source string, next layers.IPProtocol, payload []byte) []byte {
	tb.Helper()
	return lan.Frame(tb, eth(podMAC, layers.EthernetTypeIPv6), ipv6(source, next), gopacket.Payload(payload))
}

// neighbour is a message of neighbour discovery about a target, with options.
func neighbour(tb testing.TB, source string, kind uint8, target string, options ...byte) []byte {
	tb.Helper()
	body := append(make([]byte, 4), net.ParseIP(target).To16()...)
	return lan.Frame(tb, eth(podMAC, layers.EthernetTypeIPv6), ipv6(source, layers.IPProtocolICMPv6), icmpv6(kind),
		gopacket.Payload(append(body, options...)))
}

// sourceMAC, targetMAC and nonce are options of neighbour discovery (RFC 4861, 4.6.1;
// RFC 3971, 5.3.2).
func sourceMAC(mac net.HardwareAddr) []byte { return append([]byte{1, 1}, mac...) }
func targetMAC(mac net.HardwareAddr) []byte { return append([]byte{2, 1}, mac...) }
func nonce() []byte                         { return []byte{14, 1, 1, 2, 3, 4, 5, 6} }

func patch(frame []byte, offset int, value byte) []byte {
	frame[offset] = value
	return frame
}

// mldReport is a report as a kernel sends it while its address is tentative.
func mldReport(tb testing.TB) []byte {
	tb.Helper()
	report := []byte{58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0, 0, 0, 0, 0}
	return lan.Frame(tb, eth(podMAC, layers.EthernetTypeIPv6), ipv6("::", layers.IPProtocolIPv6HopByHop), gopacket.Payload(report))
}

// seedFrames are what the random frames of the differential tests begin with, beside those
// that are made up.
func seedFrames(tb testing.TB) [][]byte {
	const v4, v6 = layers.EthernetTypeIPv4, layers.EthernetTypeIPv6
	payload := gopacket.Payload(make([]byte, 24))
	return [][]byte{
		lan.Frame(tb, eth(podMAC, v4), ipv4("192.0.2.8"), udp, payload),
		lan.Frame(tb, eth(podMAC, v4), ipv4("0.0.0.0"), &layers.UDP{SrcPort: 68, DstPort: 67}, payload),
		lan.Frame(tb, eth(podMAC, v6), ipv6("2001:db8::8", layers.IPProtocolUDP), udp, payload),
		neighbour(tb, "::", 135, "2001:db8::8"),
		neighbour(tb, "2001:db8::8", 135, "2001:db8::1", sourceMAC(podMAC)...),
		neighbour(tb, "2001:db8::8", 136, "2001:db8::8", append(nonce(), targetMAC(podMAC)...)...),
		lan.Frame(tb, eth(podMAC, layers.EthernetTypeDot1Q), &layers.Dot1Q{VLANIdentifier: 1, Type: layers.EthernetTypeDot1Q}, &layers.Dot1Q{VLANIdentifier: 7, Type: v4}, ipv4("192.0.2.8"), udp),
		lan.Frame(tb, eth(podMAC, v4), tcpOver4(), tcp, payload),
		lan.Frame(tb, eth(podMAC, v4), sctp(), gopacket.Payload(make([]byte, 12))),
		mldReport(tb),
		lan.Frame(tb, eth(podMAC, v4), ipv4("192.0.2.8"), dhcpServer, payload),
		lan.Frame(tb, eth(podMAC, v4), icmpv4(), gopacket.Payload(make([]byte, 24))),
		lan.Frame(tb, eth(podMAC, v4), withOptions(1, 148, 131), udp, payload),
		lan.Frame(tb, eth(podMAC, v6), ipv6("2001:db8::8", layers.IPProtocolICMPv6), icmpv6(134), payload),
		behind(tb, "2001:db8::8", 0, []byte{60, 0, 1, 4, 0, 0, 0, 0, 44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 7, 2, 35, 2, 34, 0, 8, 0, 0}),
		behind(tb, "2001:db8::8", 43, []byte{51, 0, 0, 1, 0, 0, 0, 0, 58, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 134, 0, 0, 0}),
		lan.Frame(tb, eth(podMAC, layers.EthernetTypeARP), arp(podMAC, "192.0.2.8", 1)),
	}
}

// mutate changes a few bytes of a frame and sometimes cuts it, but not within the
// header that its ethertype promises: BPF_PROG_TEST_RUN takes no such frame.
func mutate(random *rand.Rand, frame []byte) []byte {
	out := append([]byte(nil), frame...)
	for range random.IntN(4) {
		out[random.IntN(len(out))] = byte(random.Uint32())
	}
	if least := shortest(out); random.IntN(4) == 0 && least < len(out) {
		out = out[:least+random.IntN(len(out)-least)]
	}
	return append(out, make([]byte, max(0, shortest(out)-len(out)))...)
}

// shortest is how short BPF_PROG_TEST_RUN takes a frame of an ethertype.
func shortest(frame []byte) int {
	if len(frame) < 14 {
		return 14
	}
	return 14 + map[uint16]int{etherIPv4: 20, etherIPv6: 40}[binary.BigEndian.Uint16(frame[12:])]
}

func TestNetnsIngressCountsAndYields(t *testing.T) {
	l := load(t, all)
	frame := arriving(t, podMAC)
	for _, action := range []int32{0, -1} {
		if err := l.Maps[ControlMap].Put(uint32(0), &Control{IngressAction: action}); err != nil {
			t.Fatal(err)
		}
		code, _, err := l.Programs[IngressProgram].Test(frame)
		if err != nil || int32(code) != action {
			t.Errorf("returned %d, %v, want %d", int32(code), err, action)
		}
	}
	counters := l.counters(t)
	if got, want := counters.Of(Ingress, Allowed), (Count{2, 2 * uint64(len(frame))}); got != want {
		t.Errorf("counted %v, want %v", got, want)
	}
}

// arriving is a frame from another host.
func arriving(tb testing.TB, to net.HardwareAddr) []byte {
	tb.Helper()
	link := &layers.Ethernet{SrcMAC: otherMAC, DstMAC: to, EthernetType: layers.EthernetTypeIPv4}
	return lan.Frame(tb, link, ipv4("192.0.2.1"), udp, gopacket.Payload(make([]byte, 30)))
}

func TestNetnsIngressVerdicts(t *testing.T) {
	broadcast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	group := net.HardwareAddr{0x01, 0x00, 0x5e, 0x00, 0x00, 0x01}
	tests := []struct {
		name   string
		checks Check
		to     net.HardwareAddr
		want   string
	}{
		{"its own", all, podMAC, "allowed"},
		{"another's", all, otherMAC, "foreign_destination"},
		{"another's, unchecked", sources, otherMAC, "allowed"},
		{"all", all, broadcast, "allowed"},
		{"a group", all, group, "allowed"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := load(t, test.checks)
			frame := arriving(t, test.to)
			if got := l.receive(t, frame); got != test.want {
				t.Errorf("verdict %s, want %s", got, test.want)
			}
			if got := l.model.judgeArrival(frame); got != test.want {
				t.Errorf("the model says %s, want %s", got, test.want)
			}
		})
	}
}
