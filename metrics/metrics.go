// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"cmp"
	"net/http"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/inspect"
	"github.com/weir-cni/weir/loader"
)

// Source is where the attachments and their counters come from.
type Source interface {
	Attachments() []inspect.Attachment
}

// Handler serves the metrics.
type Handler struct {
	http.Handler
}

const (
	scrapesMax    = 2
	scrapeTimeout = 10 * time.Second
)

// New makes a handler with a registry of its own: the attachments of source, which are on a
// node, the Go runtime, the process, the build of the given version, and what else there is.
func New(source Source, node, version string, more ...prometheus.Collector) *Handler {
	attachments, others, collector := prometheus.NewRegistry(), prometheus.NewRegistry(), NewCollector(source, node)
	attachments.MustRegister(collector)
	others.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		buildInfo(version),
	)
	others.MustRegister(more...)
	whole := promhttp.HandlerFor(prometheus.Gatherers{attachments, others}, promhttp.HandlerOpts{
		EnableOpenMetrics: true, ErrorHandling: promhttp.ContinueOnError,
	})
	series := &seriesHandler{collector: collector, others: others, whole: whole, running: make(chan struct{}, scrapesMax)}
	return &Handler{promhttp.InstrumentMetricHandler(others, http.TimeoutHandler(series, scrapeTimeout, "Exceeded configured timeout.\n"))}
}

// Missed counts the pods of a node that run without the networks of their annotation.
func Missed(count func() int) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "weir_pods_without_networks",
		Help: "Pods of this node that run without the networks of their annotation, as they came up while weir was not in place.",
	}, func() float64 { return float64(count()) })
}

// Segments counts what the members of each segment of a node are known by.
func Segments(sizes func() map[string]int) prometheus.Collector {
	return &segmentCollector{sizes, prometheus.NewDesc("weir_segment_addresses",
		"Addresses and MACs of the isolated and community members in the segment's table on this node.", []string{"segment"}, nil)}
}

// segmentCollector collects the sizes of segments.
type segmentCollector struct {
	sizes func() map[string]int
	desc  *prometheus.Desc
}

// Describe names the metric.
func (c *segmentCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

// Collect reads the sizes.
func (c *segmentCollector) Collect(ch chan<- prometheus.Metric) {
	for segment, size := range c.sizes() {
		ch <- gauge(c.desc, float64(size), segment)
	}
}

func buildInfo(version string) prometheus.Collector {
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "weir_build_info",
		Help: "A metric with the constant value 1, labelled with the version of the agent and of Go.",
	}, []string{"version", "goversion"})
	info.WithLabelValues(version, runtime.Version()).Set(1)
	return info
}

var (
	attachmentLabels = []string{"namespace", "pod", "interface", "network_name"}
	dropLabels       = append(attachmentLabels[:len(attachmentLabels):len(attachmentLabels)], "direction", "reason")
	restoredLabels   = append(attachmentLabels[:len(attachmentLabels):len(attachmentLabels)], "reason")
	shareLabels      = append(attachmentLabels[:len(attachmentLabels):len(attachmentLabels)], "direction", "class", "protocol")
	programLabels    = append(attachmentLabels[:len(attachmentLabels):len(attachmentLabels)], "direction")
	lostLabels       = append(attachmentLabels[:len(attachmentLabels):len(attachmentLabels)], "cause")
	ruleLabels       = append(attachmentLabels[:len(attachmentLabels):len(attachmentLabels)], "direction", "rule", "action")
	infoLabels       = append(attachmentLabels[:len(attachmentLabels):len(attachmentLabels)],
		"type", "master", "mode", "mac", "ips", "container_id", "hook", "node")
)

// Collector collects the counters of attachments.
type Collector struct {
	source                        Source
	node                          string
	packets, bytes                [2]*metric // by direction
	allowedPackets, allowedBytes  *metric
	droppedPackets, droppedBytes  *metric
	dropsLost                     *metric
	rulePackets, ruleBytes        *metric
	info, attachments, unreadable *metric
	restored, gone                *metric
	runs, runSeconds              *metric
	names                         names
}

// names are the labels of what is counted, which are asked for many thousand times.
type names struct {
	reasons, classes, families []string
}

func namesOf() names {
	var n names
	for v := range bpf.Verdicts() {
		n.reasons = append(n.reasons, v.Reason())
	}
	for class := range bpf.Classes() {
		n.classes = append(n.classes, class.Name())
	}
	for family := range bpf.Families() {
		n.families = append(n.families, family.Name())
	}
	return n
}

