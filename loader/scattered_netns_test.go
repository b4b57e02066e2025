// SPDX-License-Identifier: Apache-2.0

//go:build netns

package loader

import (
	"bytes"
	"net"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/tests/lan"
)

const (
	jumboMTU = 9000
	// morePages is more than the kernel gives a frame in one piece.
	morePages = 6000
	podIPv6   = "2001:db8::2"
	lanIPv6   = "2001:db8::1"
)

// portRules are of ports alone: what is deepest in a packet.
const portRules = `[
	{"action": "deny", "direction": "egress", "protocol": "udp", "ports": ["2000-2002"]},
	{"action": "deny", "direction": "ingress", "protocol": "udp", "ports": ["2000-2002"]}]`

// judged is a frame and what becomes of it.
type judged struct {
	name   string
	frame  []byte
	reason string
}

// sender makes the frames of one end of the cable for the other.
type sender struct {
	tb       testing.TB
	from, to net.HardwareAddr
	// Addresses of both.
	from4, to4, from6, to6 string
}

func (b *bench) fromPod(tb testing.TB) *sender {
	return &sender{tb, b.pod.Link("net1").Attrs().HardwareAddr, b.outside.Link("eth0").Attrs().HardwareAddr, podAddress, lanAddress, podIPv6, lanIPv6}
}

func (b *bench) fromOutside(tb testing.TB) *sender {
	s := b.fromPod(tb)
	return &sender{tb, s.to, s.from, s.to4, s.from4, s.to6, s.from6}
}

func (s *sender) eth(kind layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: s.from, DstMAC: s.to, EthernetType: kind}
}

func (s *sender) ip4(source string, options ...layers.IPv4Option) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 9, Protocol: layers.IPProtocolUDP, SrcIP: net.ParseIP(source), DstIP: net.ParseIP(s.to4), Options: options}
}

func (s *sender) ip6(source string, next layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: next, SrcIP: net.ParseIP(source), DstIP: net.ParseIP(s.to6)}
}

func (s *sender) udp4(source string, ports *layers.UDP, options ...layers.IPv4Option) []byte {
	return lan.Frame(s.tb, s.eth(layers.EthernetTypeIPv4), s.ip4(source, options...), ports, gopacket.Payload(make([]byte, 30)))
}

func (s *sender) udp6(source string, ports *layers.UDP) []byte {
	return lan.Frame(s.tb, s.eth(layers.EthernetTypeIPv6), s.ip6(source, layers.IPProtocolUDP), ports, gopacket.Payload(make([]byte, 30)))
}

func (s *sender) icmp4(kind byte) []byte {
	ip := s.ip4(s.from4)
	ip.Protocol = layers.IPProtocolICMPv4
	return lan.Frame(s.tb, s.eth(layers.EthernetTypeIPv4), ip, gopacket.Payload(append([]byte{kind}, make([]byte, 39)...)))
}

func (s *sender) arp(mac net.HardwareAddr, ip string) []byte {
	return lan.Frame(s.tb, s.eth(layers.EthernetTypeARP), &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
		Operation: layers.ARPReply, SourceHwAddress: mac, SourceProtAddress: net.ParseIP(ip).To4(),
		DstHwAddress: s.to, DstProtAddress: net.ParseIP(s.to4).To4(),
	}, gopacket.Payload(make([]byte, 18)))
}

// message is one of neighbour discovery about a target.
func (s *sender) message(kind uint8, target string, options ...byte) []byte {
	body := append(make([]byte, 4), net.ParseIP(target).To16()...)
	return lan.Frame(s.tb, s.eth(layers.EthernetTypeIPv6), s.ip6(s.from6, layers.IPProtocolICMPv6),
		&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}, gopacket.Payload(append(body, options...)))
}

// behind is an IPv6 packet with so many bytes of destination options, and then a protocol.
func (s *sender) behind(options int, next layers.IPProtocol, payload ...byte) []byte {
	header := append([]byte{byte(next), byte(options/8 - 1), 1, byte(options - 4)}, make([]byte, options-4)...)
	return lan.Frame(s.tb, s.eth(layers.EthernetTypeIPv6), s.ip6(s.from6, layers.IPProtocolIPv6Destination),
		gopacket.Payload(append(append(header, payload...), make([]byte, 30)...)))
}

