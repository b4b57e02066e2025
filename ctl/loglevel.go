// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/inspect"
)

// logLevels are what the command takes, and what a shell completes.
var logLevels = []string{"debug", "info", "warn", "error"}

func newLogLevel() *cobra.Command {
	var socket string
	cmd := &cobra.Command{
		Use:   "log-level [debug|info|warn|error]",
		Short: "Show what the agent logs, or change it while the agent runs",
		Long: `log-level prints the level from which on the agent of this node logs. With a level
it changes that, until the agent ends: --log-level says where it begins.`,
		Example: `  # Log each step of each request, for a while
  weirctl log-level debug
  weirctl log-level info`,
		Args:      wrong(cobra.MaximumNArgs(1)),
		ValidArgs: logLevels,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return showLogLevel(cmd, socket)
			}
			return setLogLevel(cmd, socket, args[0])
		},
	}
	cmd.Flags().StringVar(&socket, "socket", api.DefaultSocket, "the agent's socket")
	return cmd
}

func showLogLevel(cmd *cobra.Command, socket string) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), answerTimeout)
	defer cancel()
	level, err := inspect.LogLevel(ctx, socket)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), level)
	return err
}

func setLogLevel(cmd *cobra.Command, socket, name string) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(name)); err != nil {
		return usageError{fmt.Errorf("log level %q: want one of %v", name, logLevels)}
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), answerTimeout)
	defer cancel()
	return inspect.SetLogLevel(ctx, socket, level)
}
