// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"

	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/units"
)

// clusterDashboard shows a cluster and its networks.
func clusterDashboard() *dashboard.DashboardBuilder {
	d := frame("weir: cluster and networks", clusterUID,
		"Who uses which network and how much, what is dropped and why, how long ADD takes, which nodes are at risk.").
		Link(wayTo("Attachment", attachmentUID))
	for _, add := range []func(*dashboard.DashboardBuilder) *dashboard.DashboardBuilder{
		clusterNow, networks, talkers, drops, requests, agents, nodes,
	} {
		d = add(d)
	}
	return d
}

func clusterNow(d *dashboard.DashboardBuilder) *dashboard.DashboardBuilder {
	return d.WithRow(dashboard.NewRowBuilder("Now")).
		WithPanel(value("Attachments", "Secondary interfaces on all nodes.", units.Short,
			`sum(weir_attachments{$agents})`, steps(received))).
		WithPanel(value("Agents", "Agents that were scraped. Fewer than nodes: see the alert WeirAgentDown.", units.Short,
			`count(weir_build_info{$agents})`, steps(bad, from(1, good)))).
		WithPanel(value("Received", "What pods received on secondary interfaces, Ethernet headers included.", units.BitsPerSecondSI,
			`8 * sum(rate(weir_attachment_receive_bytes_total{$attachments}[$__rate_interval]))`, steps(received))).
		WithPanel(value("Sent", "What pods sent on secondary interfaces and the guard let pass.", units.BitsPerSecondSI,
			`8 * sum(rate(weir_attachment_transmit_bytes_total{$attachments}[$__rate_interval]))`, steps(sent))).
		WithPanel(value("Dropped", "Packets that the guard dropped.", units.PacketsPerSecond,
			`sum(rate(weir_attachment_dropped_packets_total{$attachments}[$__rate_interval])) or vector(0)`,
			steps(good, from(1, warning), from(100, bad)))).
		WithPanel(value("ADD that failed", "Of the time shown, the part of pods' ADD that ended in an error.", units.PercentUnit,
			`(sum(increase(weir_cni_operations_total{$agents, command="ADD", code!="0"}[$__range])) or vector(0)) / sum(increase(weir_cni_operations_total{$agents, command="ADD"}[$__range]))`,
			steps(good, from(0.01, warning), from(0.1, bad))))
}

func networks(d *dashboard.DashboardBuilder) *dashboard.DashboardBuilder {
	pod, network := rowLinks()
	columns := kept("network_name", "namespace", "pod", "interface", "ips", "mac", "type", "mode", "master", "instance")
	return d.WithRow(dashboard.NewRowBuilder("Networks")).
		WithPanel(bothWays("Bits by network", "What pods received (above) and sent (below), by network.", units.BitsPerSecondSI, "{{network_name}}",
			`8 * sum by (network_name) (rate(weir_attachment_receive_bytes_total{$attachments}[$__rate_interval]))`,
			`8 * sum by (network_name) (rate(weir_attachment_transmit_bytes_total{$attachments}[$__rate_interval]))`)).
		WithPanel(bothWays("Packets by network", "What pods received (above) and sent (below), by network. Each segment of a GSO packet counts.",
			units.PacketsPerSecond, "{{network_name}}",
			`sum by (network_name) (rate(weir_attachment_receive_packets_total{$attachments}[$__rate_interval]))`,
			`sum by (network_name) (rate(weir_attachment_transmit_packets_total{$attachments}[$__rate_interval]))`)).
		WithPanel(bars("Attachments by network", "How many attachments each network has.", units.Short,
			`sort_desc(sum by (network_name) (weir_attachment_info{$attachments}))`, "{{network_name}}")).
		WithPanel(rows("Who uses which network", "Every attachment. A pod leads to its attachment's dashboard, a network to this one with that network alone.",
			append(columns, column{field: "Value", title: "attachments", unit: units.Short}), "network_name",
			now("A", `sum by (network_name, namespace, pod, interface, ips, mac, type, mode, master, instance) (weir_attachment_info{$attachments})`)).
			Span(full-third).OverrideByName("pod", pod).OverrideByName("network_name", network).
			OverrideByName("attachments", []dashboard.DynamicConfigValue{{Id: "custom.hidden", Value: true}}))
}

