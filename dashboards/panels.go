// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/bargauge"
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
	"github.com/grafana/grafana-foundation-sdk/go/units"
)

// The grid has 24 columns.
const (
	full    = 24
	half    = full / 2
	third   = full / 3
	sixth   = full / 6
	statsH  = 4
	seriesH = 8
	tableH  = 8
)

// Colours of Grafana's palette that mean the same on every panel.
const (
	good     = "green"
	warning  = "orange"
	bad      = "red"
	received = "blue"
	sent     = "purple"
)

const mirrored = "sent"

func source() common.DataSourceRef {
	return common.DataSourceRef{Type: cog.ToPtr("prometheus"), Uid: cog.ToPtr("${datasource}")}
}

// query writes out the matchers that an expression names: $agents for what an agent
// says of itself, $attachments for what it says of attachments.
func query(expr string) string {
	return strings.NewReplacer(
		"$agents", `cluster=~"$cluster"`,
		"$attachments", `cluster=~"$cluster", namespace=~"$namespace", pod=~"$pod", network_name=~"$network"`,
		"$attachment", `cluster=~"$cluster", namespace=~"$namespace", pod=~"$pod", network_name=~"$network", interface=~"$interface"`,
	).Replace(expr)
}

// over is a query whose result is drawn over time.
func over(refID, expr, legend string) *prometheus.DataqueryBuilder {
	return prometheus.NewDataqueryBuilder().Datasource(source()).RefId(refID).
		Expr(query(expr)).LegendFormat(legend).Range()
}

// now is a query whose result of this moment fills a table.
func now(refID, expr string) *prometheus.DataqueryBuilder {
	return prometheus.NewDataqueryBuilder().Datasource(source()).RefId(refID).
		Expr(query(expr)).Format(prometheus.PromQueryFormatTable).Instant()
}

// steps are thresholds: a colour, and from which value on there is which other.
func steps(base string, further ...dashboard.Threshold) *dashboard.ThresholdsConfigBuilder {
	return dashboard.NewThresholdsConfigBuilder().Mode(dashboard.ThresholdsModeAbsolute).
		Steps(append([]dashboard.Threshold{{Color: base}}, further...))
}

func from(value float64, colour string) dashboard.Threshold {
	return dashboard.Threshold{Value: &value, Color: colour}
}

