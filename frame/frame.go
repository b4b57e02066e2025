// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

const (
	headerLen = 14 // of Ethernet
	tagLen    = 4  // of VLAN
	macsLen   = 12
)

// WithTag is a frame with a tag of VLAN put behind its addresses, where it is on the wire.
// What is too short to have addresses stays as it is.
func WithTag(data []byte, protocol, tci uint16) []byte {
	if len(data) < macsLen {
		return data
	}
	tagged := make([]byte, 0, len(data)+tagLen)
	tagged = append(tagged, data[:macsLen]...)
	tagged = binary.BigEndian.AppendUint16(tagged, protocol)
	tagged = binary.BigEndian.AppendUint16(tagged, tci)
	return append(tagged, data[macsLen:]...)
}

// Addresses are the MACs of a frame, as 02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff; empty where it
// is too short.
func Addresses(data []byte) string {
	if len(data) < macsLen {
		return ""
	}
	return net.HardwareAddr(data[6:12]).String() + " > " + net.HardwareAddr(data[:6]).String()
}

// Describe is a line on a frame: who sends what to whom, as
//
//	10.0.0.5.4242 > 10.0.0.1.53 UDP
//	vlan 7 ARP who-has 10.0.0.1 tell 10.0.0.5
//	fe80::1 > ff02::1 ICMPv6 RouterAdvertisement
func Describe(data []byte) string {
	if len(data) < headerLen {
		return fmt.Sprintf("%d bytes of an Ethernet header", len(data))
	}
	// A decoder that panics is one that cannot read it.
	packet := gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
	ethertype, behind := tags(data)
	return behind + network(packet, ethertype)
}

// tags walks over the tags of a frame, to the ethertype behind them.
func tags(data []byte) (ethertype layers.EthernetType, line string) {
	rest := data[macsLen:]
	for {
		ethertype = layers.EthernetType(binary.BigEndian.Uint16(rest))
		isTag := ethertype == layers.EthernetTypeDot1Q || ethertype == layers.EthernetTypeQinQ
		if !isTag || len(rest) < tagLen+2 {
			return ethertype, line
		}
		line += fmt.Sprintf("vlan %d ", binary.BigEndian.Uint16(rest[2:])&0xfff)
		rest = rest[tagLen:]
	}
}

func network(packet gopacket.Packet, ethertype layers.EthernetType) string {
	switch ethertype {
	case layers.EthernetTypeARP:
		if arp, ok := packet.Layer(layers.LayerTypeARP).(*layers.ARP); ok && isDecoded(arp) {
			return "ARP " + resolution(arp)
		}
		return "ARP, unreadable"
	case layers.EthernetTypeIPv4:
		if ip, ok := packet.NetworkLayer().(*layers.IPv4); ok && isDecoded(ip) {
			return between(address(ip.SrcIP), address(ip.DstIP), content{ip.Protocol, ip.FragOffset > 0, ip.Payload})
		}
		return "IPv4, unreadable"
	case layers.EthernetTypeIPv6:
		if ip, ok := packet.NetworkLayer().(*layers.IPv6); ok && isDecoded(ip) {
			return between(address(ip.SrcIP), address(ip.DstIP), contentOf(packet, ip))
		}
		return "IPv6, unreadable"
	}
	if ethertype < leastEthertype {
		return "LLC"
	}
	return fmt.Sprintf("ethertype 0x%04x", uint16(ethertype))
}

// isDecoded is false for a layer that could not be read, of which nothing is to be relied
// on.
func isDecoded(layer gopacket.Layer) bool { return len(layer.LayerContents()) > 0 }

// leastEthertype is the least number that is a type and not a length (IEEE 802.3, 3.2.6).
const leastEthertype = 0x600

func resolution(arp *layers.ARP) string {
	from, to := address(arp.SourceProtAddress), address(arp.DstProtAddress)
	switch arp.Operation {
	case layers.ARPRequest:
		return fmt.Sprintf("who-has %s tell %s (%s)", to, from, net.HardwareAddr(arp.SourceHwAddress))
	case layers.ARPReply:
		return fmt.Sprintf("%s is-at %s", from, net.HardwareAddr(arp.SourceHwAddress))
	default:
		return fmt.Sprintf("operation %d from %s to %s", arp.Operation, from, to)
	}
}

