// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/tests/lan"
)

// Of the LAN that pods are on, and of the one that none of them may reach.
const (
	nativeVLAN, tenantVLAN = 1, 7
	tenantAddress          = "192.168.122.77"
	tenantPort             = 7777
)

// hops are attacks by tags: on the tenant of another VLAN, and past what looks at ethertypes.
func hops() []attack {
	const q, ad = layers.EthernetTypeDot1Q, layers.EthernetTypeQinQ
	hop := func(name, reason string, send func(*Pod, []byte), outer layers.EthernetType, tags ...uint16) attack {
		return attack{name, []string{reason}, (*scene).forgetHops, func(s *scene, from *Pod) { send(from, s.toTenant(from, outer, tags...)) }, (*scene).hasHopped}
	}
	return []attack{
		hop("tag", "vlan_tagged", (*Pod).sendInline, q, tenantVLAN),
		hop("tag with a priority", "vlan_tagged", (*Pod).sendInline, q, 7<<13|tenantVLAN),
		hop("two tags", "double_tagged", (*Pod).sendInline, q, nativeVLAN, tenantVLAN),
		hop("tag of a provider", "double_tagged", (*Pod).sendInline, ad, tenantVLAN),
		hop("tag beside the packet", "vlan_tagged", (*Pod).sendBeside, q, tenantVLAN),
		hop("two tags, one of them beside the packet", "double_tagged", (*Pod).sendBeside, q, nativeVLAN, tenantVLAN),
		hop("tag of a provider beside the packet", "double_tagged", (*Pod).sendBeside, ad, tenantVLAN),
		{"ARP cache, with a tag of no VLAN", []string{"vlan_tagged"}, (*scene).acquaint, (*scene).poisonTagged, (*scene).isPoisoned4},
	}
}

// With leave for tags a pod reaches the tenant of another VLAN: the node's own 802.1Q
// devices take the tags off.
func TestKernelsVLANHopping(t *testing.T) {
	for _, kind := range []string{"macvlan", "bridge"} {
		t.Run(kind, func(t *testing.T) {
			s := newScene(t, kind, 1)
			s.settleBehindDevices()
			for _, a := range hops() {
				t.Run(a.name, func(t *testing.T) { s.judge(t, a) })
			}
		})
	}
}

// settle has a tenant on the switch of the attackers' node, at a port of the other VLAN. The
// program is that port: it takes off the tag of the switch's native VLAN, as a switch does,
// and then that of its own.
func (s *scene) settle() {
	s.tb.Helper()
	tenant := lan.NewHost(s.tb)
	lan.Join(s.tb, s.near.outside, "access", tenant, "eth0")
	const (
		vlanPresent, vlanTCI = 20, 24 // of struct __sk_buff (linux/bpf.h)
		idMask               = 0xfff
		unspecified          = -1 // TC_ACT_UNSPEC
	)
	readTag := func() asm.Instructions {
		return asm.Instructions{
			asm.LoadMem(asm.R2, asm.R6, vlanPresent, asm.Word),
			asm.JEq.Imm(asm.R2, 0, "pass"),
			asm.LoadMem(asm.R2, asm.R6, vlanTCI, asm.Word),
			asm.And.Imm(asm.R2, idMask),
		}
	}
	pop := asm.Instructions{asm.Mov.Reg(asm.R1, asm.R6), asm.FnSkbVlanPop.Call()}
	code := append(asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}, readTag()...)
	code = append(code, asm.JEq.Imm(asm.R2, tenantVLAN, "access"), asm.JNE.Imm(asm.R2, nativeVLAN, "pass"))
	code = append(append(code, pop...), readTag()...)
	code = append(code, asm.JNE.Imm(asm.R2, tenantVLAN, "pass"), asm.Mov.Reg(asm.R1, asm.R6).WithSymbol("access"), asm.FnSkbVlanPop.Call(),
		asm.Mov.Imm(asm.R1, int32(s.near.outside.Link("access").Attrs().Index)), asm.Mov.Imm(asm.R2, 0), asm.FnRedirect.Call(), asm.Return(),
		asm.Mov.Imm(asm.R0, unspecified).WithSymbol("pass"), asm.Return())
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: code})
	s.must(err)
	defer program.Close()
	port := s.near.outside.Link("eth1")
	s.must(s.near.outside.Netlink().QdiscAdd(clsact(port)))
	s.must(s.near.outside.Netlink().FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: port.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
		Fd:          program.FD(), Name: "access", DirectAction: true,
	}))
	s.listenAsTenant(tenant)
}

