// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// rule is one of rules.yaml.
type rule struct {
	Record, Alert, Expr, For string
	Labels, Annotations      map[string]string
}

func rules(t *testing.T) []rule {
	t.Helper()
	var file struct {
		Groups []struct{ Rules []rule }
	}
	if err := yaml.Unmarshal(mustRead(t, deploy+"/prometheus/rules.yaml"), &file); err != nil {
		t.Fatal(err)
	}
	var all []rule
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) == 0 {
		t.Fatal("no rules")
	}
	return all
}

// Every alert says how bad it is, what is so, and where it is explained; and it is
// explained there.
func TestAlertsAreExplained(t *testing.T) {
	t.Parallel()
	const runbook = "https://github.com/weir-cni/weir/blob/main/docs/runbook.md#"
	sections := sectionsOf(string(mustRead(t, "../docs/runbook.md")))
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		if !slices.Contains([]string{"info", "warning", "critical"}, r.Labels["severity"]) {
			t.Errorf("%s has the severity %q", r.Alert, r.Labels["severity"])
		}
		for _, name := range []string{"summary", "description"} {
			if !strings.HasSuffix(r.Annotations[name], ".") {
				t.Errorf("%s: the %s is %q", r.Alert, name, r.Annotations[name])
			}
		}
		if r.Annotations["runbook_url"] != runbook+strings.ToLower(r.Alert) {
			t.Errorf("%s leads to %q", r.Alert, r.Annotations["runbook_url"])
		}
		for _, part := range []string{"**Means.**", "**Look at.**", "**Do.**"} {
			if !strings.Contains(sections[r.Alert], part) {
				t.Errorf("docs/runbook.md: %s lacks %s", r.Alert, part)
			}
		}
		delete(sections, r.Alert)
	}
	for name := range sections {
		if strings.HasPrefix(name, "Weir") {
			t.Errorf("docs/runbook.md explains %s, which is no alert", name)
		}
	}
}

// sectionsOf are the second level's sections of a document, by their heading.
func sectionsOf(document string) map[string]string {
	sections := map[string]string{}
	for _, section := range strings.Split(document, "\n## ")[1:] {
		heading, text, _ := strings.Cut(section, "\n")
		sections[heading] = text
	}
	return sections
}

// Every alert is tested where it fires and where it does not, and whatever is
// recorded is tested.
func TestRulesAreTested(t *testing.T) {
	t.Parallel()
	var file struct {
		Tests []struct {
			AlertRuleTest []struct {
				Alertname string
				ExpAlerts []any `json:"exp_alerts"`
			} `json:"alert_rule_test"`
			PromqlExprTest []struct{ Expr string } `json:"promql_expr_test"`
		}
	}
	if err := yaml.Unmarshal(mustRead(t, deploy+"/prometheus/rules_test.yaml"), &file); err != nil {
		t.Fatal(err)
	}
	fires, rests, recorded := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, test := range file.Tests {
		for _, c := range test.AlertRuleTest {
			fires[c.Alertname] = fires[c.Alertname] || len(c.ExpAlerts) > 0
			rests[c.Alertname] = rests[c.Alertname] || len(c.ExpAlerts) == 0
		}
		for _, c := range test.PromqlExprTest {
			recorded[c.Expr] = true
		}
	}
	for _, r := range rules(t) {
		if r.Alert != "" && (!fires[r.Alert] || !rests[r.Alert]) {
			t.Errorf("%s: a case where it fires %t, one where it does not %t", r.Alert, fires[r.Alert], rests[r.Alert])
		}
		if r.Record != "" && !recorded[r.Record] {
			t.Errorf("%s is not tested", r.Record)
		}
	}
}
