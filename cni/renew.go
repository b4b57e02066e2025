// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"fmt"
	"io/fs"
	"net"
	"net/netip"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/state"
)

// GuardSpec is what the guard of an attachment is made of, by the record of its sandbox.
// The error is fs.ErrNotExist where none speaks of it.
func (p *Plugin) GuardSpec(a *attachment.Attachment) (loader.Spec, error) {
	record, place, err := p.recordWith(a)
	if err != nil {
		return loader.Spec{}, fmt.Errorf("looking up the record of %s of container %s: %w", a.Interface, a.ContainerID, err)
	}
	d, err := p.delegateOf(record, place)
	if err != nil {
		return loader.Spec{}, aboutPod(record.Pod, aboutNetwork(&record.Delegates[place], err))
	}
	return guardSpecOf(d, a)
}

// guardSpecOf is the spec of a guard whose attachment is made.
func guardSpecOf(d delegate, a *attachment.Attachment) (spec loader.Spec, err error) {
	spec = specOf(d, a)
	if spec.MAC, err = net.ParseMAC(a.MAC); err != nil {
		return loader.Spec{}, err
	}
	linkLocal := loader.LinkLocal(spec.MAC)
	spec.Prefixes = append(whole(a.Addresses), netip.PrefixFrom(linkLocal, linkLocal.BitLen()))
	return spec, nil
}

// specOf is the spec with which ADD made the guard, but for the attachment's own addresses.
func specOf(d delegate, a *attachment.Attachment) loader.Spec {
	made := sending{addressed: len(a.Addresses) > 0}
	if d, ok := d.(*native); ok {
		made = d.sends()
	}
	return d.shared().guardSpec(made)
}

// recordWith is the record that an attachment is in, and the place of its network there.
func (p *Plugin) recordWith(a *attachment.Attachment) (*state.Record, int, error) {
	for _, key := range []string{a.ContainerID, state.Key(a.ContainerID, a.Interface)} {
		record, err := p.recordOf(key)
		if err != nil {
			return nil, 0, err
		}
		if record == nil {
			continue
		}
		for i := range record.Delegates {
			if has := record.Delegates[i].Attachment; has != nil && has.ID == a.ID {
				return record, i, nil
			}
		}
	}
	return nil, 0, fs.ErrNotExist
}
