// SPDX-License-Identifier: Apache-2.0

// Package metrics exports the counters of attachments to Prometheus.
//
// The counters are read from the kernel at each scrape, so they survive the
// agent. Directions are the pod's: receive is what it received, as in cAdvisor,
// and the labels namespace, pod and interface are cAdvisor's, so that both join.
package metrics
