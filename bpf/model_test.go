// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
)

// model decides what weir_egress decides, written from the meaning of the checks
// and not from the program.
type model struct {
	mac      net.HardwareAddr
	prefixes []netip.Prefix
	checks   Check
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
	return m.judgeConduct(binary.BigEndian.Uint16(frame[12:]), frame[14:])
}

func (m *model) judgeSource(frame []byte) string {
	if m.has(CheckMAC) && !bytes.Equal(frame[6:12], m.mac) {
		return "spoofed_mac"
	}
	ethertype := binary.BigEndian.Uint16(frame[12:])
	if m.has(CheckVLAN) && slices.Contains([]uint16{0x8100, 0x88a8, 0x9100}, ethertype) {
		return "vlan_tagged"
	}
	payload := frame[14:]
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

func (m *model) judgeIPv4(p []byte) string {
	if len(p) < 20 || p[0]>>4 != 4 || p[0]&15 < 5 {
		return "malformed"
	}
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
	if len(p) < 40 || p[0]>>4 != 6 {
		return "malformed"
	}
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
	looksInside := m.has(CheckDHCP | CheckRouter | CheckSourceRoute)
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
	if len(p) < 20 || p[0]>>4 != 4 || p[0]&15 < 5 {
		return "malformed"
	}
	header := int(p[0]&15) * 4
	if m.has(CheckSourceRoute) && isSourceRouted(p[20:min(header, len(p))], p[20:]) {
		return "source_routed"
	}
	if binary.BigEndian.Uint16(p[6:])&0x1fff != 0 {
		return "allowed"
	}
	return m.conductTransport(p[9], p[min(header, len(p)):], 17, 1, [2]uint16{67, 68}, []byte{5})
}

// isSourceRouted walks options; the length of one may lie behind them.
func isSourceRouted(options, rest []byte) bool {
	for at := 0; at < len(options); {
		switch options[at] {
		case 0:
			return false
		case 131, 137:
			return true
		case 1:
			at++
			continue
		}
		if at+1 >= len(rest) || rest[at+1] < 2 {
			return false
		}
		at += int(rest[at+1])
	}
	return false
}

func (m *model) conductIPv6(p []byte) string {
	if len(p) < 40 || p[0]>>4 != 6 {
		return "malformed"
	}
	next, rest, verdict := p[6], p[40:], ""
	for range 7 {
		if !slices.Contains([]byte{0, 43, 44, 51, 60}, next) {
			if verdict != "" {
				return verdict
			}
			return m.conductTransport(next, rest, 17, 58, [2]uint16{547, 546}, []byte{134, 137})
		}
		if len(rest) < 4 {
			return cmp.Or(verdict, "malformed")
		}
		length := (int(rest[1]) + 1) * 8
		switch next {
		case 44:
			if binary.BigEndian.Uint16(rest[2:])&0xfff8 != 0 {
				return cmp.Or(verdict, "allowed")
			}
			length = 8
		case 51:
			length = (int(rest[1]) + 2) * 4
		case 43:
			if rest[2] == 0 && m.has(CheckSourceRoute) {
				verdict = "source_routed"
			}
		}
		next, rest = rest[0], rest[min(length, len(rest)):]
	}
	return cmp.Or(verdict, "malformed")
}

func (m *model) conductTransport(protocol byte, p []byte, udp, icmp byte, ports [2]uint16, types []byte) string {
	switch {
	case protocol == udp && m.has(CheckDHCP):
		if len(p) < 4 {
			return "malformed"
		}
		if binary.BigEndian.Uint16(p) == ports[0] && binary.BigEndian.Uint16(p[2:]) == ports[1] {
			return "rogue_dhcp"
		}
	case protocol == icmp && m.has(CheckRouter):
		if len(p) < 1 {
			return "malformed"
		}
		if slices.Contains(types, p[0]) {
			return "rogue_router"
		}
	}
	return "allowed"
}
