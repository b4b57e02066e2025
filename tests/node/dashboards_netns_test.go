// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/prometheus/common/model"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/inspect"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/metrics"
	"github.com/weir-cni/weir/tests/lan"
)

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
	// burst are more than are reported of drops at once.
	burst = 300
	// slow is a plugin that takes its time with an ADD.
	slow = noting + `[ "$CNI_COMMAND" = ADD ] && sleep 3
echo '{"cniVersion":"1.0.0"}'
`
	slowness = 3.0 // seconds
	refusals = 2   // of ADD, beside the slow ones
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
	busy         time.Time // when a slow plugin ran and another waited
	later        time.Time // when all is quiet
	began        time.Time // when Prometheus had scraped first
	lan, san     string    // names as in labels
	lost         uint64    // drops that were counted only, at first
}

// flow is what was sent of one kind of frame.
type flow struct {
	frame   []byte
	packets int
}

// TestPrometheusDashboards has a real Prometheus scrape a real agent while known traffic
// passes, and compares what every query of the dashboards and of the rules finds
// with what was sent.
func TestPrometheusDashboards(t *testing.T) {
	s := tell(t)
	t.Run("cluster", func(t *testing.T) {
		s.within(t)
		s.checkBoard(t, boardOf(t, "weir-cluster"), everything(), s.wantOfCluster())
	})
	t.Run("attachment", func(t *testing.T) {
		s.within(t)
		s.checkBoard(t, boardOf(t, "weir-attachment"), s.onlyWeb(), s.wantOfAttachment())
	})
	s.draw(t)
	t.Run("rules", s.checkRules)
}

// A Prometheus that takes native histograms asks for protobuf, and finds the same numbers there.
func TestPrometheusNativeHistograms(t *testing.T) {
	n := newNode(t)
	n.Network("lan", static())
	pod := n.Pod("web", selection)
	n.mustAdd(pod)
	n.awaitHook(pod)
	spoof := spoofsOf(t, macOf(pod))[1].frame
	pod.Send("net1", spoof, spoof, spoof)
	p := n.newPrometheusWith([]string{"--enable-feature=native-histograms"}, target{metricsAddress, "node1"})
	for expr, want := range map[string]float64{
		`histogram_count(weir_cni_operation_duration_seconds{command="ADD"})`:          1,
		`sum(weir_attachment_dropped_packets_total{pod="web", reason="spoofed_ipv4"})`: 3,
		`count(weir_attachment_info{pod="web", interface="net1", type="macvlan"})`:     1,
		`weir_attachments`: 1,
	} {
		n.await(expr, func() bool {
			found := p.at(expr, time.Now())
			return len(found) == 1 && float64(found[0].Value) == want
		})
	}
}

func everything() map[string]string {
	return map[string]string{"cluster": "test", "namespace": ".*", "pod": ".*", "network": ".*", "interface": ".*"}
}

func (s *story) onlyWeb() map[string]string {
	return map[string]string{"cluster": "test", "namespace": s.namespace, "pod": "web", "network": s.lan, "interface": "net1"}
}

