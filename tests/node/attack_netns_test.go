// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

// scene is a network with three pods as weir guards them, and one that has leave for
// everything.
type scene struct {
	tb testing.TB
	// near is the attackers' node, far that of the others, which may be the same.
	near, far *Node
	// guarded and free attack victim, in the name of friend.
	guarded, free, victim, friend *Pod
	// client is the victim's socket of a DHCP client.
	client net.PacketConn
	// tenant is the socket of who is in another VLAN.
	tenant net.PacketConn
}

// Addresses of the pods of a scene.
const (
	guardedAddress, freeAddress, victimAddress, friendAddress = "192.168.122.11", "192.168.122.12", "192.168.122.13", "192.168.122.14"
	victimAddress6, friendAddress6                            = "2001:db8:122::13", "2001:db8:122::14"
	// roguePrefix and rogueLease are what the attackers offer.
	roguePrefix, rogueLease = "2001:db8:666::", "192.168.66.6"
)

// attack is one that must fail from a guarded pod and succeed with leave.
type attack struct {
	name string
	// reasons are what the guard may count, one of them at least.
	reasons []string
	// prepare makes the victim ready for it, launch attacks once, and succeeded looks at
	// what has become of the victim or its network.
	prepare   func(s *scene)
	launch    func(s *scene, from *Pod)
	succeeded func(s *scene, from *Pod) bool
}

func attacks() []attack {
	return []attack{
		{"ARP cache", []string{"spoofed_arp_ip"}, (*scene).acquaint, (*scene).poisonARP, (*scene).isPoisoned4},
		{"neighbour table", []string{"spoofed_neighbour"}, (*scene).acquaint, (*scene).poisonND, (*scene).isPoisoned6},
		{"router advertisement", []string{"rogue_router"}, (*scene).heedRouters, (*scene).advertise, (*scene).isRouted},
		{"router advertisement in fragments", []string{"malformed"}, (*scene).heedRouters, (*scene).advertiseInFragments, (*scene).isRouted},
		{"multicast querier", []string{"rogue_querier"}, func(*scene) {}, (*scene).query, (*scene).isQueried},
		{"DHCP server", []string{"rogue_dhcp"}, (*scene).forgetLease, (*scene).lease, (*scene).isLeased},
		{"DHCP in overlapping fragments", []string{"rogue_dhcp"}, (*scene).listenAsClient, (*scene).overlap, (*scene).hasReassembled},
		{"MAC flood", []string{"spoofed_mac"}, func(*scene) {}, (*scene).floodMACs, (*scene).isFlooded},
	}
}

// Attacks of a pod with the rights that containers have by default, on others of its
// network: none comes to anything, what it may send arrives all the while, and each
// succeeds from a pod whose network gives leave.
func TestNodesUnderAttack(t *testing.T) {
	for _, kind := range []string{"macvlan", "bridge"} {
		for _, nodes := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s, nodes: %d", kind, nodes), func(t *testing.T) {
				s := newScene(t, kind, nodes)
				s.settle()
				for _, a := range append(attacks(), hops()...) {
					t.Run(a.name, func(t *testing.T) { s.judge(t, a) })
				}
			})
		}
	}
}

func (s *scene) judge(t *testing.T, a attack) {
	t.Helper()
	a.prepare(s)
	before := s.refused(a.reasons)
	for range 3 {
		a.launch(s, s.guarded)
	}
	if got := s.near.ping(s.guarded.Host, victimAddress, 1); got != 1 {
		t.Error("what is allowed does not arrive")
	}
	time.Sleep(300 * time.Millisecond)
	if a.succeeded(s, s.guarded) {
		t.Error("the attack of a guarded pod has succeeded")
	}
	if s.refused(a.reasons) == before {
		t.Errorf("nothing was refused as %v: %+v", a.reasons, s.near.Attachment(s.guarded, "net1").Dropped)
	}
	a.prepare(s)
	for began := time.Now(); !a.succeeded(s, s.free); time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > settleFor {
			t.Fatal("the attack fails with leave too: it proves nothing")
		}
		a.launch(s, s.free)
	}
}

// refused is how many frames of the guarded pod were dropped for any of the reasons.
func (s *scene) refused(reasons []string) (sum uint64) {
	for _, d := range s.near.Attachment(s.guarded, "net1").Dropped {
		if slices.Contains(reasons, d.Reason) {
			sum += d.Packets
		}
	}
	return sum
}

