// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/weir-cni/weir/install"
)

// note says what the plan itself does not do.
func (p *Plan) note(all *found, effective keys, entry install.Entry) {
	name := text(effective["name"])
	p.Notes = append(p.Notes,
		"Multus writes its file again when one of its containers starts, and a thick daemon also when the default network's "+
			"file changes. Take its DaemonSet away before the first node, and its pod when this node is migrated:\n"+
			"kubectl -n kube-system delete daemonset kube-multus-ds --cascade=orphan\n"+
			"kubectl -n kube-system delete pods -l app=multus --field-selector spec.nodeName=NODE",
		"Pods that run go on as they are. Those that Multus attached are deleted with the default network's plugin alone: "+
			"addresses of their other networks stay reserved. If that is not to be so, drain the node first:\n"+
			"kubectl drain NODE --ignore-daemonsets --delete-emptydir-data --pod-selector='app!=multus'",
	)
	if name != "" && name != entry.Name {
		p.Notes = append(p.Notes, fmt.Sprintf("The network is called %s for the runtime, and no longer %s. Where CRI-O's "+
			"cni_default_network says %s, change that, or keep the name", entry.Name, name, name))
	}
	if len(all.files) > 1 {
		p.Notes = append(p.Notes, fmt.Sprintf("The runtime uses %s alone; the keys are that file's. The others of Multus go, too",
			filepath.Base(all.files[0].path)))
	}
	if len(all.others) > 0 && all.others[0] < all.files[0].path {
		p.Notes = append(p.Notes, fmt.Sprintf("Multus is not in use: the runtime reads %s first", all.others[0]))
	}
	if kubeconfig := text(effective["kubeconfig"]); kubeconfig != "" {
		p.Notes = append(p.Notes, fmt.Sprintf("%s holds a token that weir does not use: delete it once there is no way back",
			kubeconfig))
	}
}

// valueMax is how much of a value the table shows.
const valueMax = 40

// String is the plan as a text for people.
func (p *Plan) String() string {
	var b strings.Builder
	if p.Deployment != "" {
		fmt.Fprintf(&b, "Multus, the %s deployment:\n", p.Deployment)
	}
	for _, file := range p.Files {
		fmt.Fprintf(&b, "  %s\n", file)
	}
	p.writeKeys(&b)
	if len(p.Entry) > 0 {
		there := ""
		if p.kept != nil {
			there = " (it is there already, and stays)"
		}
		fmt.Fprintf(&b, "\nweir's entry, %s%s:\n  %s\n", p.Path, there, strings.ReplaceAll(string(bytes.TrimSpace(p.Entry)), "\n", "\n  "))
	}
	p.writeSettings(&b)
	p.writeOperations(&b)
	writeList(&b, "\nTo be known:", p.Notes)
	writeList(&b, "\nIn the way:", p.Problems)
	return strings.TrimLeft(b.String(), "\n")
}

func (p *Plan) writeKeys(b *strings.Builder) {
	if len(p.Keys) == 0 {
		return
	}
	b.WriteString("\n")
	table := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "KEY\tVALUE\tFILE\tWITH WEIR\tWHY")
	for _, k := range p.Keys {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", k.Name, shortened(k.Value), filepath.Base(k.File), k.Verdict, k.Why)
	}
	_ = table.Flush() // into memory
	b.WriteString("\nWhere weir behaves otherwise than Multus with the same keys: docs/compatibility.md\n")
}

func (p *Plan) writeOperations(b *strings.Builder) {
	title := "\nWhat --apply does:\n"
	switch {
	case len(p.Operations) == 0:
		return
	case p.Applied:
		title = "\nWhat was done:\n"
	case p.Interrupted:
		title = "\nWhat --revert does:\n"
	}
	b.WriteString(title)
	for i, o := range p.Operations {
		fmt.Fprintf(b, "  %d. %s\n", i+1, o)
	}
}

func writeList(b *strings.Builder, title string, items []string) {
	if len(items) == 0 {
		return
	}
	b.WriteString(title + "\n")
	for _, item := range items {
		fmt.Fprintf(b, "  - %s\n", strings.ReplaceAll(item, "\n", "\n      "))
	}
}

// String is what is done, in a line.
func (o Operation) String() string {
	if o.To == "" {
		return o.Do + " " + o.Path
	}
	return o.Do + " " + o.Path + " to " + o.To
}

func shortened(value json.RawMessage) string {
	var b bytes.Buffer
	if json.Compact(&b, value) != nil {
		return ""
	}
	runes := []rune(b.String())
	if len(runes) > valueMax {
		return string(runes[:valueMax-3]) + "..."
	}
	return string(runes)
}
