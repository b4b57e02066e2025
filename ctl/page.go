// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/loader"
)

// renderDescriptions prints what weirctl describe has found.
func renderDescriptions(w io.Writer, all []description, output string) error {
	switch output {
	case "json", "yaml":
		return renderDocument(w, &descriptionList{api.Version, all}, output)
	case "name":
		v := view[description]{items: all, name: func(d *description) string { return attachmentNames(&d.AttachmentStatus)[0] }}
		return v.render(w, output)
	}
	p := page{paint: painterFor(w)}
	for i := range all {
		if i > 0 {
			p.WriteByte('\n')
		}
		p.describe(&all[i])
	}
	_, err := io.WriteString(w, p.String())
	return err
}

// page is labelled lines for people.
type page struct {
	strings.Builder
	paint painter
}

// labelWidth is the room for a label, in characters.
const labelWidth = 14

// line is left out where there is nothing to say.
func (p *page) line(label, text string) {
	if text == "" {
		return
	}
	if label != "" {
		label += ":"
	}
	fmt.Fprintf(p, "  %-*s%s\n", labelWidth, label, text)
}

// first is the label of the first of several lines.
func first(i int, label string) string {
	if i > 0 {
		return ""
	}
	return label
}

func (p *page) describe(d *description) {
	p.WriteString(p.paint.text(heading, fmt.Sprintf("%s of %s on %s", d.Interface, podOf(&d.AttachmentStatus), d.Network)) + "\n")
	p.interfaceOf(d)
	p.sandboxOf(d)
	p.guardOf(d)
	p.countersOf(d)
	p.rulesOf(d)
	for i, command := range d.Commands {
		p.line(first(i, "See also"), command)
	}
	for _, problem := range d.Problems {
		p.line("Problem", p.paint.text(bad, problem))
	}
}

func (p *page) interfaceOf(d *description) {
	kind := dash(d.Type)
	if d.Mode != "" {
		kind += ", mode " + d.Mode
	}
	if d.Master != "" {
		kind += ", on " + d.Master
	}
	p.line("Type", kind)
	p.line("MAC", d.MAC)
	if d.MTU > 0 {
		p.line("MTU", strconv.Itoa(d.MTU))
	}
	var prefixes []string
	for _, prefix := range d.Addresses {
		prefixes = append(prefixes, prefix.String())
	}
	p.line("Addresses", strings.Join(prefixes, ", "))
	p.line("Isolation", d.Isolation)
}

func (p *page) sandboxOf(d *description) {
	p.line("Container", d.ContainerID)
	p.line("Netns", d.Netns)
	p.line("Created", fmt.Sprintf("%s (%s ago)", d.Created.UTC().Format(time.RFC3339), age(d.Created)))
	if d.Record == nil {
		return
	}
	p.line("Record", string(d.Record.Phase))
	if d.Record.Chained != "" {
		p.line("Chained", "behind the plugin that made "+d.Record.Chained)
	}
	p.line("Device", d.Record.Device)
}

func (p *page) guardOf(d *description) {
	if d.PinDir == "" {
		p.line("Guard", "none")
		return
	}
	where := d.Interface + " in the pod"
	if d.HostInterface != "" {
		where = d.HostInterface + " on the node"
	}
	p.line("Guard", dash(d.Hook)+", on "+where)
	p.settingsOf(d)
	for i, pin := range d.Pins {
		p.line(first(i, "Pins"), pinText(&pin))
	}
}

func pinText(pin *loader.Pin) string {
	text := fmt.Sprintf("%-4s %-6d %s", pin.Kind, pin.ID, pin.Path)
	switch {
	case pin.Type == string(loader.TCX):
		text += fmt.Sprintf(" (program %d, interface %d)", pin.Program, pin.Index)
	case pin.Kind == loader.KindLink:
		text += fmt.Sprintf(" (program %d, %s)", pin.Program, pin.Type)
	}
	return text
}

func (p *page) settingsOf(d *description) {
	var settings map[string]any
	if len(d.Settings) > 0 && json.Unmarshal(d.Settings, &settings) != nil {
		settings = map[string]any{"weir": string(d.Settings)}
	}
	p.keys("Settings", settings, "every check, and the default limits")
	p.keys("Asked for", d.RuntimeConfig, "")
}

// keys shows each key and its value as JSON has it.
func (p *page) keys(label string, values map[string]any, none string) {
	if len(values) == 0 {
		p.line(label, none)
		return
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		value, err := json.Marshal(values[key])
		if err != nil {
			value = []byte(err.Error())
		}
		p.line(label, key+" "+string(value))
		label = ""
	}
}

func (p *page) countersOf(d *description) {
	if d.PinDir == "" {
		return
	}
	rows := [][]cell{{{"DIRECTION", heading}, {"VERDICT", heading}, {"CLASS", heading}, {"PROTOCOL", heading}, {"PACKETS", heading}, {"BYTES", heading}}}
	add := func(m mark, direction, verdict, class, protocol string, packets, bytes uint64) {
		rows = append(rows, []cell{{direction, plain}, {verdict, m}, {class, plain}, {protocol, plain},
			{strconv.FormatUint(packets, 10), m}, {humanBytes(bytes), plain}})
	}
	add(plain, "ingress", "allowed", "all", "all", d.Receive.Packets, d.Receive.Bytes)
	add(plain, "egress", "allowed", "all", "all", d.Transmit.Packets, d.Transmit.Bytes)
	for _, s := range d.Allowed {
		add(plain, s.Direction, "allowed", s.Class, s.Protocol, s.Packets, s.Bytes)
	}
	for _, drop := range d.Dropped {
		add(bad, drop.Direction, drop.Reason, "-", "-", drop.Packets, drop.Bytes)
	}
	p.line("Counters", "directions are the pod's")
	for line := range strings.Lines(align(rows, p.paint)) {
		p.WriteString("    " + line)
	}
}

// rulesOf shows what each rule of the network has decided.
func (p *page) rulesOf(d *description) {
	if len(d.Rules) == 0 {
		return
	}
	rows := [][]cell{{{"DIRECTION", heading}, {"RULE", heading}, {"ACTION", heading}, {"PACKETS", heading}, {"BYTES", heading}}}
	for _, r := range d.Rules {
		rows = append(rows, []cell{{r.Direction, plain}, {r.Rule.Rule, plain}, {r.Action, plain},
			{strconv.FormatUint(r.Packets, 10), plain}, {humanBytes(r.Bytes), plain}})
	}
	p.line("Rules", "in their order")
	for line := range strings.Lines(align(rows, p.paint)) {
		p.WriteString("    " + line)
	}
}