func talkers(d *dashboard.DashboardBuilder) *dashboard.DashboardBuilder {
	return d.WithRow(dashboard.NewRowBuilder("Top ten")).
		WithPanel(top("Top talkers", "The attachments with the most traffic, both directions together.", "traffic", units.BitsPerSecondSI,
			`topk(10, 8 * sum by (namespace, pod, interface, network_name) (rate(weir_attachment_receive_bytes_total{$attachments}[$__rate_interval]) + rate(weir_attachment_transmit_bytes_total{$attachments}[$__rate_interval])))`)).
		WithPanel(top("Most dropped", "The attachments with the most drops.", "dropped", units.PacketsPerSecond,
			`topk(10, sum by (namespace, pod, interface, network_name) (rate(weir_attachment_dropped_packets_total{$attachments}[$__rate_interval])) > 0)`))
}

// top is a table of the attachments with the most of something.
func top(title, description, name, unit, expr string) *table.PanelBuilder {
	pod, network := rowLinks()
	columns := append(kept("namespace", "pod", "interface", "network_name"), column{field: "Value", title: name, unit: unit})
	return rows(title, description, columns, name, now("A", expr)).
		OverrideByName("pod", pod).OverrideByName("network_name", network)
}

func drops(d *dashboard.DashboardBuilder) *dashboard.DashboardBuilder {
	return d.WithRow(dashboard.NewRowBuilder("Drops")).
		WithPanel(stacked("Drops by reason", "Packets that the guard dropped; docs/guard.md says what each reason is.", units.PacketsPerSecond,
			over("A", `sum by (reason) (rate(weir_attachment_dropped_packets_total{$attachments}[$__rate_interval]))`, "{{reason}}"))).
		WithPanel(stacked("Drops by network", "Packets that the guard dropped, by network and by the pod's direction.", units.PacketsPerSecond,
			over("A", `sum by (network_name, direction) (rate(weir_attachment_dropped_packets_total{$attachments}[$__rate_interval]))`, "{{network_name}} {{direction}}")))
}

func requests(d *dashboard.DashboardBuilder) *dashboard.DashboardBuilder {
	return d.WithRow(dashboard.NewRowBuilder("Requests of the container runtime")).
		WithPanel(series("ADD latency", "How long the runtime waits for a pod's networks, all of them together.", units.Seconds,
			over("A", `histogram_quantile(0.5, sum by (le) (rate(weir_cni_operation_duration_seconds_bucket{$agents, command="ADD"}[$__rate_interval])))`, "half of them"),
			over("B", `histogram_quantile(0.99, sum by (le) (rate(weir_cni_operation_duration_seconds_bucket{$agents, command="ADD"}[$__rate_interval])))`, "99 %"),
			over("C", `sum(rate(weir_cni_operation_duration_seconds_sum{$agents, command="ADD"}[$__rate_interval])) / sum(rate(weir_cni_operation_duration_seconds_count{$agents, command="ADD"}[$__rate_interval]))`, "mean")).
			Min(0).Thresholds(steps(good, from(5, bad)))).
		WithPanel(stacked("ADD by step", "How much of a second each step of ADD takes in the mean; a pod with several networks takes a step several times.", units.Seconds,
			over("A", `sum by (step) (rate(weir_cni_step_duration_seconds_sum{$agents, command="ADD"}[$__rate_interval])) / sum by (step) (rate(weir_cni_step_duration_seconds_count{$agents, command="ADD"}[$__rate_interval]))`, "{{step}}"))).
		WithPanel(stacked("Requests", "By command and by the code of the CNI error; 0 is success.", units.RequestsPerSecond,
			over("A", `sum by (command, code) (rate(weir_cni_operations_total{$agents}[$__rate_interval]))`, "{{command}} {{code}}"))).
		WithPanel(series("Executed plugins", "Plugins that weir executes: those that run, and those that wait for their turn.", units.Short,
			over("A", `sum(weir_plugins_running{$agents})`, "running"),
			over("B", `sum(weir_plugins_waiting{$agents})`, "waiting")).
			Min(0).OverrideByName("waiting", fixed(warning)))
}

