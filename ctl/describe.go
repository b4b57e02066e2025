// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/state"
)

// describeOptions are the flags of weirctl describe.
type describeOptions struct {
	source
	scope
	output string
}

func newDescribe() *cobra.Command {
	var o describeOptions
	cmd := &cobra.Command{
		Use:     "describe POD...",
		Aliases: []string{"desc"},
		Short:   "Show all that weir knows of a pod's attachments",
		Long: `Show all that weir knows of the attachments of a pod: what they are made of, where
their guards sit, what those let pass and dropped, by what settings of the network,
how far the record of the sandbox has come, and the commands of other tools that
show the same.

A pod is named by POD or NAMESPACE/POD, a container of no pod by its ID. What is in
the way of a whole answer is named in it, and the exit code is 3.`,
		Example: `  # Everything about a pod
  weirctl describe shop/web

  # The numbers of its programs and maps
  weirctl describe web -o json | jq '.items[].pins[] | {kind, id, path}'`,
		Args: wrong(cobra.MinimumNArgs(1)),
		RunE: o.run,
	}
	cmd.ValidArgsFunction = o.completing(o.podCompletions)
	o.source.addFlags(cmd)
	o.scope.addFlags(cmd, &o.source)
	addOutput(cmd, &o.output, outputs)
	return cmd
}

// descriptionList is what weirctl describe prints.
type descriptionList struct {
	APIVersion string        `json:"apiVersion"`
	Items      []description `json:"items"`
}

// description is all that is known of an attachment.
type description struct {
	api.AttachmentStatus
	// Record is what the agent has written down of the sandbox; nil where there is none.
	Record *recordOf `json:"record,omitempty"`
	// Settings is the network's key "weir", and RuntimeConfig what the pod or the runtime
	// asked for.
	Settings      json.RawMessage `json:"settings,omitempty"`
	RuntimeConfig map[string]any  `json:"runtimeConfig,omitempty"`
	Pins          []loader.Pin    `json:"pins"`
	// Commands show the same with other tools.
	Commands []string `json:"commands"`
	// Problems are in the way of a whole answer.
	Problems []string `json:"problems"`
}

// recordOf is what matters of a record.
type recordOf struct {
	Phase   state.Phase `json:"phase"`
	Created time.Time   `json:"created"`
	// Chained is the interface on which weir stands behind another plugin.
	Chained string `json:"chained,omitempty"`
	// Device is the one that the network has.
	Device string `json:"device,omitempty"`
}

func (o *describeOptions) run(cmd *cobra.Command, names []string) error {
	if err := errors.Join(checkOutput(o.output, outputs), o.checkScope()); err != nil {
		return err
	}
	list, err := o.attachments(cmd)
	if list == nil {
		return err
	}
	all, recordsErr := o.describeAll(list.Items)
	all = slices.DeleteFunc(all, func(d description) bool { return !o.includes(d.Pod.Namespace) })
	all, unknown := pick("pod", all, names, podNames)
	if recordsErr != nil && !errors.Is(err, ErrPartial) {
		err = fmt.Errorf("%w: %w", ErrPartial, recordsErr)
	}
	return errors.Join(unknown, err, problemsOf(all), renderDescriptions(cmd.OutOrStdout(), all, o.output))
}

// problemsOf is the error of an answer with problems in it.
func problemsOf(all []description) error {
	for _, d := range all {
		if len(d.Problems) > 0 {
			return fmt.Errorf("%w: %s: %s", ErrPartial, d.ID, d.Problems[0])
		}
	}
	return nil
}

// podNames are those by which a pod's attachments can be asked for.
func podNames(d *description) []string {
	if d.Pod.Name == "" {
		return []string{d.ContainerID}
	}
	return []string{d.Pod.String(), d.Pod.Name}
}

// describeAll adds to what the source said what the records and the pins say, and what
// the records alone have: attachments on their way in or out.
func (o *describeOptions) describeAll(known []api.AttachmentStatus) ([]description, error) {
	records, err := state.Read(o.recordsDir())
	found := map[attachment.ID]foundIn{}
	for _, r := range records {
		for i := range r.Delegates {
			a := r.Delegates[i].Attachment
			if a == nil {
				continue
			}
			found[a.ID] = foundIn{r, &r.Delegates[i]}
			if !slices.ContainsFunc(known, func(k api.AttachmentStatus) bool { return k.ID == a.ID }) {
				known = append(known, api.AttachmentStatus{Attachment: *a, Allowed: []api.Share{}, Dropped: []api.Drop{}})
			}
		}
	}
	all := []description{}
	for _, a := range known {
		all = append(all, o.describe(a, found[a.ID]))
	}
	return all, err
}

// foundIn is where the records speak of an attachment; empty where they do not.
type foundIn struct {
	record   *state.Record
	delegate *state.Delegate
}

func (o *describeOptions) describe(a api.AttachmentStatus, in foundIn) description {
	d := description{AttachmentStatus: a, Pins: []loader.Pin{}, Commands: []string{}, Problems: []string{}}
	d.addRecord(in, o.recordsDir())
	if a.PinDir == "" {
		return d
	}
	dir := filepath.Join(o.bpfDir, a.PinDir)
	pins, err := loader.Pins(dir)
	d.Pins = append(d.Pins, pins...)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.Problems = append(d.Problems, fmt.Sprintf("its pins are missing in %s", dir))
	case err != nil:
		d.Problems = append(d.Problems, err.Error())
	}
	for _, p := range pins {
		if p.Type == string(loader.TCX) && p.Index == 0 {
			d.Problems = append(d.Problems, fmt.Sprintf("the link %s has lost its interface", p.Path))
		}
	}
	d.Commands = commandsFor(&d, dir)
	return d
}

func (d *description) addRecord(in foundIn, dir string) {
	if in.record == nil {
		d.Problems = append(d.Problems, fmt.Sprintf("no record in %s speaks of it", dir))
		return
	}
	d.Record = &recordOf{in.record.Phase, in.record.Created, in.record.Chained, in.delegate.DeviceID}
	if in.record.Phase != state.Ready {
		d.Problems = append(d.Problems, fmt.Sprintf("the record of its sandbox is %s", in.record.Phase))
	}
	d.RuntimeConfig = in.delegate.RuntimeConfig
	settings, err := settingsOf(in.delegate)
	if err != nil {
		d.Problems = append(d.Problems, err.Error())
	}
	d.Settings = settings
}

// settingsOf is the key "weir" of the configuration that is in force.
func settingsOf(delegate *state.Delegate) (json.RawMessage, error) {
	config := delegate.Options
	if len(config) == 0 {
		config = delegate.Config
	}
	var keys struct {
		Weir json.RawMessage `json:"weir"`
	}
	if err := json.Unmarshal(config, &keys); err != nil {
		return nil, fmt.Errorf("the configuration in its record: %w", err)
	}
	return keys.Weir, nil
}

// commandsFor are those of other tools that show what is shown here.
func commandsFor(d *description, dir string) []string {
	device, enter := cmp.Or(d.HostInterface, d.Interface), ""
	if d.HostInterface == "" {
		enter = "nsenter --net=" + d.Netns + " "
	}
	commands := []string{
		"bpftool map dump pinned " + filepath.Join(dir, "counters"),
		"bpftool prog show pinned " + filepath.Join(dir, "prog_egress"),
	}
	if d.Hook == string(loader.TCX) {
		return append(commands, enter+"bpftool net show dev "+device)
	}
	return append(commands, enter+"tc filter show dev "+device+" egress")
}
