// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"fmt"
	"math"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/prometheus/common/model"

	"github.com/weir-cni/weir/inspect"
	"github.com/weir-cni/weir/metrics"
	"github.com/weir-cni/weir/tests/lan"
)

// notYet are metrics that the agent is about to have.
var notYet = []string{"weir_cni_", "weir_plugins_", "weir_attachment_rule_", "weir_guard_restored_"}

const (
	otherAddress = "127.0.0.1:9843"
	webAddress   = "192.168.122.10"
	apiAddress   = "192.168.122.11"
	dbAddress    = "192.168.122.12"
	// tick is the rhythm of the traffic, and steady is for how long it goes on.
	tick   = 50 * time.Millisecond
	steady = 12 * time.Second
	// tagged are frames that are dropped at once: more than ten a second over five minutes.
	tagged = 5000
	// missed is how many pods the other agent says to run without their networks.
	missed = 3
)

// near is how far a rate may be from what was sent: Prometheus extrapolates, and a
// busy machine keeps no rhythm.
const near = 0.25

// story is a node with three pods on two networks, what was sent there, and the
// Prometheus that has seen it.
type story struct {
	*Node
	prometheus   *prometheus
	web, api, db *Pod
	sent         map[string]*flow
	begin, end   time.Time // of the steady traffic
	later        time.Time // when all is quiet
	lan, san     string    // names as in labels
}

// flow is what was sent of one kind of frame.
type flow struct {
	frame   []byte
	packets int
}

// TestNetnsDashboards has a real Prometheus scrape a real agent while known traffic
// passes, and compares what every query of the dashboards and of the rules finds
// with what was sent.
func TestNetnsDashboards(t *testing.T) {
	s := tell(t)
	t.Run("cluster", func(t *testing.T) {
		s.within(t)
		s.checkBoard(t, boardOf(t, "weir-cluster"), everything(), s.wantOfCluster())
	})
	t.Run("attachment", func(t *testing.T) {
		s.within(t)
		s.checkBoard(t, boardOf(t, "weir-attachment"), s.onlyWeb(), s.wantOfAttachment())
	})
	t.Run("rules", s.checkRules)
}

func everything() map[string]string {
	return map[string]string{"cluster": "test", "namespace": ".*", "pod": ".*", "network": ".*", "interface": ".*"}
}

func (s *story) onlyWeb() map[string]string {
	return map[string]string{"cluster": "test", "namespace": s.namespace, "pod": "web", "network": s.lan, "interface": "net1"}
}

// tell makes the story happen.
func tell(t *testing.T) *story {
	n := newNode(t)
	s := &story{Node: n, sent: map[string]*flow{}, lan: n.namespace + "/lan", san: n.namespace + "/san"}
	for _, network := range []string{"lan", "san"} {
		n.Network(network, macvlan(object{"capabilities": object{"ips": true}, "ipam": object{"type": "static"}}))
	}
	attached := func(name, network, address string) *Pod {
		p := n.Pod(name, fmt.Sprintf(`[{"name":%q,"ips":[%q]}]`, network, address+"/24"))
		n.mustAdd(p)
		n.awaitHook(p)
		return p
	}
	s.web = attached("web", "lan", webAddress)
	s.api = attached("api", "lan", apiAddress)
	s.db = attached("db", "san", dbAddress)
	// An agent of a cluster counts pods that it missed; this one is alone. So another
	// target has that collector, of another version.
	n.serveInNode(otherAddress, metrics.New(nothing{}, "another", metrics.Missed(func() int { return missed })))
	s.prometheus = n.newPrometheus(target{metricsAddress, "node1"}, target{otherAddress, "node2"})
	s.makeFrames(t)
	// A reason's series begins with its first packet, so no rate has that one.
	s.send("tagged", s.web.Host, "net1", 1)
	s.send("spoofed", s.web.Host, "net1", 1)
	s.awaitScrapes()
	s.send("tagged", s.web.Host, "net1", tagged)
	s.sendSteadily()
	s.awaitScrapes()
	return s
}

// nothing is a source without attachments.
type nothing struct{}

func (nothing) Attachments() []inspect.Attachment { return nil }

