// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-cni/weir/api"
)

// topOptions are the flags of weirctl top.
type topOptions struct {
	source
	scope
	by, sort string
	every    time.Duration
	once     bool
	output   string
}

// topList is what weirctl top prints, once for each interval.
type topList struct {
	APIVersion string    `json:"apiVersion"`
	Time       time.Time `json:"time"`
	Seconds    float64   `json:"seconds"`
	By         string    `json:"by"`
	Items      []rate    `json:"items"`
}

func newTop() *cobra.Command {
	var o topOptions
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show what the attachments carry, each second",
		Long: `Show what the attachments of this node carry each second, by attachment, network or
pod: bits received (RX) and sent (TX), packets of both, and what guards dropped.

On a terminal it goes on until q, with these keys: r t p d n sort by RX, TX, packets,
drops or name; b changes what is summed up. Elsewhere it prints one list after the
other, each with the instant and the length of its interval.`,
		Example: `  # What carries most
  weirctl top

  # Who is refused most, by pod
  weirctl top --by pod -s drops

  # Once, over ten seconds, for a script
  weirctl top --once -d 10s -o json | jq '.items[] | select(.dropsPerSecond > 0)'`,
		Args: wrong(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.source.addFlags(cmd)
	o.scope.addFlags(cmd, &o.source)
	addOutput(cmd, &o.output, outputs)
	flags := cmd.Flags()
	flags.StringVar(&o.by, "by", byAttachment, "one of "+strings.Join(groupings, ", "))
	flags.StringVarP(&o.sort, "sort", "s", "rx", "one of "+strings.Join(sortKeys, ", "))
	flags.DurationVarP(&o.every, "interval", "d", 2*time.Second, "time between two readings")
	flags.BoolVar(&o.once, "once", false, "print one list and end")
	_ = cmd.RegisterFlagCompletionFunc("by", cobra.FixedCompletions(groupings, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(sortKeys, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// leastInterval is the shortest that says anything: an agent's answer takes some of it.
const leastInterval = 100 * time.Millisecond

func (o *topOptions) check() error {
	switch {
	case !slices.Contains(groupings, o.by):
		return usageError{fmt.Errorf("--by %q: want one of %s", o.by, strings.Join(groupings, ", "))}
	case !slices.Contains(sortKeys, o.sort):
		return usageError{fmt.Errorf("--sort %q: want one of %s", o.sort, strings.Join(sortKeys, ", "))}
	case o.every < leastInterval:
		return usageError{fmt.Errorf("--interval %s: want %s at least", o.every, leastInterval)}
	}
	return errors.Join(checkOutput(o.output, outputs), o.checkScope())
}

func (o *topOptions) run(cmd *cobra.Command) error {
	if err := o.check(); err != nil {
		return err
	}
	live := !o.once && (o.output == "table" || o.output == "wide")
	if live && isTerminal(cmd.InOrStdin()) && isTerminal(cmd.OutOrStdout()) {
		return o.live(cmd)
	}
	return o.lists(cmd)
}

// take reads the counters of what is asked for.
func (o *topOptions) take(ctx context.Context) (reading, string, error) {
	a, err := o.read(ctx)
	if a.list == nil {
		return reading{}, a.notice, err
	}
	items := slices.DeleteFunc(a.list.Items, func(a api.AttachmentStatus) bool { return !o.includes(a.Pod.Namespace) })
	return reading{time.Now(), items}, a.notice, err
}

// lists prints a list for each interval until it is interrupted or nobody reads them.
func (o *topOptions) lists(cmd *cobra.Command) error {
	before, told, err := o.take(cmd.Context())
	if before.at.IsZero() {
		return err
	}
	tell(cmd, told)
	for first := true; ; first = false {
		if sleep(cmd.Context(), o.every) != nil {
			return nil
		}
		after, notice, err := o.take(cmd.Context())
		if cmd.Context().Err() != nil {
			return nil
		}
		if after.at.IsZero() {
			return err
		}
		if notice != told {
			told = notice
			tell(cmd, told)
		}
		if writeErr := o.list(cmd.OutOrStdout(), before, after, first); o.once || writeErr != nil {
			return errors.Join(err, writeErr)
		}
		before = after
	}
}

func (o *topOptions) list(w io.Writer, before, after reading, first bool) error {
	rates := o.arrange(ratesBetween(before, after))
	switch o.output {
	case "json", "yaml":
		if o.output == "yaml" && !first {
			fmt.Fprintln(w, "---")
		}
		seconds := after.at.Sub(before.at).Seconds()
		return renderDocument(w, &topList{api.Version, after.at.UTC(), seconds, o.by, rates}, o.output)
	case "name":
		v := view[rate]{items: rates, name: nameOfRate}
		return v.render(w, o.output)
	}
	var b strings.Builder
	if !first {
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "%s over %s\n", after.at.UTC().Format(time.RFC3339), after.at.Sub(before.at).Round(time.Millisecond*100))
	for _, line := range layOut(rates, o.by, unbounded, painterFor(w)) {
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (o *topOptions) arrange(rates []rate) []rate {
	sums := sumUp(rates, o.by)
	sortRates(sums, o.sort)
	return sums
}

func nameOfRate(r *rate) string {
	var parts []string
	for _, part := range []string{r.Pod, r.Interface} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	if len(parts) == 0 {
		return r.Network
	}
	return strings.Join(parts, "/")
}