func udp(from, to layers.UDPPort) *layers.UDP { return &layers.UDP{SrcPort: from, DstPort: to} }

func option(kind uint8) layers.IPv4Option {
	return layers.IPv4Option{OptionType: kind, OptionLength: 7, OptionData: make([]byte, 5)}
}

// verdictsOf are frames of all kinds that the pod may send or not.
func (b *bench) verdictsOf(tb testing.TB) []judged {
	s := b.fromPod(tb)
	foreign := net.HardwareAddr{2, 0, 0, 0, 0, 0x66}
	alien := *s
	alien.from = foreign
	tagged := func(outer layers.EthernetType, tags ...uint16) []byte {
		frame := s.udp4(podAddress, udp(7, 7))
		inner := append([]byte(nil), frame[12:]...)
		frame = frame[:12]
		for i, tag := range tags {
			kind := layers.EthernetTypeDot1Q
			if i == 0 {
				kind = outer
			}
			frame = append(frame, byte(kind>>8), byte(kind), byte(tag>>8), byte(tag))
		}
		return append(frame, inner...)
	}
	version5 := s.udp4(podAddress, udp(7, 7))
	version5[14] = 0x55
	later := s.udp4(podAddress, udp(2000, 2000))
	later[21] = 3
	return []judged{
		{"UDP", s.udp4(podAddress, udp(7, 7)), "allowed"},
		{"UDP over IPv6", s.udp6(podIPv6, udp(7, 7)), "allowed"},
		{"UDP behind options", s.behind(200, layers.IPProtocolUDP, 0, 7, 0, 7, 0, 38, 0, 0), "allowed"},
		{"ARP", s.arp(s.from, podAddress), "allowed"},
		{"solicitation", s.message(135, lanIPv6, append([]byte{1, 1}, s.from...)...), "allowed"},
		{"later fragment", later, "allowed"},
		{"MAC", alien.udp4(podAddress, udp(7, 7)), "spoofed_mac"},
		{"IPv4", s.udp4("192.0.2.66", udp(7, 7)), "spoofed_ipv4"},
		{"IPv6", s.udp6("2001:db8::66", udp(7, 7)), "spoofed_ipv6"},
		{"ARP, MAC", s.arp(foreign, podAddress), "spoofed_arp_mac"},
		{"ARP, address", s.arp(s.from, "192.0.2.66"), "spoofed_arp_ip"},
		{"advertisement of another's address", s.message(136, "2001:db8::66", append([]byte{2, 1}, s.from...)...), "spoofed_neighbour"},
		{"advertisement of another's MAC", s.message(136, podIPv6, append([]byte{14, 1, 0, 0, 0, 0, 0, 0, 2, 1}, foreign...)...), "spoofed_neighbour"},
		{"DHCP server", s.udp4(podAddress, udp(67, 68)), "rogue_dhcp"},
		{"DHCP server behind options", s.udp4(podAddress, udp(67, 68), option(148), option(148), option(148)), "rogue_dhcp"},
		{"DHCPv6 server", s.udp6(podIPv6, udp(547, 546)), "rogue_dhcp"},
		{"DHCPv6 server behind options", s.behind(800, layers.IPProtocolUDP, 2, 35, 2, 34, 0, 38, 0, 0), "rogue_dhcp"},
		{"router advertisement", s.message(134, podIPv6), "rogue_router"},
		{"router advertisement behind options", s.behind(400, layers.IPProtocolICMPv6, 134, 0, 0, 0), "rogue_router"},
		{"redirect", s.icmp4(5), "rogue_router"},
		{"source route", s.udp4(podAddress, udp(7, 7), option(148), option(131)), "source_routed"},
		{"routing header", lan.Frame(tb, s.eth(layers.EthernetTypeIPv6), s.ip6(podIPv6, layers.IPProtocolIPv6Routing),
			gopacket.Payload(append([]byte{17, 0, 0, 1, 0, 0, 0, 0, 0, 7, 0, 7, 0, 8, 0, 0}, make([]byte, 20)...))), "routing_header"},
		{"seven headers", lan.Frame(tb, s.eth(layers.EthernetTypeIPv6), s.ip6(podIPv6, layers.IPProtocolIPv6Destination),
			gopacket.Payload(append(bytes.Repeat([]byte{60, 0, 1, 4, 0, 0, 0, 0}, 7), make([]byte, 20)...))), "malformed"},
		{"IPv4 of version 5", version5, "malformed"},
		{"tag", tagged(layers.EthernetTypeDot1Q, 9), "vlan_tagged"},
		{"priority tag", tagged(layers.EthernetTypeDot1Q, 0x2000), "vlan_tagged"},
		{"two tags", tagged(layers.EthernetTypeDot1Q, 1, 9), "double_tagged"},
		{"tag of a provider", tagged(layers.EthernetTypeQinQ, 9), "double_tagged"},
		{"LLDP", lan.Frame(tb, s.eth(layers.EthernetTypeLinkLayerDiscovery), gopacket.Payload(make([]byte, 50))), "foreign_ethertype"},
		{"denied port", s.udp4(podAddress, udp(7, 2001)), "rule_denied"},
		{"denied port behind options", s.behind(200, layers.IPProtocolUDP, 0, 7, 7, 209, 0, 38, 0, 0), "rule_denied"},
	}
}

