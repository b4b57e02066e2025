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

// getOptions are the flags of weirctl get.
type getOptions struct {
	source
	scope
	output string
	watch  bool
	every  time.Duration
}

// Resources of weirctl get.
const (
	attachmentsResource = "attachments"
	networksResource    = "networks"
)

// resources are the names by which each can be called.
func resources() map[string]string {
	return map[string]string{
		attachmentsResource: attachmentsResource, "attachment": attachmentsResource, "att": attachmentsResource,
		networksResource: networksResource, "network": networksResource, "net": networksResource,
	}
}

func newGet() *cobra.Command {
	var o getOptions
	cmd := &cobra.Command{
		Use:     "get [attachments|networks] [NAME...]",
		Aliases: []string{"list", "ls"},
		Short:   "List the attachments or networks of this node with their counters",
		Long: `List the attachments of this node: which pod has which interface on which
network, what it received (RX) and sent (TX), and what its guard dropped. Or list
the networks: how many attachments and pods of this node each has, and the sums of
their counters.

RX and TX are packets and bytes of what was allowed, as the wire carries them.

An attachment is named by its POD, NAMESPACE/POD or NAMESPACE/POD/INTERFACE, one of
no pod by CONTAINER or CONTAINER/INTERFACE; a network by NAME or NAMESPACE/NAME.`,
		Example: `  # What is attached on this node
  weirctl get

  # One pod's, again and again
  weirctl get attachments shop/web --watch

  # What each network carries
  weirctl get networks

  # Every drop, by direction and reason
  weirctl get -o json | jq '.items[] | {pod, interface, dropped}'`,
		Args: wrong(func(_ *cobra.Command, args []string) error { return checkResource(args) }),
		RunE: o.run,
	}
	cmd.ValidArgsFunction = o.completeGet
	o.source.addFlags(cmd)
	o.scope.addFlags(cmd, &o.source)
	addOutput(cmd, &o.output, outputs)
	cmd.Flags().BoolVarP(&o.watch, "watch", "w", false, "list again and again: in place on a terminal, one list after the other elsewhere")
	cmd.Flags().DurationVar(&o.every, "interval", 2*time.Second, "time between two lists, for --watch")
	return cmd
}

func checkResource(args []string) error {
	if len(args) == 0 || resources()[args[0]] != "" {
		return nil
	}
	if similar := closest(args[0], []string{attachmentsResource, networksResource}); similar != "" {
		return fmt.Errorf("there is no resource %q: did you mean %s?", args[0], similar)
	}
	return fmt.Errorf("there is no resource %q: want %s or %s", args[0], attachmentsResource, networksResource)
}

func (o *getOptions) check() error {
	if err := checkOutput(o.output, outputs); err != nil {
		return err
	}
	if o.every <= 0 {
		return usageError{fmt.Errorf("--interval %s: want more than 0s", o.every)}
	}
	return o.checkScope()
}

func (o *getOptions) run(cmd *cobra.Command, args []string) error {
	if err := o.check(); err != nil {
		return err
	}
	resource := attachmentsResource
	if len(args) > 0 {
		resource, args = resources()[args[0]], args[1:]
	}
	if o.watch {
		return o.follow(cmd, resource, args)
	}
	list, err := o.attachments(cmd)
	if list == nil {
		return err
	}
	return errors.Join(err, o.show(cmd.OutOrStdout(), list, resource, args))
}

// show prints what of a list was asked for, and errs for each name that is not there.
func (o *getOptions) show(w io.Writer, list *api.AttachmentList, resource string, names []string) error {
	if resource == networksResource {
		all := networksOf(list.Items)
		all = slices.DeleteFunc(all, func(n network) bool { return !o.includes(namespaceOf(n.Name)) })
		all, err := pick("network", all, names, networkNames)
		return errors.Join(networksView(all).render(w, o.output), err)
	}
	all := slices.DeleteFunc(list.Items, func(a api.AttachmentStatus) bool { return !o.includes(a.Pod.Namespace) })
	all, err := pick("attachment", all, names, attachmentNames)
	return errors.Join(attachmentsView(all).render(w, o.output), err)
}

// follow prints lists until it is interrupted or nobody reads them any more.
func (o *getOptions) follow(cmd *cobra.Command, resource string, names []string) error {
	w, told := cmd.OutOrStdout(), ""
	for first := true; ; first = false {
		a, err := o.read(cmd.Context())
		if cmd.Context().Err() != nil {
			return nil
		}
		if a.list == nil {
			return err
		}
		separate(w, first, o.output)
		if told != a.notice {
			told = a.notice
			tell(cmd, told)
		}
		if err := errors.Join(err, o.show(w, a.list, resource, names)); err != nil && !errors.Is(err, ErrPartial) {
			return err
		}
		if err := sleep(cmd.Context(), o.every); err != nil {
			return nil
		}
	}
}

// separate parts a list from the one before: a terminal is cleared, elsewhere there is an
// empty line, and in YAML the sign that a document begins.
func separate(w io.Writer, first bool, output string) {
	switch {
	case isTerminal(w):
		fmt.Fprint(w, "\x1b[H\x1b[2J")
	case first || output == "json" || output == "name":
	case output == "yaml":
		fmt.Fprintln(w, "---")
	default:
		fmt.Fprintln(w)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// scope is the namespaces that are asked for.
type scope struct {
	namespace string
	all       bool
}

// addFlags adds flags whose values are completed from a source.
func (s *scope) addFlags(cmd *cobra.Command, from *source) {
	cmd.Flags().StringVarP(&s.namespace, "namespace", "n", "", "only those of this namespace")
	cmd.Flags().BoolVarP(&s.all, "all-namespaces", "A", false, "those of all namespaces, as without --namespace")
	_ = cmd.RegisterFlagCompletionFunc("namespace", from.completing(namespaceCompletions))
}

func (s *scope) checkScope() error {
	if s.all && s.namespace != "" {
		return usageError{errors.New("--namespace and --all-namespaces exclude each other")}
	}
	return nil
}

func (s *scope) includes(namespace string) bool { return s.namespace == "" || s.namespace == namespace }

// pick leaves the items that bear one of some names; all where none is given. The names
// of an item go from the whole one to the shorter ones.
func pick[T any](kind string, items []T, names []string, namesOf func(*T) []string) ([]T, error) {
	if len(names) == 0 {
		return items, nil
	}
	var errs []error
	for _, name := range names {
		if !slices.ContainsFunc(items, func(item T) bool { return slices.Contains(namesOf(&item), name) }) {
			errs = append(errs, notThere(kind, name, suggestable(items, namesOf)))
		}
	}
	kept := slices.DeleteFunc(items, func(item T) bool {
		return !slices.ContainsFunc(names, func(name string) bool { return slices.Contains(namesOf(&item), name) })
	})
	return kept, errors.Join(errs...)
}

// suggestable are the names that may be meant by a mistyped one.
func suggestable[T any](items []T, namesOf func(*T) []string) []string {
	var known []string
	for i := range items {
		known = append(known, namesOf(&items[i])...)
	}
	return known
}

// namespaceOf is that of a name; empty where it has none.
func namespaceOf(name string) string {
	namespace, _, found := strings.Cut(name, "/")
	if !found {
		return ""
	}
	return namespace
}