// tell makes the story happen.
func tell(t *testing.T) *story {
	measureRuns(t)
	n := newIdleNode(t)
	n.flags = []string{"--delegates-at-once=1"}
	n.plugin("slow", slow)
	n.Start()
	s := &story{Node: n, sent: map[string]*flow{}, lan: n.namespace + "/lan", san: n.namespace + "/san"}
	for network, isolation := range map[string]string{"lan": "none", "san": "isolated"} {
		n.Network(network, macvlan(object{
			"capabilities": object{"ips": true}, "ipam": object{"type": "static"}, "weir": object{
				"isolation": isolation,
				"rules":     []object{{"name": "datagrams", "direction": "egress", "action": "allow", "protocol": "udp"}},
			},
		}))
	}
	n.Network("slow", listOf("1.0.0", object{"type": "macvlan", "master": "eth1"}, object{"type": "slow"}))
	attached := func(name, network, address string) *Pod {
		p := n.Pod(name, fmt.Sprintf(`[{"name":%q,"ips":[%q]}]`, network, address+"/24"))
		n.mustAdd(p)
		n.awaitHook(p)
		return p
	}
	s.web = attached("web", "lan", webAddress)
	s.api = attached("api", "lan", apiAddress)
	s.db = attached("db", "san", dbAddress)
	n.serveInNode(otherAddress, newMishap().serve())
	s.prometheus = n.newPrometheus(target{metricsAddress, "node1"}, target{otherAddress, "node2"})
	s.makeFrames(t)
	// A reason's series begins with its first packet, and a code's with its first error,
	// so no rate has that one.
	s.beRefused()
	s.began = time.Now()
	s.send("tagged", s.web.Host, "net1", burst)
	s.send("spoofed", s.web.Host, "net1", 1)
	s.awaitScrapes()
	s.lost = s.Attachment(s.web, "net1").Samples.Limited
	s.send("tagged", s.web.Host, "net1", tagged)
	finish := s.addSlowly()
	s.sendSteadily()
	finish()
	s.awaitScrapes()
	return s
}

// beRefused asks for a pod a second time.
func (s *story) beRefused() {
	s.tb.Helper()
	if _, failure := s.Add(s.web); failure == nil || failure.Code != types.ErrInvalidEnvironmentVariables {
		s.tb.Fatalf("a second ADD: %v", failure)
	}
}

// addSlowly has two pods added whose plugin takes its time, one after the other, and
// others refused meanwhile. What it returns waits for that and removes the pods.
func (s *story) addSlowly() (finish func()) {
	s.tb.Helper()
	var group sync.WaitGroup
	pods := []*Pod{s.Pod("slow-0", "slow"), s.Pod("slow-1", "slow")}
	for _, p := range pods {
		group.Go(func() {
			if _, failure := s.Add(p); failure != nil {
				s.tb.Errorf("ADD of %s: %v", p.Name, failure)
			}
		})
	}
	for range refusals {
		s.beRefused()
	}
	return func() {
		group.Wait()
		for _, p := range pods {
			s.mustDel(p)
		}
	}
}

// measureRuns has the kernel measure programs until the test ends.
func measureRuns(t *testing.T) {
	t.Helper()
	const file = "/proc/sys/kernel/bpf_stats_enabled"
	was, err := os.ReadFile(file)
	mustDo(t, err)
	mustDo(t, os.WriteFile(file, []byte("1"), 0))
	t.Cleanup(func() { mustDo(t, os.WriteFile(file, was, 0)) })
}

// mishap is an agent of another version and of a cluster, of which the other knows nothing. It
// has one attachment: its interface is gone, its counters cannot be read, and at each scrape
// its guard has been put right once more, the API has answered requests, and a watch failed.
type mishap struct {
	scrapes  atomic.Uint64
	requests *metrics.Requests
}

func newMishap() *mishap { return &mishap{requests: metrics.NewRequests()} }

func (m *mishap) serve() http.Handler {
	watches := metrics.Watches(func() map[string]int { return map[string]int{"pods": 7, "networks": 2} },
		func() map[string]int { return map[string]int{"pods": int(m.scrapes.Load())} })
	return metrics.New(m, "", "another", metrics.Missed(func() int { return missed }), m.requests, watches)
}

// answering is how long the API takes.
const answering = 30 * time.Millisecond

func (m *mishap) Attachments() []inspect.Attachment {
	m.requests.Done("GET", "200", answering)
	m.requests.Done("GET", "200", answering)
	m.requests.Done("PATCH", "409", answering)
	return []inspect.Attachment{{
		Attachment: attachment.Attachment{Pod: attachment.Pod{Namespace: "elsewhere", Name: "lost"}, ID: attachment.ID{Interface: "net1"}, Network: "elsewhere/wan"},
		Guard: &inspect.Guard{
			Hook: loader.Gone, Err: errors.New("no counters"), Restored: map[string]uint64{"removed": m.scrapes.Add(1)},
		},
	}}
}

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
	s.busy = s.begin.Add(2 * time.Second)
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
	exact  bool // no others
	// when is the time of the query; that of when all is quiet unless it is said.
	when time.Time
	// window is in the place of the query's own; none to leave it.
	window string
}

