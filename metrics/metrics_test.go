// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"cmp"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/inspect"
	"github.com/weir-cni/weir/loader"
)

// source is a fixed list of attachments.
type source []inspect.Attachment

func (s source) Attachments() []inspect.Attachment { return s }

var born = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func verdict(reason string) bpf.Verdict {
	for v := range bpf.Verdicts() {
		if v.Reason() == reason {
			return v
		}
	}
	panic("no verdict " + reason)
}

func family(name string) bpf.Family {
	for f := range bpf.Families() {
		if f.Name() == name {
			return f
		}
	}
	panic("no family " + name)
}

func web() inspect.Attachment {
	var counters bpf.Counters
	counters.Verdicts[bpf.Ingress][bpf.Allowed] = bpf.Count{Packets: 10, Bytes: 1000}
	counters.Verdicts[bpf.Egress][bpf.Allowed] = bpf.Count{Packets: 20, Bytes: 2000}
	counters.Verdicts[bpf.Egress][verdict("spoofed_ipv4")] = bpf.Count{Packets: 3, Bytes: 180}
	counters.Allowed[bpf.Ingress][bpf.Broadcast][family("arp")] = bpf.Count{Packets: 4, Bytes: 240}
	return inspect.Attachment{
		Attachment: attachment.Attachment{
			ID:        attachment.ID{ContainerID: "c0ffee", Interface: "net1"},
			Pod:       attachment.Pod{Namespace: "shop", Name: "web"},
			Network:   "shop/lan",
			Type:      "macvlan",
			Master:    "eth1",
			Mode:      "bridge",
			MAC:       "02:00:00:00:00:01",
			Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.8/24"), netip.MustParsePrefix("2001:db8::8/64")},
			Created:   born,
			Rules:     []attachment.Rule{{Direction: "ingress", Rule: "web", Action: "deny"}},
		},
		Guard: &inspect.Guard{
			Hook: loader.TCX, Counters: counters, Restored: map[string]uint64{"removed": 2}, Runs: &[2]loader.Runs{{Count: 15, Time: 1500 * time.Microsecond}, {Count: 23, Time: 2300 * time.Microsecond}},
			Hits: []bpf.Count{{Packets: 2, Bytes: 120}}, Samples: bpf.Samples{Sampled: 2, Limited: 1},
		},
	}
}

