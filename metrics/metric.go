// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-cni/weir/inspect"
)

// metric is one with all of its series.
type metric struct {
	name, help string
	kind       prometheus.ValueType
	labels     []string // those of the attachment first; none of a metric of the node
	desc       *prometheus.Desc
}

func counters(name, help string, labels []string) *metric {
	return &metric{name, help, prometheus.CounterValue, labels, prometheus.NewDesc(name, help, labels, nil)}
}

func gauges(name, help string, labels []string) *metric {
	return &metric{name, help, prometheus.GaugeValue, labels, prometheus.NewDesc(name, help, labels, nil)}
}

// sink takes the series of a scrape.
type sink interface {
	// begin says of which attachment the next series are.
	begin(a *inspect.Attachment)
	// send takes a series of an attachment, whose further labels are given.
	send(f *metric, a *inspect.Attachment, value float64, more ...string)
	// node takes a series without labels.
	node(f *metric, value int)
}

// metricSink makes metrics for a registry of all that it takes.
type metricSink chan<- prometheus.Metric

func (s metricSink) begin(*inspect.Attachment) {}

// send gives a counter the birth of the attachment, so that one that is first seen above zero
// is known to have begun at zero.
func (s metricSink) send(f *metric, a *inspect.Attachment, value float64, more ...string) {
	labels := append(labelsOf(a), more...)
	if f.kind == prometheus.CounterValue {
		s <- prometheus.MustNewConstMetricWithCreatedTimestamp(f.desc, f.kind, value, a.Created, labels...)
		return
	}
	s <- prometheus.MustNewConstMetric(f.desc, f.kind, value, labels...)
}

func (s metricSink) node(f *metric, value int) { s <- gauge(f.desc, float64(value)) }
