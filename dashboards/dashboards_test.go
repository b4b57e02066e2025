// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const deploy = "../deploy"

// The committed files are those that the program makes.
func TestGeneratedFilesAreCurrent(t *testing.T) {
	t.Parallel()
	files, err := generate(deploy)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		if got := mustRead(t, filepath.Join(deploy, name)); !bytes.Equal(got, want) {
			t.Errorf("%s is not what its sources make: run 'make generate-dashboards' and commit the result", name)
		}
	}
}

// board is what the tests look at of a dashboard.
type board struct {
	UID, Title, Description string
	Panels                  []panel
	Templating              struct{ List []variable }
	Annotations             struct{ List []struct{ Name, Expr string } }
	Links                   []struct {
		URL         string
		IncludeVars bool
		KeepTime    bool
	}
}

type panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               struct{ UID string }
	GridPos                  struct{ X, Y, W, H int }
	Targets                  []struct {
		RefID, Expr, LegendFormat string
		Instant                   bool
		Datasource                struct{ UID string }
	}
	FieldConfig struct {
		Defaults struct {
			Unit       string
			Thresholds struct{ Steps []json.RawMessage }
		}
		Overrides json.RawMessage
	}
}

type variable struct {
	Name, Type, Definition, AllValue string
	IncludeAll, Multi                bool
}

func boards(t *testing.T) map[string]board {
	t.Helper()
	all := map[string]board{}
	for _, name := range []string{"weir-cluster", "weir-attachment"} {
		var b board
		if err := json.Unmarshal(mustRead(t, filepath.Join(deploy, "grafana", name+".json")), &b); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all[name] = b
	}
	return all
}

func (b board) shown() []panel {
	return slices.DeleteFunc(slices.Clone(b.Panels), func(p panel) bool { return p.Type == "row" })
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestDashboardsAreComplete(t *testing.T) {
	t.Parallel()
	for name, b := range boards(t) {
		if b.UID != name || b.Title == "" || b.Description == "" {
			t.Errorf("%s: uid %q, title %q, description %q", name, b.UID, b.Title, b.Description)
		}
		if len(b.Links) != 1 || !b.Links[0].IncludeVars || !b.Links[0].KeepTime || b.Links[0].URL == "/d/"+name {
			t.Errorf("%s has links %+v, want one to the other dashboard, with variables and time", name, b.Links)
		}
		for _, want := range []string{"datasource", "cluster", "namespace", "pod", "network"} {
			if !slices.ContainsFunc(b.Templating.List, func(v variable) bool { return v.Name == want }) {
				t.Errorf("%s has no variable %s", name, want)
			}
		}
		for _, v := range b.Templating.List {
			if v.Type == "query" && (!v.IncludeAll || !v.Multi || v.AllValue != ".*") {
				t.Errorf("%s: the variable %s does not take all, several, and what lacks the label: %+v", name, v.Name, v)
			}
		}
	}
}

func TestPanelsAreComplete(t *testing.T) {
	t.Parallel()
	for name, b := range boards(t) {
		seen := map[int]bool{}
		titles := map[string]bool{}
		for _, p := range b.shown() {
			if seen[p.ID] || titles[p.Title] {
				t.Errorf("%s: a second panel %d, %q", name, p.ID, p.Title)
			}
			seen[p.ID], titles[p.Title] = true, true
			p.check(t, name)
		}
		checkLayout(t, name, b.Panels)
	}
}

func (p panel) check(t *testing.T, board string) {
	t.Helper()
	where := board + ": " + p.Title
	if p.Title == "" || !strings.HasSuffix(p.Description, ".") {
		t.Errorf("%s: description %q", where, p.Description)
	}
	if p.FieldConfig.Defaults.Unit == "" {
		t.Errorf("%s has no unit", where)
	}
	if len(p.FieldConfig.Defaults.Thresholds.Steps) == 0 {
		t.Errorf("%s has no thresholds", where)
	}
	if p.Datasource.UID != "${datasource}" {
		t.Errorf("%s has the data source %q", where, p.Datasource.UID)
	}
	if len(p.Targets) == 0 {
		t.Errorf("%s has no query", where)
	}
	refs := map[string]bool{}
	for _, q := range p.Targets {
		if q.Datasource.UID != "${datasource}" || refs[q.RefID] {
			t.Errorf("%s: query %s: the data source is %q, or its name is another's", where, q.RefID, q.Datasource.UID)
		}
		refs[q.RefID] = true
		if p.Type != "table" && q.LegendFormat == "" {
			t.Errorf("%s: query %s has no legend", where, q.RefID)
		}
		if !strings.Contains(q.Expr, `cluster=~"$cluster"`) {
			t.Errorf("%s: query %s is not of a cluster", where, q.RefID)
		}
	}
}

// checkLayout proves that no panel is upon another or beside the grid.
func checkLayout(t *testing.T, board string, panels []panel) {
	t.Helper()
	for i, p := range panels {
		if p.GridPos.X+p.GridPos.W > full || p.GridPos.W == 0 || p.GridPos.H == 0 {
			t.Errorf("%s: %s is at %+v", board, p.Title, p.GridPos)
		}
		for _, q := range panels[:i] {
			a, b := p.GridPos, q.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("%s: %q %+v is upon %q %+v", board, p.Title, a, q.Title, b)
			}
		}
	}
}

// links are where overrides lead to.
var links = regexp.MustCompile(`"url": "([^"]*)"`)

func TestLinksLeadToDashboardsAndVariables(t *testing.T) {
	t.Parallel()
	all := boards(t)
	parameter := regexp.MustCompile(`var-([a-z]+)=|\$\{([a-z]+):queryparam\}`)
	found := 0
	for name := range all {
		content := string(mustRead(t, filepath.Join(deploy, "grafana", name+".json")))
		content = strings.ReplaceAll(content, `\u0026`, "&")
		for _, m := range links.FindAllStringSubmatch(content, -1) {
			found++
			path, parameters, _ := strings.Cut(m[1], "?")
			target, ok := all[strings.TrimPrefix(path, "/d/")]
			if !ok {
				t.Errorf("%s links to %s", name, path)
			}
			for _, p := range parameter.FindAllStringSubmatch(parameters, -1) {
				if !slices.ContainsFunc(target.Templating.List, func(v variable) bool { return v.Name == p[1]+p[2] }) {
					t.Errorf("%s gives %s a variable %s", name, path, p[1]+p[2])
				}
			}
		}
	}
	if found < 4 {
		t.Errorf("only %d links", found)
	}
}