const exposition = `
# HELP weir_attachment_allowed_bytes_total Bytes that passed, by the pod's direction, by class and by protocol.
# TYPE weir_attachment_allowed_bytes_total counter
weir_attachment_allowed_bytes_total{class="broadcast",direction="ingress",interface="net1",namespace="shop",network_name="shop/lan",pod="web",protocol="arp"} 240
# HELP weir_attachment_allowed_packets_total Packets that passed, by the pod's direction, by class and by protocol.
# TYPE weir_attachment_allowed_packets_total counter
weir_attachment_allowed_packets_total{class="broadcast",direction="ingress",interface="net1",namespace="shop",network_name="shop/lan",pod="web",protocol="arp"} 4
# HELP weir_attachment_dropped_bytes_total Bytes that the guard dropped, by the pod's direction and by reason.
# TYPE weir_attachment_dropped_bytes_total counter
weir_attachment_dropped_bytes_total{direction="egress",interface="net1",namespace="shop",network_name="shop/lan",pod="web",reason="spoofed_ipv4"} 180
# HELP weir_attachment_dropped_packets_total Packets that the guard dropped, by the pod's direction and by reason.
# TYPE weir_attachment_dropped_packets_total counter
weir_attachment_dropped_packets_total{direction="egress",interface="net1",namespace="shop",network_name="shop/lan",pod="web",reason="spoofed_ipv4"} 3
# HELP weir_attachment_drops_lost_total Drops of which nothing but the count is known, as there were too many at a time (limited) or nobody read them in time (ring_full).
# TYPE weir_attachment_drops_lost_total counter
weir_attachment_drops_lost_total{cause="limited",interface="net1",namespace="shop",network_name="shop/lan",pod="web"} 1
# HELP weir_attachment_info A metric with the constant value 1 for each attachment, labelled with what changes slowly.
# TYPE weir_attachment_info gauge
weir_attachment_info{container_id="c0ffee",hook="tcx",interface="net1",ips="192.0.2.8/24,2001:db8::8/64",mac="02:00:00:00:00:01",master="eth1",mode="bridge",namespace="shop",network_name="shop/lan",node="node1",pod="web",type="macvlan"} 1
# HELP weir_attachment_program_run_seconds_total How long the guard's program has run since it was loaded. Only while the kernel's statistics of programs are on.
# TYPE weir_attachment_program_run_seconds_total counter
weir_attachment_program_run_seconds_total{direction="egress",interface="net1",namespace="shop",network_name="shop/lan",pod="web"} 0.0023
weir_attachment_program_run_seconds_total{direction="ingress",interface="net1",namespace="shop",network_name="shop/lan",pod="web"} 0.0015
# HELP weir_attachment_program_runs_total How often the guard's program has run since it was loaded. Only while the kernel's statistics of programs are on.
# TYPE weir_attachment_program_runs_total counter
weir_attachment_program_runs_total{direction="egress",interface="net1",namespace="shop",network_name="shop/lan",pod="web"} 23
weir_attachment_program_runs_total{direction="ingress",interface="net1",namespace="shop",network_name="shop/lan",pod="web"} 15
# HELP weir_attachment_receive_bytes_total Bytes that the pod received on the interface, Ethernet headers included.
# TYPE weir_attachment_receive_bytes_total counter
weir_attachment_receive_bytes_total{interface="net1",namespace="shop",network_name="shop/lan",pod="web"} 1000
# HELP weir_attachment_receive_packets_total Packets that the pod received on the interface, each segment of a GSO packet by itself.
# TYPE weir_attachment_receive_packets_total counter
weir_attachment_receive_packets_total{interface="net1",namespace="shop",network_name="shop/lan",pod="web"} 10
# HELP weir_attachment_rule_bytes_total Bytes on which a rule of the network decided, by the pod's direction, by rule and by its action.
# TYPE weir_attachment_rule_bytes_total counter
weir_attachment_rule_bytes_total{action="deny",direction="ingress",interface="net1",namespace="shop",network_name="shop/lan",pod="web",rule="web"} 120
# HELP weir_attachment_rule_packets_total Packets on which a rule of the network decided, by the pod's direction, by rule and by its action.
# TYPE weir_attachment_rule_packets_total counter
weir_attachment_rule_packets_total{action="deny",direction="ingress",interface="net1",namespace="shop",network_name="shop/lan",pod="web",rule="web"} 2
# HELP weir_attachment_transmit_bytes_total Bytes that the pod sent on the interface, Ethernet headers included. Dropped ones are not among them.
# TYPE weir_attachment_transmit_bytes_total counter
weir_attachment_transmit_bytes_total{interface="net1",namespace="shop",network_name="shop/lan",pod="web"} 2000
# HELP weir_attachment_transmit_packets_total Packets that the pod sent on the interface, each segment of a GSO packet by itself. Dropped ones are not among them.
# TYPE weir_attachment_transmit_packets_total counter
weir_attachment_transmit_packets_total{interface="net1",namespace="shop",network_name="shop/lan",pod="web"} 20
# HELP weir_attachments Attachments on this node.
# TYPE weir_attachments gauge
weir_attachments 1
# HELP weir_attachments_unreadable Attachments on this node whose counters could not be read.
# TYPE weir_attachments_unreadable gauge
weir_attachments_unreadable 0
# HELP weir_attachments_without_interface Attachments on this node whose interface was deleted, or moved away, inside the pod.
# TYPE weir_attachments_without_interface gauge
weir_attachments_without_interface 0
# HELP weir_guard_restored_total Guards that were put right after somebody had tampered with them, by what was wrong.
# TYPE weir_guard_restored_total counter
weir_guard_restored_total{interface="net1",namespace="shop",network_name="shop/lan",pod="web",reason="removed"} 2
`

func TestExposition(t *testing.T) {
	t.Parallel()
	if err := testutil.CollectAndCompare(NewCollector(source{web()}, "node1"), strings.NewReader(exposition)); err != nil {
		t.Error(err)
	}
}