func newScene(t *testing.T, kind string, nodes int) *scene {
	t.Helper()
	s := &scene{tb: t, near: newNode(t)}
	s.far = s.near
	s.turnIntoSwitch(s.near.outside, "eth1")
	if nodes == 2 {
		s.far = newNode(t)
		s.turnIntoSwitch(s.far.outside, "eth1")
		lan.Join(t, s.near.outside, "trunk", s.far.outside, "trunk")
		s.plug(s.near.outside, "trunk")
		s.plug(s.far.outside, "trunk")
	}
	all := []string{"other-macs", "other-addresses", "arp-proxy", "nd-proxy", "vlan", "double-tags", "dhcp-server", "router", "querier",
		"source-routing", "routing-header", "other-ethertypes", "other-destination"}
	for _, n := range slices.Compact([]*Node{s.near, s.far}) {
		base := object{"type": "macvlan", "master": "eth1"}
		if kind == "bridge" {
			n.bridgeOnLAN("br0")
			base = object{"type": "bridge", "bridge": "br0"}
		}
		n.Network("lan", config(base, object{"ipam": object{"type": "static"}}))
		n.Network("free", config(base, object{"ipam": object{"type": "static"}, "weir": object{"allow": all}}))
	}
	s.guarded = s.pod(s.near, "guarded", "lan", guardedAddress+"/24")
	s.free = s.pod(s.near, "free", "free", freeAddress+"/24")
	s.victim = s.pod(s.far, "victim", "lan", victimAddress+"/24", victimAddress6+"/64")
	s.friend = s.pod(s.far, "friend", "lan", friendAddress+"/24", friendAddress6+"/64")
	return s
}

func (s *scene) pod(n *Node, name, network string, addresses ...string) *Pod {
	s.tb.Helper()
	p := n.Pod(name, toJSON(s.tb, []object{{"name": network, "ips": addresses}}))
	n.mustAdd(p)
	return p
}

func (s *scene) plug(h *lan.Host, port string) {
	s.tb.Helper()
	s.must(h.Netlink().LinkSetMaster(h.Link(port), h.Link("switch")))
}

func (s *scene) must(err error) {
	s.tb.Helper()
	if err != nil {
		s.tb.Fatal(err)
	}
}

func (s *scene) turnIntoSwitch(h *lan.Host, ports ...string) {
	s.tb.Helper()
	s.must(h.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "switch"}}))
	for _, port := range ports {
		s.plug(h, port)
	}
	h.Up("switch")
}

// set writes to a file below /proc/sys/net of the victim.
func (s *scene) set(file, value string) {
	s.tb.Helper()
	s.victim.Do(func() error { return os.WriteFile("/proc/sys/net/"+file, []byte(value), 0) })
}

func macOf(p *Pod) net.HardwareAddr { return p.Link("net1").Attrs().HardwareAddr }

func addressOn(p *Pod) net.IP {
	if p.Name == "free" {
		return net.ParseIP(freeAddress).To4()
	}
	return net.ParseIP(guardedAddress).To4()
}

func toVictim(s *scene, from *Pod, kind layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: macOf(from), DstMAC: macOf(s.victim), EthernetType: kind}
}

// acquaint has the victim resolve its friend anew, and believe what it hears at once.
func (s *scene) acquaint() {
	s.tb.Helper()
	s.set("ipv4/neigh/net1/locktime", "0")
	for _, address := range []string{friendAddress, friendAddress6} {
		_ = s.victim.Netlink().NeighDel(&netlink.Neigh{LinkIndex: s.victim.Link("net1").Attrs().Index, IP: net.ParseIP(address)})
		s.far.await("an answer of "+address, func() bool { return s.far.ping(s.victim.Host, address, 1) == 1 })
		if s.neighbour(address) != macOf(s.friend).String() {
			s.tb.Fatalf("the victim has %s at %q", address, s.neighbour(address))
		}
	}
}

// neighbour is where the victim's kernel has an address.
func (s *scene) neighbour(address string) string {
	s.tb.Helper()
	index := s.victim.Link("net1").Attrs().Index
	all, err := netns.Dump(func() ([]netlink.Neigh, error) { return s.victim.Netlink().NeighList(index, unix.AF_UNSPEC) })
	s.must(err)
	for _, n := range all {
		if n.IP.Equal(net.ParseIP(address)) {
			return n.HardwareAddr.String()
		}
	}
	return ""
}

