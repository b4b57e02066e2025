// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/policy"
	"github.com/weir-cni/weir/state"
)

// explainOptions are the flags of weirctl explain.
type explainOptions struct {
	source
	scope
	output, netif string
	question      question
}

// errDropped is the error of a packet that a guard would drop.
var errDropped = errors.New("the packet is dropped")

func newExplain() *cobra.Command {
	var o explainOptions
	cmd := &cobra.Command{
		Use:   "explain POD --from|--to ADDR --tcp PORT|--udp PORT|--icmp|--arp",
		Short: "Ask a pod's guards what they would do with a packet, and why",
		Long: `Ask the guards of a pod what they would do with a packet, and which check or which rule
of the network decides.

The kernel runs the loaded programs themselves, on a packet that is made up: a copy of
them, instruction by instruction, with the guard's own addresses, rules and members.
What the copy counts and remembers is its own, so the guard's counters, rates and storm
limits stay as they are, and nothing is sent. It works without an agent, and needs root.

--to ADDR is a packet that the pod sends there from its own address, --from ADDR one that
it receives from there. With both, a packet to one of its addresses is received, one
from one of them is sent, and --direction says so for any other. The packet is
the first of a connection over TCP, a datagram of UDP, an echo request of ICMP,
or an ARP request, which for IPv6 is a neighbour solicitation.

A guard knows no connections: ask about the answer, from port to port, by itself.

The exit code is 0 when the packet passes, 4 when it is dropped, 1 when no guard could be
asked, 2 for a command line that is wrong, and 3 where an attachment has no guard.`,
		Example: `  # May the pod reach a database?
  weirctl explain shop/web --to 192.0.2.9 --tcp 5432

  # May it be pinged from there?
  weirctl explain web --interface net1 --from 192.0.2.9 --icmp

  # What becomes of a source that is not its own?
  weirctl explain web --direction egress --from 192.0.2.77 --to 192.0.2.9 --udp 53

  # For a script
  weirctl explain web --to 192.0.2.9 --tcp 80 -o json | jq -r '.items[].reason'`,
		Args: wrong(cobra.ExactArgs(1)),
		RunE: o.run,
	}
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return o.completing(o.podCompletions)(cmd, args, toComplete)
	}
	o.source.addFlags(cmd)
	o.scope.addFlags(cmd, &o.source)
	addOutput(cmd, &o.output, outputs)
	cmd.Flags().StringVar(&o.netif, "interface", "", "ask the guard of this interface alone, as net1")
	_ = cmd.RegisterFlagCompletionFunc("interface", o.completing(o.interfaceCompletions))
	o.question.addFlags(cmd)
	return cmd
}

// interfaceCompletions are the names of interfaces of a scope.
func (o *explainOptions) interfaceCompletions(items []api.AttachmentStatus) []cobra.Completion {
	var names []cobra.Completion
	for i := range items {
		if o.includes(items[i].Pod.Namespace) {
			names = append(names, items[i].Interface)
		}
	}
	return names
}

// explanationList is what weirctl explain prints.
type explanationList struct {
	APIVersion string        `json:"apiVersion"`
	Items      []explanation `json:"items"`
}

// explanation is what a guard would do with a packet.
type explanation struct {
	// Attachment is namespace/pod/interface.
	Attachment string `json:"attachment"`
	Network    string `json:"network"`
	Direction  string `json:"direction"`
	Packet     string `json:"packet"`
	SourceMAC  string `json:"sourceMAC"`
	TargetMAC  string `json:"destinationMAC"`
	// Frame is all of it, in hexadecimal digits.
	Frame string `json:"frame"`
	// Allowed tells whether it passes, Reason is the verdict's name in metrics.
	Allowed bool   `json:"allowed"`
	Reason  string `json:"reason"`
	Because string `json:"because"`
	// Leave is what the network can name in its list "allow" to have it pass.
	Leave string `json:"leave,omitempty"`
	// Rule is the one that decided; nil where none did.
	Rule *decisive `json:"rule,omitempty"`
	// Program is that of the guard, of which a copy was asked, and Build that of the programs.
	Program loader.Pin `json:"program"`
	Build   string     `json:"build"`

	guessed bool // the other's MAC is made up
}

// decisive is a rule that decided.
type decisive struct {
	// Rule is its name or, without one, its number in the network's list, from 0.
	Rule   string `json:"rule"`
	Action string `json:"action"`
	// Text is the rule as the network has it; empty where the record does not tell.
	Text json.RawMessage `json:"text,omitempty"`
}

func (o *explainOptions) run(cmd *cobra.Command, names []string) error {
	if err := errors.Join(checkOutput(o.output, outputs), o.checkScope(), o.question.check()); err != nil {
		return err
	}
	list, err := o.attachments(cmd)
	if list == nil {
		return err
	}
	all := slices.Clone(list.Items)
	all = slices.DeleteFunc(all, func(a api.AttachmentStatus) bool { return !o.includes(a.Pod.Namespace) })
	all, unknown := pick("pod", all, names, attachmentNames)
	if unknown != nil {
		return errors.Join(unknown, err)
	}
	if all, unknown = o.ofInterface(all); unknown != nil {
		return errors.Join(unknown, err)
	}
	explained, failed := o.explainAll(all, list.Items)
	return errors.Join(verdictOf(explained), failed, err, renderExplanations(cmd.OutOrStdout(), explained, o.output))
}

// ofInterface leaves the attachments of the interface that was asked for.
func (o *explainOptions) ofInterface(all []api.AttachmentStatus) ([]api.AttachmentStatus, error) {
	if o.netif == "" {
		return all, nil
	}
	return pick("interface", all, []string{o.netif}, func(a *api.AttachmentStatus) []string { return []string{a.Interface} })
}