// value shows one number and its recent past.
func value(title, description, unit, expr string, thresholds *dashboard.ThresholdsConfigBuilder) *stat.PanelBuilder {
	return stat.NewPanelBuilder().Title(title).Description(description).Datasource(source()).
		Unit(unit).Min(0).Span(sixth).Height(statsH).
		ColorMode(common.BigValueColorModeValue).GraphMode(common.BigValueGraphModeArea).
		ReduceOptions(common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"})).
		ColorScheme(dashboard.NewFieldColorBuilder().Mode(dashboard.FieldColorModeIdThresholds)).
		Thresholds(thresholds).
		WithTarget(over("A", expr, title))
}

// series draws queries over time, with a table of their last and greatest values.
func series(title, description, unit string, queries ...*prometheus.DataqueryBuilder) *timeseries.PanelBuilder {
	p := timeseries.NewPanelBuilder().Title(title).Description(description).Datasource(source()).
		Unit(unit).Span(half).Height(seriesH).
		LineWidth(1).FillOpacity(10).ShowPoints(common.VisibilityModeNever).
		ColorScheme(dashboard.NewFieldColorBuilder().Mode(dashboard.FieldColorModeIdPaletteClassicByName)).
		Thresholds(steps(good)).
		Legend(common.NewVizLegendOptionsBuilder().ShowLegend(true).
			DisplayMode(common.LegendDisplayModeTable).Placement(common.LegendPlacementBottom).
			Calcs([]string{"lastNotNull", "max"}).SortBy("Last *").SortDesc(true)).
		Tooltip(common.NewVizTooltipOptionsBuilder().Mode(common.TooltipDisplayModeMulti).Sort(common.SortOrderDescending))
	for _, q := range queries {
		p = p.WithTarget(q)
	}
	return p
}

// stacked is series from zero up, one on the other.
func stacked(title, description, unit string, queries ...*prometheus.DataqueryBuilder) *timeseries.PanelBuilder {
	return series(title, description, unit, queries...).Min(0).FillOpacity(40).
		Stacking(common.NewStackingConfigBuilder().Mode(common.StackingModeNormal).Group("A"))
}

// bothWays is series with what was received above zero and what was sent below.
// The expressions are for received and for sent.
func bothWays(title, description, unit, legend, in, out string) *timeseries.PanelBuilder {
	return series(title, description, unit,
		over("A", in, strings.TrimSpace(legend+" received")), over("B", out, strings.TrimSpace(legend+" "+mirrored))).
		AxisCenteredZero(true).
		OverrideByQuery("B", []dashboard.DynamicConfigValue{{Id: "custom.transform", Value: "negative-Y"}})
}

// coloured gives what was received and what was sent their colours.
func coloured(p *timeseries.PanelBuilder) *timeseries.PanelBuilder {
	return p.OverrideByName("received", fixed(received)).OverrideByName(mirrored, fixed(sent))
}

func fixed(colour string) []dashboard.DynamicConfigValue {
	return []dashboard.DynamicConfigValue{{Id: "color", Value: map[string]string{"mode": "fixed", "fixedColor": colour}}}
}

// rows is a table with what the queries find now, merged where labels agree. The
// columns are named in order; of the values, by the query's name.
func rows(title, description string, columns []column, sortBy string, queries ...*prometheus.DataqueryBuilder) *table.PanelBuilder {
	p := table.NewPanelBuilder().Title(title).Description(description).Datasource(source()).
		Unit(units.NoUnit).Span(half).Height(tableH).Filterable(true).
		Thresholds(steps(good)).
		SortBy([]cog.Builder[common.TableSortByFieldState]{common.NewTableSortByFieldStateBuilder().DisplayName(sortBy).Desc(true)})
	for _, q := range queries {
		p = p.WithTarget(q)
	}
	if len(queries) > 1 {
		p = p.WithTransformation(dashboard.DataTransformerConfig{Id: "merge", Options: map[string]any{}})
	}
	p = p.WithTransformation(organized(columns))
	for _, c := range columns {
		if c.unit != "" {
			p = p.OverrideByName(c.title, c.config())
		}
	}
	return p
}

// column is one of a table. A label keeps its name, as links refer to it.
type column struct {
	field, title, unit string
	thresholds         []dashboard.Threshold
}

func kept(names ...string) []column {
	var columns []column
	for _, name := range names {
		columns = append(columns, column{field: name})
	}
	return columns
}

// config is how the values of a column look.
func (c column) config() []dashboard.DynamicConfigValue {
	config := []dashboard.DynamicConfigValue{{Id: "unit", Value: c.unit}}
	if len(c.thresholds) == 0 {
		return config
	}
	return append(config,
		dashboard.DynamicConfigValue{Id: "thresholds", Value: map[string]any{
			"mode": "absolute", "steps": append([]dashboard.Threshold{{Color: good}}, c.thresholds...),
		}},
		dashboard.DynamicConfigValue{Id: "custom.cellOptions", Value: map[string]string{"type": "color-text"}})
}

// organized leaves the columns, in their order, and takes the time away.
func organized(columns []column) dashboard.DataTransformerConfig {
	place, titles := map[string]int{}, map[string]string{}
	for i, c := range columns {
		place[c.field] = i
		if c.title != "" {
			titles[c.field] = c.title
		}
	}
	return dashboard.DataTransformerConfig{Id: "organize", Options: map[string]any{
		"indexByName": place, "renameByName": titles, "excludeByName": map[string]bool{"Time": true},
	}}
}

// bars compares values of this moment.
func bars(title, description, unit, expr, legend string) *bargauge.PanelBuilder {
	return bargauge.NewPanelBuilder().Title(title).Description(description).Datasource(source()).
		Unit(unit).Min(0).Span(third).Height(tableH).
		Orientation(common.VizOrientationHorizontal).DisplayMode(common.BarGaugeDisplayModeBasic).
		ColorScheme(dashboard.NewFieldColorBuilder().Mode(dashboard.FieldColorModeIdPaletteClassicByName)).
		Thresholds(steps(good)).
		ReduceOptions(common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"})).
		WithTarget(prometheus.NewDataqueryBuilder().Datasource(source()).RefId("A").
			Expr(query(expr)).LegendFormat(legend).Instant())
}
