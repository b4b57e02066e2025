// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"flag"
	"fmt"
	"html"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
)

var pictures = flag.String("pictures", "", "a folder for pages that show what the dashboards' queries have found")

// Sizes of a page, in pixels: a column and a row of Grafana's grid.
const (
	columnWidth = 64
	rowHeight   = 34
)

// colours of the series of a panel, in turn.
var colours = []string{"#3274d9", "#e0752d", "#56a64b", "#a352cc", "#e02f44", "#c4a000", "#17a2a2", "#777"}

// draw writes a page for each dashboard, where it is asked for: no Grafana, but every
// panel in its place with what Prometheus answers.
func (s *story) draw(t *testing.T) {
	t.Helper()
	if *pictures == "" {
		return
	}
	for name, variables := range map[string]map[string]string{"weir-cluster": everything(), "weir-attachment": s.onlyWeb()} {
		var page strings.Builder
		page.WriteString(`<!doctype html><meta charset="utf-8"><style>body{font:12px sans-serif;margin:8px}
.p{position:absolute;border:1px solid #ccc;overflow:hidden;padding:4px;box-sizing:border-box}td{padding:0 8px 0 0}</style>`)
		for _, p := range boardOf(t, name).Panels {
			place := fmt.Sprintf("left:%dpx;top:%dpx;width:%dpx;height:%dpx",
				p.GridPos.X*columnWidth, p.GridPos.Y*rowHeight, p.GridPos.W*columnWidth-4, p.GridPos.H*rowHeight-4)
			fmt.Fprintf(&page, `<div class="p" style="%s"><b>%s</b><br>%s</div>`,
				place, html.EscapeString(p.Title), s.drawn(p, variables))
		}
		if err := os.WriteFile(filepath.Join(*pictures, name+".html"), []byte(page.String()), 0o600); err != nil {
			t.Error(err)
		}
	}
}

// drawn is what a panel shows: lines over time, or values in a table.
func (s *story) drawn(p boardPanel, variables map[string]string) string {
	var lines model.Matrix
	var table strings.Builder
	for _, q := range p.Targets {
		expr := filled(q.Expr, variables, "5s")
		if q.Instant {
			for labels, value := range values(s.prometheus.at(expr, s.end)) {
				fmt.Fprintf(&table, "<tr><td>%s<td>%s", html.EscapeString(labels), inUnit(value, p.FieldConfig.Defaults.Unit))
			}
			continue
		}
		for _, series := range s.prometheus.over(expr, s.began, s.later) {
			series.Metric["legend"] = model.LabelValue(legendOf(q.LegendFormat, series.Metric))
			lines = append(lines, series)
		}
	}
	switch {
	case p.Type == "row":
		return ""
	case table.Len() > 0:
		return "<table>" + table.String() + "</table>"
	case p.Type == "stat" && len(lines) > 0:
		return fmt.Sprintf(`<span style="font-size:28px">%s</span>`, inUnit(float64(last(lines)[0].Value), p.FieldConfig.Defaults.Unit))
	}
	mirrored := strings.Contains(string(p.FieldConfig.Overrides), "negative-Y")
	return s.chart(lines, mirrored, p.FieldConfig.Defaults.Unit, p.GridPos.W*columnWidth-20, p.GridPos.H*rowHeight-30)
}

// inUnit writes a value in one of the units that Grafana has and the dashboards use.
func inUnit(value float64, unit string) string {
	symbol := map[string]string{"bps": "b/s", "pps": "p/s", "decbytes": "B", "bytes": "B", "s": "s"}[unit]
	switch {
	case unit == "percentunit":
		return fmt.Sprintf("%.1f%%", 100*value)
	case symbol == "" || value == 0 || math.IsNaN(value):
		return fmt.Sprintf("%.4g %s", value, symbol)
	}
	least := 0
	if unit == "s" {
		least = -2
	}
	power := min(max(int(math.Floor(math.Log10(math.Abs(value))/3)), least), 3)
	return fmt.Sprintf("%.3g %s%s", value/math.Pow(1000, float64(power)), [...]string{"µ", "m", "", "k", "M", "G"}[power+2], symbol)
}

func legendOf(format string, labels model.Metric) string {
	for name, value := range labels {
		format = strings.ReplaceAll(format, "{{"+string(name)+"}}", string(value))
	}
	return format
}

// chart draws series over the story's time; where it is mirrored, what was sent is below zero.
func (s *story) chart(lines model.Matrix, mirrored bool, unit string, width, height int) string {
	top := 0.0
	for _, l := range lines {
		for _, v := range l.Values {
			if !math.IsNaN(float64(v.Value)) {
				top = max(top, math.Abs(float64(v.Value)))
			}
		}
	}
	var svg strings.Builder
	fmt.Fprintf(&svg, `<svg width="%d" height="%d">`, width, height)
	plot := float64(height - 14*(len(lines)/2+1))
	for i, l := range lines {
		colour := colours[i%len(colours)]
		var points []string
		for _, v := range l.Values {
			share := float64(v.Value) / max(top, 1e-9)
			if math.IsNaN(share) {
				continue
			}
			x := v.Timestamp.Time().Sub(s.began).Seconds() / s.later.Sub(s.began).Seconds() * float64(width)
			y := plot * (1 - share*0.95)
			if mirrored {
				y = plot / 2 * (1 - share*0.95)
				if isSent(l) {
					y = plot / 2 * (1 + share*0.95)
				}
			}
			points = append(points, fmt.Sprintf("%.0f,%.0f", x, y))
		}
		fmt.Fprintf(&svg, `<polyline fill="none" stroke="%s" stroke-width="1.5" points="%s"/>`, colour, strings.Join(points, " "))
		fmt.Fprintf(&svg, `<text x="%d" y="%.0f" font-size="11" fill="%s">%s: last %s</text>`, i%2*width/2, plot+13+14*float64(i/2), colour,
			html.EscapeString(string(l.Metric["legend"])), inUnit(float64(l.Values[len(l.Values)-1].Value), unit))
	}
	fmt.Fprintf(&svg, `<text x="0" y="10" font-size="10" fill="#555">%s, %s</text></svg>`, inUnit(top, unit), s.later.Sub(s.began).Round(time.Second))
	return svg.String()
}

func isSent(l *model.SampleStream) bool { return strings.HasSuffix(string(l.Metric["legend"]), "sent") }
