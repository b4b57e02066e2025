// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Work measures what an agent does of its own accord, beside the requests of the runtime. Its
// methods may be called at the same time.
type Work struct {
	durations *prometheus.HistogramVec
	results   *prometheus.CounterVec
}

// The kinds of work, which are all that there are.
const (
	// Adopt takes over the guard that an earlier agent made, and Discard undoes a request that
	// it has not finished.
	Adopt   = "adopt"
	Discard = "discard"
	// Replace puts newer or other programs into a guard, Promote moves it to links.
	Replace = "replace"
	Promote = "promote"
	// FollowNetwork and FollowPod are reconciliations with what a network or pod says now.
	FollowNetwork = "follow_network"
	FollowPod     = "follow_pod"
)

// NewWork makes a measure that has seen nothing.
func NewWork() *Work {
	w := &Work{
		durations: histogram("weir_agent_work_duration_seconds", "How long the agent took for what it does of its own accord, by what that is.", "work"),
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_agent_work_total",
			Help: "What the agent did of its own accord, by what that is and whether it came to an error.",
		}, []string{"work", "result"}),
	}
	for _, work := range []string{Adopt, Discard, Replace, Promote, FollowNetwork, FollowPod} {
		w.durations.WithLabelValues(work)
		w.results.WithLabelValues(work, resultOf(nil))
	}
	return w
}

// Begin begins a work; what it returns is to be called with its end.
func (w *Work) Begin(work string) (done func(err error)) {
	began := time.Now()
	return func(err error) {
		w.durations.WithLabelValues(work).Observe(time.Since(began).Seconds())
		w.results.WithLabelValues(work, resultOf(err)).Inc()
	}
}

func resultOf(err error) string {
	if err != nil {
		return "error"
	}
	return "success"
}

// Describe implements prometheus.Collector.
func (w *Work) Describe(ch chan<- *prometheus.Desc) {
	w.durations.Describe(ch)
	w.results.Describe(ch)
}

// Collect implements prometheus.Collector.
func (w *Work) Collect(ch chan<- prometheus.Metric) {
	w.durations.Collect(ch)
	w.results.Collect(ch)
}

// Features shows which features the kernel has.
func Features(has map[string]bool) prometheus.Collector {
	features := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "weir_kernel_feature",
		Help: "Whether the kernel has a feature (1) or not (0) that weir is better with.",
	}, []string{"feature"})
	for feature, there := range has {
		value := 0.
		if there {
			value = 1
		}
		features.WithLabelValues(feature).Set(value)
	}
	return features
}
