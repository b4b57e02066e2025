// SPDX-License-Identifier: Apache-2.0

package main

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// expression is one query, and whence it comes.
type expression struct {
	where, text string
	panel       bool
}

func expressions(t *testing.T) []expression {
	t.Helper()
	var all []expression
	for name, b := range boards(t) {
		for _, p := range b.shown() {
			for _, q := range p.Targets {
				all = append(all, expression{name + ": " + p.Title, q.Expr, true})
			}
		}
		for _, a := range b.Annotations.List {
			if a.Expr != "" {
				all = append(all, expression{name + ": " + a.Name, a.Expr, false})
			}
		}
		for _, v := range b.Templating.List {
			if v.Type == "query" {
				all = append(all, expression{name + ": " + v.Name, ofVariable(t, v.Definition), false})
			}
		}
	}
	for _, r := range rules(t) {
		all = append(all, expression{"rule " + r.Alert + r.Record, r.Expr, false})
	}
	return all
}

// ofVariable makes label_values(metric{...}, label) an expression with the same names.
func ofVariable(t *testing.T, definition string) string {
	t.Helper()
	m := regexp.MustCompile(`^label_values\((.*), ([a-z_]+)\)$`).FindStringSubmatch(definition)
	if m == nil {
		t.Fatalf("a variable is %q", definition)
	}
	return "count by (" + m[2] + ") (" + m[1] + ")"
}

// parsed is the expression with a time in the place of Grafana's own variables.
func (e expression) parsed(t *testing.T) parser.Expr {
	t.Helper()
	text := strings.NewReplacer("$__rate_interval", "5m", "$__range", "1h").Replace(e.text)
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(text)
	if err != nil {
		t.Fatalf("%s: %v", e.where, err)
	}
	return expr
}

// targetLabels are those that Prometheus adds to what it scrapes.
var targetLabels = []string{"cluster", "instance", "job"}

// notOurs are the labels of what weir does not export itself.
var notOurs = map[string][]string{"up": nil, "process_resident_memory_bytes": nil}

// exported are the labels of each metric, by its name, from docs/metrics.md, which
// the tests of the package metrics hold to the registry.
func exported(t *testing.T) map[string][]string {
	t.Helper()
	row := regexp.MustCompile("(?m)^\\| `(weir_[a-z_]+)` \\| (counter|gauge|histogram)[^|]*\\|([^|]*)\\|")
	all := map[string][]string{}
	for _, m := range row.FindAllStringSubmatch(string(mustRead(t, "../docs/metrics.md")), -1) {
		names := strings.Replace(m[3], "the same", "namespace, pod, interface, network_name", 1)
		list := strings.FieldsFunc(names, func(r rune) bool { return r == ',' || r == ' ' })
		if m[2] != "histogram" {
			all[m[1]] = list
			continue
		}
		all[m[1]+"_bucket"] = append(list, "le")
		all[m[1]+"_sum"], all[m[1]+"_count"] = list, list
	}
	if len(all) == 0 {
		t.Fatal("no table in docs/metrics.md")
	}
	return all
}

// known are the metrics that a query may have: weir's, Prometheus's, and what the rules record.
func known(t *testing.T) map[string][]string {
	t.Helper()
	all := exported(t)
	for name, list := range notOurs {
		all[name] = list
	}
	for _, r := range rules(t) {
		if r.Record != "" {
			all[r.Record] = nil
		}
	}
	return all
}

// Every metric of a query is one of weir's, with the labels by which it is chosen or summed.
func TestQueriesFindMetricsWithTheirLabels(t *testing.T) {
	t.Parallel()
	metrics := known(t)
	for _, e := range expressions(t) {
		checkLabels(t, e.where, e.parsed(t), metrics)
	}
}

// checkLabels looks at an expression: each selector's own labels, and, of an
// aggregation, the labels that it keeps, which all selectors within must have.
func checkLabels(t *testing.T, where string, expr parser.Expr, metrics map[string][]string) {
	t.Helper()
	parser.Inspect(expr, func(node parser.Node, path []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		has, ok := metrics[selector.Name]
		if !ok {
			t.Errorf("%s: there is no metric %q", where, selector.Name)
			return nil
		}
		for _, label := range append(matched(selector.LabelMatchers), grouped(path)...) {
			if !slices.Contains(has, label) && !slices.Contains(targetLabels, label) {
				t.Errorf("%s: %s has no label %q", where, selector.Name, label)
			}
		}
		return nil
	})
}

func matched(matchers []*labels.Matcher) []string {
	var names []string
	for _, m := range matchers {
		if m.Name != model.MetricNameLabel {
			names = append(names, m.Name)
		}
	}
	return names
}

func grouped(path []parser.Node) []string {
	var names []string
	for _, node := range path {
		if a, ok := node.(*parser.AggregateExpr); ok && !a.Without {
			names = append(names, a.Grouping...)
		}
	}
	return names
}

// Every metric of weir is on a panel or in a rule.
func TestEveryMetricIsLookedAt(t *testing.T) {
	t.Parallel()
	looked := map[string]bool{}
	for _, e := range expressions(t) {
		parser.Inspect(e.parsed(t), func(node parser.Node, _ []parser.Node) error {
			if selector, ok := node.(*parser.VectorSelector); ok {
				looked[selector.Name] = true
			}
			return nil
		})
	}
	for name := range exported(t) {
		base := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")
		if !looked[name] && !looked[base+"_bucket"] && !looked[base+"_sum"] {
			t.Errorf("%s is on no panel and in no rule", name)
		}
	}
}

// What a panel shows as a rate is one at every zoom.
func TestRatesOfPanelsFitTheZoom(t *testing.T) {
	t.Parallel()
	for _, e := range expressions(t) {
		if !e.panel {
			continue
		}
		for _, m := range regexp.MustCompile(`(rate|increase)\([^\[]*\[([^\]]*)\]`).FindAllStringSubmatch(e.text, -1) {
			if m[2] != "$__rate_interval" && (m[1] != "increase" || m[2] != "$__range") {
				t.Errorf("%s: %s over %s", e.where, m[1], m[2])
			}
		}
	}
}