// only is exactly so, when all is quiet.
func only(values map[string]float64) wanted { return wanted{values: values, exact: true} }

// about is about so, at the end of the steady traffic.
func (s *story) about(values map[string]float64) wanted {
	return wanted{values: values, within: near, when: s.end}
}

// inAll is about so, over the whole story.
func inAll(values map[string]float64) wanted {
	return wanted{values: values, within: near, window: "60s"}
}

// upTo is more than nothing over the whole story, and so much at most.
func upTo(most float64, labels ...string) wanted {
	w := wanted{values: map[string]float64{}, within: 0.999, window: "60s"}
	for _, label := range labels {
		w.values[label] = most / 2
	}
	return w
}

// while is so while plugins run.
func (s *story) while(values map[string]float64) wanted { return wanted{values: values, when: s.busy} }

// one is the value of a query without labels.
func one(value float64) map[string]float64 { return map[string]float64{"": value} }

// slowest is where the slowest of a hundred ADD is: in the bucket of five to ten
// seconds, of which Prometheus knows no more, at 0.96 of the last of four.
const slowest = 5 + 5*0.96

// wantOfCluster is what the queries of the cluster's dashboard have to find.
func (s *story) wantOfCluster() map[string]wanted {
	in, out, db := s.rate("to web"), s.rate("from web"), s.rate("from db")
	inBits, outBits, dbBits := 8*in*s.size("to web"), 8*out*s.size("from web"), 8*db*s.size("from db")
	row := func(pod, network string) string {
		return strings.Join([]string{"net1", s.namespace, network, pod}, " ")
	}
	return map[string]wanted{
		"Attachments/A":            only(one(4)),
		"Agents/A":                 only(one(2)),
		"Received/A":               s.about(one(inBits)),
		"Sent/A":                   s.about(one(outBits + dbBits)),
		"Dropped/A":                s.about(one(s.rate("spoofed"))),
		"Bits by network/A":        s.about(map[string]float64{s.lan: inBits}),
		"Bits by network/B":        s.about(map[string]float64{s.lan: outBits, s.san: dbBits}),
		"Packets by network/A":     s.about(map[string]float64{s.lan: in}),
		"Packets by network/B":     s.about(map[string]float64{s.lan: out, s.san: db}),
		"Attachments by network/A": only(map[string]float64{s.lan: 2, s.san: 1, "elsewhere/wan": 1}),
		"Who uses which network/A": only(s.users()),
		"Top talkers/A":            s.about(map[string]float64{row("web", s.lan): inBits + outBits, row("db", s.san): dbBits}),
		"Most dropped/A":           s.about(map[string]float64{row("web", s.lan): s.rate("spoofed")}),
		"Drops by reason/A":        s.about(map[string]float64{"spoofed_ipv4": s.rate("spoofed"), "vlan_tagged": 0}),
		"Drops by network/A":       s.about(map[string]float64{"egress " + s.lan: s.rate("spoofed")}),
		"ADD that failed/A":        inAll(one(refusals / (refusals + 2.0))),
		"ADD latency/A":            {values: one(0.1), within: 1, window: "60s"},
		"ADD latency/B":            inAll(one(slowest)),
		"ADD latency/C":            inAll(one((slowness + 2*slowness) / (refusals + 2))),
		"ADD by step/A":            inAll(map[string]float64{"execute": (slowness + 2*slowness) / 4}),
		"Requests/A":               inAll(map[string]float64{"0 ADD": 2. / 60, "4 ADD": refusals / 60., "0 CHECK": 0}),
		"Executed plugins/A":       s.while(one(1)),
		"Executed plugins/B":       s.while(one(1)),
		"Nodes at risk/D":          inAll(map[string]float64{"node1": refusals}),
		"Nodes at risk/E":          s.while(map[string]float64{"node1": 1}),
		"Nodes at risk/A":          only(map[string]float64{"node1": 3, "node2": 1}),
		"Nodes at risk/B":          only(map[string]float64{"node1": 0, "node2": 1}),
		"Nodes at risk/C":          only(map[string]float64{"node2": missed}),
		"Nodes at risk/F":          s.about(map[string]float64{"node1": s.rate("spoofed")}),
		"Nodes at risk/G":          {values: map[string]float64{"node1": s.resident()}, within: 0.5},
		"Nodes at risk/H":          only(map[string]float64{"node1": 0, "node2": 1}),
		"Nodes at risk/I":          only(map[string]float64{"node1": 3}), // of db: its MAC, its address, its link-local one
		// Of the pods, two came up after Prometheus.
		"Work of agents/A":                 inAll(map[string]float64{"success promote": 2}),
		"How long it takes/A":              upTo(1, "promote"),
		"Requests to the Kubernetes API/A": s.about(map[string]float64{"200 GET": 2, "409 PATCH": 1}),
		"Answers of the Kubernetes API/A":  {values: map[string]float64{"GET": answering.Seconds(), "PATCH": answering.Seconds()}, within: 1, exact: true},
		"Objects that are watched/A":       only(map[string]float64{"pods": 7, "networks": 2}),
		"Watches that failed/A":            s.about(map[string]float64{"pods": 5}),
		"Kernels without/A":                only(lacking()),
		"A run of a guard/A":               upTo(5e-6, "ingress", "egress"),
		"Guards put right/A":               s.about(map[string]float64{"net1 elsewhere lost removed": 5}),
		"Versions/A":                       {values: map[string]float64{runtime.Version() + " another": 1}},
	}
}