// NewCollector makes a collector of what source has, on a node of that name.
func NewCollector(source Source, node string) *Collector {
	return &Collector{
		source: source,
		node:   node,
		names:  namesOf(),
		packets: [2]*metric{
			bpf.Ingress: counters("weir_attachment_receive_packets_total", "Packets that the pod received on the interface, each segment of a GSO packet by itself.", attachmentLabels),
			bpf.Egress:  counters("weir_attachment_transmit_packets_total", "Packets that the pod sent on the interface, each segment of a GSO packet by itself. Dropped ones are not among them.", attachmentLabels),
		},
		bytes: [2]*metric{
			bpf.Ingress: counters("weir_attachment_receive_bytes_total", "Bytes that the pod received on the interface, Ethernet headers included.", attachmentLabels),
			bpf.Egress:  counters("weir_attachment_transmit_bytes_total", "Bytes that the pod sent on the interface, Ethernet headers included. Dropped ones are not among them.", attachmentLabels),
		},
		allowedPackets: counters("weir_attachment_allowed_packets_total", "Packets that passed, by the pod's direction, by class and by protocol.", shareLabels),
		allowedBytes:   counters("weir_attachment_allowed_bytes_total", "Bytes that passed, by the pod's direction, by class and by protocol.", shareLabels),
		droppedPackets: counters("weir_attachment_dropped_packets_total", "Packets that the guard dropped, by the pod's direction and by reason.", dropLabels),
		droppedBytes:   counters("weir_attachment_dropped_bytes_total", "Bytes that the guard dropped, by the pod's direction and by reason.", dropLabels),
		dropsLost:      counters("weir_attachment_drops_lost_total", "Drops of which nothing but the count is known, as there were too many at a time (limited) or nobody read them in time (ring_full).", lostLabels),
		rulePackets:    counters("weir_attachment_rule_packets_total", "Packets on which a rule of the network decided, by the pod's direction, by rule and by its action.", ruleLabels),
		ruleBytes:      counters("weir_attachment_rule_bytes_total", "Bytes on which a rule of the network decided, by the pod's direction, by rule and by its action.", ruleLabels),
		info:           gauges("weir_attachment_info", "A metric with the constant value 1 for each attachment, labelled with what changes slowly.", infoLabels),
		attachments:    gauges("weir_attachments", "Attachments on this node.", nil),
		restored:       counters("weir_guard_restored_total", "Guards that were put right after somebody had tampered with them, by what was wrong.", restoredLabels),
		runs: counters("weir_attachment_program_runs_total",
			"How often the guard's program has run since it was loaded. Only while the kernel's statistics of programs are on.", programLabels),
		runSeconds: counters("weir_attachment_program_run_seconds_total",
			"How long the guard's program has run since it was loaded. Only while the kernel's statistics of programs are on.", programLabels),
		gone:       gauges("weir_attachments_without_interface", "Attachments on this node whose interface was deleted, or moved away, inside the pod.", nil),
		unreadable: gauges("weir_attachments_unreadable", "Attachments on this node whose counters could not be read.", nil),
	}
}

// all are those that there are, in the order of their names.
func (c *Collector) all() []*metric {
	all := []*metric{
		c.packets[bpf.Ingress], c.packets[bpf.Egress], c.bytes[bpf.Ingress], c.bytes[bpf.Egress], c.allowedPackets, c.allowedBytes,
		c.droppedPackets, c.droppedBytes, c.rulePackets, c.ruleBytes, c.info, c.attachments, c.unreadable, c.restored, c.gone,
		c.runs, c.runSeconds, c.dropsLost,
	}
	slices.SortFunc(all, func(a, b *metric) int { return cmp.Compare(a.name, b.name) })
	return all
}

// Describe names every metric.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range c.all() {
		ch <- f.desc
	}
}

// Collect reads the counters of every attachment.
func (c *Collector) Collect(ch chan<- prometheus.Metric) { c.walk(metricSink(ch)) }

// walk reads the counters of every attachment. One whose counters cannot be
// read has none in this scrape: a gap, never a reset.
func (c *Collector) walk(to sink) {
	all := newest(c.source.Attachments())
	unreadable, gone := 0, 0
	for i := range all {
		to.begin(&all[i])
		c.sendInfo(to, &all[i])
		c.sendRestored(to, &all[i])
		if all[i].Guard != nil && all[i].Guard.Hook == loader.Gone {
			gone++
		}
		switch guard := all[i].Guard; {
		case guard == nil:
		case guard.Err != nil:
			unreadable++
		default:
			c.sendCounters(to, &all[i])
			c.sendAllowed(to, &all[i])
			c.sendLost(to, &all[i])
			c.sendRules(to, &all[i])
			c.sendRuns(to, &all[i])
		}
	}
	to.node(c.attachments, len(all))
	to.node(c.unreadable, unreadable)
	to.node(c.gone, gone)
}