// address is that of raw bytes, which may be of no length that an address has.
func address(raw []byte) string {
	a, ok := netip.AddrFromSlice(raw)
	if !ok {
		return fmt.Sprintf("%x", raw)
	}
	return a.String()
}

// content is what an IP packet brings, behind all of its headers.
type content struct {
	protocol layers.IPProtocol
	later    bool // a fragment that is not the first, and has no header of the protocol
	data     []byte
}

// contentOf is what is behind the extension headers of IPv6.
func contentOf(packet gopacket.Packet, ip *layers.IPv6) content {
	c := content{protocol: ip.NextHeader, data: ip.Payload}
	_ = packet.TransportLayer() // decodes so far
	for _, layer := range packet.Layers() {
		switch header := layer.(type) {
		case *layers.IPv6HopByHop:
			c.protocol, c.data = header.NextHeader, header.Payload
		case *layers.IPv6Destination:
			c.protocol, c.data = header.NextHeader, header.Payload
		case *layers.IPv6Routing:
			c.protocol, c.data = header.NextHeader, header.Payload
		case *layers.IPv6Fragment:
			c.protocol, c.data, c.later = header.NextHeader, header.Payload, header.FragmentOffset > 0
		}
	}
	return c
}

// between is a line on what goes from one address to another.
func between(from, to string, c content) string {
	plain := from + " > " + to + " "
	if c.later {
		return plain + protocolName(c.protocol) + " later fragment"
	}
	switch c.protocol {
	case layers.IPProtocolTCP, layers.IPProtocolUDP, layers.IPProtocolSCTP:
		if len(c.data) >= portsLen {
			source, destination := binary.BigEndian.Uint16(c.data), binary.BigEndian.Uint16(c.data[2:])
			return fmt.Sprintf("%s.%d > %s.%d %s", from, source, to, destination, protocolName(c.protocol)) + c.flags()
		}
	case layers.IPProtocolICMPv4:
		if len(c.data) >= typeLen {
			return plain + "ICMP " + layers.CreateICMPv4TypeCode(c.data[0], c.data[1]).String()
		}
	case layers.IPProtocolICMPv6:
		if len(c.data) >= typeLen {
			return plain + "ICMPv6 " + layers.CreateICMPv6TypeCode(c.data[0], c.data[1]).String() + c.target()
		}
	}
	return plain + protocolName(c.protocol)
}

// Parts of the headers of transport protocols, in bytes.
const (
	portsLen = 4
	typeLen  = 2 // with the code
	// flagsAt is where TCP has its flags.
	flagsAt = 13
	// targetAt is where neighbour discovery has the address that it is about.
	targetAt, targetLen = 8, 16
)

// flags are those of TCP, from the lowest bit on; empty for all else.
func (c *content) flags() string {
	if c.protocol != layers.IPProtocolTCP || len(c.data) <= flagsAt {
		return ""
	}
	var set []string
	for bit, name := range []string{"FIN", "SYN", "RST", "PSH", "ACK", "URG"} {
		if c.data[flagsAt]>>bit&1 == 1 {
			set = append(set, name)
		}
	}
	if len(set) == 0 {
		return ""
	}
	return " " + strings.Join(set, ",")
}

// target is whom neighbour discovery is about; empty for all else.
func (c *content) target() string {
	if len(c.data) < targetAt+targetLen {
		return ""
	}
	about := address(c.data[targetAt : targetAt+targetLen])
	switch c.data[0] {
	case layers.ICMPv6TypeNeighborSolicitation:
		return " who-has " + about
	case layers.ICMPv6TypeNeighborAdvertisement:
		return " of " + about
	default:
		return ""
	}
}

// protocolName is one that is known, or the number.
func protocolName(p layers.IPProtocol) string {
	if name := p.String(); !strings.HasPrefix(name, "Unknown") {
		return name
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}