func TestNamesAndHelpFollowTheConventions(t *testing.T) {
	t.Parallel()
	problems, err := testutil.CollectAndLint(NewCollector(source{web()}, "node1"))
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// Whatever the node has, a scrape succeeds: a registry refuses two series with
// the same labels, and metrics that Describe did not name.
func TestEveryNodeCanBeScraped(t *testing.T) {
	t.Parallel()
	newer, podless, unguarded, unreadable := web(), web(), web(), web()
	newer.ContainerID, newer.Created = "beef", born.Add(time.Minute)
	newer.Guard = &inspect.Guard{Hook: loader.Clsact}
	podless.Pod, podless.ContainerID = attachment.Pod{}, "podless"
	unguarded.Interface, unguarded.Guard = "net2", nil
	unreadable.Interface = "net3"
	unreadable.Guard = &inspect.Guard{Err: errors.New("gone")}
	second := podless
	second.ContainerID = "podless2"
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewCollector(source{web(), newer, podless, second, unguarded, unreadable}, "node1"))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var pod, ifname string
			for _, l := range m.GetLabel() {
				switch l.GetName() {
				case "pod":
					pod = l.GetValue()
				case "interface":
					ifname = l.GetValue()
				}
			}
			got[strings.Join([]string{family.GetName(), pod, ifname}, " ")] = cmp.Or(m.GetCounter().GetValue(), m.GetGauge().GetValue())
		}
	}
	want := map[string]float64{
		"weir_attachment_receive_packets_total web net1":      0, // the newer sandbox's
		"weir_attachment_receive_packets_total podless net1":  10,
		"weir_attachment_receive_packets_total podless2 net1": 10,
		"weir_attachment_info web net2":                       1,
		"weir_attachments  ":                                  5,
		"weir_attachments_unreadable  ":                       1,
	}
	for key, value := range want {
		if g, there := got[key]; !there || g != value {
			t.Errorf("%s: %v (there: %v), want %v", key, g, there, value)
		}
	}
	for _, key := range []string{"weir_attachment_receive_packets_total web net2", "weir_attachment_receive_packets_total web net3"} {
		if _, there := got[key]; there {
			t.Errorf("%s has counters that nobody read", key)
		}
	}
}

func scrape(t *testing.T, accept string) string {
	t.Helper()
	req := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	req.Header.Set("Accept", accept)
	answer := httptest.NewRecorder()
	New(source{web()}, "node1", "v1.2.3").ServeHTTP(answer, req)
	if answer.Code != http.StatusOK {
		t.Fatalf("status %d: %s", answer.Code, answer.Body)
	}
	return answer.Body.String()
}

func TestHandlerServesEverything(t *testing.T) {
	t.Parallel()
	text := scrape(t, "application/openmetrics-text; version=1.0.0")
	for _, want := range []string{
		`weir_build_info{goversion="go`, `version="v1.2.3"`, "go_goroutines ", "process_open_fds ", "promhttp_metric_handler_requests",
		"weir_attachment_receive_packets_total", "# EOF",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
}

// The counters bear the birth of their attachment where the format has room for
// it, in protobuf.
func TestCountersBearTheBirthOfTheirAttachment(t *testing.T) {
	t.Parallel()
	const protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
	decoder := expfmt.NewDecoder(strings.NewReader(scrape(t, protobuf)), expfmt.NewFormat(expfmt.TypeProtoDelim))
	counters := 0
	for {
		var family dto.MetricFamily
		err := decoder.Decode(&family)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if family.GetType() != dto.MetricType_COUNTER || !strings.HasPrefix(family.GetName(), "weir_") {
			continue
		}
		for _, m := range family.GetMetric() {
			counters++
			if got := m.GetCounter().GetCreatedTimestamp().AsTime(); !got.Equal(born) {
				t.Errorf("%s was born %s, want %s", family.GetName(), got, born)
			}
		}
	}
	if counters != 16 {
		t.Errorf("%d counters, want 16", counters)
	}
}

// The text formats say what they are, and neither has series that only tell when
// another was born.
func TestTextFormats(t *testing.T) {
	t.Parallel()
	for _, accept := range []string{"text/plain; version=0.0.4", "application/openmetrics-text; version=1.0.0", ""} {
		if text := scrape(t, accept); strings.Contains(text, "_created") || !strings.Contains(text, "weir_attachments 1") {
			t.Errorf("%q: %s", accept, text)
		}
	}
}

// Collect must send no metric that Describe did not name, of which a pedantic
// registry tells, and Describe must name none that Collect never sends.
func TestDescribeIsComplete(t *testing.T) {
	t.Parallel()
	described := map[string]bool{}
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		NewCollector(source{}, "node1").Describe(descs)
	}()
	for d := range descs {
		described[d.String()] = true
	}
	collected := map[string]bool{}
	sent := make(chan prometheus.Metric)
	go func() {
		defer close(sent)
		NewCollector(source{web()}, "node1").Collect(sent)
	}()
	for m := range sent {
		collected[m.Desc().String()] = true
	}
	if diff := gocmp.Diff(described, collected); diff != "" {
		t.Errorf("(-described +collected):\n%s", diff)
	}
}

