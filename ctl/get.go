// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/yaml"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/inspect"
	"github.com/weir-cni/weir/state"
)

// getOptions are the flags of weirctl get.
type getOptions struct {
	socket, stateDir, bpfDir string
	namespace                string
	output                   string
}

// answerTimeout bounds the wait for an agent that is there and does not answer;
// the pins are read then.
const answerTimeout = 10 * time.Second

var outputs = []string{"table", "wide", "json", "yaml"}

func newGet() *cobra.Command {
	var o getOptions
	cmd := &cobra.Command{
		Use:     "get [attachments]",
		Aliases: []string{"list", "ls"},
		Short:   "List the attachments of this node with their counters",
		Long: `List the attachments of this node: which pod has which interface on which
network, what it received (RX) and sent (TX), and what its guard dropped.

RX and TX are packets and bytes of what was allowed, as the wire carries them.`,
		Example: `  # What is attached on this node
  weirctl get

  # Every drop, by direction and reason
  weirctl get -o json | jq '.items[] | {pod, interface, dropped}'`,
		ValidArgs: []string{"attachments"},
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs)(cmd, args); err != nil {
				return usageError{err}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return get(cmd, o) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.socket, "socket", api.DefaultSocket, "the agent's socket")
	flags.StringVar(&o.stateDir, "state-dir", api.DefaultStateDir, "the agent's state, read when no agent answers")
	flags.StringVar(&o.bpfDir, "bpf-dir", api.DefaultBPFDir, "the agent's pins, read when no agent answers")
	flags.StringVarP(&o.namespace, "namespace", "n", "", "only the pods of this namespace")
	flags.StringVarP(&o.output, "output", "o", "table", "one of "+strings.Join(outputs, ", "))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(outputs, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func get(cmd *cobra.Command, o getOptions) error {
	if !slices.Contains(outputs, o.output) {
		return usageError{fmt.Errorf("--output %q: want one of %s", o.output, strings.Join(outputs, ", "))}
	}
	list, err := attachments(cmd, o)
	if list == nil {
		return err
	}
	if o.namespace != "" {
		list.Items = slices.DeleteFunc(list.Items, func(a api.AttachmentStatus) bool { return a.Pod.Namespace != o.namespace })
	}
	return errors.Join(err, render(cmd.OutOrStdout(), list, o.output))
}

// attachments asks the agent, and the kernel where no agent answers.
func attachments(cmd *cobra.Command, o getOptions) (*api.AttachmentList, error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), answerTimeout)
	defer cancel()
	list, err := inspect.FromAgent(ctx, o.socket)
	if !errors.Is(err, inspect.ErrNoAgent) {
		return list, err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "weirctl: %v: reading the records in %s and the pins in %s\n", err, o.stateDir, o.bpfDir)
	list, err = inspect.FromPins(filepath.Join(o.stateDir, state.RecordsDir), o.bpfDir)
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrPartial, err)
	}
	return list, err
}

func render(w io.Writer, list *api.AttachmentList, output string) error {
	switch output {
	case "json":
		return renderJSON(w, list)
	case "yaml":
		data, err := yaml.Marshal(list)
		if err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	default:
		return renderTable(w, list, output == "wide")
	}
}

func renderJSON(w io.Writer, list *api.AttachmentList) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(list)
}

// column is one of the table's columns.
type column struct {
	title string
	wide  bool // shown with -o wide only
	value func(*api.AttachmentStatus) string
}

func columns() []column {
	return []column{
		{"NAMESPACE", false, func(a *api.AttachmentStatus) string { return a.Pod.Namespace }},
		{"POD", false, func(a *api.AttachmentStatus) string { return a.Pod.Name }},
		{"IF", false, func(a *api.AttachmentStatus) string { return a.Interface }},
		{"NETWORK", false, func(a *api.AttachmentStatus) string { return a.Network }},
		{"TYPE", false, func(a *api.AttachmentStatus) string { return a.Type }},
		{"IP", false, addresses},
		{"RX", false, func(a *api.AttachmentStatus) string { return traffic(a.Receive) }},
		{"TX", false, func(a *api.AttachmentStatus) string { return traffic(a.Transmit) }},
		{"DROPS", false, drops},
		{"AGE", false, func(a *api.AttachmentStatus) string { return duration.HumanDuration(time.Since(a.Created)) }},
		{"MASTER", true, func(a *api.AttachmentStatus) string { return a.Master }},
		{"MODE", true, func(a *api.AttachmentStatus) string { return a.Mode }},
		{"MAC", true, func(a *api.AttachmentStatus) string { return a.MAC }},
		{"MTU", true, func(a *api.AttachmentStatus) string { return strconv.Itoa(a.MTU) }},
		{"HOOK", true, func(a *api.AttachmentStatus) string { return a.Hook }},
		{"CONTAINER", true, func(a *api.AttachmentStatus) string { return a.ContainerID }},
	}
}

func renderTable(w io.Writer, list *api.AttachmentList, wide bool) error {
	shown := slices.DeleteFunc(columns(), func(c column) bool { return c.wide && !wide })
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row := make([]string, len(shown))
	for i, c := range shown {
		row[i] = c.title
	}
	fmt.Fprintln(table, strings.Join(row, "\t"))
	for i := range list.Items {
		for n, c := range shown {
			row[n] = dash(c.value(&list.Items[i]))
		}
		fmt.Fprintln(table, strings.Join(row, "\t"))
	}
	return table.Flush()
}

func dash(value string) string {
	if value == "" {
		return "-"
	}
	return value
}

func addresses(a *api.AttachmentStatus) string {
	var text []string
	for _, p := range a.Addresses {
		text = append(text, p.Addr().String())
	}
	return strings.Join(text, ",")
}

func traffic(t api.Traffic) string {
	return fmt.Sprintf("%d/%s", t.Packets, humanBytes(t.Bytes))
}

// drops is the number of packets dropped, and the reason where there is but one.
func drops(a *api.AttachmentStatus) string {
	var packets uint64
	for _, d := range a.Dropped {
		packets += d.Packets
	}
	if len(a.Dropped) == 1 {
		return fmt.Sprintf("%d %s", packets, a.Dropped[0].Reason)
	}
	return strconv.FormatUint(packets, 10)
}

func humanBytes(n uint64) string {
	const unit = 1000
	if n < unit {
		return fmt.Sprintf("%dB", n)
	}
	value, prefixes := float64(n), "kMGTPE"
	place := -1
	// What would be rounded up to 1000.0 is 1.0 of the next.
	for value >= unit-0.05 && place < len(prefixes)-1 {
		value /= unit
		place++
	}
	return fmt.Sprintf("%.1f%cB", value, prefixes[place])
}