// poisonARP answers what was not asked, as arpspoof does.
func (s *scene) poisonARP(from *Pod) { from.Send("net1", s.poison(from)) }

func (s *scene) poison(from *Pod) []byte {
	return lan.Frame(s.tb, toVictim(s, from, layers.EthernetTypeARP), &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPReply,
		SourceHwAddress: macOf(from), SourceProtAddress: net.ParseIP(friendAddress).To4(),
		DstHwAddress: macOf(s.victim), DstProtAddress: net.ParseIP(victimAddress).To4(),
	})
}

func (s *scene) isPoisoned4(from *Pod) bool {
	return s.neighbour(friendAddress) == macOf(from).String()
}

// poisonND advertises the friend's address, to override what is known.
func (s *scene) poisonND(from *Pod) {
	message := append([]byte{0x20, 0, 0, 0}, net.ParseIP(friendAddress6)...)
	message = append(append(message, 2, 1), macOf(from)...)
	from.Send("net1", lan.Frame(s.tb, toVictim(s, from, layers.EthernetTypeIPv6), fromLinkLocal(from, victimAddress6),
		&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborAdvertisement, 0)}, gopacket.Payload(message)))
}

func (s *scene) isPoisoned6(from *Pod) bool {
	return s.neighbour(friendAddress6) == macOf(from).String()
}

func fromLinkLocal(from *Pod, to string) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6,
		SrcIP: loader.LinkLocal(macOf(from)).AsSlice(), DstIP: net.ParseIP(to)}
}

// heedRouters makes the victim one that configures itself, also by fragments, and takes
// from it what it had of that.
func (s *scene) heedRouters() {
	s.tb.Helper()
	for file, value := range map[string]string{"accept_ra": "2", "accept_ra_defrtr": "1", "accept_ra_pinfo": "1", "autoconf": "1", "suppress_frag_ndisc": "0"} {
		s.set("ipv6/conf/net1/"+file, value)
	}
	for _, a := range s.rogueAddresses() {
		s.must(s.victim.Netlink().AddrDel(s.victim.Link("net1"), &a))
	}
	for _, r := range s.rogueRoutes() {
		s.must(s.victim.Netlink().RouteDel(&r))
	}
}

func (s *scene) rogueAddresses() []netlink.Addr {
	s.tb.Helper()
	link := s.victim.Link("net1")
	all, err := netns.Dump(func() ([]netlink.Addr, error) { return s.victim.Netlink().AddrList(link, unix.AF_INET6) })
	s.must(err)
	rogue := netip.PrefixFrom(netip.MustParseAddr(roguePrefix), 64)
	return slices.DeleteFunc(all, func(a netlink.Addr) bool {
		address, _ := netip.AddrFromSlice(a.IP)
		return !rogue.Contains(address)
	})
}

// rogueRoutes are the victim's default routes by net1, of which there are none by right.
func (s *scene) rogueRoutes() []netlink.Route {
	s.tb.Helper()
	link := s.victim.Link("net1")
	all, err := netns.Dump(func() ([]netlink.Route, error) { return s.victim.Netlink().RouteList(link, unix.AF_INET6) })
	s.must(err)
	return slices.DeleteFunc(all, func(r netlink.Route) bool { return r.Gw == nil })
}

func (s *scene) isRouted(*Pod) bool { return len(s.rogueAddresses()) > 0 && len(s.rogueRoutes()) > 0 }

// advertisement is that of a router with a prefix to take addresses from.
func (s *scene) advertisement(from *Pod) []byte {
	message := []byte{64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}
	message = append(message, 3, 4, 64, 0xc0, 0, 0, 14, 16, 0, 0, 14, 16, 0, 0, 0, 0)
	message = append(message, net.ParseIP(roguePrefix)...)
	link := toVictim(s, from, layers.EthernetTypeIPv6)
	link.DstMAC = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
	return lan.Frame(s.tb, link, fromLinkLocal(from, "ff02::1"),
		&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeRouterAdvertisement, 0)}, gopacket.Payload(message))
}

func (s *scene) advertise(from *Pod) { from.Send("net1", s.advertisement(from)) }

