// SPDX-License-Identifier: Apache-2.0

// Dashboards writes what is in deploy/grafana and what of deploy/prometheus is made
// from other files there.
//
// It is a module of its own: neither the builders nor the parser of PromQL, with
// which its tests judge every query, are among what weir is built from.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	deploy := flag.String("deploy", "../deploy", "the folder to write below")
	flag.Parse()
	if err := write(*deploy); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// write writes the generated files below the folder deploy.
func write(deploy string) error {
	files, err := generate(deploy)
	if err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(deploy, name), content, 0o644); err != nil {
			return fmt.Errorf("writing a generated file: %w", err)
		}
	}
	return nil
}

// generate makes the generated files, by their path below the folder deploy.
func generate(deploy string) (map[string][]byte, error) {
	files := map[string][]byte{}
	for name, builder := range map[string]*dashboard.DashboardBuilder{
		"grafana/weir-cluster.json":    clusterDashboard(),
		"grafana/weir-attachment.json": attachmentDashboard(),
	} {
		content, err := toJSON(builder)
		if err != nil {
			return nil, fmt.Errorf("making %s: %w", name, err)
		}
		files[name] = content
	}
	rules, err := os.ReadFile(filepath.Join(deploy, "prometheus/rules.yaml"))
	if err != nil {
		return nil, fmt.Errorf("reading the rules: %w", err)
	}
	files["prometheus/prometheusrule.yaml"] = prometheusRule(rules)
	return files, nil
}

func toJSON(builder *dashboard.DashboardBuilder) ([]byte, error) {
	built, err := builder.Build()
	if err != nil {
		return nil, err
	}
	number(built.Panels)
	content, err := json.MarshalIndent(built, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(content, '\n'), nil
}

// number gives each panel an ID of its own: its place.
func number(panels []dashboard.PanelOrRowPanel) {
	for i, p := range panels {
		id := uint32(i + 1)
		if p.Panel != nil {
			p.Panel.Id = &id
		} else {
			p.RowPanel.Id = id
		}
	}
}

const ruleHeader = `# SPDX-License-Identifier: Apache-2.0
# Made from rules.yaml by make generate-dashboards: the same rules for the Prometheus operator.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: weir
  namespace: weir-system
  labels: {app: weir}
spec:
`

// prometheusRule wraps a file of rules for the Prometheus operator.
func prometheusRule(rules []byte) []byte {
	wrapped := []byte(ruleHeader)
	for line := range bytes.Lines(rules) {
		switch {
		case bytes.HasPrefix(line, []byte("#")):
		case len(bytes.TrimSpace(line)) == 0:
			wrapped = append(wrapped, line...)
		default:
			wrapped = append(append(wrapped, "  "...), line...)
		}
	}
	return wrapped
}