// lacking are the features that this kernel has not, by how many nodes: one agent looks.
func lacking() map[string]float64 {
	lack := map[string]float64{}
	for feature, there := range loader.Features() {
		lack[feature] = 1
		if there {
			lack[feature] = 0
		}
	}
	return lack
}

// resident is the agent's memory as the kernel has it now, in bytes (proc(5), statm).
func (s *story) resident() float64 {
	s.tb.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.agent.pid))
	if err != nil {
		s.tb.Fatal(err)
	}
	var size, pages float64
	if _, err := fmt.Sscan(string(data), &size, &pages); err != nil {
		s.tb.Fatal(err)
	}
	return pages * float64(os.Getpagesize())
}

// users are the attachments, by every label that the dashboard shows.
func (s *story) users() map[string]float64 {
	users := map[string]float64{"node2 net1 elsewhere elsewhere/wan lost": 1}
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
		"Bits/A":                  s.about(one(inBits)),
		"Bits/B":                  s.about(one(outBits)),
		"Packets/A":               s.about(one(in)),
		"Packets/B":               s.about(one(out)),
		"Mean size of a packet/A": s.about(one(s.size("to web"))),
		"Mean size of a packet/B": s.about(one(s.size("from web"))),
		"Bits by protocol/A":      s.about(map[string]float64{"udp": inBits + outBits}),
		"Packets by class/A":      s.about(map[string]float64{"unicast ingress": in, "unicast egress": out}),
		"Mean size by protocol/A": s.about(map[string]float64{"udp": udpMean}),
		"Drops/A":                 s.about(map[string]float64{"egress spoofed_ipv4": s.rate("spoofed"), "egress vlan_tagged": 0}),
		"Drops in all/A":          only(map[string]float64{"egress spoofed_ipv4": s.count("spoofed"), "egress vlan_tagged": s.count("tagged")}),
		"Drops in all/B":          only(droppedBytes),
		"Drops that were counted only/A": inAll(map[string]float64{
			"limited": float64(status.Samples.Limited-s.lost) / 60,
		}),
		"Packets by rule/A": s.about(map[string]float64{"allow egress datagrams": out}),
		"Rules in all/A":    only(map[string]float64{"allow egress datagrams": s.count("from web")}),
		"Rules in all/B":    only(map[string]float64{"allow egress datagrams": s.count("from web") * s.size("from web")}),
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
			w, ok := want[name]
			if !ok {
				t.Errorf("%s: nobody says what %s has to find", b.UID, name)
				continue
			}
			delete(want, name)
			s.checkQuery(t, name, filled(q.Expr, variables, cmp.Or(w.window, "5s")), q.Instant, w)
		}
	}
	for name := range want {
		t.Errorf("%s has no query %s", b.UID, name)
	}
}

