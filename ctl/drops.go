// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/drops"
	"github.com/weir-cni/weir/inspect"
)

// dropOutputs are the forms in which drops are printed.
var dropOutputs = append(slices.Clone(outputs), pcapOutput)

// dropsOptions are the flags of weirctl drops.
type dropsOptions struct {
	source
	scope
	pod, netif, direction string
	reasons               []string
	last                  int
	follow                bool
	output, file          string
}

func newDrops() *cobra.Command {
	var o dropsOptions
	cmd := &cobra.Command{
		Use:   "drops",
		Short: "Show what the guards dropped: the packets, why, and by which rule",
		Long: `Show packets that the guards of this node dropped: when, which pod sent or was to
receive them on which interface, for what reason, by which rule, and what they were.

The agent remembers the last 64 of each attachment. Of an attachment's drops it gets
100 a second at most; all are counted, and what was counted only is told on the
standard error. So this needs the agent: what guards drop while there is none it
shows when it is back, as far as there was room.

With -f it goes on until it is interrupted, past the end of an agent too: what comes
while there is none it shows when there is one again. Where it is too slow for what
comes, it tells how many it has missed, and the exit code is 3.

A pod is named by POD or NAMESPACE/POD. Of a packet the first 128 bytes are there:
-o json has them in base64, one object a line, -o yaml one document each, and -o pcap
writes what tcpdump and Wireshark read, with the VLAN tag in its place. -o name tells
for each whose it was.`,
		Example: `  # What was dropped last
  weirctl drops

  # What a pod is refused, as it happens
  weirctl drops -f --pod shop/web --direction egress

  # Who spoofs
  weirctl drops -o json | jq -r 'select(.reason | startswith("spoofed")) | .pod.name' | sort | uniq -c

  # The packets themselves
  weirctl drops -f -o pcap | tcpdump -enr -
  weirctl drops --reason rule_denied --write denied.pcap`,
		Args: wrong(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.source.addFlags(cmd)
	o.scope.addFlags(cmd, &o.source)
	addOutput(cmd, &o.output, dropOutputs)
	flags := cmd.Flags()
	flags.StringVar(&o.pod, "pod", "", "only those of this pod")
	flags.StringVar(&o.netif, "interface", "", "only those on this interface of pods")
	flags.StringVar(&o.direction, "direction", "", "only one of "+strings.Join(drops.Directions(), ", "))
	flags.StringSliceVar(&o.reasons, "reason", nil, "only those for this reason, as spoofed_mac; repeatable")
	flags.IntVar(&o.last, "last", -1, "begin with so many of the last drops (default all, with --follow none)")
	flags.BoolVarP(&o.follow, "follow", "f", false, "show drops as they come")
	flags.StringVarP(&o.file, "write", "w", "", "write pcap to this file, which must not be there yet")
	flags.Lookup("last").DefValue = "" // it is in the text
	_ = cmd.RegisterFlagCompletionFunc("pod", o.completing(o.podCompletions))
	_ = cmd.RegisterFlagCompletionFunc("interface", o.completing(o.interfaceCompletions))
	_ = cmd.RegisterFlagCompletionFunc("direction", cobra.FixedCompletions(drops.Directions(), cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("reason", cobra.FixedCompletions(drops.Reasons(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (o *dropsOptions) run(cmd *cobra.Command) error {
	filter, err := o.check(cmd)
	if err != nil {
		return err
	}
	sink, done, err := o.sink(cmd)
	if err != nil {
		return err
	}
	show := o.showKept
	if o.follow {
		show = o.showComing
	}
	err = show(cmd, filter, sink)
	err = errors.Join(err, done())
	if errors.Is(err, inspect.ErrNoAgent) {
		return o.withoutAgent(err)
	}
	return err
}

// withoutAgent leaves no empty capture behind.
func (o *dropsOptions) withoutAgent(err error) error {
	err = fmt.Errorf("drops are known to the agent alone: %w", err)
	if o.file != "" {
		err = errors.Join(err, os.Remove(o.file))
	}
	return err
}

// check is the filter that the flags make.
func (o *dropsOptions) check(cmd *cobra.Command) (drops.Filter, error) {
	f := drops.Filter{Namespace: o.namespace, Pod: o.pod, Interface: o.netif, Direction: o.direction, Reasons: o.reasons}
	if namespace, name, whole := strings.Cut(o.pod, "/"); whole {
		if o.namespace != "" && o.namespace != namespace {
			return f, usageError{fmt.Errorf("--pod %s is not in --namespace %s", o.pod, o.namespace)}
		}
		f.Namespace, f.Pod = namespace, name
	}
	if o.file != "" {
		if cmd.Flags().Changed("output") && o.output != pcapOutput {
			return f, usageError{fmt.Errorf("--write writes pcap, and not --output %s", o.output)}
		}
		o.output = pcapOutput
	}
	if o.last < 0 {
		o.last = -1
		if o.follow {
			o.last = 0
		}
	}
	return f, errors.Join(o.checkChoices(), checkOutput(o.output, dropOutputs), o.checkScope())
}

func (o *dropsOptions) checkChoices() error {
	if o.direction != "" && !slices.Contains(drops.Directions(), o.direction) {
		return usageError{fmt.Errorf("--direction %q: want one of %s", o.direction, strings.Join(drops.Directions(), ", "))}
	}
	for _, reason := range o.reasons {
		if slices.Contains(drops.Reasons(), reason) {
			continue
		}
		if similar := closest(reason, drops.Reasons()); similar != "" {
			return usageError{fmt.Errorf("--reason %q: did you mean %s?", reason, similar)}
		}
		return usageError{fmt.Errorf("--reason %q: want one of %s", reason, strings.Join(drops.Reasons(), ", "))}
	}
	return nil
}

// sink is where drops are written to, and how that ends.
func (o *dropsOptions) sink(cmd *cobra.Command) (write func(...api.DroppedPacket) error, done func() error, err error) {
	w, done := cmd.OutOrStdout(), func() error { return nil }
	switch o.output {
	case "json", "yaml":
		return func(all ...api.DroppedPacket) error { return writeDropDocuments(w, all, o.output) }, done, nil
	case "name":
		return func(all ...api.DroppedPacket) error { return writeDropNames(w, all) }, done, nil
	case pcapOutput:
		return o.pcapSink(cmd)
	default:
		table := dropTable{to: w, columns: dropColumns(o.output == "wide"), paint: painterFor(w)}
		return table.write, done, nil
	}
}

// pcapSink writes to the file that was named, or to the standard output.
func (o *dropsOptions) pcapSink(cmd *cobra.Command) (write func(...api.DroppedPacket) error, done func() error, err error) {
	w, done := cmd.OutOrStdout(), func() error { return nil }
	switch {
	case o.file != "":
		f, err := os.OpenFile(o.file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, nil, fmt.Errorf("making the file: %w", err)
		}
		w, done = f, f.Close
	case isTerminal(w):
		return nil, nil, usageError{errors.New("packets are nothing for a terminal: redirect the output, or name a file with --write")}
	}
	capture, err := newCapture(w)
	if err != nil {
		return nil, nil, errors.Join(err, done())
	}
	return capture.write, done, nil
}

// showKept shows what the agent remembers.
func (o *dropsOptions) showKept(cmd *cobra.Command, f drops.Filter, write func(...api.DroppedPacket) error) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), answerTimeout)
	defer cancel()
	list, err := inspect.Drops(ctx, o.socket, f, o.last)
	if err != nil {
		return err
	}
	if err := write(list.Items...); err != nil {
		return err
	}
	attachments, err := inspect.FromAgent(ctx, o.socket)
	if err != nil {
		return fmt.Errorf("%w: how many drops were counted only is not known: %w", ErrPartial, err)
	}
	for i := range attachments.Items {
		if a := &attachments.Items[i]; concerns(&f, a) && a.Samples.Lost() > 0 {
			tell(cmd, fmt.Sprintf("%s: %d drops were counted only: %d too many at a time, %d not read in time",
				attachmentNames(a)[0], a.Samples.Lost(), a.Samples.Limited, a.Samples.RingFull))
		}
	}
	return nil
}

// concerns tells whether drops of an attachment may match.
func concerns(f *drops.Filter, a *api.AttachmentStatus) bool {
	whose := drops.Filter{Namespace: f.Namespace, Pod: f.Pod, Interface: f.Interface}
	return whose.Matches(&api.DroppedPacket{ID: a.ID, Pod: a.Pod})
}

// showComing shows what comes until it is interrupted.
func (o *dropsOptions) showComing(cmd *cobra.Command, filter drops.Filter, write func(...api.DroppedPacket) error) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	if err := write(); err != nil {
		return err
	}
	f := dropFollower{
		socket: o.socket, filter: filter, last: o.last, write: write,
		tell: func(notice string) { tell(cmd, notice) },
	}
	return f.run(ctx)
}

// interfaceCompletions are the interfaces of the pods of a scope.
func (s *scope) interfaceCompletions(items []api.AttachmentStatus) []cobra.Completion {
	var names []cobra.Completion
	for i := range items {
		if s.includes(items[i].Pod.Namespace) {
			names = append(names, items[i].Interface)
		}
	}
	return names
}

// writeDropDocuments writes each with its description, as a line of JSON or a document of YAML.
func writeDropDocuments(w io.Writer, all []api.DroppedPacket, output string) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	for i := range all {
		d := all[i]
		d.Description = drops.Description(&d)
		if output == "json" {
			if err := encoder.Encode(d); err != nil {
				return err
			}
			continue
		}
		data, err := yaml.Marshal(d)
		if err == nil {
			_, err = fmt.Fprintf(w, "---\n%s", data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writeDropNames writes for each drop whose it is, as weirctl get -o name does, or - where
// nobody knows.
func writeDropNames(w io.Writer, all []api.DroppedPacket) error {
	var names strings.Builder
	for i := range all {
		a := api.AttachmentStatus{Attachment: attachment.Attachment{ID: all[i].ID, Pod: all[i].Pod}}
		name := "-"
		if a.ContainerID != "" {
			name = attachmentNames(&a)[0]
		}
		fmt.Fprintln(&names, name)
	}
	_, err := io.WriteString(w, names.String())
	return err
}

// dropTable is a table that goes on. A column grows when it must.
type dropTable struct {
	to      io.Writer
	columns []column[api.DroppedPacket]
	widths  columnWidths
	paint   painter
}

func (t *dropTable) write(all ...api.DroppedPacket) error {
	var rows [][]cell
	if t.widths == nil {
		titles := make([]cell, len(t.columns))
		for i, c := range t.columns {
			titles[i] = cell{c.title, heading}
		}
		rows = append(rows, titles)
	}
	for i := range all {
		row := make([]cell, len(t.columns))
		for n, c := range t.columns {
			row[n].text = dash(c.value(&all[i]))
		}
		rows = append(rows, row)
	}
	_, err := io.WriteString(t.to, t.widths.align(rows, t.paint))
	return err
}

// dropTime is RFC 3339 in UTC, to the millisecond and always as long.
const dropTime = "2006-01-02T15:04:05.000Z"

func dropColumns(wide bool) []column[api.DroppedPacket] {
	type drop = api.DroppedPacket
	packet := drops.Summary
	if wide {
		packet = drops.Description
	}
	columns := []column[drop]{
		{title: "TIME", value: func(d *drop) string { return d.Time.UTC().Format(dropTime) }},
		{title: "POD", value: whose},
		{title: "IF", value: func(d *drop) string { return d.Interface }},
		{title: "NETWORK", wide: true, value: func(d *drop) string { return d.Network }},
		{title: "DIRECTION", value: func(d *drop) string { return d.Direction }},
		{title: "REASON", value: func(d *drop) string { return d.Reason }},
		{title: "RULE", value: func(d *drop) string { return d.Rule }},
		{title: "LENGTH", wide: true, value: func(d *drop) string { return strconv.FormatUint(uint64(d.Length), 10) }},
		{title: "MACS", wide: true, value: drops.MACs},
		{title: "PACKET", value: packet},
	}
	return slices.DeleteFunc(columns, func(c column[drop]) bool { return c.wide && !wide })
}

// whose is the pod, or the container of none.
func whose(d *api.DroppedPacket) string {
	if d.Pod.Name == "" {
		return d.ContainerID
	}
	return d.Pod.String()
}
