// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// Exit codes of weirctl.
const (
	ExitOK      = 0
	ExitFailed  = 1
	ExitUsage   = 2
	ExitPartial = 3 // an answer was printed, and something is missing from it
)

// ErrPartial is the error of an answer that was printed but is not whole.
var ErrPartial = errors.New("the answer is not complete")

// usageError is an error of the command line itself.
type usageError struct{ error }

// Run runs weirctl with arguments and returns its exit code. Data goes to stdout,
// everything else to stderr.
func Run(args []string, version string, stdout, stderr io.Writer) int {
	cmd := New(version)
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.Execute()
	if err != nil {
		fmt.Fprintln(stderr, "weirctl:", err)
	}
	return exitCode(err)
}

func exitCode(err error) int {
	var usage usageError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &usage):
		return ExitUsage
	case errors.Is(err, ErrPartial):
		return ExitPartial
	default:
		return ExitFailed
	}
}

// New makes the command with all its commands.
func New(version string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "weirctl",
		Short: "Inspect weir's network attachments on this node, and put it in Multus's place",
		Long: `weirctl shows the extra network interfaces that weir gave to the pods of this
node, and what their guards counted.

It asks the agent. When no agent answers it reads the agent's records and the
pinned maps itself: the guards go on enforcing and counting without an agent.`,
		Example: `  # What is attached on this node
  weirctl get

  # The same with master, mode, MAC, MTU, hook and container
  weirctl get -o wide

  # What would change if weir took the place of Multus
  weirctl migrate`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.NoArgs(cmd, args); err != nil {
				return usageError{err}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	cmd.AddCommand(newGet(), newMigrate(), newLogLevel())
	return cmd
}
