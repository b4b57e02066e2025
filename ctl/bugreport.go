// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/bugreport"
)

// reportList is what weirctl bugreport prints.
type reportList struct {
	APIVersion string           `json:"apiVersion"`
	File       string           `json:"file"`
	Items      []bugreport.Part `json:"items"`
}

func newBugreport(version string) *cobra.Command {
	var o doctorOptions
	cmd := &cobra.Command{
		Use:   "bugreport [FILE|-]",
		Short: "Collect what an issue needs into an archive, without secrets",
		Long: `Collect what somebody needs to understand weir on this node into a compressed
archive: versions, what doctor finds, attachments and counters, metrics, what is
pinned, the records of sandboxes and the runtime's configurations.

Of records and configurations the values of known keys are kept and all others
replaced, as they may be secrets; files that are none are named and not read. Names
of pods, addresses and MACs are in it: look through it before you publish it.

The archive is written to FILE, which must not be there yet, by default to one in
the current directory that is named by the host and the time; - is the standard
output. What is inside is listed. What could not be collected is told there, and the
exit code is 3.`,
		Example: `  # For an issue
  weirctl bugreport

  # From the agent's pod, which has nowhere to write
  kubectl -n weir-system exec POD -- weirctl bugreport - > report.tar.gz`,
		Args: wrong(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return o.report(cmd, args, version) },
	}
	o.addFlags(cmd)
	o.addConfigFlags(cmd)
	addOutput(cmd, &o.output, outputs)
	return cmd
}

func (o *doctorOptions) report(cmd *cobra.Command, args []string, version string) error {
	if err := checkOutput(o.output, outputs); err != nil {
		return err
	}
	now := time.Now()
	name := reportName(now)
	options := bugreport.Options{Name: name, Now: now, Options: o.places(version)}
	path := name + ".tar.gz"
	if len(args) > 0 {
		path = args[0]
	}
	if path == "-" {
		if isTerminal(cmd.OutOrStdout()) {
			return usageError{errors.New("an archive is nothing for a terminal: redirect the output, or name a file")}
		}
		parts, err := bugreport.Write(cmd.Context(), cmd.OutOrStdout(), options)
		return o.tellParts(cmd.ErrOrStderr(), path, parts, err)
	}
	parts, err := writeReport(cmd, path, options)
	return o.tellParts(cmd.OutOrStdout(), path, parts, err)
}

// reportName has no character that a file may not have.
func reportName(now time.Time) string {
	host, err := os.Hostname()
	if err != nil {
		host = "node"
	}
	return "weir-bugreport-" + host + "-" + now.UTC().Format("20060102T150405Z")
}

// writeReport writes a file that was not there, whole or not at all.
func writeReport(cmd *cobra.Command, path string, options bugreport.Options) ([]bugreport.Part, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("making the report's file: %w", err)
	}
	parts, err := bugreport.Write(cmd.Context(), f, options)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return parts, nil
}

// tellParts lists what is in an archive, and errs for what is not.
func (o *doctorOptions) tellParts(w io.Writer, path string, parts []bugreport.Part, err error) error {
	if err != nil {
		return err
	}
	v := view[bugreport.Part]{
		document: &reportList{api.Version, path, parts},
		items:    parts,
		columns: []column[bugreport.Part]{
			{title: "IN " + path, value: func(p *bugreport.Part) string { return p.Name }},
			{title: "SIZE", value: sizeOf},
			{title: "WHAT", value: func(p *bugreport.Part) string { return p.What }},
		},
		name: func(p *bugreport.Part) string { return p.Name },
	}
	var missing error
	for _, p := range parts {
		if p.Missing != "" {
			missing = errors.Join(missing, fmt.Errorf("%w: %s: %s", ErrPartial, p.Name, p.Missing))
		}
	}
	return errors.Join(missing, v.render(w, o.output))
}

func sizeOf(p *bugreport.Part) string {
	if p.Missing != "" {
		return "missing"
	}
	return strconv.Itoa(p.Size)
}
