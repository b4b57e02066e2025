// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Operations measures what the runtime asks for: how long each request took, each of its
// steps, and what came of it. Its methods may be called at the same time.
type Operations struct {
	durations, steps *prometheus.HistogramVec
	results          *prometheus.CounterVec
}

// Buckets in seconds: native types take milliseconds, executed plugins up to minutes.
var operationBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120}

// Native histograms have buckets 10% apart, so many at most (Prometheus: native histograms).
const (
	nativeFactor     = 1.1
	nativeBuckets    = 100
	nativeResetAfter = time.Hour
)

// commands are those of the CNI specification 1.1.0 that an agent carries out. What else a
// peer writes is not among the labels, which would have no bound.
var commands = []string{"ADD", "DEL", "CHECK", "GC", "STATUS"}

// codeMax is the greatest CNI error code with a series of its own: those of the
// specification (below 100), and weir's. Executed plugins have any others.
const codeMax = 100

// NewOperations makes a measure that has seen nothing.
func NewOperations() *Operations {
	o := &Operations{
		durations: histogram("weir_cni_operation_duration_seconds", "How long requests of the container runtime took, by CNI command.", "command"),
		steps: histogram("weir_cni_step_duration_seconds",
			"How long the steps of requests took, each network's by itself, by CNI command.", "command", "step"),
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_cni_operations_total",
			Help: "Requests of the container runtime, by CNI command and the code of their error, 0 for none.",
		}, []string{"command", "code"}),
	}
	for _, command := range commands {
		o.durations.WithLabelValues(command)
		o.results.WithLabelValues(command, "0")
	}
	return o
}

func histogram(name, help string, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: operationBuckets,
		NativeHistogramBucketFactor:     nativeFactor,
		NativeHistogramMaxBucketNumber:  nativeBuckets,
		NativeHistogramMinResetDuration: nativeResetAfter,
	}, labels)
}

// Done counts a request and how long it took. The code is that of its error, 0 for none.
func (o *Operations) Done(command string, code uint, took time.Duration) {
	if !slices.Contains(commands, command) {
		return
	}
	o.durations.WithLabelValues(command).Observe(took.Seconds())
	o.results.WithLabelValues(command, codeLabel(code)).Inc()
}

func codeLabel(code uint) string {
	if code > codeMax {
		return "other"
	}
	return strconv.FormatUint(uint64(code), 10)
}

// Step tells how long a step of a request took.
func (o *Operations) Step(command, step string, took time.Duration) {
	o.steps.WithLabelValues(command, step).Observe(took.Seconds())
}

// Describe implements prometheus.Collector.
func (o *Operations) Describe(ch chan<- *prometheus.Desc) {
	o.durations.Describe(ch)
	o.steps.Describe(ch)
	o.results.Describe(ch)
}

// Collect implements prometheus.Collector.
func (o *Operations) Collect(ch chan<- prometheus.Metric) {
	o.durations.Collect(ch)
	o.steps.Collect(ch)
	o.results.Collect(ch)
}

// Plugins shows how many executed plugins run, and how many wait for their turn.
func Plugins(running, waiting func() int) []prometheus.Collector {
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weir_plugins_running", Help: "Executed CNI plugins that run at this moment.",
		}, func() float64 { return float64(running()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weir_plugins_waiting", Help: "Executed CNI plugins that wait for others to end.",
		}, func() float64 { return float64(waiting()) }),
	}
}