// makeFrames makes the frames of the story: UDP of known sizes, and what is refused.
func (s *story) makeFrames(t *testing.T) {
	t.Helper()
	outside := s.outside.Link("eth1").Attrs().HardwareAddr
	mac := func(p *Pod) net.HardwareAddr { return p.Link("net1").Attrs().HardwareAddr }
	frame := func(from, to net.HardwareAddr, source, destination string, size int) *flow {
		return &flow{frame: lan.Frame(t,
			&layers.Ethernet{SrcMAC: from, DstMAC: to, EthernetType: layers.EthernetTypeIPv4},
			&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.ParseIP(source), DstIP: net.ParseIP(destination)},
			&layers.UDP{SrcPort: 9, DstPort: 9}, gopacket.Payload(make([]byte, size)))}
	}
	s.sent["to web"] = frame(outside, mac(s.web), outsideAddress, webAddress, 458)
	s.sent["from web"] = frame(mac(s.web), outside, webAddress, outsideAddress, 958)
	s.sent["from db"] = frame(mac(s.db), outside, dbAddress, outsideAddress, 158)
	s.sent["spoofed"] = frame(mac(s.web), outside, "192.168.122.99", outsideAddress, 58)
	s.sent["tagged"] = &flow{frame: spoofsOf(t, mac(s.web))[5].frame}
}

func (s *story) send(kind string, from *lan.Host, ifname string, times int) {
	f := s.sent[kind]
	from.Send(ifname, slices.Repeat([][]byte{f.frame}, times)...)
	f.packets += times
}

// sendSteadily sends in a rhythm, some kinds more than others.
func (s *story) sendSteadily() {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for s.begin = time.Now(); time.Since(s.begin) < steady; <-ticker.C {
		s.send("to web", s.outside, "eth1", 4)
		s.send("from web", s.web.Host, "net1", 2)
		s.send("from db", s.db.Host, "net1", 1)
		s.send("spoofed", s.web.Host, "net1", 1)
	}
	s.end = time.Now()
}

// awaitScrapes waits until Prometheus has seen all of it.
func (s *story) awaitScrapes() {
	s.tb.Helper()
	s.await("Prometheus to have seen the last packet", func() bool {
		s.later = time.Now()
		got := values(s.prometheus.at(`weir_attachment_dropped_packets_total{pod="web", reason="spoofed_ipv4"}`, s.later), "cluster", "instance", "job")
		for _, v := range got {
			return v == float64(s.sent["spoofed"].packets)
		}
		return false
	})
	time.Sleep(2 * scrapeInterval)
	s.later = time.Now()
}

// rate is how many frames of a kind were sent in a second of the steady traffic.
func (s *story) rate(kind string) float64 {
	return float64(s.sent[kind].packets) / s.end.Sub(s.begin).Seconds()
}

func (s *story) size(kind string) float64 { return float64(len(s.sent[kind].frame)) }

func (s *story) count(kind string) float64 { return float64(s.sent[kind].packets) }

// wanted is what a query has to find: values by the values of their labels. More
// may be there (neighbours are looked for on any LAN) unless it is exact.
type wanted struct {
	values map[string]float64
	within float64
	exact  bool // no others, and after the traffic
}

// only is exactly so, when all is quiet.
func only(values map[string]float64) wanted { return wanted{values: values, exact: true} }

// about is about so, at the end of the steady traffic.
func about(values map[string]float64) wanted { return wanted{values: values, within: near} }

// one is the value of a query without labels.
func one(value float64) map[string]float64 { return map[string]float64{"": value} }

// wantOfCluster is what the queries of the cluster's dashboard have to find.
func (s *story) wantOfCluster() map[string]wanted {
	in, out, db := s.rate("to web"), s.rate("from web"), s.rate("from db")
	inBits, outBits, dbBits := 8*in*s.size("to web"), 8*out*s.size("from web"), 8*db*s.size("from db")
	row := func(pod, network string) string {
		return strings.Join([]string{"net1", s.namespace, network, pod}, " ")
	}
	return map[string]wanted{
		"Attachments/A":            only(one(3)),
		"Agents/A":                 only(one(2)),
		"Received/A":               about(one(inBits)),
		"Sent/A":                   about(one(outBits + dbBits)),
		"Dropped/A":                about(one(s.rate("spoofed"))),
		"Bits by network/A":        about(map[string]float64{s.lan: inBits}),
		"Bits by network/B":        about(map[string]float64{s.lan: outBits, s.san: dbBits}),
		"Packets by network/A":     about(map[string]float64{s.lan: in}),
		"Packets by network/B":     about(map[string]float64{s.lan: out, s.san: db}),
		"Attachments by network/A": only(map[string]float64{s.lan: 2, s.san: 1}),
		"Who uses which network/A": only(s.users()),
		"Top talkers/A":            about(map[string]float64{row("web", s.lan): inBits + outBits, row("db", s.san): dbBits}),
		"Most dropped/A":           about(map[string]float64{row("web", s.lan): s.rate("spoofed")}),
		"Drops by reason/A":        about(map[string]float64{"spoofed_ipv4": s.rate("spoofed"), "vlan_tagged": 0}),
		"Drops by network/A":       about(map[string]float64{"egress " + s.lan: s.rate("spoofed")}),
		"Nodes at risk/A":          only(map[string]float64{"node1": 3, "node2": 0}),
		"Nodes at risk/B":          only(map[string]float64{"node1": 0, "node2": 0}),
		"Nodes at risk/C":          only(map[string]float64{"node2": missed}),
		"Nodes at risk/F":          about(map[string]float64{"node1": s.rate("spoofed")}),
		"Nodes at risk/G":          {values: map[string]float64{"node1": 60 << 20}, within: 1},
		"Versions/A":               {values: map[string]float64{runtime.Version() + " another": 1}},
	}
}

