// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// Exit codes of weirctl.
const (
	ExitOK      = 0
	ExitFailed  = 1
	ExitUsage   = 2
	ExitPartial = 3 // an answer was printed, and something is missing from it, or doubtful
	ExitDropped = 4 // a guard would drop the packet that it was asked about
)

// ErrPartial is the error of an answer that was printed but is not whole.
var ErrPartial = errors.New("the answer is not complete")

// usageError is an error of the command line itself.
type usageError struct{ error }

// Run runs weirctl with the arguments of a process, its name first, and returns its exit
// code. Data goes to stdout, everything else to stderr.
func Run(argv []string, version string, stdout, stderr io.Writer) int {
	cmd := New(nameOf(argv[0]), version)
	// Never nil, for which cobra would take the process's own.
	cmd.SetArgs(append([]string{}, argv[1:]...))
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.Execute()
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", cmd.DisplayName(), err)
	}
	return exitCode(err)
}

const (
	ownName = "weirctl"
	// pluginFile is the name under which kubectl finds a command, pluginName is how it is
	// then called.
	pluginFile, pluginName = "kubectl-weir", "kubectl weir"
)

// nameOf is how a command is called that was executed by a path.
func nameOf(path string) string {
	if filepath.Base(path) == pluginFile {
		return pluginName
	}
	return ownName
}

func exitCode(err error) int {
	var usage usageError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &usage):
		return ExitUsage
	case errors.Is(err, errDropped):
		return ExitDropped
	case errors.Is(err, ErrPartial), errors.Is(err, errDoubtful):
		return ExitPartial
	default:
		return ExitFailed
	}
}

// New makes the command with all its commands. It is called by name in its help.
func New(name, version string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   ownName,
		Short: "Inspect weir's network attachments on this node, and put it in Multus's place",
		Long: `weirctl shows the extra network interfaces that weir gave to the pods of this
node, and what their guards counted.

It asks the agent. When no agent answers it reads the agent's records and the
pinned maps itself: the guards go on enforcing and counting without an agent.

The exit code is 0 when all went well; 1 when something failed or what was asked
for is not there; 2 for a command line that is wrong; 3 for an answer that was
printed and lacks something, which is named on the standard error, and where doctor
has warnings alone; 4 when explain finds that a packet is dropped.`,
		Example: `  # What is attached on this node
  weirctl get

  # The same with master, mode, MAC, MTU, hook and container
  weirctl get -o wide

  # What carries most, live
  weirctl top

  # What a pod's guard would do with a packet, and why
  weirctl explain web --to 192.0.2.9 --tcp 80

  # What the guards drop, as they do
  weirctl drops -f

  # What keeps weir from working on this node
  weirctl doctor

  # What would change if weir took the place of Multus
  weirctl migrate`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          wrong(noCommand),

		SuggestionsMinimumDistance: 2,

		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	cmd.AddCommand(newBugreport(version), newDescribe(), newDoctor(version), newDrops(), newExplain(), newGet(), newLogLevel(), newMigrate(), newTop())
	if name != ownName {
		rename(cmd, name)
	}
	return cmd
}

// noCommand errs for a command that there is not, with the one that may be meant.
func noCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
		return fmt.Errorf("there is no command %q: did you mean %s?", args[0], strings.Join(similar, " or "))
	}
	return fmt.Errorf("there is no command %q: %s --help lists them", args[0], cmd.DisplayName())
}

// rename has the help of a command and its commands call weirctl by another name.
func rename(cmd *cobra.Command, name string) {
	cmd.Root().Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: name}
	cmd.Example = strings.ReplaceAll(cmd.Example, ownName, name)
	cmd.Long = strings.ReplaceAll(cmd.Long, ownName, name)
	for _, c := range cmd.Commands() {
		rename(c, name)
	}
}

// wrong makes errors of the command line of those that a check of arguments has.
func wrong(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{err}
		}
		return nil
	}
}