// A pod that changes a frame in memory which it shares with the kernel, after the guard has
// judged it and before it has left, changes nothing that was looked at.
func TestNetnsJudgedFramesAreNotChanged(t *testing.T) {
	b := newJumboBench(t)
	s := b.fromPod(t)
	tests := []struct {
		name             string
		judged, intended []byte
	}{
		{"DHCP, client to server", s.udp4(podAddress, udp(68, 67)), s.udp4(podAddress, udp(67, 68))},
		{"DHCP behind options, client to server", s.udp4(podAddress, udp(68, 67), option(148), option(148), option(148)),
			s.udp4(podAddress, udp(67, 68), option(148), option(148), option(148))},
		{"DHCPv6, client to server", s.udp6(podIPv6, udp(546, 547)), s.udp6(podIPv6, udp(547, 546))},
		{"echo to router advertisement", s.message(128, podIPv6), s.message(134, podIPv6)},
		{"own address to another's", s.message(136, podIPv6), s.message(136, "2001:db8::66")},
		{"solicitation with another's MAC", s.message(135, lanIPv6, append([]byte{1, 1}, s.from...)...), s.message(135, lanIPv6, 1, 1, 2, 0, 0, 0, 0, 0x66)},
		{"UDP behind options to ICMPv6", s.behind(160, layers.IPProtocolUDP, 0, 7, 0, 7, 0, 38, 0, 0), s.behind(160, layers.IPProtocolICMPv6, 134, 0, 0, 0)},
		{"allowed port to denied", s.udp6(podIPv6, udp(7, 7)), s.udp6(podIPv6, udp(7, 2000))},
		{"router alert to source route", s.udp4(podAddress, udp(7, 7), option(148), option(148)), s.udp4(podAddress, udp(7, 7), option(148), option(131))},
	}
	const changed, padding = 0xff, 11 // a length that no packet of the kernel has
	b.slowDown(t)
	ring := b.pod.Ring("net1")
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			capture := b.outside.Capture("eth0")
			for range 2 { // the second waits, and what comes behind it
				ring.Send(lan.Frame(t, s.eth(layers.EthernetTypeIPv4), s.ip4(podAddress), udp(7, 7), gopacket.Payload(make([]byte, morePages))))
			}
			shared := ring.Send(append(append([]byte(nil), test.judged...), make([]byte, padding)...))
			copy(shared, test.intended)
			shared[len(shared)-1] = changed // nobody looks at padding
			var arrived []byte
			for began := time.Now(); arrived == nil && time.Since(began) < 3*time.Second; time.Sleep(time.Millisecond) {
				for _, got := range capture.Frames() {
					if !got.Outgoing && len(got.Data) == len(test.judged)+padding && bytes.Equal(got.Data[:14], test.judged[:14]) {
						arrived = got.Data
					}
				}
			}
			if arrived == nil {
				t.Fatal("it has not arrived")
			}
			if at := firstDifference(test.judged, test.intended); arrived[at] != test.judged[at] {
				t.Errorf("byte %d was %#x when it was judged, and %#x when it arrived", at, test.judged[at], arrived[at])
			}
			if arrived[len(arrived)-1] != changed {
				t.Error("it had left before it was changed: this proves nothing")
			}
		})
	}
}

