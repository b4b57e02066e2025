// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/bpf"
)

// What the guards themselves say is seen in tests/node.
func TestExplainRefusesWhatItCannotAsk(t *testing.T) {
	t.Parallel()
	guarded, bare := web(), other()
	tests := []struct {
		args []string
		code int
		says string
	}{
		{[]string{"web"}, ExitUsage, "want one of --tcp PORT, --udp PORT, --icmp and --arp"},
		{[]string{"web", "--icmp"}, ExitUsage, "want --from ADDR, --to ADDR or both"},
		{[]string{"--to", "192.0.2.9", "--icmp"}, ExitUsage, "accepts 1 arg"},
		{[]string{"web", "--to", "192.0.2.9", "--icmp", "--tcp", "80"}, ExitUsage, "want one of"},
		{[]string{"web", "--to", "192.0.2.9", "--tcp", "0"}, ExitUsage, "want one of"},
		{[]string{"web", "--to", "192.0.2.9", "--tcp", "65536"}, ExitUsage, "65536"},
		{[]string{"web", "--to", "192.0.2.9", "--udp", "-1"}, ExitUsage, "-1"},
		{[]string{"web", "--to", "192.0.2.900", "--icmp"}, ExitUsage, `--to "192.0.2.900"`},
		{[]string{"web", "--to", "192.0.2.0/24", "--icmp"}, ExitUsage, `--to "192.0.2.0/24"`},
		{[]string{"web", "--to", "fe80::1%eth0", "--icmp"}, ExitUsage, `--to "fe80::1%eth0"`},
		{[]string{"web", "--from", "", "--icmp"}, ExitUsage, "want --from"},
		{[]string{"web", "--from", "192.0.2.9", "--to", "2001:db8::1", "--icmp"}, ExitUsage, "two families"},
		{[]string{"web", "--to", "192.0.2.9", "--icmp", "--direction", "up"}, ExitUsage, `--direction "up"`},
		{[]string{"web", "--to", "192.0.2.9", "--icmp", "--direction", "ingress"}, ExitUsage, "the other's address"},
		{[]string{"web", "--from", "192.0.2.7", "--to", "192.0.2.9", "--icmp"}, ExitUsage, "say --direction"},
		{[]string{"web", "--to", "192.0.2.9", "--icmp", "--to-mac", "1:2"}, ExitUsage, `--to-mac "1:2"`},
		{[]string{"web", "--to", "192.0.2.9", "--icmp", "--from-mac", "00:00:5e:00:53:01:02:03"}, ExitUsage, "--from-mac"},
		{[]string{"web", "--to", "192.0.2.9", "--icmp", "-o", "xml"}, ExitUsage, "want one of table, wide, json, yaml, name"},
		{[]string{"wbe", "--to", "192.0.2.9", "--icmp"}, ExitFailed, "did you mean shop/web"},
		{[]string{"web", "--to", "192.0.2.9", "--icmp", "-n", "elsewhere"}, ExitFailed, `no pod "web"`},
		{[]string{"web", "--to", "192.0.2.9", "--icmp", "--interface", "net7"}, ExitFailed, `no interface "net7"`},
		{[]string{"web", "--to", "192.0.2.9", "--icmp"}, ExitFailed, "no such file"},
		{[]string{"beef", "--to", "192.0.2.9", "--icmp"}, ExitPartial, "has no guard"},
	}
	s := newSite(t, guarded, bare)
	for _, test := range tests {
		code, out, stderr := s.run(append([]string{"explain"}, test.args...)...)
		if code != test.code || !strings.Contains(stderr, test.says) {
			t.Errorf("%q: exit code %d, %s%s; want %d, %s", test.args, code, out, stderr, test.code, test.says)
		}
	}
}

func TestCompletionOfExplain(t *testing.T) {
	t.Parallel()
	s := newSite(t, web(), other())
	tests := []struct{ args, want []string }{
		{[]string{"explain", "sh"}, []string{"shop/web"}},
		{[]string{"explain", "shop/web", ""}, nil},
		{[]string{"explain", "--direction", ""}, []string{"egress", "ingress"}},
		{[]string{"explain", "--interface", "n"}, []string{"net1", "net2"}},
		{[]string{"explain", "-o", ""}, outputs},
	}
	for _, test := range tests {
		if got := s.complete(t, test.args...); !slices.Equal(got, test.want) {
			t.Errorf("%q: %q, want %q", test.args, got, test.want)
		}
	}
}