// users are the attachments, by every label that the dashboard shows.
func (s *story) users() map[string]float64 {
	users := map[string]float64{}
	for pod, address := range map[*Pod]string{s.web: webAddress, s.api: apiAddress, s.db: dbAddress} {
		network := s.lan
		if pod == s.db {
			network = s.san
		}
		mac := pod.Link("net1").Attrs().HardwareAddr.String()
		// instance, interface, ips, mac, master, mode, namespace, network_name, pod, type
		users[strings.Join([]string{"node1", "net1", address + "/24", mac, "eth1", "bridge", s.namespace, network, pod.Name, "macvlan"}, " ")] = 1
	}
	return users
}

// wantOfAttachment is what the queries of web's dashboard have to find.
func (s *story) wantOfAttachment() map[string]wanted {
	in, out := s.rate("to web"), s.rate("from web")
	inBits, outBits := 8*in*s.size("to web"), 8*out*s.size("from web")
	status := s.Attachment(s.web, "net1")
	dropped := s.count("spoofed") + s.count("tagged")
	droppedBytes := map[string]float64{
		"egress spoofed_ipv4": s.count("spoofed") * s.size("spoofed"), "egress vlan_tagged": s.count("tagged") * s.size("tagged"),
	}
	passed := float64(status.Receive.Packets + status.Transmit.Packets)
	udpMean := (in*s.size("to web") + out*s.size("from web")) / (in + out)
	return map[string]wanted{
		"What it is/A":            {values: s.itself()},
		"Received in all/A":       only(one(float64(status.Receive.Bytes))),
		"Sent in all/A":           only(one(float64(status.Transmit.Bytes))),
		"Packets received/A":      only(one(float64(status.Receive.Packets))),
		"Packets sent/A":          only(one(float64(status.Transmit.Packets))),
		"Packets dropped/A":       only(one(dropped)),
		"Dropped part/A":          {values: one(dropped / (dropped + passed)), within: 0.0001, exact: true},
		"Bits/A":                  about(one(inBits)),
		"Bits/B":                  about(one(outBits)),
		"Packets/A":               about(one(in)),
		"Packets/B":               about(one(out)),
		"Mean size of a packet/A": about(one(s.size("to web"))),
		"Mean size of a packet/B": about(one(s.size("from web"))),
		"Bits by protocol/A":      about(map[string]float64{"udp": inBits + outBits}),
		"Packets by class/A":      about(map[string]float64{"unicast ingress": in, "unicast egress": out}),
		"Mean size by protocol/A": about(map[string]float64{"udp": udpMean}),
		"Drops/A":                 about(map[string]float64{"egress spoofed_ipv4": s.rate("spoofed"), "egress vlan_tagged": 0}),
		"Drops in all/A":          only(map[string]float64{"egress spoofed_ipv4": s.count("spoofed"), "egress vlan_tagged": s.count("tagged")}),
		"Drops in all/B":          only(droppedBytes),
	}
}

// itself is web, by every label that its dashboard shows.
func (s *story) itself() map[string]float64 {
	mac := s.web.Link("net1").Attrs().HardwareAddr.String()
	// container_id, hook, instance, interface, ips, mac, master, mode, namespace, network_name, pod, type
	return map[string]float64{strings.Join([]string{s.web.ID, s.hook(), "node1", "net1", webAddress + "/24", mac, "eth1", "bridge",
		s.namespace, s.lan, "web", "macvlan"}, " "): 1}
}

