// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

// UIDs of the dashboards, by which they link to each other.
const (
	clusterUID    = "weir-cluster"
	attachmentUID = "weir-attachment"
)

// frame is what the dashboards have in common: time, variables, the way to the
// other one, and a mark where an agent of another version began.
func frame(title, uid, description string, further ...*dashboard.QueryVariableBuilder) *dashboard.DashboardBuilder {
	d := dashboard.NewDashboardBuilder(title).Uid(uid).Description(description).
		Tags([]string{"weir", "cni", "network"}).Readonly().
		Refresh("30s").Time("now-1h", "now").Timezone("browser").
		Tooltip(dashboard.DashboardCursorSyncCrosshair).
		WithVariable(dashboard.NewDatasourceVariableBuilder("datasource").Label("Data source").Type("prometheus")).
		WithVariable(choice("cluster", "Cluster", "weir_attachments", "cluster", "")).
		WithVariable(choice("namespace", "Namespace", "weir_attachment_info", "namespace", `cluster=~"$cluster"`)).
		WithVariable(choice("pod", "Pod", "weir_attachment_info", "pod", `cluster=~"$cluster", namespace=~"$namespace"`)).
		WithVariable(choice("network", "Network", "weir_attachment_info", "network_name",
			`cluster=~"$cluster", namespace=~"$namespace", pod=~"$pod"`))
	for _, v := range further {
		d = d.WithVariable(v)
	}
	return d.Annotation(dashboard.NewAnnotationQueryBuilder().Name("Agent of another version").
		Datasource(source()).Enable(true).IconColor(sent).
		Expr(query(`count by (version) (weir_build_info{$agents}) unless count by (version) (weir_build_info{$agents} offset 5m)`)))
}

// choice is a variable with the values of a label; All is also what lacks the label.
func choice(name, title, metric, label, matchers string) *dashboard.QueryVariableBuilder {
	q := fmt.Sprintf("label_values(%s{%s}, %s)", metric, matchers, label)
	all := dashboard.StringOrArrayOfString{ArrayOfString: []string{"$__all"}}
	return dashboard.NewQueryVariableBuilder(name).Label(title).Datasource(source()).
		Query(dashboard.StringOrMap{Map: map[string]any{"query": q, "refId": name}}).Definition(q).
		Refresh(dashboard.VariableRefreshOnTimeRangeChanged).Sort(dashboard.VariableSortNaturalAsc).
		Multi(true).IncludeAll(true).AllValue(".*").
		Current(dashboard.VariableOption{Selected: cog.ToPtr(true), Text: dashboard.StringOrArrayOfString{ArrayOfString: []string{"All"}}, Value: all})
}

// wayTo is a link to the other dashboard that takes the variables and the time along.
func wayTo(title, uid string) *dashboard.DashboardLinkBuilder {
	return dashboard.NewDashboardLinkBuilder(title).Type(dashboard.DashboardLinkTypeLink).
		Url("/d/" + uid).IncludeVars(true).KeepTime(true).Icon("dashboard").
		Tooltip("With the same variables and time")
}

// rowLinks make the pod of a table's row a link to its attachment, and the network
// one to the cluster's dashboard of that network alone.
func rowLinks() (pod, network []dashboard.DynamicConfigValue) {
	const here = "${datasource:queryparam}&${cluster:queryparam}&${__url_time_range}"
	return link("This attachment", "/d/"+attachmentUID+"?"+here+
			"&var-namespace=${__data.fields.namespace}&var-pod=${__data.fields.pod}"+
			"&var-network=${__data.fields.network_name}&var-interface=${__data.fields.interface}"),
		link("This network", "/d/"+clusterUID+"?"+here+"&var-network=${__data.fields.network_name}")
}

func link(title, url string) []dashboard.DynamicConfigValue {
	return []dashboard.DynamicConfigValue{{Id: "links", Value: []map[string]string{{"title": title, "url": url}}}}
}
