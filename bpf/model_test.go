// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
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
