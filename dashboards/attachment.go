// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/units"
)

// attachmentDashboard shows one attachment, or the few that the variables leave.
func attachmentDashboard() *dashboard.DashboardBuilder {
	d := frame("weir: attachment", attachmentUID,
		"One secondary interface of a pod: rates, sizes, protocols, drops, policy rules.",
		choice("interface", "Interface", "weir_attachment_info", "interface",
			`cluster=~"$cluster", namespace=~"$namespace", pod=~"$pod", network_name=~"$network"`)).
		Link(wayTo("Cluster and networks", clusterUID))
	for _, add := range []func(*dashboard.DashboardBuilder) *dashboard.DashboardBuilder{
		attachmentNow, attachmentRates, protocols, attachmentDrops, policy,
	} {
		d = add(d)
	}
	return d
}

func attachmentNow(d *dashboard.DashboardBuilder) *dashboard.DashboardBuilder {
	_, network := rowLinks()
	columns := kept("namespace", "pod", "interface", "network_name", "ips", "mac", "type", "mode", "master", "hook", "container_id", "instance")
	return d.WithRow(dashboard.NewRowBuilder("Now")).
		WithPanel(rows("What it is", "The attachment: its addresses, how it was made, where its guard is. A network leads to the cluster's dashboard.",
			append(columns, column{field: "Value", title: "attachments", unit: units.Short}), "pod",
			now("A", `sum by (namespace, pod, interface, network_name, ips, mac, type, mode, master, hook, container_id, instance) (weir_attachment_info{$attachment})`)).
			Span(full).Height(statsH).OverrideByName("network_name", network).
			OverrideByName("attachments", []dashboard.DynamicConfigValue{{Id: "custom.hidden", Value: true}})).
		WithPanel(value("Received in all", "Since the attachment was made.", units.BytesIEC,
			`sum(weir_attachment_receive_bytes_total{$attachment})`, steps(received))).
		WithPanel(value("Sent in all", "Since the attachment was made, without what was dropped.", units.BytesIEC,
			`sum(weir_attachment_transmit_bytes_total{$attachment})`, steps(sent))).
		WithPanel(value("Packets received", "Since the attachment was made.", units.Short,
			`sum(weir_attachment_receive_packets_total{$attachment})`, steps(received))).
		WithPanel(value("Packets sent", "Since the attachment was made, without those that were dropped.", units.Short,
			`sum(weir_attachment_transmit_packets_total{$attachment})`, steps(sent))).
		WithPanel(value("Packets dropped", "Since the attachment was made.", units.Short,
			`sum(weir_attachment_dropped_packets_total{$attachment}) or vector(0)`, steps(good, from(1, warning), from(1000, bad)))).
		WithPanel(value("Dropped part", "Of all packets of the attachment since it was made, those that the guard dropped.", units.PercentUnit,
			`(sum(weir_attachment_dropped_packets_total{$attachment}) or vector(0)) / ((sum(weir_attachment_dropped_packets_total{$attachment}) or vector(0)) + sum(weir_attachment_receive_packets_total{$attachment}) + sum(weir_attachment_transmit_packets_total{$attachment}))`,
			steps(good, from(0.01, warning), from(0.1, bad))).Max(1))
}

func attachmentRates(d *dashboard.DashboardBuilder) *dashboard.DashboardBuilder {
	return d.WithRow(dashboard.NewRowBuilder("Rates and sizes")).
		WithPanel(coloured(bothWays("Bits", "What the pod received (above) and sent (below), Ethernet headers included.", units.BitsPerSecondSI, "",
			`8 * sum(rate(weir_attachment_receive_bytes_total{$attachment}[$__rate_interval]))`,
			`8 * sum(rate(weir_attachment_transmit_bytes_total{$attachment}[$__rate_interval]))`)).Span(third)).
		WithPanel(coloured(bothWays("Packets", "What the pod received (above) and sent (below). Each segment of a GSO packet counts.", units.PacketsPerSecond, "",
			`sum(rate(weir_attachment_receive_packets_total{$attachment}[$__rate_interval]))`,
			`sum(rate(weir_attachment_transmit_packets_total{$attachment}[$__rate_interval]))`)).Span(third)).
		WithPanel(coloured(series("Mean size of a packet", "Bytes by packets. Small packets cost the most.", units.BytesSI,
			over("A", `sum(rate(weir_attachment_receive_bytes_total{$attachment}[$__rate_interval])) / sum(rate(weir_attachment_receive_packets_total{$attachment}[$__rate_interval]))`, "received"),
			over("B", `sum(rate(weir_attachment_transmit_bytes_total{$attachment}[$__rate_interval])) / sum(rate(weir_attachment_transmit_packets_total{$attachment}[$__rate_interval]))`, mirrored)).
			Min(0)).Span(third))
}