// advertiseInFragments hides the message behind destination options in fragments, as
// RFC 7113 describes.
func (s *scene) advertiseInFragments(from *Pod) {
	const headers, first = 14 + 40, 16
	whole := s.advertisement(from)
	payload := append([]byte{58, 0, 1, 4, 0, 0, 0, 0}, whole[headers:]...)
	id := rand.Uint32()
	fragment := func(offset uint16, part []byte) []byte {
		out := append([]byte(nil), whole[:headers]...)
		binary.BigEndian.PutUint16(out[18:], uint16(8+len(part)))
		out[20] = 44
		out = binary.BigEndian.AppendUint16(append(out, 60, 0), offset)
		return append(binary.BigEndian.AppendUint32(out, id), part...)
	}
	from.Send("net1", fragment(1, payload[:first]), fragment(first, payload[first:]))
}

func (s *scene) leaseFile() string { return s.far.path("lease") }

func (s *scene) forgetLease() { _ = os.Remove(s.leaseFile()) }

// lease has a DHCP client ask in the victim and answers it from the attacker.
func (s *scene) lease(from *Pod) {
	s.tb.Helper()
	s.far.Write("lease.sh", "#!/bin/sh\n[ \"$1\" != bound ] || echo \"$ip\" >"+s.leaseFile()+"\n", 0o755)
	heard := from.Capture("net1")
	client := exec.Command("busybox", "udhcpc", "-i", "net1", "-n", "-q", "-f", "-t", "2", "-T", "1", "-s", s.far.path("lease.sh"))
	s.victim.Do(client.Start)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = client.Wait() // without a lease it says so by its status
	}()
	for answered := 0; ; time.Sleep(5 * time.Millisecond) {
		frames := heard.Frames()
		for _, f := range frames[answered:] {
			if answer := s.answer(from, f.Data); answer != nil && !f.Outgoing {
				from.Send("net1", answer)
			}
		}
		answered = len(frames)
		select {
		case <-ended:
			heard.Stop()
			return
		default:
		}
	}
}

// answer is what a DHCP server says to a client's frame; nil to any other.
func (s *scene) answer(from *Pod, frame []byte) []byte {
	asked, ok := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default).Layer(layers.LayerTypeDHCPv4).(*layers.DHCPv4)
	if !ok || asked.Operation != layers.DHCPOpRequest {
		return nil
	}
	kind := layers.DHCPMsgTypeOffer
	for _, o := range asked.Options {
		if o.Type == layers.DHCPOptMessageType && layers.DHCPMsgType(o.Data[0]) == layers.DHCPMsgTypeRequest {
			kind = layers.DHCPMsgTypeAck
		}
	}
	return lan.Frame(s.tb, toVictim(s, from, layers.EthernetTypeIPv4),
		&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: addressOn(from), DstIP: net.IPv4bcast},
		&layers.UDP{SrcPort: 67, DstPort: 68},
		&layers.DHCPv4{
			Operation: layers.DHCPOpReply, HardwareType: layers.LinkTypeEthernet, HardwareLen: 6, Xid: asked.Xid,
			ClientIP: net.IPv4zero, YourClientIP: net.ParseIP(rogueLease), NextServerIP: addressOn(from), RelayAgentIP: net.IPv4zero,
			ClientHWAddr: asked.ClientHWAddr,
			Options: layers.DHCPOptions{
				layers.NewDHCPOption(layers.DHCPOptMessageType, []byte{byte(kind)}),
				layers.NewDHCPOption(layers.DHCPOptServerID, addressOn(from)),
				layers.NewDHCPOption(layers.DHCPOptLeaseTime, []byte{0, 0, 14, 16}),
				layers.NewDHCPOption(layers.DHCPOptSubnetMask, []byte{255, 255, 255, 0}),
			},
		})
}

func (s *scene) isLeased(*Pod) bool {
	text, err := os.ReadFile(s.leaseFile())
	return err == nil && strings.TrimSpace(string(text)) == rogueLease
}

// query asks all hosts for their groups, in version 2 of IGMP (RFC 2236, 2).
func (s *scene) query(from *Pod) {
	from.Send("net1", lan.Frame(s.tb,
		&layers.Ethernet{SrcMAC: macOf(from), DstMAC: mustMAC("01:00:5e:00:00:01"), EthernetType: layers.EthernetTypeIPv4},
		&layers.IPv4{Version: 4, TTL: 1, Protocol: layers.IPProtocolIGMP, SrcIP: addressOn(from), DstIP: net.IPv4allsys},
		gopacket.Payload{0x11, 1, 0xee, 0xfe, 0, 0, 0, 0}))
}

