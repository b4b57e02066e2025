// SPDX-License-Identifier: Apache-2.0

//go:build netns

package bpf

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/weir-cni/weir/tests/lan"
)

// peerMAC is of another member of the network.
var peerMAC = net.HardwareAddr{0x02, 0x42, 0xac, 0x11, 0x00, 0x07}

const (
	red  = 0xdead_0000_0001
	blue = 0xdead_0001_0001
)

func (m membership) number() uint32 {
	return map[string]uint32{"": RoleNone, "isolated": RoleIsolated, "community": RoleCommunity}[m.role]
}

// loadMember loads programs of a pod with a place in its network.
func loadMember(tb testing.TB, own membership) *loaded {
	tb.Helper()
	return loadPlaced(tb, own, all, "192.0.2.8/32", "198.51.100.0/24", "2001:db8::8/128", "fe80::42:acff:fe11:2/128")
}

// loadPlaced is load for a pod with a place in its network.
func loadPlaced(tb testing.TB, own membership, checks Check, prefixes ...string) *loaded {
	tb.Helper()
	l := loadWith(tb, map[string]any{"weir_role": own.number(), "weir_community": own.community}, checks, prefixes...)
	l.model.own, l.model.others = own, map[string]membership{}
	return l
}

// meet puts a member into the table, by each of its names. Who talks to all is not in it.
func (l *loaded) meet(tb testing.TB, m membership, names ...string) {
	tb.Helper()
	if m.role == "" {
		return
	}
	for _, name := range names {
		l.model.others[name] = m
		key := MemberKey{Kind: MemberAddress}
		if mac, err := net.ParseMAC(name); err == nil {
			key.Kind = MemberMAC
			copy(key.Address[:], mac)
		} else {
			key.Address = netip.MustParseAddr(name).As16()
		}
		if err := l.Maps[MembersMap].Put(&key, &Member{Role: m.number(), Community: m.community}); err != nil {
			tb.Fatal(err)
		}
	}
}

// to is a frame that the pod sends to a MAC and an address.
func to(tb testing.TB, mac net.HardwareAddr, address string) []byte {
	tb.Helper()
	if ip := netip.MustParseAddr(address); ip.Is6() {
		header := ipv6("2001:db8::8", layers.IPProtocolUDP)
		header.DstIP = ip.AsSlice()
		return lan.Frame(tb, &layers.Ethernet{SrcMAC: podMAC, DstMAC: mac, EthernetType: layers.EthernetTypeIPv6}, header, udp)
	}
	header := ipv4("192.0.2.8")
	header.DstIP = net.ParseIP(address)
	return lan.Frame(tb, &layers.Ethernet{SrcMAC: podMAC, DstMAC: mac, EthernetType: layers.EthernetTypeIPv4}, header, udp)
}

// from is a frame that comes from a MAC and an address.
func from(tb testing.TB, mac net.HardwareAddr, address string, to net.HardwareAddr) []byte {
	tb.Helper()
	link := &layers.Ethernet{SrcMAC: mac, DstMAC: to, EthernetType: layers.EthernetTypeIPv4}
	if netip.MustParseAddr(address).Is6() {
		link.EthernetType = layers.EthernetTypeIPv6
		return lan.Frame(tb, link, ipv6(address, layers.IPProtocolUDP), udp)
	}
	return lan.Frame(tb, link, ipv4(address), udp)
}

// asks is an ARP packet for a target.
func asks(tb testing.TB, mac net.HardwareAddr, sender, target string, operation uint16) []byte {
	tb.Helper()
	packet := arp(mac, sender, operation)
	packet.DstProtAddress = net.ParseIP(target).To4()
	link := &layers.Ethernet{SrcMAC: mac, DstMAC: broadcastMAC(), EthernetType: layers.EthernetTypeARP}
	return lan.Frame(tb, link, packet)
}

func broadcastMAC() net.HardwareAddr { return net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} }

// looks is neighbour discovery from the MAC given.
func looks(tb testing.TB, mac net.HardwareAddr, source string, kind uint8, target string) []byte {
	tb.Helper()
	frame := neighbour(tb, source, kind, target)
	copy(frame[6:], mac)
	copy(frame, []byte{0x33, 0x33, 0xff, 0, 0, 7})
	return frame
}

// fragment makes an IPv4 frame a later fragment of its packet.
func fragment(frame []byte) []byte { return patch(frame, 21, 7) }