// No more scrapes are served at a time than are needed, and one that comes after
// them is served again.
func TestScrapesAtATime(t *testing.T) {
	t.Parallel()
	waiting, release := make(chan struct{}), make(chan struct{})
	handler := New(slow{waiting, release}, "node1", "v1.2.3")
	scrapeStatus := func() int {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		return answer.Code
	}
	codes := make(chan int)
	for range scrapesMax {
		go func() { codes <- scrapeStatus() }()
		<-waiting
	}
	if code := scrapeStatus(); code != http.StatusServiceUnavailable {
		t.Errorf("one too many: status %d", code)
	}
	close(release)
	for range scrapesMax {
		if code := <-codes; code != http.StatusOK {
			t.Errorf("status %d", code)
		}
	}
}

// slow is a source that says when it is asked, and answers when it is let.
type slow struct{ waiting, release chan struct{} }

func (s slow) Attachments() []inspect.Attachment {
	s.waiting <- struct{}{}
	<-s.release
	return nil
}

// row is a row of the table of docs/metrics.md.
var row = regexp.MustCompile("(?m)^\\| `(weir_[a-z_]+)` \\| (counter|histogram|gauge)[^|]*\\|([^|]*)\\|")

// TestDocumentation proves that docs/metrics.md lists the metrics that there are,
// with their labels, and no others.
func TestDocumentation(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, m := range row.FindAllStringSubmatch(string(data), -1) {
		labels := strings.TrimSpace(strings.Replace(m[3], "the same", strings.Join(attachmentLabels, ", "), 1))
		documented[m[1]] = labels
	}
	if len(documented) == 0 {
		t.Fatal("no table in docs/metrics.md")
	}
	registry := prometheus.NewRegistry()
	none := func() int { return 0 }
	operations := NewOperations()
	operations.Step("ADD", "create", time.Millisecond)
	registry.MustRegister(Plugins(none, none)...)
	requests, work := NewRequests(), NewWork()
	requests.Done("GET", "200", time.Millisecond)
	pods := func() map[string]int { return map[string]int{"pods": 7} }
	registry.MustRegister(requests, work, Watches(pods, pods), Features(map[string]bool{"tcx": true}))
	registry.MustRegister(NewCollector(source{web()}, "node1"), buildInfo("x"), Missed(none), operations,
		Segments(func() map[string]int { return map[string]int{"default/lan": 3} }))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	exported := map[string]string{}
	for _, family := range families {
		var labels []string
		for _, l := range family.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		exported[family.GetName()] = sorted(labels)
	}
	for name, labels := range documented {
		documented[name] = sorted(strings.FieldsFunc(labels, func(r rune) bool { return r == ',' || r == ' ' }))
	}
	if diff := gocmp.Diff(exported, documented); diff != "" {
		t.Errorf("(-exported +documented):\n%s", diff)
	}
}

func sorted(labels []string) string {
	slices.Sort(labels)
	return strings.Join(labels, ",")
}

func TestEveryVerdictIsDocumented(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../docs/guard.md")
	if err != nil {
		t.Fatal(err)
	}
	for v := range bpf.Verdicts() {
		if !strings.Contains(string(data), "`"+v.Reason()+"`") {
			t.Errorf("docs/guard.md does not name %s", v.Reason())
		}
	}
}

func BenchmarkCollect(b *testing.B) {
	var many source
	for i := range 1000 {
		a := web()
		a.Pod.Name = "web-" + string(rune('a'+i%26)) + strings.Repeat("x", i/26)
		many = append(many, a)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(NewCollector(many, "node1"))
	for b.Loop() {
		if _, err := registry.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}