func agents(d *dashboard.DashboardBuilder) *dashboard.DashboardBuilder {
	return d.WithRow(dashboard.NewRowBuilder("Agents")).
		WithPanel(stacked("Work of agents", "What agents do of their own accord, and whether it came to an error; docs/metrics.md says what each is.", units.Short,
			over("A", `sum by (work, result) (increase(weir_agent_work_total{$agents}[$__rate_interval]))`, "{{work}} {{result}}"))).
		WithPanel(series("How long it takes", "The mean of each work.", units.Seconds,
			over("A", `sum by (work) (rate(weir_agent_work_duration_seconds_sum{$agents}[$__rate_interval])) / sum by (work) (rate(weir_agent_work_duration_seconds_count{$agents}[$__rate_interval]))`, "{{work}}")).
			Min(0)).
		WithPanel(stacked("Requests to the Kubernetes API", "By verb and by the code of the answer.", units.RequestsPerSecond,
			over("A", `sum by (verb, code) (rate(weir_kubernetes_requests_total{$agents}[$__rate_interval]))`, "{{verb}} {{code}}"))).
		WithPanel(series("Answers of the Kubernetes API", "How long 99 % of the answers took to begin, by verb.", units.Seconds,
			over("A", `histogram_quantile(0.99, sum by (le, verb) (rate(weir_kubernetes_request_duration_seconds_bucket{$agents}[$__rate_interval])))`, "{{verb}}")).
			Min(0)).
		WithPanel(stacked("Objects that are watched", "What agents know of the Kubernetes API.", units.Short,
			over("A", `sum by (resource) (weir_informer_objects{$agents})`, "{{resource}}"))).
		WithPanel(stacked("Watches that failed", "Each was begun anew.", units.Short,
			over("A", `sum by (resource) (increase(weir_informer_failures_total{$agents}[$__rate_interval]))`, "{{resource}}"))).
		WithPanel(bars("Kernels without", "Nodes whose kernels lack a feature that weir is better with.", units.Short,
			`sum by (feature) (1 - weir_kernel_feature{$agents})`, "{{feature}}")).
		WithPanel(series("A run of a guard", "How long a program takes for a packet, or what GSO has made one of; where kernel.bpf_stats_enabled is 1.", units.Seconds,
			over("A", `sum by (direction) (rate(weir_attachment_program_run_seconds_total{$attachments}[$__rate_interval])) / sum by (direction) (rate(weir_attachment_program_runs_total{$attachments}[$__rate_interval]))`, "{{direction}}")).
			Min(0))
}

func nodes(d *dashboard.DashboardBuilder) *dashboard.DashboardBuilder {
	some := []dashboard.Threshold{from(1, bad)}
	columns := slices.Concat(kept("instance"), []column{
		{field: "Value #A", title: "attachments", unit: units.Short},
		{field: "Value #B", title: "unreadable", unit: units.Short, thresholds: some},
		{field: "Value #H", title: "without interface", unit: units.Short, thresholds: some},
		{field: "Value #C", title: "pods without networks", unit: units.Short, thresholds: some},
		{field: "Value #D", title: "requests that failed", unit: units.Short, thresholds: some},
		{field: "Value #E", title: "plugins waiting", unit: units.Short, thresholds: some},
		{field: "Value #F", title: "dropped", unit: units.PacketsPerSecond, thresholds: []dashboard.Threshold{from(10, warning), from(100, bad)}},
		{field: "Value #G", title: "memory", unit: units.BytesIEC, thresholds: []dashboard.Threshold{from(150<<20, warning), from(180<<20, bad)}},
	})
	return d.WithRow(dashboard.NewRowBuilder("Nodes at risk")).
		WithPanel(rows("Nodes at risk", "Red is what somebody should look at; docs/runbook.md says how. Failed requests are those of the time shown.", columns, "requests that failed",
			now("A", `sum by (instance) (weir_attachments{$agents})`),
			now("B", `sum by (instance) (weir_attachments_unreadable{$agents})`),
			now("C", `sum by (instance) (weir_pods_without_networks{$agents})`),
			now("D", `sum by (instance) (increase(weir_cni_operations_total{$agents, code!="0"}[$__range]))`),
			now("E", `sum by (instance) (weir_plugins_waiting{$agents})`),
			now("F", `sum by (instance) (rate(weir_attachment_dropped_packets_total{$agents}[$__rate_interval]))`),
			now("G", `sum by (instance) (process_resident_memory_bytes{$agents} and on (job, instance) weir_build_info{$agents})`),
			now("H", `sum by (instance) (weir_attachments_without_interface{$agents})`),
			now("I", `max by (instance) (weir_segment_addresses{$agents})`)).
			Span(full)).
		WithPanel(rows("Versions", "Which agents run which build.", append(kept("version", "goversion"), column{field: "Value", title: "agents", unit: units.Short}), "agents",
			now("A", `count by (version, goversion) (weir_build_info{$agents})`))).
		WithPanel(stacked("Guards put right", "Guards that somebody had tampered with and the agent put right, by what was wrong.", units.Short,
			over("A", `sum by (namespace, pod, interface, reason) (increase(weir_guard_restored_total{$attachments}[$__rate_interval]))`, "{{namespace}}/{{pod}} {{interface}} {{reason}}")))
}