// The pod is isolated, and so is a member that is known by its MAC and its addresses, as
// on macvlan; of another the addresses alone are known, as on ipvlan.
func TestNetnsIsolation(t *testing.T) {
	const gateway, peer, peer6, slave, slave6 = "192.0.2.1", "192.0.2.7", "2001:db8::7", "192.0.2.6", "2001:db8::6"
	const vlan = layers.EthernetTypeDot1Q
	group := net.HardwareAddr{0x01, 0x00, 0x5e, 0x00, 0x00, 0x01}
	tests := []struct {
		name  string
		d     Direction
		frame []byte
		want  string
	}{
		{"to the gateway", Egress, to(t, otherMAC, gateway), "allowed"},
		{"to outside", Egress, to(t, otherMAC, "203.0.113.9"), "allowed"},
		{"to the peer", Egress, to(t, peerMAC, peer), "isolated"},
		{"to the peer's MAC, for another", Egress, to(t, peerMAC, gateway), "isolated"},
		{"through the gateway", Egress, to(t, otherMAC, peer), "isolated"},
		{"through the gateway, a later fragment", Egress, fragment(to(t, otherMAC, peer)), "isolated"},
		{"through the gateway, IPv6", Egress, to(t, otherMAC, peer6), "isolated"},
		{"to a slave of the same MAC", Egress, to(t, podMAC, slave), "isolated"},
		{"to a slave of the same MAC, IPv6", Egress, to(t, podMAC, slave6), "isolated"},
		{"to all", Egress, to(t, broadcastMAC(), "255.255.255.255"), "allowed"},
		{"asking for the gateway", Egress, asks(t, podMAC, "192.0.2.8", gateway, 1), "allowed"},
		{"asking for the peer", Egress, asks(t, podMAC, "192.0.2.8", peer, 1), "isolated"},
		{"answering the peer", Egress, asks(t, podMAC, "192.0.2.8", peer, 2), "isolated"},
		{"probing for the peer's address", Egress, asks(t, podMAC, "0.0.0.0", peer, 1), "isolated"},
		{"probing for its own address", Egress, asks(t, podMAC, "0.0.0.0", "192.0.2.8", 1), "allowed"},
		{"announcing itself", Egress, asks(t, podMAC, "192.0.2.8", "192.0.2.8", 1), "allowed"},
		{"a member within a prefix of its own", Egress, asks(t, podMAC, "192.0.2.8", "198.51.100.7", 1), "isolated"},
		{"looking for the gateway", Egress, looks(t, podMAC, "2001:db8::8", 135, "2001:db8::1"), "allowed"},
		{"looking for the peer", Egress, looks(t, podMAC, "2001:db8::8", 135, peer6), "isolated"},
		{"its own duplicate address detection", Egress, looks(t, podMAC, "::", 135, "2001:db8::8"), "allowed"},
		{"advertising itself", Egress, looks(t, podMAC, "2001:db8::8", 136, "2001:db8::8"), "allowed"},

		{"from the gateway", Ingress, from(t, otherMAC, gateway, podMAC), "allowed"},
		{"from outside", Ingress, from(t, otherMAC, "203.0.113.9", podMAC), "allowed"},
		{"from the peer", Ingress, from(t, peerMAC, peer, podMAC), "isolated"},
		{"from the peer's MAC, of another's address", Ingress, from(t, peerMAC, gateway, podMAC), "isolated"},
		{"from the peer, by the gateway", Ingress, from(t, otherMAC, peer, podMAC), "isolated"},
		{"from the peer, a later fragment", Ingress, fragment(from(t, otherMAC, peer, podMAC)), "isolated"},
		{"from the peer, by the gateway, IPv6", Ingress, from(t, otherMAC, peer6, podMAC), "isolated"},
		{"from a slave of the same MAC", Ingress, from(t, podMAC, slave, podMAC), "isolated"},
		{"a broadcast of the gateway", Ingress, from(t, otherMAC, gateway, broadcastMAC()), "allowed"},
		{"a broadcast of the peer", Ingress, from(t, peerMAC, "0.0.0.0", broadcastMAC()), "isolated"},
		{"a multicast of the peer", Ingress, from(t, peerMAC, "0.0.0.0", group), "isolated"},
		{"a multicast of the slave", Ingress, from(t, podMAC, slave, group), "isolated"},
		{"a broadcast of the slave, from nowhere", Ingress, from(t, podMAC, "0.0.0.0", broadcastMAC()), "allowed"},
		{"the gateway asks", Ingress, asks(t, otherMAC, gateway, "192.0.2.8", 1), "allowed"},
		{"the peer asks", Ingress, asks(t, peerMAC, "0.0.0.0", "192.0.2.8", 1), "isolated"},
		{"the slave asks", Ingress, asks(t, podMAC, slave, "192.0.2.8", 1), "isolated"},
		{"the gateway answers for the peer", Ingress, asks(t, otherMAC, peer, "192.0.2.8", 2), "isolated"},
		{"the gateway looks for the pod", Ingress, looks(t, otherMAC, "2001:db8::1", 135, "2001:db8::8"), "allowed"},
		{"the gateway advertises itself", Ingress, looks(t, otherMAC, "2001:db8::1", 136, "2001:db8::1"), "allowed"},
		{"the gateway advertises the slave", Ingress, looks(t, otherMAC, "2001:db8::1", 136, slave6), "isolated"},
		{"the slave's duplicate address detection", Ingress, looks(t, podMAC, "::", 135, slave6), "isolated"},
		{"the gateway's duplicate address detection", Ingress, looks(t, otherMAC, "::", 135, "2001:db8::1"), "allowed"},
		{"cut off", Ingress, lan.Frame(t, &layers.Ethernet{SrcMAC: otherMAC, DstMAC: podMAC, EthernetType: layers.EthernetTypeARP}, gopacket.Payload(make([]byte, 20)))[:34], "malformed"},
		{"cut off neighbour discovery", Ingress, looks(t, otherMAC, "2001:db8::1", 136, slave6)[:60], "malformed"},
		{"tagged, of the peer", Ingress, lan.Frame(t, eth(peerMAC, vlan), &layers.Dot1Q{VLANIdentifier: 7}, gopacket.Payload(make([]byte, 46))), "isolated"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := loadMember(t, membership{role: "isolated"})
			l.meet(t, membership{role: "isolated"}, peerMAC.String(), peer, peer6, slave, slave6, "198.51.100.7", "192.0.2.8", "2001:db8::8")
			run, judge := l.send, l.model.judge
			if test.d == Ingress {
				copy(test.frame, mac(test.frame))
				run, judge = l.receive, l.model.judgeArrival
			}
			if got := run(t, test.frame); got != test.want {
				t.Errorf("verdict %s, want %s", got, test.want)
			}
			if got := judge(test.frame); got != test.want {
				t.Errorf("the model says %s, want %s", got, test.want)
			}
		})
	}
}

