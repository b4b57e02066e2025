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

// New makes a handler with a registry of its own: the attachments of source, the
// Go runtime, the process, the build of the given version, and what else there is.
func New(source Source, version string, more ...prometheus.Collector) *Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		NewCollector(source),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		buildInfo(version),
	)
	registry.MustRegister(more...)
	return &Handler{promhttp.InstrumentMetricHandler(registry, promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		EnableOpenMetrics:   true,
		MaxRequestsInFlight: scrapesMax,
		Timeout:             scrapeTimeout,
		ErrorHandling:       promhttp.ContinueOnError,
	}))}
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
	ruleLabels       = append(attachmentLabels[:len(attachmentLabels):len(attachmentLabels)], "direction", "rule", "action")
	infoLabels       = append(attachmentLabels[:len(attachmentLabels):len(attachmentLabels)],
		"type", "master", "mode", "mac", "ips", "container_id", "hook")
)

// Collector collects the counters of attachments.
type Collector struct {
	source                        Source
	packets, bytes                map[bpf.Direction]*prometheus.Desc
	allowedPackets, allowedBytes  *prometheus.Desc
	droppedPackets, droppedBytes  *prometheus.Desc
	rulePackets, ruleBytes        *prometheus.Desc
	info, attachments, unreadable *prometheus.Desc
	restored, gone                *prometheus.Desc
}

// NewCollector makes a collector of what source has.
func NewCollector(source Source) *Collector {
	return &Collector{
		source: source,
		packets: map[bpf.Direction]*prometheus.Desc{
			bpf.Ingress: desc("receive_packets_total", "Packets that the pod received on the interface, each segment of a GSO packet by itself.", attachmentLabels),
			bpf.Egress:  desc("transmit_packets_total", "Packets that the pod sent on the interface, each segment of a GSO packet by itself. Dropped ones are not among them.", attachmentLabels),
		},
		bytes: map[bpf.Direction]*prometheus.Desc{
			bpf.Ingress: desc("receive_bytes_total", "Bytes that the pod received on the interface, Ethernet headers included.", attachmentLabels),
			bpf.Egress:  desc("transmit_bytes_total", "Bytes that the pod sent on the interface, Ethernet headers included. Dropped ones are not among them.", attachmentLabels),
		},
		allowedPackets: desc("allowed_packets_total", "Packets that passed, by the pod's direction, by class and by protocol.", shareLabels),
		allowedBytes:   desc("allowed_bytes_total", "Bytes that passed, by the pod's direction, by class and by protocol.", shareLabels),
		droppedPackets: desc("dropped_packets_total", "Packets that the guard dropped, by the pod's direction and by reason.", dropLabels),
		droppedBytes:   desc("dropped_bytes_total", "Bytes that the guard dropped, by the pod's direction and by reason.", dropLabels),
		rulePackets:    desc("rule_packets_total", "Packets on which a rule of the network decided, by the pod's direction, by rule and by its action.", ruleLabels),
		ruleBytes:      desc("rule_bytes_total", "Bytes on which a rule of the network decided, by the pod's direction, by rule and by its action.", ruleLabels),
		info:           desc("info", "A metric with the constant value 1 for each attachment, labelled with what changes slowly.", infoLabels),
		attachments:    prometheus.NewDesc("weir_attachments", "Attachments on this node.", nil, nil),
		restored:       prometheus.NewDesc("weir_guard_restored_total", "Guards that were put right after somebody had tampered with them, by what was wrong.", restoredLabels, nil),
		gone:           prometheus.NewDesc("weir_attachments_without_interface", "Attachments on this node whose interface was deleted, or moved away, inside the pod.", nil, nil),
		unreadable:     prometheus.NewDesc("weir_attachments_unreadable", "Attachments on this node whose counters could not be read.", nil, nil),
	}
}

func desc(name, help string, labels []string) *prometheus.Desc {
	return prometheus.NewDesc("weir_attachment_"+name, help, labels, nil)
}

// Describe names every metric.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []bpf.Direction{bpf.Ingress, bpf.Egress} {
		ch <- c.packets[d]
		ch <- c.bytes[d]
	}
	ch <- c.allowedPackets
	ch <- c.allowedBytes
	ch <- c.droppedPackets
	ch <- c.droppedBytes
	ch <- c.rulePackets
	ch <- c.ruleBytes
	ch <- c.info
	ch <- c.attachments
	ch <- c.unreadable
	ch <- c.restored
	ch <- c.gone
}