// questionOf is a question of which nothing is wrong.
func questionOf(t *testing.T, q question) *question {
	t.Helper()
	q.sourcePort = defaultSourcePort
	if err := q.check(); err != nil {
		t.Fatalf("%+v: %v", q, err)
	}
	return &q
}

// An independent reader of packets finds in each what was asked about.
func TestPackets(t *testing.T) {
	t.Parallel()
	pod, neighbour := web(), web()
	pod.MAC, neighbour.MAC = "02:00:00:00:00:aa", "02:00:00:00:00:bb"
	pod.Addresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.8/24"), netip.MustParsePrefix("2001:db8::8/64")}
	neighbour.Addresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.9/24")}
	known := []api.AttachmentStatus{pod, neighbour}
	tests := []struct {
		question
		direction bpf.Direction
		macs      string // from and to
		text      string
		layers    []gopacket.LayerType
	}{
		{question{to: "192.0.2.9", tcp: 80}, bpf.Egress, "aa bb", "TCP 192.0.2.8:50000 to 192.0.2.9:80",
			[]gopacket.LayerType{layers.LayerTypeIPv4, layers.LayerTypeTCP}},
		{question{from: "192.0.2.9", udp: 53}, bpf.Ingress, "bb aa", "UDP 192.0.2.9:50000 to 192.0.2.8:53",
			[]gopacket.LayerType{layers.LayerTypeIPv4, layers.LayerTypeUDP}},
		{question{to: "192.0.2.1", icmp: true}, bpf.Egress, "aa 01", "ICMP echo request 192.0.2.8 to 192.0.2.1",
			[]gopacket.LayerType{layers.LayerTypeIPv4, layers.LayerTypeICMPv4}},
		{question{to: "2001:db8::9", icmp: true}, bpf.Egress, "aa 01", "ICMP echo request 2001:db8::8 to 2001:db8::9",
			[]gopacket.LayerType{layers.LayerTypeIPv6, layers.LayerTypeICMPv6}},
		{question{to: "2001:db8::9", tcp: 443}, bpf.Egress, "aa 01", "TCP [2001:db8::8]:50000 to [2001:db8::9]:443",
			[]gopacket.LayerType{layers.LayerTypeIPv6, layers.LayerTypeTCP}},
		{question{to: "192.0.2.9", arp: true}, bpf.Egress, "aa ff", "ARP request of 192.0.2.8 for 192.0.2.9",
			[]gopacket.LayerType{layers.LayerTypeARP}},
		{question{from: "2001:db8::9", arp: true}, bpf.Ingress, "01 08", "neighbour solicitation of 2001:db8::9 for 2001:db8::8",
			[]gopacket.LayerType{layers.LayerTypeIPv6, layers.LayerTypeICMPv6, layers.LayerTypeICMPv6NeighborSolicitation}},
		{question{to: "224.0.0.251", udp: 5353}, bpf.Egress, "aa fb", "UDP 192.0.2.8:50000 to 224.0.0.251:5353",
			[]gopacket.LayerType{layers.LayerTypeIPv4, layers.LayerTypeUDP}},
		{question{to: "255.255.255.255", udp: 67}, bpf.Egress, "aa ff", "UDP 192.0.2.8:50000 to 255.255.255.255:67",
			[]gopacket.LayerType{layers.LayerTypeIPv4, layers.LayerTypeUDP}},
		{question{to: "ff02::1", icmp: true}, bpf.Egress, "aa 01", "ICMP echo request fe80::ff:fe00:aa to ff02::1",
			[]gopacket.LayerType{layers.LayerTypeIPv6, layers.LayerTypeICMPv6}},
		{question{from: "192.0.2.77", to: "192.0.2.9", udp: 53, direction: "egress", fromMAC: "02:00:00:00:00:cc"}, bpf.Egress, "cc bb",
			"UDP 192.0.2.77:50000 to 192.0.2.9:53", []gopacket.LayerType{layers.LayerTypeIPv4, layers.LayerTypeUDP}},
		{question{from: "192.0.2.9", to: "192.0.2.8", tcp: 22}, bpf.Ingress, "bb aa", "TCP 192.0.2.9:50000 to 192.0.2.8:22",
			[]gopacket.LayerType{layers.LayerTypeIPv4, layers.LayerTypeTCP}},
		{question{from: "192.0.2.8", to: "192.0.2.9", tcp: 22}, bpf.Egress, "aa bb", "TCP 192.0.2.8:50000 to 192.0.2.9:22",
			[]gopacket.LayerType{layers.LayerTypeIPv4, layers.LayerTypeTCP}},
	}
	for _, test := range tests {
		t.Run(test.text, func(t *testing.T) {
			t.Parallel()
			p, _, err := questionOf(t, test.question).about(&pod, known)
			if err != nil {
				t.Fatal(err)
			}
			if p.direction != test.direction || p.String() != test.text {
				t.Errorf("%s, %s", p.direction, p)
			}
			decoded := gopacket.NewPacket(p.frame(), layers.LayerTypeEthernet, gopacket.Default)
			var types []gopacket.LayerType
			for _, l := range decoded.Layers() {
				types = append(types, l.LayerType())
			}
			if want := append([]gopacket.LayerType{layers.LayerTypeEthernet}, test.layers...); decoded.ErrorLayer() != nil || !slices.Equal(types[:len(want)], want) {
				t.Errorf("layers %v, error %v", types, decoded.ErrorLayer())
			}
			eth, _ := decoded.LinkLayer().(*layers.Ethernet)
			if got := lastOf(eth.SrcMAC) + " " + lastOf(eth.DstMAC); got != test.macs {
				t.Errorf("MACs %s", got)
			}
			checkAddresses(t, p, decoded)
		})
	}
}

