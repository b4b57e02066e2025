// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-cni/weir/api"
)

// completionTimeout bounds how long a shell waits for names.
const completionTimeout = 2 * time.Second

// completer lists what a shell may complete, of what a node has.
type completer func(items []api.AttachmentStatus) []cobra.Completion

// completing has a shell complete what is live on the node, from the agent or the pins.
// What cannot be read is not told: a shell shows nothing but names.
func (s *source) completing(list completer) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(context.Background(), completionTimeout)
		defer cancel()
		a, _ := s.read(ctx)
		if a.list == nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names := list(a.list.Items)
		names = slices.DeleteFunc(names, func(c cobra.Completion) bool {
			name, _, _ := strings.Cut(c, "\t")
			return !strings.HasPrefix(name, toComplete) || slices.Contains(args, name)
		})
		slices.Sort(names)
		return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
	}
}

// podCompletions are the pods of a scope by their whole names, and by their own where
// those are of one namespace.
func (s *scope) podCompletions(items []api.AttachmentStatus) []cobra.Completion {
	var names []cobra.Completion
	for i := range items {
		a := &items[i]
		if !s.includes(a.Pod.Namespace) {
			continue
		}
		names = append(names, cobra.CompletionWithDesc(podOf(a), a.Interface+" on "+a.Network))
		if s.namespace != "" {
			names = append(names, a.Pod.Name)
		}
	}
	return firstOfEach(names)
}

// networkCompletions are the networks of a scope.
func (s *scope) networkCompletions(items []api.AttachmentStatus) []cobra.Completion {
	var names []cobra.Completion
	for i := range items {
		if s.includes(namespaceOf(items[i].Network)) {
			names = append(names, items[i].Network)
		}
	}
	return names
}

// namespaceCompletions are the namespaces of pods and networks.
func namespaceCompletions(items []api.AttachmentStatus) []cobra.Completion {
	var names []cobra.Completion
	for i := range items {
		for _, name := range []string{items[i].Pod.Namespace, namespaceOf(items[i].Network)} {
			if name != "" {
				names = append(names, name)
			}
		}
	}
	return names
}

// firstOfEach leaves one completion of each name.
func firstOfEach(names []cobra.Completion) []cobra.Completion {
	seen := map[string]bool{}
	return slices.DeleteFunc(names, func(c cobra.Completion) bool {
		name, _, _ := strings.Cut(c, "\t")
		if seen[name] || name == "" {
			return true
		}
		seen[name] = true
		return false
	})
}

// completeGet completes a resource, and then names of it.
func (o *getOptions) completeGet(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return []cobra.Completion{
			cobra.CompletionWithDesc(attachmentsResource, "the interfaces of pods"),
			cobra.CompletionWithDesc(networksResource, "what they are attached to"),
		}, cobra.ShellCompDirectiveNoFileComp
	}
	list := o.podCompletions
	if resources()[args[0]] == networksResource {
		list = o.networkCompletions
	}
	return o.completing(list)(cmd, args, toComplete)
}