// verdictOf is the error of a packet that some guard would drop.
func verdictOf(explained []explanation) error {
	if slices.ContainsFunc(explained, func(e explanation) bool { return !e.Allowed }) {
		return errDropped
	}
	return nil
}

func (o *explainOptions) explainAll(of, known []api.AttachmentStatus) ([]explanation, error) {
	loads, err := loader.New()
	if err != nil {
		return nil, err
	}
	records, err := state.Read(o.recordsDir())
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrPartial, err)
	}
	errs := []error{err}
	var explained []explanation
	for i := range of {
		if of[i].PinDir == "" {
			errs = append(errs, fmt.Errorf("%w: %s has no guard: all passes", ErrPartial, of[i].ID))
			continue
		}
		e, err := o.explain(loads, &of[i], known)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if e.Rule != nil {
			e.Rule.Text = textOf(records, &of[i], e.Direction, e.Rule.Rule)
		}
		explained = append(explained, *e)
	}
	return explained, errors.Join(errs...)
}

// explain asks the guard of an attachment.
func (o *explainOptions) explain(loads *loader.Loader, a *api.AttachmentStatus, known []api.AttachmentStatus) (*explanation, error) {
	p, guessed, err := o.question.about(a, known)
	if err != nil {
		return nil, err
	}
	trial, err := loads.NewTrial(filepath.Join(o.bpfDir, a.PinDir))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.ID, err)
	}
	frame := p.frame()
	outcome, err := trial.Run(p.direction, frame)
	if err = errors.Join(err, trial.Close()); err != nil {
		return nil, fmt.Errorf("%s: %w", a.ID, err)
	}
	behind := checkOf(outcome.Verdict)
	e := &explanation{
		Attachment: attachmentNames(a)[0], Network: a.Network,
		Direction: p.direction.String(), Packet: p.String(), SourceMAC: p.fromMAC.String(), TargetMAC: p.toMAC.String(),
		Frame: hex.EncodeToString(frame), Allowed: outcome.Verdict == bpf.Allowed, Reason: outcome.Verdict.Reason(),
		Because: behind.because, Leave: behind.leave,
		Program: trial.Originals[p.direction], Build: trial.Build, guessed: guessed,
	}
	e.addRule(a, outcome.Rule)
	return e, nil
}

// addRule tells of the rule that decided, by its number among the hits.
func (e *explanation) addRule(a *api.AttachmentStatus, number int) {
	switch {
	case number >= 0 && number < len(a.Rules):
		r := a.Rules[number]
		e.Rule = &decisive{Rule: r.Rule.Rule, Action: r.Action}
		if e.Allowed {
			e.Because = "a rule of the network allows it"
		}
	case e.Allowed && slices.ContainsFunc(a.Rules, func(r api.Rule) bool { return r.Direction == e.Direction }):
		e.Because = "nothing refuses it, and no rule of the network is about it"
	}
}

// textOf is a rule as the network has it; nil where no record tells.
func textOf(records []*state.Record, a *api.AttachmentStatus, direction, label string) json.RawMessage {
	for _, record := range records {
		for i := range record.Delegates {
			d := &record.Delegates[i]
			if d.Attachment == nil || d.Attachment.ID != a.ID {
				continue
			}
			rules := rulesIn(d)
			for _, number := range policy.Of(rules, policy.Direction(direction)) {
				if policy.Label(rules, number) != label {
					continue
				}
				text, err := json.Marshal(rules[number])
				if err == nil {
					return text
				}
			}
		}
	}
	return nil
}

// rulesIn are the rules of the configuration that is in force; none where it cannot be read.
func rulesIn(d *state.Delegate) policy.List {
	settings, err := settingsOf(d)
	if err != nil {
		return nil
	}
	var keys struct {
		Rules policy.List `json:"rules"`
	}
	if json.Unmarshal(settings, &keys) != nil {
		return nil
	}
	return keys.Rules
}

func renderExplanations(w io.Writer, all []explanation, output string) error {
	var b strings.Builder
	switch output {
	case "json", "yaml":
		return renderDocument(w, &explanationList{api.Version, append([]explanation{}, all...)}, output)
	case "name":
		for i := range all {
			fmt.Fprintln(&b, all[i].Attachment)
		}
	default:
		b.WriteString(explanationText(all, output == "wide", painterFor(w)))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func explanationText(all []explanation, wide bool, paint painter) string {
	p := page{paint: paint}
	for i := range all {
		if i > 0 {
			p.WriteByte('\n')
		}
		p.explain(&all[i])
		if wide {
			p.line("Frame", all[i].Frame)
		}
	}
	return p.String()
}

func (p *page) explain(e *explanation) {
	p.WriteString(p.paint.text(heading, e.Attachment+" on "+e.Network) + "\n")
	p.line("Packet", e.Direction+", "+e.Packet)
	macs := e.SourceMAC + " to " + e.TargetMAC
	if e.guessed {
		macs += " (the other's is made up: no attachment of this node has that address)"
	}
	p.line("MACs", macs)
	verdict := p.paint.text(good, "allowed")
	if !e.Allowed {
		verdict = p.paint.text(bad, "dropped, "+e.Reason)
	}
	p.line("Verdict", verdict)
	p.line("Because", e.Because)
	if e.Rule != nil {
		p.line("Rule", strings.TrimSpace(e.Rule.Rule+" "+string(e.Rule.Text)))
	}
	if e.Leave != "" {
		p.line("Leave", fmt.Sprintf(`the network gives it with "weir": {"allow": ["%s"]}`, e.Leave))
	}
	p.line("Asked", fmt.Sprintf("a copy of %s, program %d, tag %s, build %s; nothing was counted", e.Program.Name, e.Program.ID, e.Program.Tag, e.Build))
}
