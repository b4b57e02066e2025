// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"testing"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

// Addresses of the pod's net1.
const (
	podAddress  = "192.168.122.188"
	podAddress6 = "2001:db8:122::188"
)

// selection is the annotation that asks for a network and the pod's addresses.
const selection = `[{"name":"lan","ips":["` + podAddress + `/24","` + podAddress6 + `/64"]}]`

// static is the network that takes its addresses from the annotation.
func static() string {
	return macvlan(object{"cniVersion": "0.3.1", "ipam": object{
		"type":   "static",
		"routes": []any{object{"dst": "198.51.100.0/24", "gw": outsideAddress}},
	}})
}

// A network and a pod's wish become an interface that is reached, guarded,
// counted and reported, and nothing of it is left after DEL.
func TestNetnsWalkthrough(t *testing.T) {
	n := newNode(t)
	warmUp(n)
	idle := n.idle()

	n.Network("lan", static())
	pod := n.Pod("web", selection)
	before := n.with(idle, pod)
	result := n.mustAdd(pod)
	if len(result.IPs) != 1 || !netip.MustParsePrefix("10.85.0.0/16").Contains(addrOf(result.IPs[0])) {
		t.Errorf("the result is %v, want that of the default network", result)
	}
	if got := addressesOf(t, pod, "net1"); !got[podAddress+"/24"] || !got[podAddress6+"/64"] {
		t.Errorf("net1 has %v", got)
	}
	n.checkStatus(t, pod, result)
	n.awaitHook(pod) // what the move itself does to pings has a test of its own
	for _, address := range []string{podAddress, podAddress6} {
		if answered := n.ping(n.outside, address, 4); answered != 4 {
			t.Errorf("%d of 4 pings to %s were answered", answered, address)
		}
	}
	n.checkSpoofs(t, pod)
	n.checkNumbersAgree(t, pod)
	n.mustCheck(pod)

	n.mustDel(pod)
	n.mustBe(before)
	if all, err := n.Attachments(); err != nil || len(all) != 0 {
		t.Errorf("weirctl says %v, %v after DEL", all, err)
	}
}

// warmUp has the agent open what it keeps open.
func warmUp(n *Node) {
	n.tb.Helper()
	n.Network("warm", macvlan(object{"ipam": n.hostLocal("10.99.0.0/16")}))
	pod := n.Pod("warm", "warm")
	n.mustAdd(pod)
	n.mustDel(pod)
	n.scrape()
	pod.Remove()
}

func addrOf(ip *current.IPConfig) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip.Address.IP)
	return addr.Unmap()
}

func addressesOf(t *testing.T, p *Pod, ifname string) map[string]bool {
	t.Helper()
	held, err := netns.Dump(func() ([]netlink.Addr, error) { return p.Netlink().AddrList(p.Link(ifname), 0) })
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, a := range held {
		all[a.IPNet.String()] = true
	}
	return all
}

// networkStatus is what the agent wrote for a pod.
func (n *Node) networkStatus(p *Pod) []nadv1.NetworkStatus {
	n.tb.Helper()
	data, err := os.ReadFile(n.path("state/network-status/" + n.namespace + "." + p.Name + ".json"))
	if err != nil {
		n.tb.Fatal(err)
	}
	var status []nadv1.NetworkStatus
	if err := json.Unmarshal(data, &status); err != nil {
		n.tb.Fatalf("the network status %s: %v", data, err)
	}
	return status
}

// checkStatus compares the network status with the pod.
func (n *Node) checkStatus(t *testing.T, p *Pod, result *current.Result) {
	t.Helper()
	got := n.networkStatus(p)
	eth0, net1 := p.Link("eth0").Attrs(), p.Link("net1").Attrs()
	want := []nadv1.NetworkStatus{{
		Name: "default", Interface: "eth0", Default: true, Mac: eth0.HardwareAddr.String(),
		IPs: []string{addrOf(result.IPs[0]).String()}, Gateway: []string{result.IPs[0].Gateway.String()},
	}, {
		Name: n.namespace + "/lan", Interface: "net1", Mac: net1.HardwareAddr.String(),
		IPs: []string{podAddress, podAddress6},
	}}
	for i := range got {
		got[i].Mtu = 0 // newer than the specification's example; not what is asked here
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the network status differs (-want +got):\n%s", diff)
	}
}

// spoof is a frame that the pod must not send.
type spoof struct {
	reason string
	frame  []byte
}