// slowDown has the pod's frames wait for each other behind the guard.
func (b *bench) slowDown(t *testing.T) {
	t.Helper()
	const bytesPerSecond, burst, limit = 50_000, 8000, 100_000
	err := b.pod.Netlink().QdiscReplace(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: b.pod.Link("net1").Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       bytesPerSecond, Limit: limit, Buffer: netlink.Xmittime(bytesPerSecond, burst),
	})
	if err != nil {
		t.Fatal(err)
	}
}

func firstDifference(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

// carrier is a way to send a frame of which little is linear where the guard sees it.
type carrier struct {
	name string
	send func(h *lan.Host, ifname string) func(frame []byte)
	long bool // takes long frames alone
}

func carriers() []carrier {
	return []carrier{
		{name: "one piece", send: func(h *lan.Host, ifname string) func([]byte) {
			return func(frame []byte) { h.Send(ifname, frame) }
		}},
		{name: "a ring", send: func(h *lan.Host, ifname string) func([]byte) {
			ring := h.Ring(ifname)
			return func(frame []byte) { ring.Send(frame) }
		}},
		{name: "pages", long: true, send: func(h *lan.Host, ifname string) func([]byte) {
			return func(frame []byte) { h.Send(ifname, frame) }
		}},
		{name: "pages, without a length of headers", long: true, send: func(h *lan.Host, ifname string) func([]byte) {
			return func(frame []byte) { h.SendOffloaded(ifname, lan.OffloadHeader{}, frame) }
		}},
		{name: "a network card that leaves frames where they are", send: throughTap},
		{name: "pages of a network card", long: true, send: throughTap},
	}
}

// throughTap sends what a tap receives by a bridge that the interface is a port of.
func throughTap(h *lan.Host, ifname string) func([]byte) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "br", jumboMTU
	h.Do(func() error {
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
		for _, of := range []string{"iptables", "ip6tables", "arptables"} { // they judge, too
			_ = os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+of, []byte("0"), 0)
		}
		return h.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	})
	tap := h.Tap("tap")
	h.Do(func() error {
		for _, port := range []string{"tap", ifname} {
			if err := h.Netlink().LinkSetMTU(h.Link(port), jumboMTU); err != nil {
				return err
			}
			if err := h.Netlink().LinkSetMaster(h.Link(port), h.Link("br")); err != nil {
				return err
			}
		}
		return nil
	})
	h.Up("br")
	return tap.Send
}

// newJumboBench has rules of ports, and room for long frames.
func newJumboBench(t *testing.T) *bench {
	t.Helper()
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	b := newRuledBench(t, l, portRules)
	b.setMTU(t, jumboMTU)
	return b
}

// setMTU sets it along the whole way between the pod and outside.
func (b *bench) setMTU(t *testing.T, mtu int) {
	t.Helper()
	b.outside.SetMTU("eth0", mtu)
	b.node.SetMTU(b.port, mtu)
	b.pod.SetMTU("net1", mtu)
	if b.at.Opposite {
		b.node.SetMTU(b.at.Interface, mtu)
	}
}

// Frames are judged alike in one piece and where only the Ethernet header is linear, in both
// directions, and what is allowed arrives as it was sent.
func TestNetnsScatteredFramesAreJudgedAlike(t *testing.T) {
	for _, c := range carriers() {
		t.Run("egress, "+c.name, func(t *testing.T) {
			b := newJumboBench(t)
			b.judge(t, c, bpf.Egress, b.verdictsOf(t))
		})
	}
	for _, c := range carriers() {
		t.Run("ingress, "+c.name, func(t *testing.T) {
			b := newJumboBench(t)
			s := b.fromOutside(t)
			stray := *s
			stray.to = net.HardwareAddr{2, 0, 0, 0, 0, 0x66}
			b.judge(t, c, bpf.Ingress, []judged{
				{"UDP", s.udp4(lanAddress, udp(7, 7)), "allowed"},
				{"UDP behind options", s.behind(200, layers.IPProtocolUDP, 0, 7, 0, 7, 0, 38, 0, 0), "allowed"},
				{"another's", stray.udp4(lanAddress, udp(7, 7)), "foreign_destination"},
				{"denied port", s.udp4(lanAddress, udp(7, 2000)), "rule_denied"},
				{"denied port behind IPv4 options", s.udp4(lanAddress, udp(7, 2000), option(148), option(148), option(148)), "rule_denied"},
				{"denied port behind options", s.behind(400, layers.IPProtocolUDP, 0, 7, 7, 209, 0, 38, 0, 0), "rule_denied"},
			})
		})
	}
}