// checkBoard compares every query of a dashboard with what it has to find.
func (s *story) checkBoard(t *testing.T, b board, variables map[string]string, want map[string]wanted) {
	t.Helper()
	for _, p := range b.Panels {
		for _, q := range p.Targets {
			name := p.Title + "/" + q.RefID
			if awaits(q.Expr) {
				continue
			}
			w, ok := want[name]
			if !ok {
				t.Errorf("%s: nobody says what %s has to find", b.UID, name)
				continue
			}
			delete(want, name)
			s.checkQuery(t, name, filled(q.Expr, variables), q.Instant, w)
		}
	}
	for name := range want {
		t.Errorf("%s has no query %s", b.UID, name)
	}
}

func awaits(expr string) bool {
	return slices.ContainsFunc(notYet, func(name string) bool { return strings.Contains(expr, name) })
}

func (s *story) checkQuery(t *testing.T, name, expr string, instant bool, want wanted) {
	t.Helper()
	when := s.end
	if want.exact {
		when = s.later
	}
	var result model.Vector
	if instant {
		result = s.prometheus.at(expr, when)
	} else {
		result = last(s.prometheus.over(expr, s.begin.Add(2*scrapeInterval), when))
	}
	compare(t, name, values(result), want)
}

func compare(t *testing.T, name string, got map[string]float64, want wanted) {
	t.Helper()
	for labels, value := range want.values {
		found, ok := got[labels]
		if !ok || math.Abs(found-value) > want.within*math.Abs(value) {
			t.Errorf("%s: %q is %v (there: %t), want %v, give or take %v of it; all: %v", name, labels, found, ok, value, want.within, got)
		}
	}
	if want.exact && len(got) != len(want.values) {
		t.Errorf("%s: found %v, want %v", name, got, want.values)
	}
}

// checkRules compares every rule with what was sent: Prometheus evaluates each
// without an error, and its expression finds what it has to.
func (s *story) checkRules(t *testing.T) {
	s.within(t)
	target := []string{"cluster", "instance", "job"}
	all := s.prometheus.rules()
	before := s.begin.Add(-time.Hour)
	s.Stop()
	s.await("the agent to be down for Prometheus", func() bool {
		return len(s.prometheus.at(`up{job="weir", instance="node1"} == 0`, time.Now())) == 1
	})
	down := time.Now()
	const window = 300 // seconds, of the rates
	drop := func(reason string) string {
		return strings.Join([]string{"egress", "net1", s.namespace, s.lan, "web", reason}, " ")
	}
	tests := map[string]struct {
		when time.Time
		want wanted
	}{
		"network_name:weir_attachment_receive_bytes:rate5m": {s.later, about(map[string]float64{s.lan: s.count("to web") * s.size("to web") / window})},
		"network_name:weir_attachment_transmit_bytes:rate5m": {s.later, about(map[string]float64{
			s.lan: s.count("from web") * s.size("from web") / window, s.san: s.count("from db") * s.size("from db") / window})},
		"network_name_reason:weir_attachment_dropped_packets:rate5m": {s.later, about(map[string]float64{s.lan + " spoofed_ipv4": s.count("spoofed") / window})},
		"WeirAgentDown":             {down, only(map[string]float64{"": 0})},
		"WeirAgentsAbsent":          {before, only(one(1))},
		"WeirAgentVersionsDiffer":   {s.later, only(one(2))},
		"WeirAttachmentsUnreadable": {s.later, only(nil)},
		"WeirPodsWithoutNetworks":   {s.later, only(one(missed))},
		"WeirSpoofing":              {s.later, wanted{values: map[string]float64{drop("spoofed_ipv4"): s.count("spoofed")}, within: near, exact: true}},
		"WeirDropsHigh":             {s.later, wanted{values: map[string]float64{drop("vlan_tagged"): s.count("tagged") / window}, within: near, exact: true}},
	}
	for _, r := range all {
		if r.Health != "ok" {
			t.Errorf("%s is %s: %s", r.Name, r.Health, r.LastError)
		}
		if awaits(r.Query) {
			continue
		}
		test, ok := tests[r.Name]
		if !ok {
			t.Errorf("nobody says what %s has to find", r.Name)
			continue
		}
		delete(tests, r.Name)
		compare(t, r.Name, values(s.prometheus.at(r.Query, test.when), target...), test.want)
	}
	for name := range tests {
		t.Errorf("Prometheus has no rule %s", name)
	}
}