// settleBehindDevices has the tenant behind 802.1Q devices of the attackers' switch.
func (s *scene) settleBehindDevices() {
	s.tb.Helper()
	tenant := lan.NewHost(s.tb)
	tag := func(on, name string, id int, protocol netlink.VlanProtocol) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex = name, s.near.outside.Link(on).Attrs().Index
		s.must(s.near.outside.Netlink().LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: id, VlanProtocol: protocol}))
		s.near.outside.Up(name)
	}
	tag("eth1", "tagged", tenantVLAN, netlink.VLAN_PROTOCOL_8021Q)
	tag("eth1", "provider", tenantVLAN, netlink.VLAN_PROTOCOL_8021AD)
	tag("eth1", "native", nativeVLAN, netlink.VLAN_PROTOCOL_8021Q)
	tag("native", "twice", tenantVLAN, netlink.VLAN_PROTOCOL_8021Q)
	for _, name := range []string{"tagged", "provider", "twice"} {
		s.near.outside.Hand(name, tenant, name)
	}
	s.listenAsTenant(tenant)
}

func (s *scene) listenAsTenant(tenant *lan.Host) {
	s.tb.Helper()
	tenant.Address("lo", tenantAddress+"/24")
	tenant.Do(func() (err error) {
		interfaces, err := net.Interfaces()
		for _, i := range interfaces { // it knows no way back, and is to listen all the same
			err = errors.Join(err, os.WriteFile("/proc/sys/net/ipv4/conf/"+i.Name+"/rp_filter", []byte("0"), 0))
		}
		err = errors.Join(err, os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("0"), 0))
		if err != nil {
			return err
		}
		s.tenant, err = net.ListenPacket("udp4", net.JoinHostPort(tenantAddress, strconv.Itoa(tenantPort)))
		return err
	})
	s.tb.Cleanup(func() { _ = s.tenant.Close() })
}

// toTenant is a datagram of the attacker with tags, the first of a kind.
func (s *scene) toTenant(from *Pod, outer layers.EthernetType, tags ...uint16) []byte {
	link := toVictim(s, from, layers.EthernetTypeIPv4)
	link.DstMAC = layers.EthernetBroadcast
	return withTags(lan.Frame(s.tb, link,
		&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: addressOn(from), DstIP: net.ParseIP(tenantAddress)},
		&layers.UDP{SrcPort: 1000, DstPort: tenantPort}, gopacket.Payload(from.Name)), outer, tags...)
}

// withTags is a frame with tags, the first of a kind and the others 802.1Q's.
func withTags(frame []byte, outer layers.EthernetType, tags ...uint16) []byte {
	const macs = 12
	out := append([]byte(nil), frame[:macs]...)
	for i, tag := range tags {
		kind := layers.EthernetTypeDot1Q
		if i == 0 {
			kind = outer
		}
		out = append(out, byte(kind>>8), byte(kind), byte(tag>>8), byte(tag))
	}
	return append(out, frame[macs:]...)
}

func (p *Pod) sendInline(frame []byte) { p.Send("net1", frame) }

// sendBeside sends a frame whose outer tag is in the packet's metadata, where a device puts
// that of what it has received: through a bridge of the pod, which net1 is a port of
// meanwhile.
func (p *Pod) sendBeside(frame []byte) {
	handle := p.Netlink()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "hop"
	cable := netlink.NewLinkAttrs()
	cable.Name = "hop0"
	p.Do(func() error {
		switch err := handle.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); {
		case errors.Is(err, fs.ErrExist):
			return nil
		case err != nil:
			return err
		}
		return handle.LinkAdd(&netlink.Veth{LinkAttrs: cable, PeerName: "hop1"})
	})
	bridge := p.Link("hop")
	p.Do(func() error {
		return errors.Join(handle.LinkSetMaster(p.Link("hop1"), bridge), handle.LinkSetMaster(p.Link("net1"), bridge))
	})
	p.Up("hop", "hop0", "hop1")
	p.Send("hop0", frame)
	const forwarded = 50 * time.Millisecond
	time.Sleep(forwarded)
	p.Do(func() error { return handle.LinkSetNoMaster(p.Link("net1")) })
}

// forgetHops reads what the tenant has received.
func (s *scene) forgetHops() {
	for s.hop() != "" {
	}
}

// hop is whose datagram the tenant has received; empty for none.
func (s *scene) hop() string {
	buf := make([]byte, 1500)
	_ = s.tenant.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	n, _, err := s.tenant.ReadFrom(buf)
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(buf[:n]))
}

func (s *scene) hasHopped(from *Pod) bool {
	for {
		switch s.hop() {
		case "":
			return false
		case from.Name:
			return true
		}
	}
}

// poisonTagged is poisonARP with a tag that is of no VLAN, which receivers take off.
func (s *scene) poisonTagged(from *Pod) {
	const priority = 5 << 13
	from.Send("net1", withTags(s.poison(from), layers.EthernetTypeDot1Q, priority))
}
