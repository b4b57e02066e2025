// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Requests measures what an agent asks of the Kubernetes API. Its methods may be called at the
// same time.
type Requests struct {
	durations *prometheus.HistogramVec
	results   *prometheus.CounterVec
}

// verbs are those of the Kubernetes API's HTTP; others are not among the labels.
var verbs = []string{"GET", "WATCH", "POST", "PUT", "PATCH", "DELETE"}

// NewRequests makes a measure that has seen nothing.
func NewRequests() *Requests {
	return &Requests{
		durations: histogram("weir_kubernetes_request_duration_seconds", "How long the answer of the Kubernetes API took to begin, by verb.", "verb"),
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_kubernetes_requests_total",
			Help: "Requests to the Kubernetes API, by verb and by the code of the answer, error for none.",
		}, []string{"verb", "code"}),
	}
}

// Done counts a request and how long it took.
func (r *Requests) Done(verb, code string, took time.Duration) {
	if !slices.Contains(verbs, verb) {
		return
	}
	r.durations.WithLabelValues(verb).Observe(took.Seconds())
	r.results.WithLabelValues(verb, code).Inc()
}

// Describe implements prometheus.Collector.
func (r *Requests) Describe(ch chan<- *prometheus.Desc) {
	r.durations.Describe(ch)
	r.results.Describe(ch)
}

// Collect implements prometheus.Collector.
func (r *Requests) Collect(ch chan<- prometheus.Metric) {
	r.durations.Collect(ch)
	r.results.Collect(ch)
}

// Watches shows how many objects of each resource are known, and how often watching it has
// failed.
func Watches(objects, failures func() map[string]int) prometheus.Collector {
	return &watchCollector{
		objects, failures,
		prometheus.NewDesc("weir_informer_objects", "Objects of the Kubernetes API that the agent knows, by resource.", []string{"resource"}, nil),
		prometheus.NewDesc("weir_informer_failures_total", "How often watching a resource of the Kubernetes API has failed and was begun anew.", []string{"resource"}, nil),
	}
}

// watchCollector collects what watches know.
type watchCollector struct {
	objects, failures func() map[string]int
	known, failed     *prometheus.Desc
}

// Describe names the metrics.
func (c *watchCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.known
	ch <- c.failed
}

// Collect asks the watches.
func (c *watchCollector) Collect(ch chan<- prometheus.Metric) {
	for resource, n := range c.objects() {
		ch <- gauge(c.known, float64(n), resource)
	}
	for resource, n := range c.failures() {
		ch <- prometheus.MustNewConstMetric(c.failed, prometheus.CounterValue, float64(n), resource)
	}
}
