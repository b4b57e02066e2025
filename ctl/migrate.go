// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/install"
	"github.com/weir-cni/weir/migrate"
)

// migrateOptions are the flags of weirctl migrate.
type migrateOptions struct {
	migrate.Options
	apply, revert bool
	output        string
}

// reversion is what weirctl migrate --revert prints.
type reversion struct {
	APIVersion string              `json:"apiVersion"`
	Operations []migrate.Operation `json:"operations"`
}

var errCannotMigrate = errors.New("this node cannot be migrated as it is: the plan says what is in the way")

func newMigrate() *cobra.Command {
	var o migrateOptions
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Put weir in the place of Multus on this node, and back",
		Long: `Show what would change on this node if weir took the place of Multus: weir's
entry in the runtime's configuration, what becomes of each key of Multus's, what
the agent must be told, and what is done to which file. Nothing is changed.

With --apply it is done. At every instant the runtime finds Multus's configuration
or weir's, whole. Where it was cut off it can be run again, and where all is done it
changes nothing. With --revert every file is as it was before, to the byte, unless
somebody has changed one since: then nothing is done, and --force restores it.

It runs as root on the node, or in the agent's pod, which has the node's
directories at their own paths. The agent is asked whether it could attach a pod.
The cluster is not touched: what is to be done about Multus's DaemonSet and the
agent's settings is in the plan.

The exit code is 0 when the plan can be carried out, or has been; 1 when there is
no Multus, something is in the way or --revert has nothing to undo; 2 for a command
line that is wrong.`,
		Example: `  # What would change on this node
  weirctl migrate

  # The same on a node of a cluster, and then do it
  kubectl -n weir-system exec POD -- weirctl migrate
  kubectl -n weir-system exec POD -- weirctl migrate --apply

  # With the configuration of a thick Multus's daemon, which only the cluster has
  kubectl -n kube-system get configmap multus-daemon-config -o jsonpath='{.data.daemon-config\.json}' |
    kubectl -n weir-system exec -i POD -- weirctl migrate --daemon-config -

  # Is this node migrated?
  weirctl migrate -o json | jq .applied

  # What becomes of each key
  weirctl migrate -o json | jq '.keys[] | {name, verdict, why}'

  # Back to Multus
  weirctl migrate --revert`,
		Args: wrong(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.apply, "apply", false, "do what the plan says")
	flags.BoolVar(&o.revert, "revert", false, "undo what --apply did")
	flags.BoolVar(&o.Force, "force", false, "with --revert: restore files that somebody has changed since, too")
	flags.StringVar(&o.ConfDir, "cni-conf-dir", install.DefaultConfDir, "the runtime's directory of configurations")
	flags.StringVar(&o.BinDir, "cni-bin-dir", install.DefaultBinDir, "the runtime's directory of plugins")
	flags.StringVar(&o.DaemonConfig, "daemon-config", "", "the configuration of a thick Multus's daemon, - for the standard input; default: multus.d/daemon-config.json in --cni-conf-dir")
	flags.StringVar(&o.NetworkName, "network-name", "", "the name that weir's entry bears where no agent keeps it; default: the default network's")
	flags.StringVar(&o.Socket, "socket", api.DefaultSocket, "the agent's socket, where weir's entry names none")
	flags.StringVar(&o.StateDir, "state-dir", api.DefaultStateDir, "the agent's state, where the way back is written down")
	addOutput(cmd, &o.output, planOutputs())
	return cmd
}

func planOutputs() []string { return []string{"table", "json", "yaml"} }

func (o *migrateOptions) check() error {
	switch {
	case o.apply && o.revert:
		return usageError{errors.New("--apply and --revert exclude each other")}
	case o.Force && !o.revert:
		return usageError{errors.New("--force goes with --revert alone")}
	case o.revert && (o.DaemonConfig != "" || o.NetworkName != ""):
		return usageError{errors.New("--daemon-config and --network-name are for the plan: --revert goes by what --apply wrote down")}
	}
	return checkOutput(o.output, planOutputs())
}

func (o *migrateOptions) run(cmd *cobra.Command) error {
	if err := o.check(); err != nil {
		return err
	}
	if o.revert {
		return o.goBack(cmd.OutOrStdout())
	}
	if err := o.readDaemon(cmd.InOrStdin()); err != nil {
		return err
	}
	if o.Socket != api.DefaultSocket {
		o.Settings = map[string]any{"socket": o.Socket}
	}
	plan, err := o.inspect(cmd.Context())
	if err != nil {
		return err
	}
	if len(plan.Problems) > 0 {
		return errors.Join(renderPlan(cmd.OutOrStdout(), plan, o.output), errCannotMigrate)
	}
	if o.apply && !plan.Applied {
		if err := plan.Apply(); err != nil {
			return err
		}
	}
	return renderPlan(cmd.OutOrStdout(), plan, o.output)
}

// inspect makes the plan. What a migration that was cut off has left is undone first
// where there is to be another.
func (o *migrateOptions) inspect(ctx context.Context) (*migrate.Plan, error) {
	plan, err := migrate.Inspect(ctx, o.Options)
	if err != nil || !o.apply || !plan.Interrupted {
		return plan, err
	}
	if _, err := migrate.Revert(o.Options); err != nil {
		return nil, err
	}
	return migrate.Inspect(ctx, o.Options)
}

func (o *migrateOptions) readDaemon(stdin io.Reader) error {
	if o.DaemonConfig != "-" {
		return nil
	}
	o.DaemonConfig = "the standard input"
	data, err := io.ReadAll(stdin)
	if err != nil {
		return fmt.Errorf("reading the daemon's configuration: %w", err)
	}
	o.Daemon = data
	return nil
}

func (o *migrateOptions) goBack(w io.Writer) error {
	operations, err := migrate.Revert(o.Options)
	if err != nil {
		return err
	}
	if o.output != "table" {
		return renderDocument(w, &reversion{api.Version, operations}, o.output)
	}
	var b strings.Builder
	for _, operation := range operations {
		fmt.Fprintln(&b, operation)
	}
	b.WriteString("Done. Every file is as it was before weir took the place of Multus.\n")
	_, err = io.WriteString(w, b.String())
	return err
}

func renderPlan(w io.Writer, plan *migrate.Plan, output string) error {
	if output != "table" {
		return renderDocument(w, plan, output)
	}
	text := plan.String()
	switch {
	case len(plan.Problems) > 0:
	case plan.Applied:
		text += "\nDone: the next pod is attached by weir. The way back: weirctl migrate --revert\n"
	default:
		text += "\nNothing was changed. To have it done: weirctl migrate --apply\n"
	}
	_, err := io.WriteString(w, text)
	return err
}