// isQueried tells whether the victim's kernel takes version 2 for that of its querier.
func (s *scene) isQueried(*Pod) bool {
	s.tb.Helper()
	var groups []byte
	s.victim.Do(func() (err error) {
		groups, err = os.ReadFile("/proc/thread-self/net/igmp")
		return err
	})
	return regexp.MustCompile(`net1 +: +\d+ +V2`).Match(groups)
}

// listenAsClient opens the port of a DHCP client in the victim.
func (s *scene) listenAsClient() {
	s.tb.Helper()
	if s.client != nil {
		return
	}
	s.victim.Do(func() (err error) {
		s.client, err = net.ListenPacket("udp4", ":68")
		return err
	})
	s.tb.Cleanup(func() { _ = s.client.Close() })
}

// overlap sends the answer of a server in fragments: the last one first, and a second time
// over a harmless first fragment.
func (s *scene) overlap(from *Pod) {
	whole := lan.Frame(s.tb, toVictim(s, from, layers.EthernetTypeIPv4),
		&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: addressOn(from), DstIP: net.ParseIP(victimAddress)},
		&layers.UDP{SrcPort: 67, DstPort: 68}, gopacket.Payload(make([]byte, 24)))
	harmless := append([]byte(nil), whole...)
	binary.BigEndian.PutUint16(harmless[34:], 1000)
	id := uint16(rand.Uint32())
	from.Send("net1",
		fragmentOf(whole, id, 16, 32), fragmentOf(whole, id, 0, 16),
		fragmentOf(harmless, id+1, 0, 16), fragmentOf(whole, id+1, 0, 24), fragmentOf(whole, id+1, 8, 32))
}

// fragmentOf cuts bytes out of what an IPv4 packet without options carries.
func fragmentOf(whole []byte, id uint16, from, to int) []byte {
	const headers = 14 + 20
	out := append(append([]byte(nil), whole[:headers]...), whole[headers+from:headers+to]...)
	offset := uint16(from / 8)
	if headers+to < len(whole) {
		offset |= 0x2000
	}
	binary.BigEndian.PutUint16(out[16:], uint16(len(out)-14))
	binary.BigEndian.PutUint16(out[18:], id)
	binary.BigEndian.PutUint16(out[20:], offset)
	binary.BigEndian.PutUint16(out[24:], 0)
	var sum uint32
	for i := 14; i < headers; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(out[i:]))
	}
	binary.BigEndian.PutUint16(out[24:], ^uint16(sum+sum>>16))
	return out
}

func (s *scene) hasReassembled(*Pod) bool {
	buf := make([]byte, 1500)
	for {
		_ = s.client.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, sender, err := s.client.ReadFrom(buf)
		if err != nil {
			return false
		}
		if sender.(*net.UDPAddr).Port == 67 {
			return true
		}
	}
}

// flooded is how many frames a flood has, each from another MAC.
const flooded = 300

// floodMACs fills the tables of the switches.
func (s *scene) floodMACs(from *Pod) {
	frames := make([][]byte, flooded)
	for i := range frames {
		link := toVictim(s, from, layers.EthernetTypeIPv4)
		link.SrcMAC = net.HardwareAddr{2, 0x66, byte(rand.Uint32()), byte(rand.Uint32()), byte(i >> 8), byte(i)}
		link.DstMAC = net.HardwareAddr{2, 0, 0, 0, 0, 0x99}
		frames[i] = lan.Frame(s.tb, link,
			&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: addressOn(from), DstIP: net.ParseIP(victimAddress)},
			&layers.UDP{SrcPort: 1000, DstPort: 2000}, gopacket.Payload(make([]byte, 18)))
	}
	from.Send("net1", frames...)
}

// isFlooded asks the switch what it has learned at the node's port.
func (s *scene) isFlooded(*Pod) bool {
	index := s.near.outside.Link("eth1").Attrs().Index
	learned, err := netns.Dump(func() ([]netlink.Neigh, error) { return s.near.outside.Netlink().NeighList(index, unix.AF_BRIDGE) })
	s.must(err)
	learned = slices.DeleteFunc(learned, func(n netlink.Neigh) bool {
		return len(n.HardwareAddr) != 6 || n.HardwareAddr[0] != 2 || n.HardwareAddr[1] != 0x66
	})
	return len(learned) > 0
}