func (c *Collector) sendRestored(to sink, a *inspect.Attachment) {
	if a.Guard == nil {
		return
	}
	for reason, times := range a.Guard.Restored {
		to.send(c.restored, a, float64(times), reason)
	}
}

// newest leaves one attachment of each pod and interface: while a runtime
// replaces a sandbox, the old one and the new one bear the same labels.
func newest(all []inspect.Attachment) []inspect.Attachment {
	place := map[[3]string]int{}
	var kept []inspect.Attachment
	for _, a := range all {
		key := [3]string{a.Pod.Namespace, podOf(&a), a.Interface}
		i, twice := place[key]
		switch {
		case !twice:
			place[key] = len(kept)
			kept = append(kept, a)
		case a.Created.After(kept[i].Created):
			kept[i] = a
		}
	}
	return kept
}

// podOf is the pod's name; a container of no pod goes by its ID.
func podOf(a *inspect.Attachment) string {
	return cmp.Or(a.Pod.Name, a.ContainerID)
}

func gauge(d *prometheus.Desc, value float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

func labelsOf(a *inspect.Attachment) []string {
	return []string{a.Pod.Namespace, podOf(a), a.Interface, a.Network}
}

func (c *Collector) sendCounters(to sink, a *inspect.Attachment) {
	for _, d := range []bpf.Direction{bpf.Ingress, bpf.Egress} {
		for v := range bpf.Verdicts() {
			n := a.Guard.Counters.Of(d, v)
			switch {
			case v == bpf.Allowed:
				to.send(c.packets[d], a, float64(n.Packets))
				to.send(c.bytes[d], a, float64(n.Bytes))
			case n.Packets > 0:
				to.send(c.droppedPackets, a, float64(n.Packets), d.String(), c.names.reasons[v])
				to.send(c.droppedBytes, a, float64(n.Bytes), d.String(), c.names.reasons[v])
			}
		}
	}
}

// sendAllowed shows what passed, where there was any.
func (c *Collector) sendAllowed(to sink, a *inspect.Attachment) {
	for _, d := range []bpf.Direction{bpf.Ingress, bpf.Egress} {
		for class := range bpf.Classes() {
			for family := range bpf.Families() {
				if n := a.Guard.Counters.Allowed[d][class][family]; n.Packets > 0 {
					to.send(c.allowedPackets, a, float64(n.Packets), d.String(), c.names.classes[class], c.names.families[family])
					to.send(c.allowedBytes, a, float64(n.Bytes), d.String(), c.names.classes[class], c.names.families[family])
				}
			}
		}
	}
}

// sendLost shows what was not passed on of drops, where there was any.
func (c *Collector) sendLost(to sink, a *inspect.Attachment) {
	for cause, n := range map[string]uint64{"limited": a.Guard.Samples.Limited, "ring_full": a.Guard.Samples.RingFull} {
		if n > 0 {
			to.send(c.dropsLost, a, float64(n), cause)
		}
	}
}

// sendRules shows every rule, also one that has decided nothing yet.
func (c *Collector) sendRules(to sink, a *inspect.Attachment) {
	for i, n := range a.Guard.Hits[:min(len(a.Guard.Hits), len(a.Rules))] {
		r := &a.Rules[i]
		to.send(c.rulePackets, a, float64(n.Packets), r.Direction, r.Rule, r.Action)
		to.send(c.ruleBytes, a, float64(n.Bytes), r.Direction, r.Rule, r.Action)
	}
}

// sendRuns shows what the kernel has measured of the programs, where it does.
func (c *Collector) sendRuns(to sink, a *inspect.Attachment) {
	if a.Guard.Runs == nil {
		return
	}
	for d, r := range a.Guard.Runs {
		to.send(c.runs, a, float64(r.Count), bpf.Direction(d).String())
		to.send(c.runSeconds, a, r.Time.Seconds(), bpf.Direction(d).String())
	}
}

func (c *Collector) sendInfo(to sink, a *inspect.Attachment) {
	hook := "none"
	if a.Guard != nil {
		hook = string(a.Guard.Hook)
	}
	to.send(c.info, a, 1, a.Type, a.Master, a.Mode, a.MAC, ipsOf(a), a.ContainerID, hook, c.node)
}

func ipsOf(a *inspect.Attachment) string {
	var text []byte
	for i, prefix := range a.Addresses {
		if i > 0 {
			text = append(text, ',')
		}
		text = prefix.AppendTo(text)
	}
	return string(text)
}
