// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/weir-cni/weir/policy"
)

// model decides what weir_egress decides, written from the meaning of the checks
// and not from the program.
type model struct {
	mac      net.HardwareAddr
	prefixes []netip.Prefix
	checks   Check
	// own is the pod's place in its network, others are those of whom it may have to keep
	// away, by MAC or address as text.
	own    membership
	others map[string]membership
	rules  []policy.Rule
}

// membership is "isolated", "community" with its number, or "" for one who talks to all.
type membership struct {
	role      string
	community uint64
}

func (a membership) mayTalkTo(b membership) bool {
	return a.role == "" || b.role == "" || a.role == "community" && a == b
}

const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd
)

func (m *model) has(c Check) bool { return m.checks&c != 0 }

func (m *model) owns(addr netip.Addr) bool {
	return slices.ContainsFunc(m.prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func (m *model) judge(frame []byte) string {
	if len(frame) < 14 {
		return "malformed"
	}
	if verdict := m.judgeSource(frame); verdict != "allowed" {
		return verdict
	}
	if verdict := m.judgeConduct(binary.BigEndian.Uint16(frame[12:]), frame[14:]); verdict != "allowed" {
		return verdict
	}
	if verdict := m.judgeIsolation(frame, Egress); verdict != "allowed" {
		return verdict
	}
	return m.judgeRules(policy.Egress, binary.BigEndian.Uint16(frame[12:]), frame[14:])
}

func (m *model) judgeSource(frame []byte) string {
	if m.has(CheckMAC) && !bytes.Equal(frame[6:12], m.mac) {
		return "spoofed_mac"
	}
	ethertype := binary.BigEndian.Uint16(frame[12:])
	payload := frame[14:]
	if isTag(ethertype) {
		return m.judgeTags(ethertype, payload)
	}
	if isMalformed(ethertype, payload) {
		return "malformed"
	}
	switch {
	case ethertype == etherIPv4 && m.has(CheckIPv4):
		return m.judgeIPv4(payload)
	case ethertype == etherIPv6 && m.has(CheckIPv6):
		return m.judgeIPv6(payload)
	case ethertype == etherARP:
		return m.judgeARP(payload)
	}
	return "allowed"
}

func isTag(ethertype uint16) bool {
	return slices.Contains([]uint16{0x8100, 0x88a8, 0x9100}, ethertype)
}

func (m *model) judgeTags(ethertype uint16, p []byte) string {
	double := ethertype != 0x8100 || len(p) >= 4 && isTag(binary.BigEndian.Uint16(p[2:]))
	switch {
	case double && m.has(CheckDoubleTag):
		return "double_tagged"
	case !double && m.has(CheckVLAN):
		return "vlan_tagged"
	}
	return "allowed"
}

// isMalformed is about the fixed part of IP headers, and whether all of it is there.
func isMalformed(ethertype uint16, p []byte) bool {
	switch ethertype {
	case etherIPv4:
		if len(p) < 20 || p[0]>>4 != 4 || p[0]&15 < 5 {
			return true
		}
		total := int(binary.BigEndian.Uint16(p[2:]))
		return total < int(p[0]&15)*4 || total > len(p)
	case etherIPv6:
		return len(p) < 40 || p[0]>>4 != 6 || 40+int(binary.BigEndian.Uint16(p[4:])) > len(p)
	}
	return false
}

func (m *model) judgeIPv4(p []byte) string {
	source := netip.AddrFrom4([4]byte(p[12:16]))
	if m.owns(source) || source.IsUnspecified() && isDHCPRequest(p) {
		return "allowed"
	}
	return "spoofed_ipv4"
}

func isDHCPRequest(p []byte) bool {
	header := int(p[0]&15) * 4
	firstFragment := binary.BigEndian.Uint16(p[6:])&0x1fff == 0
	return p[9] == 17 && firstFragment && len(p) >= header+8 &&
		binary.BigEndian.Uint16(p[header:]) == 68 && binary.BigEndian.Uint16(p[header+2:]) == 67
}

func (m *model) judgeIPv6(p []byte) string {
	source := netip.AddrFrom16([16]byte(p[8:24]))
	if m.owns(source) || source.IsUnspecified() && isAddressless(p) {
		return "allowed"
	}
	return "spoofed_ipv6"
}

func isAddressless(p []byte) bool {
	next, rest := p[6], p[40:]
	for range 6 {
		if next != 0 && next != 43 && next != 60 {
			break
		}
		if len(rest) < 2 {
			return false
		}
		length := (int(rest[1]) + 1) * 8
		next = rest[0]
		if len(rest) < length {
			return false
		}
		rest = rest[length:]
	}
	return next == 58 && len(rest) > 0 && slices.Contains([]byte{131, 132, 133, 135, 143}, rest[0])
}

func (m *model) judgeARP(p []byte) string {
	ethernetIPv4 := []byte{0, 1, 8, 0, 6, 4}
	switch {
	case len(p) < 28 || !bytes.Equal(p[:6], ethernetIPv4):
		return "malformed"
	case !m.has(CheckARP):
		return "allowed"
	case m.has(CheckMAC) && !bytes.Equal(p[8:14], m.mac):
		return "spoofed_arp_mac"
	case !m.has(CheckIPv4):
		return "allowed"
	}
	sender := netip.AddrFrom4([4]byte(p[14:18]))
	isProbe := sender.IsUnspecified() && binary.BigEndian.Uint16(p[6:]) == 1
	if isProbe || m.owns(sender) {
		return "allowed"
	}
	return "spoofed_arp_ip"
}

// judgeConduct is about what a pod may send from its own address.
func (m *model) judgeConduct(ethertype uint16, payload []byte) string {
	looksInside := m.has(CheckDHCP | CheckRouter | CheckSourceRoute | CheckRoutingHeader | CheckNeighbour | CheckQuerier)
	switch ethertype {
	case etherIPv4:
		if looksInside {
			return m.conductIPv4(payload)
		}
	case etherIPv6:
		if looksInside {
			return m.conductIPv6(payload)
		}
	case etherARP, 0x8100, 0x88a8, 0x9100:
	default:
		if m.has(CheckEthertype) {
			return "foreign_ethertype"
		}
	}
	return "allowed"
}

func (m *model) conductIPv4(p []byte) string {
	header := int(p[0]&15) * 4
	if m.has(CheckSourceRoute) && isSourceRouted(p[20:header], p[20:]) {
		return "source_routed"
	}
	if binary.BigEndian.Uint16(p[6:])&0x1fff != 0 {
		return "allowed"
	}
	transport := p[header:]
	switch {
	case p[9] == 17 && m.has(CheckDHCP):
		return judgeUDP(transport, 67, 68)
	case p[9] == 1 && m.has(CheckRouter):
		if len(transport) < 1 {
			return "malformed"
		}
		if transport[0] == 5 {
			return "rogue_router"
		}
	case p[9] == 2 && m.has(CheckQuerier):
		if len(transport) < 1 {
			return "malformed"
		}
		if transport[0] == 17 {
			return "rogue_querier"
		}
	}
	return "allowed"
}

func judgeUDP(p []byte, server, client uint16) string {
	switch {
	case len(p) < 4:
		return "malformed"
	case binary.BigEndian.Uint16(p) == server && binary.BigEndian.Uint16(p[2:]) == client:
		return "rogue_dhcp"
	}
	return "allowed"
}

// isSourceRouted walks options; the length of one may lie behind them.
func isSourceRouted(options, rest []byte) bool {
	for at := 0; at < len(options); {
		if at+1 >= len(rest) {
			return false
		}
		length := int(rest[at+1])
		switch options[at] {
		case 0:
			return false
		case 131, 137:
			return true
		case 1:
			length = 1
		}
		if length == 0 {
			return false
		}
		at += length
	}
	return false
}

// conductIPv6 walks the extension headers.
func (m *model) conductIPv6(p []byte) string {
	next, at, fragmented, verdict := p[6], 40, false, ""
	for i := 0; isExtension(next); i++ {
		rest := p[min(at, len(p)):]
		if i == 6 || len(rest) < 4 {
			return cmp.Or(verdict, "malformed")
		}
		length := (int(rest[1]) + 1) * 8
		switch next {
		case 44:
			if binary.BigEndian.Uint16(rest[2:])&0xfff8 != 0 {
				return cmp.Or(verdict, "allowed")
			}
			fragmented, length = true, 8
		case 51:
			length = (int(rest[1]) + 2) * 4
		case 43:
			if rest[2] == 0 && m.has(CheckRoutingHeader) {
				verdict = "routing_header"
			}
		}
		if rest[0] == 0 || next == 44 && rest[0] != 51 && isExtension(rest[0]) {
			return cmp.Or(verdict, "malformed")
		}
		next, at = rest[0], at+length
	}
	if verdict != "" {
		return verdict
	}
	switch {
	case next == 17 && m.has(CheckDHCP):
		return judgeUDP(p[min(at, len(p)):], 547, 546)
	case next == 58:
		return m.judgeICMPv6(p, at, fragmented)
	}
	return "allowed"
}

func isExtension(next byte) bool { return slices.Contains([]byte{0, 43, 44, 51, 60}, next) }

func (m *model) judgeICMPv6(p []byte, at int, fragmented bool) string {
	if !m.has(CheckRouter | CheckNeighbour | CheckQuerier) {
		return "allowed"
	}
	if len(p) <= at {
		return "malformed"
	}
	kind := p[at]
	switch {
	case kind == 130 && m.has(CheckQuerier):
		return "rogue_querier"
	case kind < 133 || kind > 137:
		return "allowed"
	case m.has(CheckRouter) && (kind == 134 || kind == 137):
		return "rogue_router"
	case !m.has(CheckNeighbour):
		return "allowed"
	case fragmented:
		return "malformed"
	}
	return m.judgeNeighbour(kind, p, at)
}

func (m *model) judgeNeighbour(kind byte, p []byte, at int) string {
	end := 40 + int(binary.BigEndian.Uint16(p[4:]))
	options := at + map[byte]int{133: 8, 134: 16, 135: 24, 136: 24, 137: 40}[kind]
	if p[7] != 255 || len(p) < at+2 || p[at+1] != 0 || options > end {
		return "malformed"
	}
	nowhere := netip.AddrFrom16([16]byte(p[8:24])).IsUnspecified()
	ofSender := kind == 136 || kind == 135 && nowhere
	if m.has(CheckIPv6) && ofSender && !m.owns(netip.AddrFrom16([16]byte(p[at+8:at+24]))) {
		return "spoofed_neighbour"
	}
	for range 16 {
		if options >= end {
			break
		}
		if len(p) < options+8 || p[options+1] == 0 {
			return "malformed"
		}
		if p[options] == 1 || p[options] == 2 && kind == 136 {
			if nowhere || p[options+1] != 1 {
				return "malformed"
			}
			if m.has(CheckMAC) && !bytes.Equal(p[options+2:options+8], m.mac) {
				return "spoofed_neighbour"
			}
		}
		options += int(p[options+1]) * 8
	}
	if options != end {
		return "malformed"
	}
	return "allowed"
}

// judgeArrival is about what comes to the pod.
func (m *model) judgeArrival(frame []byte) string {
	if m.has(CheckDestination) && frame[0]&1 == 0 && !bytes.Equal(frame[:6], m.mac) {
		return "foreign_destination"
	}
	if verdict := m.judgeIsolation(frame, Ingress); verdict != "allowed" {
		return verdict
	}
	return m.judgeRules(policy.Ingress, binary.BigEndian.Uint16(frame[12:]), frame[14:])
}

func (m *model) isApartFrom(name string) bool { return !m.own.mayTalkTo(m.others[name]) }

// judgeIsolation is about whom the pod may talk to: the other is the source of what it
// receives, and the destination of what it sends.
func (m *model) judgeIsolation(frame []byte, d Direction) string {
	if m.own.role == "" {
		return "allowed"
	}
	other := map[Direction]net.HardwareAddr{Ingress: frame[6:12], Egress: frame[:6]}[d]
	if m.isApartFrom(other.String()) {
		return "isolated"
	}
	p := frame[14:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case etherIPv4:
		return m.isolateAddress(p, map[Direction]int{Ingress: 12, Egress: 16}[d], 4)
	case etherARP:
		return m.isolateARP(p, d)
	case etherIPv6:
		if verdict := m.isolateAddress(p, map[Direction]int{Ingress: 8, Egress: 24}[d], 16); verdict != "allowed" {
			return verdict
		}
		return m.isolateNeighbour(p, d)
	}
	return "allowed"
}

// isolateAddress is about the address of so many bytes at an offset.
func (m *model) isolateAddress(p []byte, at, length int) string {
	if len(p) < at+length {
		return "malformed"
	}
	address, _ := netip.AddrFromSlice(p[at : at+length])
	if m.isApartFrom(address.Unmap().String()) {
		return "isolated"
	}
	return "allowed"
}

func (m *model) isolateARP(p []byte, d Direction) string {
	if len(p) < 28 {
		return "malformed"
	}
	if d == Ingress {
		return m.isolateAddress(p, 14, 4)
	}
	target := netip.AddrFrom4([4]byte(p[24:28]))
	if slices.Contains(m.prefixes, netip.PrefixFrom(target, 32)) {
		return "allowed"
	}
	return m.isolateAddress(p, 24, 4)
}

// isolateNeighbour finds neighbour discovery behind the extension headers. In fragments
// there is none.
func (m *model) isolateNeighbour(p []byte, d Direction) string {
	next, at, fragmented := p[6], 40, false
	for i := 0; isExtension(next); i++ {
		rest := p[min(at, len(p)):]
		if i == 6 || len(rest) < 4 {
			return "malformed"
		}
		length := (int(rest[1]) + 1) * 8
		switch next {
		case 44:
			if binary.BigEndian.Uint16(rest[2:])&0xfff8 != 0 {
				return "allowed"
			}
			fragmented, length = true, 8
		case 51:
			length = (int(rest[1]) + 2) * 4
		}
		if rest[0] == 0 || next == 44 && rest[0] != 51 && isExtension(rest[0]) {
			return "malformed"
		}
		next, at = rest[0], at+length
	}
	if next != 58 || fragmented {
		return "allowed"
	}
	return m.isolateTarget(p, at, d)
}

// isolateTarget is about the target of a solicitation that looks for somebody, on the way
// out; of what tells of the sender itself, on the way in.
func (m *model) isolateTarget(p []byte, at int, d Direction) string {
	if len(p) <= at {
		return "malformed"
	}
	nowhere := netip.AddrFrom16([16]byte(p[8:24])).IsUnspecified()
	looks := p[at] == 135 && !nowhere
	tells := p[at] == 136 || p[at] == 135 && nowhere
	if d == Egress && looks || d == Ingress && tells {
		return m.isolateAddress(p, at+8, 16)
	}
	return "allowed"
}

// trafficOf is under which class and family an allowed frame is counted.
func (m *model) trafficOf(frame []byte) (class, family string) {
	if len(frame) < 14 {
		return "unicast", "other"
	}
	class = "unicast"
	switch {
	case bytes.Equal(frame[:6], []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}):
		class = "broadcast"
	case frame[0]&1 == 1:
		class = "multicast"
	}
	payload := frame[14:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case etherARP:
		return class, "arp"
	case etherIPv4:
		if len(payload) > 9 {
			return class, familyOf(payload[9])
		}
	case etherIPv6:
		return class, familyOf(protocolOf(payload))
	}
	return class, "other"
}

func familyOf(protocol byte) string {
	names := map[byte]string{1: "icmp", 6: "tcp", 17: "udp", 58: "icmp", 132: "sctp"}
	return cmp.Or(names[protocol], "other")
}

// protocolOf is that behind the extension headers of an IPv6 packet which is allowed, or
// 59 (no next header) where it is not to be found.
func protocolOf(p []byte) byte {
	if len(p) < 40 {
		return 59
	}
	next, at := p[6], 40
	for i := 0; isExtension(next); i++ {
		rest := p[min(at, len(p)):]
		if i == 6 || len(rest) < 4 || rest[0] == 0 || next == 44 && rest[0] != 51 && isExtension(rest[0]) {
			return 59
		}
		length := (int(rest[1]) + 1) * 8
		switch next {
		case 44:
			if binary.BigEndian.Uint16(rest[2:])&0xfff8 != 0 {
				return rest[0]
			}
			length = 8
		case 51:
			length = (int(rest[1]) + 2) * 4
		}
		next, at = rest[0], at+length
	}
	return next
}

// judgeRules goes through the rules, of which the first that matches decides.
func (m *model) judgeRules(d policy.Direction, ethertype uint16, p []byte) string {
	if len(policy.Of(m.rules, d)) == 0 {
		return "allowed"
	}
	switch ethertype {
	case etherIPv4:
		return m.rulesIPv4(d, p)
	case etherIPv6:
		return m.rulesIPv6(d, p)
	}
	return "allowed"
}

func (m *model) rulesIPv4(d policy.Direction, p []byte) string {
	if len(p) < 20 || p[0]>>4 != 4 || p[0]&15 < 5 {
		return "malformed"
	}
	peer := p[16:20]
	if d == policy.Ingress {
		peer = p[12:16]
	}
	if binary.BigEndian.Uint16(p[6:])&0x1fff != 0 {
		return m.firstRule(d, peer, p[9], -1)
	}
	return m.rulesTransport(d, peer, p[9], p[min(int(p[0]&15)*4, len(p)):])
}

func (m *model) rulesIPv6(d policy.Direction, p []byte) string {
	if len(p) < 40 || p[0]>>4 != 6 {
		return "malformed"
	}
	peer := p[24:40]
	if d == policy.Ingress {
		peer = p[8:24]
	}
	next, at := p[6], 40
	for i := 0; isExtension(next); i++ {
		rest := p[min(at, len(p)):]
		if i == 6 || len(rest) < 4 {
			return "malformed"
		}
		length := (int(rest[1]) + 1) * 8
		switch next {
		case 44:
			if binary.BigEndian.Uint16(rest[2:])&0xfff8 != 0 {
				return m.firstRule(d, peer, rest[0], -1)
			}
			length = 8
		case 51:
			length = (int(rest[1]) + 2) * 4
		}
		if rest[0] == 0 || next == 44 && rest[0] != 51 && isExtension(rest[0]) {
			return "malformed"
		}
		next, at = rest[0], at+length
	}
	rest := p[min(at, len(p)):]
	if next == 58 {
		if len(rest) == 0 {
			return "malformed"
		}
		if rest[0] >= 130 && rest[0] <= 137 || rest[0] == 143 {
			return "allowed"
		}
	}
	return m.rulesTransport(d, peer, next, rest)
}

func (m *model) rulesTransport(d policy.Direction, peer []byte, protocol byte, transport []byte) string {
	if protocol != 6 && protocol != 17 && protocol != 132 {
		return m.firstRule(d, peer, protocol, 0)
	}
	if len(transport) < 4 {
		return "malformed"
	}
	return m.firstRule(d, peer, protocol, int(binary.BigEndian.Uint16(transport[2:])))
}

// firstRule is that for a port, or -1 for a fragment that has none.
func (m *model) firstRule(d policy.Direction, peer []byte, protocol byte, port int) string {
	address, _ := netip.AddrFromSlice(peer)
	numbers := map[string][]byte{"tcp": {6}, "udp": {17}, "sctp": {132}, "icmp": {1, 58}}
	for _, i := range policy.Of(m.rules, d) {
		r := m.rules[i]
		hasPeer := len(r.CIDRs) == 0 || slices.ContainsFunc(r.CIDRs, func(p netip.Prefix) bool { return p.Contains(address) })
		hasProtocol := r.Protocol == "" || slices.Contains(numbers[r.Protocol], protocol)
		hasPort := len(r.Ports) == 0 || port == -1 && r.Action == policy.Allow ||
			slices.ContainsFunc(r.Ports, func(p policy.Ports) bool { return int(p.First) <= port && port <= int(p.Last) })
		if hasPeer && hasProtocol && hasPort {
			return map[policy.Action]string{policy.Allow: "allowed", policy.Deny: "rule_denied"}[r.Action]
		}
	}
	return "allowed"
}