func lastOf(mac net.HardwareAddr) string { return hex.EncodeToString(mac[5:]) }

func checkAddresses(t *testing.T, p *packet, decoded gopacket.Packet) {
	t.Helper()
	if arp, is := decoded.Layer(layers.LayerTypeARP).(*layers.ARP); is {
		if !slices.Equal(arp.SourceProtAddress, p.from.AsSlice()) || !slices.Equal(arp.DstProtAddress, p.to.AsSlice()) {
			t.Errorf("%+v", arp)
		}
		return
	}
	to := p.to
	if p.protocol == overARP {
		to = solicitedNode(p.to)
	}
	flow := decoded.NetworkLayer().NetworkFlow()
	if !slices.Equal(flow.Src().Raw(), p.from.AsSlice()) || !slices.Equal(flow.Dst().Raw(), to.AsSlice()) {
		t.Errorf("from %s to %s", flow.Src(), flow.Dst())
	}
	switch l := decoded.TransportLayer().(type) {
	case *layers.TCP:
		if uint16(l.SrcPort) != p.sourcePort || uint16(l.DstPort) != p.port || !l.SYN {
			t.Errorf("%+v", l)
		}
	case *layers.UDP:
		if uint16(l.SrcPort) != p.sourcePort || uint16(l.DstPort) != p.port {
			t.Errorf("%+v", l)
		}
	}
}

// An attachment whose addresses nobody knows cannot be asked about its own.
func TestQuestionsToAPodWithoutAddresses(t *testing.T) {
	t.Parallel()
	pod := web()
	pod.Addresses = nil
	if _, _, err := questionOf(t, question{to: "192.0.2.9", icmp: true}).about(&pod, nil); err == nil || exitCode(err) != ExitUsage {
		t.Errorf("error %v", err)
	}
	if _, _, err := questionOf(t, question{to: "192.0.2.9", from: "192.0.2.8", icmp: true, direction: "egress"}).about(&pod, nil); err != nil {
		t.Error(err)
	}
}

// Every verdict is explained, and its leave is one that docs/guard.md has.
func TestEveryVerdictIsExplained(t *testing.T) {
	t.Parallel()
	guard, err := os.ReadFile("../docs/guard.md")
	if err != nil {
		t.Fatal(err)
	}
	for v := range bpf.Verdicts() {
		c := checkOf(v)
		if c.because == "" {
			t.Errorf("nothing is said of %s", v.Reason())
		}
		if c.leave != "" && !strings.Contains(string(guard), "| `"+c.leave+"` |") && !strings.Contains(string(guard), "| `"+c.leave+"`.") {
			t.Errorf("docs/guard.md has no leave %s", c.leave)
		}
	}
}
