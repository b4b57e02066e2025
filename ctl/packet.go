// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/weir-cni/weir/bpf"
)

// packet is one that a guard is asked about.
type packet struct {
	direction      bpf.Direction
	protocol       string // one of the flags of explain
	from, to       netip.Addr
	fromMAC, toMAC net.HardwareAddr
	// port is the destination's; both are of TCP and UDP alone.
	sourcePort, port uint16
}

// Protocols of a packet, as the flags of explain are called.
const (
	overTCP  = "tcp"
	overUDP  = "udp"
	overICMP = "icmp"
	overARP  = "arp"
)

// Numbers of protocols (IANA, Protocol Numbers and ICMPv6 Parameters).
const (
	protocolICMP   = 1
	protocolTCP    = 6
	protocolUDP    = 17
	protocolICMPv6 = 58

	echoRequest           = 8
	echoRequest6          = 128
	neighbourSolicitation = 135
	sourceLinkLayer       = 1
)

const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd
	hopLimit  = 64
	// ndHopLimit is what no router can leave (RFC 4861, 4.3).
	ndHopLimit = 255
)

// frame is the packet with its Ethernet header. Checksums are left at 0: guards look at none.
func (p *packet) frame() []byte {
	switch {
	case p.protocol == overARP && p.from.Is4():
		return p.ethernet(etherARP, p.arp())
	case p.from.Is4():
		return p.ethernet(etherIPv4, p.ipv4())
	default:
		return p.ethernet(etherIPv6, p.ipv6())
	}
}

func (p *packet) ethernet(kind uint16, payload []byte) []byte {
	frame := append(append([]byte{}, p.toMAC...), p.fromMAC...)
	return append(binary.BigEndian.AppendUint16(frame, kind), payload...)
}

// arp is a request (RFC 826).
func (p *packet) arp() []byte {
	const ethernet, request = 1, 1
	b := binary.BigEndian.AppendUint16(nil, ethernet)
	b = binary.BigEndian.AppendUint16(b, etherIPv4)
	b = append(b, 6, 4, 0, request)
	b = append(append(b, p.fromMAC...), p.from.AsSlice()...)
	return append(append(b, make([]byte, 6)...), p.to.AsSlice()...)
}

func (p *packet) ipv4() []byte {
	const version, headerLen = 0x45, 20
	protocol, payload := p.transport()
	b := []byte{version, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(headerLen+len(payload)))
	b = append(b, 0, 0, 0, 0, hopLimit, protocol, 0, 0)
	return append(append(append(b, p.from.AsSlice()...), p.to.AsSlice()...), payload...)
}

func (p *packet) ipv6() []byte {
	const version = 0x60
	protocol, payload := p.transport()
	destination, limit := p.to, byte(hopLimit)
	if p.protocol == overARP {
		protocol, payload, destination, limit = protocolICMPv6, p.solicitation(), solicitedNode(p.to), ndHopLimit
	}
	b := []byte{version, 0, 0, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	b = append(b, protocol, limit)
	return append(append(append(b, p.from.AsSlice()...), destination.AsSlice()...), payload...)
}

// transport is what is behind the IP header: of TCP a SYN, of ICMP an echo request.
func (p *packet) transport() (protocol byte, header []byte) {
	ports := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, p.sourcePort), p.port)
	switch {
	case p.protocol == overTCP:
		const words, syn = 5 << 4, 2
		return protocolTCP, append(ports, 0, 0, 0, 0, 0, 0, 0, 0, words, syn, 0, 0, 0, 0, 0, 0)
	case p.protocol == overUDP:
		const headerLen = 8
		return protocolUDP, append(ports, 0, headerLen, 0, 0)
	case p.from.Is4():
		return protocolICMP, []byte{echoRequest, 0, 0, 0, 0, 1, 0, 1}
	default:
		return protocolICMPv6, []byte{echoRequest6, 0, 0, 0, 0, 1, 0, 1}
	}
}

// solicitation is what IPv6 has for an ARP request (RFC 4861, 4.3).
func (p *packet) solicitation() []byte {
	b := append([]byte{neighbourSolicitation, 0, 0, 0, 0, 0, 0, 0}, p.to.AsSlice()...)
	return append(append(b, sourceLinkLayer, 1), p.fromMAC...)
}

// solicitedNode is the group in which an address is asked for (RFC 4291, 2.7.1).
func solicitedNode(address netip.Addr) netip.Addr {
	group := netip.MustParseAddr("ff02::1:ff00:0").As16()
	raw := address.As16()
	copy(group[13:], raw[13:])
	return netip.AddrFrom16(group)
}

// groupMAC is the MAC of frames to a group, or to all (RFC 1112, 6.4; RFC 2464, 7); nil for
// an address of one host.
func groupMAC(address netip.Addr) net.HardwareAddr {
	raw := address.AsSlice()
	switch {
	case address == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return broadcastMAC()
	case !address.IsMulticast():
		return nil
	case address.Is4():
		return net.HardwareAddr{1, 0, 0x5e, raw[1] & 0x7f, raw[2], raw[3]}
	default:
		return append(net.HardwareAddr{0x33, 0x33}, raw[12:]...)
	}
}

func broadcastMAC() net.HardwareAddr {
	return net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
}

// String is the packet as people write it.
func (p *packet) String() string {
	switch p.protocol {
	case overTCP, overUDP:
		return fmt.Sprintf("%s %s to %s", map[string]string{overTCP: "TCP", overUDP: "UDP"}[p.protocol],
			netip.AddrPortFrom(p.from, p.sourcePort), netip.AddrPortFrom(p.to, p.port))
	case overARP:
		if p.from.Is4() {
			return fmt.Sprintf("ARP request of %s for %s", p.from, p.to)
		}
		return fmt.Sprintf("neighbour solicitation of %s for %s", p.from, p.to)
	default:
		return fmt.Sprintf("ICMP echo request %s to %s", p.from, p.to)
	}
}