// judge sends frames in a direction by a carrier and compares what becomes of each.
func (b *bench) judge(t *testing.T, c carrier, d bpf.Direction, frames []judged) {
	t.Helper()
	from, ifname, to, at := b.pod, "net1", b.outside, "eth0"
	if d == bpf.Ingress {
		from, ifname, to, at = b.outside, "eth0", b.pod, "net1"
	}
	send := c.send(from, ifname)
	scattered := b.watchScattered(t, d)
	for _, f := range frames {
		t.Run(f.name, func(t *testing.T) {
			frame := f.frame
			if c.long {
				frame = append(append([]byte(nil), frame...), make([]byte, morePages-len(frame))...)
			}
			capture := to.Capture(at)
			before := b.count(t, d, f.reason)
			send(frame)
			b.awaitCount(t, d, f.reason, before.Packets+1)
			after := difference(b.count(t, d, f.reason), before)
			arrived := 0
			for _, got := range capture.Stop() {
				if !got.Outgoing && bytes.Equal(got.Data, frame) {
					arrived++
				}
			}
			// The kernel's own packets are counted beside those that are allowed.
			if f.reason != "allowed" && after != (bpf.Count{Packets: 1, Bytes: uint64(len(frame))}) {
				t.Errorf("%d bytes are counted as %v", len(frame), after)
			}
			// A packet socket sees what arrives before ingress refuses it.
			if want := f.reason == "allowed"; d == bpf.Egress && arrived > 0 != want || want && arrived != 1 {
				t.Errorf("%d have arrived", arrived)
			}
		})
	}
	// What a network card has received with many extension headers the kernel may join.
	if n := scattered(); n < uint64(len(frames)-1) && c.name != "one piece" {
		t.Errorf("only %d of %d frames were in pieces where the guard saw them", n, len(frames))
	}
}

func (b *bench) awaitCount(t *testing.T, d bpf.Direction, reason string, want uint64) {
	t.Helper()
	for began := time.Now(); b.count(t, d, reason).Packets < want; time.Sleep(time.Millisecond) {
		if time.Since(began) > 3*time.Second {
			counters, err := b.guard.Counters()
			t.Fatalf("not one more is %s: %+v, %v", reason, counters.Verdicts[d], err)
		}
	}
}

// Where struct __sk_buff has what (linux/bpf.h).
const skbLen, skbData, skbDataEnd = 0, 76, 80

// watchScattered counts, before the guard sees them, the packets of a direction of which
// some is not linear.
func (b *bench) watchScattered(t *testing.T, d bpf.Direction) (read func() uint64) {
	t.Helper()
	count, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = count.Close() })
	const unspecified = -1 // TC_ACT_UNSPEC: the guard is next
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, skbDataEnd, asm.Word),
			asm.LoadMem(asm.R3, asm.R1, skbData, asm.Word),
			asm.LoadMem(asm.R4, asm.R1, skbLen, asm.Word),
			asm.Sub.Reg(asm.R2, asm.R3),
			asm.JGE.Reg(asm.R2, asm.R4, "out"),
			asm.LoadMapValue(asm.R5, count.FD(), 0),
			asm.Mov.Imm(asm.R6, 1),
			asm.StoreXAdd(asm.R5, asm.R6, asm.DWord),
			asm.Mov.Imm(asm.R0, unspecified).WithSymbol("out"),
			asm.Return(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Close() })
	parent := uint32(netlink.HANDLE_MIN_EGRESS)
	if d == bpf.Ingress {
		parent = netlink.HANDLE_MIN_INGRESS
	}
	// The kernel puts a new filter before those of its priority.
	err = b.pod.Netlink().FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: b.pod.Link("net1").Attrs().Index, Parent: parent, Handle: 77, Protocol: unix.ETH_P_ALL, Priority: 1},
		Fd:          program.FD(), Name: "scattered", DirectAction: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return func() (n uint64) {
		if err := count.Lookup(uint32(0), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
}