func (s *story) checkQuery(t *testing.T, name, expr string, instant bool, want wanted) {
	t.Helper()
	when := want.when
	if when.IsZero() {
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
		if !ok || math.IsNaN(found) || math.Abs(found-value) > want.within*math.Abs(value) {
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
	s.Stop()
	s.await("the agent to be down for Prometheus", func() bool {
		return len(s.prometheus.at(`up{job="weir", instance="node1"} == 0`, time.Now())) == 1
	})
	down := time.Now()
	const window = 300 // seconds, of the rates
	inFive := func(values map[string]float64) wanted { return wanted{values: values, within: near} }
	drop := func(reason string) string {
		return strings.Join([]string{"egress", "net1", s.namespace, s.lan, "web", reason}, " ")
	}
	tests := map[string]wanted{
		"network_name:weir_attachment_receive_bytes:rate5m": inFive(map[string]float64{s.lan: s.count("to web") * s.size("to web") / window}),
		"network_name:weir_attachment_transmit_bytes:rate5m": inFive(map[string]float64{
			s.lan: s.count("from web") * s.size("from web") / window, s.san: s.count("from db") * s.size("from db") / window}),
		"network_name_reason:weir_attachment_dropped_packets:rate5m": inFive(map[string]float64{
			s.lan + " spoofed_ipv4": s.count("spoofed") / window, s.lan + " vlan_tagged": s.count("tagged") / window}),
		"instance:weir_cni_add_failures:ratio_rate5m":       inFive(one(refusals / (refusals + 2.0))),
		"instance:weir_cni_add_duration_seconds:p99_rate5m": inFive(one(slowest)),
		"WeirAgentDown":             {values: one(0), exact: true, when: down},
		"WeirAgentsAbsent":          {values: one(1), exact: true, when: s.begin.Add(-time.Hour)},
		"WeirAgentVersionsDiffer":   only(one(2)),
		"WeirAttachmentsUnreadable": only(one(1)),
		"WeirPodsWithoutNetworks":   only(one(missed)),
		"WeirAddFailing":            {values: one(refusals / (refusals + 2.0)), within: near, exact: true},
		"WeirAddSlow":               {values: one(slowest), within: near, exact: true},
		"WeirPluginsWaiting":        {values: one(1), exact: true, when: s.busy, window: "2s"},
		"WeirGuardRestored":         {values: map[string]float64{"net1 elsewhere elsewhere/wan lost removed": s.later.Sub(s.began).Seconds()}, within: near, exact: true},
		"WeirSpoofing":              {values: map[string]float64{drop("spoofed_ipv4"): s.count("spoofed")}, within: near},
		"WeirDropsHigh":             {values: map[string]float64{drop("vlan_tagged"): s.count("tagged") / window}, within: near, exact: true},
	}
	for _, r := range all {
		if r.Health != "ok" {
			t.Errorf("%s is %s: %s", r.Name, r.Health, r.LastError)
		}
		want, ok := tests[r.Name]
		if !ok {
			t.Errorf("nobody says what %s has to find", r.Name)
			continue
		}
		delete(tests, r.Name)
		query, when := r.Query, want.when
		if want.window != "" {
			query = strings.ReplaceAll(query, "[5m]", "["+want.window+"]")
		}
		if when.IsZero() {
			when = s.later
		}
		compare(t, r.Name, values(s.prometheus.at(query, when), target...), want)
	}
	for name := range tests {
		t.Errorf("Prometheus has no rule %s", name)
	}
}
