// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/state"
)

// Attachment is an attachment and what its guard says at one instant.
type Attachment struct {
	attachment.Attachment
	// Guard is nil when the attachment is not guarded.
	Guard *Guard
}

// Guard is a guard at one instant.
type Guard struct {
	Hook     loader.Hook
	Counters bpf.Counters
	// Restored counts how often the guard was put right, by what was wrong with it.
	Restored map[string]uint64
	// Hits are what each of the attachment's rules has decided.
	Hits []bpf.Count
	// Runs are what the kernel has measured of the programs, by direction; nil where it does
	// not.
	Runs *[2]loader.Runs
	// Samples are what became of drops.
	Samples bpf.Samples
	// Err is set when the counters could not be read.
	Err error
}

// ByPod orders attachments by namespace, pod, container and interface.
func ByPod(a, b Attachment) int {
	return cmp.Or(
		cmp.Compare(a.Pod.Namespace, b.Pod.Namespace),
		cmp.Compare(a.Pod.Name, b.Pod.Name),
		cmp.Compare(a.ContainerID, b.ContainerID),
		cmp.Compare(a.Interface, b.Interface),
	)
}

// List is what the agent answers for attachments.
func List(attachments []Attachment) *api.AttachmentList {
	list := &api.AttachmentList{APIVersion: api.Version, Items: []api.AttachmentStatus{}}
	for _, a := range attachments {
		list.Items = append(list.Items, statusOf(a))
	}
	return list
}

func statusOf(a Attachment) api.AttachmentStatus {
	status := api.AttachmentStatus{Attachment: a.Attachment, Allowed: []api.Share{}, Dropped: []api.Drop{}}
	if a.Guard == nil {
		return status
	}
	status.Hook = string(a.Guard.Hook)
	counters := &a.Guard.Counters
	status.Receive = api.Traffic(counters.Of(bpf.Ingress, bpf.Allowed))
	status.Transmit = api.Traffic(counters.Of(bpf.Egress, bpf.Allowed))
	status.Allowed = append(status.Allowed, sharesOf(counters)...)
	for _, d := range []bpf.Direction{bpf.Ingress, bpf.Egress} {
		for v := range bpf.Verdicts() {
			if n := counters.Of(d, v); v != bpf.Allowed && n.Packets > 0 {
				status.Dropped = append(status.Dropped, api.Drop{
					Direction: d.String(), Reason: v.Reason(), Packets: n.Packets, Bytes: n.Bytes,
				})
			}
		}
	}
	status.Rules = rulesOf(&a)
	s := a.Guard.Samples
	status.Samples = api.Samples{Sampled: s.Sampled, Limited: s.Limited, RingFull: s.RingFull}
	return status
}

func rulesOf(a *Attachment) []api.Rule {
	var rules []api.Rule
	for i, n := range a.Guard.Hits[:min(len(a.Guard.Hits), len(a.Rules))] {
		rules = append(rules, api.Rule{Rule: a.Rules[i], Packets: n.Packets, Bytes: n.Bytes})
	}
	return rules
}

func sharesOf(counters *bpf.Counters) []api.Share {
	var shares []api.Share
	for _, d := range []bpf.Direction{bpf.Ingress, bpf.Egress} {
		for class := range bpf.Classes() {
			for family := range bpf.Families() {
				if n := counters.Allowed[d][class][family]; n.Packets > 0 {
					shares = append(shares, api.Share{
						Direction: d.String(), Class: class.Name(), Protocol: family.Name(), Packets: n.Packets, Bytes: n.Bytes,
					})
				}
			}
		}
	}
	return shares
}

// FromPins reads the records in recordsDir and the pins below bpfDir. What could
// not be read is left out of the list and named in the error.
func FromPins(recordsDir, bpfDir string) (*api.AttachmentList, error) {
	records, err := state.Read(recordsDir)
	errs := []error{err}
	var all []Attachment
	for _, record := range records {
		for _, d := range record.Delegates {
			if record.Phase != state.Ready || d.Attachment == nil {
				continue
			}
			a := Attachment{Attachment: *d.Attachment, Guard: pinned(bpfDir, d.Attachment)}
			if a.Guard != nil && a.Guard.Err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", a.ID, a.Guard.Err))
			}
			all = append(all, a)
		}
	}
	slices.SortFunc(all, ByPod)
	return List(all), errors.Join(errs...)
}

func pinned(bpfDir string, a *attachment.Attachment) *Guard {
	if a.PinDir == "" {
		return nil
	}
	dir := filepath.Join(bpfDir, a.PinDir)
	counters, err := loader.ReadCounters(dir)
	hits, errHits := loader.ReadHits(dir)
	samples, errSamples := loader.ReadSamples(dir)
	return &Guard{
		Hook: loader.HookOf(dir), Counters: counters, Hits: hits, Samples: samples, Err: errors.Join(err, errHits, errSamples),
	}
}