func protocols(d *dashboard.DashboardBuilder) *dashboard.DashboardBuilder {
	return d.WithRow(dashboard.NewRowBuilder("Protocols and classes")).
		WithPanel(stacked("Bits by protocol", "What passed, both directions together.", units.BitsPerSecondSI,
			over("A", `8 * sum by (protocol) (rate(weir_attachment_allowed_bytes_total{$attachment}[$__rate_interval]))`, "{{protocol}}")).Span(third)).
		WithPanel(stacked("Packets by class", "What passed: unicast, multicast and broadcast, received (ingress) and sent (egress).", units.PacketsPerSecond,
			over("A", `sum by (class, direction) (rate(weir_attachment_allowed_packets_total{$attachment}[$__rate_interval]))`, "{{class}} {{direction}}")).Span(third)).
		WithPanel(series("Mean size by protocol", "Bytes by packets of what passed.", units.BytesSI,
			over("A", `sum by (protocol) (rate(weir_attachment_allowed_bytes_total{$attachment}[$__rate_interval])) / sum by (protocol) (rate(weir_attachment_allowed_packets_total{$attachment}[$__rate_interval]))`, "{{protocol}}")).
			Min(0).Span(third))
}

func attachmentDrops(d *dashboard.DashboardBuilder) *dashboard.DashboardBuilder {
	some := []dashboard.Threshold{from(1, warning), from(1000, bad)}
	columns := append(kept("direction", "reason"),
		column{field: "Value #A", title: "packets", unit: units.Short, thresholds: some},
		column{field: "Value #B", title: "bytes", unit: units.BytesIEC})
	return d.WithRow(dashboard.NewRowBuilder("Drops")).
		WithPanel(stacked("Drops", "Packets that the guard dropped, by reason and by the pod's direction; docs/guard.md says what each reason is.", units.PacketsPerSecond,
			over("A", `sum by (reason, direction) (rate(weir_attachment_dropped_packets_total{$attachment}[$__rate_interval]))`, "{{reason}} {{direction}}"))).
		WithPanel(rows("Drops in all", "Since the attachment was made: exact, and with a reason's first packet, which no rate shows.", columns, "packets",
			now("A", `sum by (direction, reason) (weir_attachment_dropped_packets_total{$attachment})`),
			now("B", `sum by (direction, reason) (weir_attachment_dropped_bytes_total{$attachment})`))).
		WithPanel(stacked("Drops that were counted only", "Drops that weirctl drops does not show: there were too many at a time (limited), or the agent did not read them in time (ring_full).", units.PacketsPerSecond,
			over("A", `sum by (cause) (rate(weir_attachment_drops_lost_total{$attachment}[$__rate_interval]))`, "{{cause}}")))
}

func policy(d *dashboard.DashboardBuilder) *dashboard.DashboardBuilder {
	columns := append(kept("direction", "rule", "action"),
		column{field: "Value #A", title: "packets", unit: units.Short},
		column{field: "Value #B", title: "bytes", unit: units.BytesIEC})
	return d.WithRow(dashboard.NewRowBuilder("Rules")).
		WithPanel(stacked("Packets by rule", "Packets that a rule of the network decided on. Empty where the network has no rules.", units.PacketsPerSecond,
			over("A", `sum by (direction, rule, action) (rate(weir_attachment_rule_packets_total{$attachment}[$__rate_interval]))`, "{{direction}} {{rule}} {{action}}"))).
		WithPanel(rows("Rules in all", "What each rule has decided since it is in force. One at 0 is perhaps not needed.", columns, "packets",
			now("A", `sum by (direction, rule, action) (weir_attachment_rule_packets_total{$attachment})`),
			now("B", `sum by (direction, rule, action) (weir_attachment_rule_bytes_total{$attachment})`)))
}