// Collect reads the counters of every attachment. One whose counters cannot be
// read has none in this scrape: a gap, never a reset.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	all := newest(c.source.Attachments())
	unreadable, gone := 0, 0
	for i := range all {
		c.collectInfo(ch, &all[i])
		c.collectRestored(ch, &all[i])
		if all[i].Guard != nil && all[i].Guard.Hook == loader.Gone {
			gone++
		}
		switch guard := all[i].Guard; {
		case guard == nil:
		case guard.Err != nil:
			unreadable++
		default:
			c.collectCounters(ch, &all[i])
			c.collectAllowed(ch, &all[i])
			c.collectRules(ch, &all[i])
		}
	}
	ch <- gauge(c.attachments, float64(len(all)))
	ch <- gauge(c.unreadable, float64(unreadable))
	ch <- gauge(c.gone, float64(gone))
}

func (c *Collector) collectRestored(ch chan<- prometheus.Metric, a *inspect.Attachment) {
	if a.Guard == nil {
		return
	}
	for reason, times := range a.Guard.Restored {
		ch <- counter(c.restored, times, a, append(labelsOf(a), reason))
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

func (c *Collector) collectCounters(ch chan<- prometheus.Metric, a *inspect.Attachment) {
	labels := labelsOf(a)
	for _, d := range []bpf.Direction{bpf.Ingress, bpf.Egress} {
		for v := range bpf.Verdicts() {
			n := a.Guard.Counters.Of(d, v)
			switch {
			case v == bpf.Allowed:
				ch <- counter(c.packets[d], n.Packets, a, labels)
				ch <- counter(c.bytes[d], n.Bytes, a, labels)
			case n.Packets > 0:
				ch <- counter(c.droppedPackets, n.Packets, a, append(labels, d.String(), v.Reason()))
				ch <- counter(c.droppedBytes, n.Bytes, a, append(labels, d.String(), v.Reason()))
			}
		}
	}
}

// collectAllowed shows what passed, where there was any.
func (c *Collector) collectAllowed(ch chan<- prometheus.Metric, a *inspect.Attachment) {
	labels := labelsOf(a)
	for _, d := range []bpf.Direction{bpf.Ingress, bpf.Egress} {
		for class := range bpf.Classes() {
			for family := range bpf.Families() {
				if n := a.Guard.Counters.Allowed[d][class][family]; n.Packets > 0 {
					ch <- counter(c.allowedPackets, n.Packets, a, append(labels, d.String(), class.Name(), family.Name()))
					ch <- counter(c.allowedBytes, n.Bytes, a, append(labels, d.String(), class.Name(), family.Name()))
				}
			}
		}
	}
}

// collectRules shows every rule, also one that has decided nothing yet.
func (c *Collector) collectRules(ch chan<- prometheus.Metric, a *inspect.Attachment) {
	labels := labelsOf(a)
	for i, n := range a.Guard.Hits[:min(len(a.Guard.Hits), len(a.Rules))] {
		rule := slices.Concat(labels, []string{a.Rules[i].Direction, a.Rules[i].Rule, a.Rules[i].Action})
		ch <- counter(c.rulePackets, n.Packets, a, rule)
		ch <- counter(c.ruleBytes, n.Bytes, a, rule)
	}
}

// counter bears the birth of the attachment, so that a counter that is first seen
// above zero is known to have begun at zero.
func counter(d *prometheus.Desc, value uint64, a *inspect.Attachment, labels []string) prometheus.Metric {
	return prometheus.MustNewConstMetricWithCreatedTimestamp(d, prometheus.CounterValue, float64(value), a.Created, labels...)
}

func (c *Collector) collectInfo(ch chan<- prometheus.Metric, a *inspect.Attachment) {
	hook := "none"
	if a.Guard != nil {
		hook = string(a.Guard.Hook)
	}
	labels := append(labelsOf(a), a.Type, a.Master, a.Mode, a.MAC, ipsOf(a), a.ContainerID, hook)
	ch <- gauge(c.info, 1, labels...)
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