func spoofsOf(t testing.TB, mac net.HardwareAddr) []spoof {
	t.Helper()
	other := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	ethernet := func(source net.HardwareAddr, kind layers.EthernetType) *layers.Ethernet {
		return &layers.Ethernet{SrcMAC: source, DstMAC: layers.EthernetBroadcast, EthernetType: kind}
	}
	ip4 := func(source string) *layers.IPv4 {
		return &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.ParseIP(source), DstIP: net.ParseIP(outsideAddress)}
	}
	ip6 := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP,
		SrcIP: net.ParseIP("2001:db8:122::99"), DstIP: net.ParseIP(outsideAddress6)}
	arp := func(sender net.HardwareAddr, ip string) *layers.ARP {
		return &layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
			Operation: layers.ARPRequest, SourceHwAddress: sender, SourceProtAddress: net.ParseIP(ip).To4(),
			DstHwAddress: make([]byte, 6), DstProtAddress: net.ParseIP(outsideAddress).To4(),
		}
	}
	udp := func() *layers.UDP { return &layers.UDP{SrcPort: 1234, DstPort: 4321} }
	frame := func(ls ...gopacket.SerializableLayer) []byte { return lan.Frame(t, ls...) }
	return []spoof{
		{"spoofed_mac", frame(ethernet(other, layers.EthernetTypeIPv4), ip4(podAddress), udp())},
		{"spoofed_ipv4", frame(ethernet(mac, layers.EthernetTypeIPv4), ip4("192.168.122.99"), udp())},
		{"spoofed_ipv6", frame(ethernet(mac, layers.EthernetTypeIPv6), ip6, udp())},
		{"spoofed_arp_mac", frame(ethernet(mac, layers.EthernetTypeARP), arp(other, podAddress))},
		{"spoofed_arp_ip", frame(ethernet(mac, layers.EthernetTypeARP), arp(mac, "192.168.122.99"))},
		{"vlan_tagged", frame(ethernet(mac, layers.EthernetTypeDot1Q),
			&layers.Dot1Q{VLANIdentifier: 7, Type: layers.EthernetTypeIPv4}, ip4(podAddress), udp())},
	}
}

// checkSpoofs sends frames of each kind that is refused: none may leave the node,
// and each is counted by its reason.
func (n *Node) checkSpoofs(t *testing.T, p *Pod) {
	t.Helper()
	n.checkSpoofsBy(t, p, func(frame []byte) { p.Send("net1", frame) })
}

// checkSpoofsBy is checkSpoofs of frames that are sent so.
func (n *Node) checkSpoofsBy(t *testing.T, p *Pod, send func(frame []byte)) {
	t.Helper()
	const times = 5
	spoofs := spoofsOf(t, p.Link("net1").Attrs().HardwareAddr)
	capture := n.outside.Capture("eth1")
	for _, s := range spoofs {
		for range times {
			send(s.frame)
		}
	}
	for _, f := range capture.Stop() {
		for _, s := range spoofs {
			if string(f.Data) == string(s.frame) {
				t.Errorf("a frame of %s has left the node", s.reason)
			}
		}
	}
	counted := map[string]api.Drop{}
	for _, d := range n.Attachment(p, "net1").Dropped {
		counted[d.Reason] = d
	}
	for _, s := range spoofs {
		want := api.Drop{Direction: "egress", Reason: s.reason, Packets: times, Bytes: times * uint64(len(s.frame))}
		if diff := cmp.Diff(want, counted[s.reason]); diff != "" {
			t.Errorf("the drops of %s (-want +got):\n%s", s.reason, diff)
		}
	}
}

// A runtime gets the result in the version of its configuration.
func TestNetnsResultVersions(t *testing.T) {
	n := newNode(t)
	n.Network("lan", static())
	pod := n.Pod("web", selection)
	for _, version := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			n.within(t)
			add := n.of("ADD", pod)
			add.config["cniVersion"] = version
			out, failure := n.Call(add)
			if failure != nil {
				t.Fatal(failure)
			}
			result, err := create.CreateFromBytes(out)
			if err != nil {
				t.Fatalf("reading %s: %v", out, err)
			}
			if result.Version() != version {
				t.Errorf("the result is of version %s", result.Version())
			}
			checkVersionShape(t, version, out)
			del := n.of("DEL", pod)
			del.config["cniVersion"] = version
			if failure := second(n.Call(del)); failure != nil {
				t.Error(failure)
			}
		})
	}
}

// checkVersionShape looks for what 1.0.0 has removed from results.
func checkVersionShape(t *testing.T, version string, out []byte) {
	t.Helper()
	var shape struct {
		IPs []struct {
			Version string `json:"version"`
			Address string `json:"address"`
		} `json:"ips"`
	}
	if err := json.Unmarshal(out, &shape); err != nil || len(shape.IPs) != 1 {
		t.Fatalf("reading %s: %v", out, err)
	}
	hasVersion, before := shape.IPs[0].Version == "4", version < "1"
	if hasVersion != before {
		t.Errorf("ips[0].version is %q in version %s", shape.IPs[0].Version, version)
	}
}
