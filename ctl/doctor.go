// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/doctor"
	"github.com/weir-cni/weir/install"
)

// doctorOptions are the flags of weirctl doctor.
type doctorOptions struct {
	source
	confDir, binDir string
	output          string
}

var (
	errUnwell   = errors.New("not all is well")
	errDoubtful = errors.New("something is doubtful")
)

// diagnosis is what weirctl doctor prints.
type diagnosis struct {
	APIVersion string           `json:"apiVersion"`
	Status     doctor.Status    `json:"status"`
	Items      []doctor.Finding `json:"items"`
}

func newDoctor(version string) *cobra.Command {
	var o doctorOptions
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what keeps weir from working on this node",
		Long: `Look for what keeps weir on this node from working, or soon will: in the kernel,
among its files, records and pins, in the runtime's configuration, and at the agent.
Each line is ok, or says what to do. Nothing is changed.

With -o name the checks are listed that are not ok.

The exit code is 0 when all is well, 1 when something failed, 2 for a command line
that is wrong, and 3 when there are warnings alone.`,
		Example: `  # Is this node as it should be?
  weirctl doctor

  # What is not ok, for a script
  weirctl doctor -o json | jq '.items[] | select(.status != "ok")'`,
		Args: wrong(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd, version) },
	}
	o.addFlags(cmd)
	o.addConfigFlags(cmd)
	addOutput(cmd, &o.output, outputs)
	return cmd
}

func (o *doctorOptions) addConfigFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.confDir, "cni-conf-dir", install.DefaultConfDir, "the runtime's directory of configurations")
	cmd.Flags().StringVar(&o.binDir, "cni-bin-dir", install.DefaultBinDir, "the runtime's directory of plugins")
}

// places are where weir's things are on the node.
func (o *doctorOptions) places(version string) doctor.Options {
	return doctor.Options{
		Socket: o.socket, StateDir: o.stateDir, BPFDir: o.bpfDir, ConfDir: o.confDir, BinDir: o.binDir, Version: version,
	}
}

func (o *doctorOptions) run(cmd *cobra.Command, version string) error {
	if err := checkOutput(o.output, outputs); err != nil {
		return err
	}
	findings := doctor.Examine(cmd.Context(), o.places(version))
	return errors.Join(judge(findings), renderFindings(cmd.OutOrStdout(), findings, o.output))
}

// judge is the error of what is not as it should be.
func judge(findings []doctor.Finding) error {
	switch doctor.Worst(findings) {
	case doctor.Fail:
		return errUnwell
	case doctor.Warn:
		return errDoubtful
	default:
		return nil
	}
}

func renderFindings(w io.Writer, findings []doctor.Finding, output string) error {
	switch output {
	case "json", "yaml":
		return renderDocument(w, &diagnosis{api.Version, doctor.Worst(findings), findings}, output)
	case "name":
		var names []string
		for _, f := range findings {
			if f.Status != doctor.OK {
				names = with(names, f.Check)
			}
		}
		v := view[string]{items: names, name: func(name *string) string { return *name }}
		return v.render(w, output)
	}
	paint := painterFor(w)
	marks := map[doctor.Status]mark{doctor.OK: good, doctor.Warn: doubtful, doctor.Fail: bad}
	var rows [][]cell
	for _, f := range findings {
		rows = append(rows, []cell{{string(f.Status), marks[f.Status]}, {f.Check, plain}, {f.Message, plain}})
		if f.Advice != "" {
			rows = append(rows, []cell{{}, {}, {"to do: " + f.Advice, heading}})
		}
	}
	_, err := fmt.Fprint(w, align(rows, paint))
	return err
}