// mac is the pod's for a frame to another.
func mac(frame []byte) net.HardwareAddr {
	if frame[0]&1 == 0 {
		return podMAC
	}
	return frame[:6]
}

// Who may talk to whom does not depend on who begins, and both sides say the same.
func TestNetnsIsolationMatrix(t *testing.T) {
	memberships := []membership{{}, {role: "isolated"}, {role: "community", community: red}, {role: "community", community: blue}}
	want := [][]bool{
		{true, true, true, true},
		{true, false, false, false},
		{true, false, true, false},
		{true, false, false, true},
	}
	for i, own := range memberships {
		for j, other := range memberships {
			t.Run(fmt.Sprintf("%v with %v", own, other), func(t *testing.T) {
				l := loadMember(t, own)
				l.meet(t, other, peerMAC.String(), "192.0.2.7")
				verdict := map[bool]string{true: "allowed", false: "isolated"}[want[i][j]]
				if got := l.send(t, to(t, otherMAC, "192.0.2.7")); got != verdict {
					t.Errorf("sending: %s, want %s", got, verdict)
				}
				if got := l.receive(t, from(t, peerMAC, "192.0.2.7", podMAC)); got != verdict {
					t.Errorf("receiving: %s, want %s", got, verdict)
				}
				if own.mayTalkTo(other) != want[i][j] || other.mayTalkTo(own) != want[i][j] {
					t.Errorf("the model does not say %v", want[i][j])
				}
			})
		}
	}
}

// Random frames in both directions, with members of which some are the addresses that the
// frames have.
func TestNetnsIsolationAgreesWithTheModel(t *testing.T) {
	frames := 500_000
	if _, err := exec.LookPath("go"); err != nil {
		frames = 20_000 // in a VM, where a second is a minute
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, own := range []membership{{role: "isolated"}, {role: "community", community: red}} {
		l := loadMember(t, own)
		l.meet(t, membership{role: "isolated"}, peerMAC.String(), "192.0.2.7", "2001:db8::7", "198.51.100.7", "192.0.2.8", "2001:db8::8")
		l.meet(t, membership{role: "community", community: red}, "192.0.2.5", "2001:db8::5")
		l.meet(t, membership{role: "community", community: blue}, "192.0.2.4", "2001:db8::4", "02:42:ac:11:00:04")
		seeds := isolationSeeds(t)
		for range frames / 4 {
			frame := mutate(random, seeds[random.IntN(len(seeds))])
			if got, want := l.send(t, frame), l.model.judge(frame); got != want {
				t.Fatalf("sending as %v: the program says %s, the model %s: %x", own, got, want, frame)
			}
			if got, want := l.receive(t, frame), l.model.judgeArrival(frame); got != want {
				t.Fatalf("receiving as %v: the program says %s, the model %s: %x", own, got, want, frame)
			}
		}
	}
}

func isolationSeeds(tb testing.TB) [][]byte {
	seeds := seedFrames(tb)
	for _, last := range []string{"1", "4", "5", "7", "8"} {
		v4, v6 := "192.0.2."+last, "2001:db8::"+last
		seeds = append(seeds,
			to(tb, otherMAC, v4), to(tb, peerMAC, v4), to(tb, otherMAC, v6),
			from(tb, otherMAC, v4, podMAC), from(tb, peerMAC, v4, broadcastMAC()), from(tb, otherMAC, v6, podMAC),
			asks(tb, podMAC, "192.0.2.8", v4, 1), asks(tb, podMAC, "0.0.0.0", v4, 1), asks(tb, otherMAC, v4, "192.0.2.8", 2),
			looks(tb, podMAC, "2001:db8::8", 135, v6), looks(tb, podMAC, "::", 135, v6), looks(tb, otherMAC, "2001:db8::1", 136, v6),
		)
	}
	return seeds
}
