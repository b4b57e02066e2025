// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

const (
	limit = 8_000_000 // bits a second
	// floodFor is how long the pod is flooded.
	floodFor = time.Second
)

// A bandwidth is kept on every type, in each direction, whoever asked for it, and
// what it refuses is counted as such.
func TestNetnsBandwidth(t *testing.T) {
	n := newNode(t)
	n.reference("other-bridge", "bridge")
	n.reference("host-local", "host-local")
	both := object{"ingressRate": limit, "egressRate": limit}
	asked := fmt.Sprintf(`[{"name":"NETWORK","bandwidth":{"ingressRate":%d,"egressRate":%d}}]`, limit, limit)
	bridge := func(kind, name, subnet string) object {
		return object{"type": kind, "bridge": name, "isGateway": true, "ipam": n.hostLocal(subnet)}
	}
	tests := []struct {
		name, config, networks string
	}{
		{"macvlan, asked by the pod", macvlan(object{"ipam": n.hostLocal("10.99.0.0/16")}), asked},
		{"macvlan, by the network", macvlan(object{"ipam": n.hostLocal("10.99.0.0/16"), "weir": object{"bandwidth": both}}), "NETWORK"},
		{"bridge, asked by the pod", config(bridge("bridge", "br0", "10.98.0.0/16"), nil), asked},
		{"executed, asked by the pod", config(bridge("other-bridge", "br1", "10.97.0.0/16"), nil), asked},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n.within(t)
			network := n.unique("lan")
			n.Network(network, test.config)
			pod := n.Pod(n.unique("web"), replaced(test.networks, network))
			n.mustAdd(pod)
			n.awaitHook(pod)
			before := n.Attachment(pod, "net1")
			n.flooded(pod)
			n.checkLimited(t, "egress", before.Transmit, n.Attachment(pod, "net1"))
			n.mustDel(pod)
		})
	}
}

// flooded sends from the pod's net1 as fast as it can for a while.
func (n *Node) flooded(p *Pod) {
	n.tb.Helper()
	own := ownFrame(n.tb, p)
	ctx, cancel := context.WithTimeout(context.Background(), floodFor)
	defer cancel()
	p.Flood(ctx, "net1", own)
}

// ownFrame is a broadcast that the pod may send: UDP from its own address.
func ownFrame(tb testing.TB, p *Pod) []byte {
	tb.Helper()
	addresses, err := netns.Dump(func() ([]netlink.Addr, error) { return p.Netlink().AddrList(p.Link("net1"), netlink.FAMILY_V4) })
	if err != nil || len(addresses) == 0 {
		tb.Fatalf("%v, %v", addresses, err)
	}
	return lan.Frame(tb,
		&layers.Ethernet{
			SrcMAC: p.Link("net1").Attrs().HardwareAddr, DstMAC: net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, EthernetType: layers.EthernetTypeIPv4,
		},
		&layers.IPv4{Version: 4, TTL: 9, Protocol: layers.IPProtocolUDP, SrcIP: addresses[0].IP, DstIP: net.IPv4bcast},
		&layers.UDP{SrcPort: 7, DstPort: 7}, gopacket.Payload(make([]byte, 1000)))
}

// replaced is an annotation with the network's name.
func replaced(networks, network string) string {
	return strings.ReplaceAll(networks, "NETWORK", network)
}

// checkLimited compares what passed with the most that may pass: the rate, four
// seconds of it that may have been saved, and a packet.
func (n *Node) checkLimited(t *testing.T, direction string, before api.Traffic, after api.AttachmentStatus) {
	t.Helper()
	passed := after.Transmit.Bytes - before.Bytes
	most := uint64(limit/8*(floodFor+4*time.Second)/time.Second) + 2000
	if passed == 0 || passed > most {
		t.Errorf("%d bytes passed, want at most %d", passed, most)
	}
	for _, d := range after.Dropped {
		if d.Reason == "rate_limited" && d.Direction == direction && d.Packets > 0 {
			return
		}
	}
	t.Errorf("nothing is counted as refused: %+v", after.Dropped)
}

func TestNetnsBandwidthBadInput(t *testing.T) {
	n := newNode(t)
	tests := []struct{ name, networks, weir, says string }{
		{"a rate below the least", `[{"name":"NETWORK","bandwidth":{"ingressRate":7}}]`, `{}`, "8"},
		{"a rate that is negative", `[{"name":"NETWORK","bandwidth":{"ingressRate":-7}}]`, `{}`, "negative"},
		{"a burst without a rate", `NETWORK`, `{"bandwidth":{"egressBurst":7}}`, "weir.bandwidth"},
		{"a rate that is text", `NETWORK`, `{"bandwidth":{"egressRate":"1M"}}`, "weir"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n.within(t)
			network := n.unique("lan")
			n.Network(network, `{"cniVersion":"1.0.0","type":"macvlan","master":"eth1","weir":`+test.weir+`}`)
			_, failure := n.Add(n.Pod(n.unique("web"), replaced(test.networks, network)))
			if failure == nil {
				t.Fatal("ADD succeeded")
			}
			checkFailure(t, failure, types.ErrInvalidNetworkConfig, test.says)
		})
	}
}
