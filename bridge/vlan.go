// SPDX-License-Identifier: Apache-2.0

package bridge

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"

	"github.com/weir-cni/weir/netns"
)

// defaultVLAN is the one that the kernel puts a port into which is in no other
// (vlan_default_pvid).
const defaultVLAN = 1

// VLANRange is the VLANs from First to Last, both included.
type VLANRange struct {
	// First is 1 to Last.
	First uint16
	// Last is First to 4094.
	Last uint16
}

// trunkItem is one entry of vlanTrunk.
type trunkItem struct {
	ID    *int `json:"id"`
	MinID *int `json:"minID"`
	MaxID *int `json:"maxID"`
}

func given(key json.RawMessage) bool { return len(key) > 0 && string(key) != "null" }

// parseTrunk makes one ordered list of ranges, none of which touches the next,
// of what vlanTrunk lists in any order. An entry without a key adds nothing.
func parseTrunk(key json.RawMessage) ([]VLANRange, error) {
	if !given(key) {
		return nil, nil
	}
	var items []*trunkItem
	if err := json.Unmarshal(key, &items); err != nil {
		return nil, errors.New("want a list of objects, each with id, or with minID and maxID, whole numbers all")
	}
	var members [maxVLAN + 2]bool
	for i, item := range items {
		if err := item.mark(&members); err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
	}
	return rangesOf(&members), nil
}

func (t *trunkItem) mark(members *[maxVLAN + 2]bool) error {
	if t == nil {
		return errors.New("is null, want an object")
	}
	for _, id := range []struct {
		key   string
		value *int
	}{{"id", t.ID}, {"minID", t.MinID}, {"maxID", t.MaxID}} {
		if id.value != nil && (*id.value < 1 || *id.value > maxVLAN) {
			return fmt.Errorf("%s %d: want 1 to %d", id.key, *id.value, maxVLAN)
		}
	}
	if t.ID != nil {
		members[*t.ID] = true
	}
	switch {
	case t.MinID == nil && t.MaxID == nil:
		return nil
	case t.MinID == nil:
		return errors.New("maxID needs minID")
	case t.MaxID == nil:
		return errors.New("minID needs maxID")
	case *t.MinID > *t.MaxID:
		return fmt.Errorf("minID %d: is above maxID %d", *t.MinID, *t.MaxID)
	}
	for id := *t.MinID; id <= *t.MaxID; id++ {
		members[id] = true
	}
	return nil
}

func rangesOf(members *[maxVLAN + 2]bool) []VLANRange {
	var ranges []VLANRange
	for id := uint16(1); id <= maxVLAN; id++ {
		switch {
		case !members[id]:
		case members[id-1]:
			ranges[len(ranges)-1].Last = id
		default:
			ranges = append(ranges, VLANRange{First: id, Last: id})
		}
	}
	return ranges
}

// membership is the VLANs of a port.
type membership struct {
	// native is the one of its untagged frames; 0 leaves the port as it is.
	native uint16
	// tagged are the others.
	tagged []VLANRange
	// keep leaves the VLAN that the kernel put the port into.
	keep bool
}

// membership is that of a pod's port. A trunk without a VLAN of its own has the
// default one for its untagged frames.
func (c *Config) membership() membership {
	m := membership{native: c.VLAN, tagged: c.Trunk, keep: c.PreserveDefaultVLAN}
	if m.native == 0 && len(m.tagged) > 0 {
		m.native = defaultVLAN
	}
	return m
}

// apply puts a port, which is down, into its VLANs.
func (m membership) apply(host *netns.Namespace, port netlink.Link) error {
	if m.native == 0 {
		return nil
	}
	if !m.keep {
		if err := leaveAll(host, port); err != nil {
			return err
		}
	}
	for _, r := range m.tagged {
		if err := r.join(host, port); err != nil {
			return fmt.Errorf("putting it into the VLANs %d to %d: %w", r.First, r.Last, err)
		}
	}
	// Last, because a tagged range that holds it would take it back.
	if err := host.Netlink().BridgeVlanAdd(port, m.native, true, true, false, true); err != nil {
		return fmt.Errorf("putting it into VLAN %d: %w", m.native, err)
	}
	return nil
}

// join puts a port into the VLANs of a range, tagged. A range of one is none to
// the kernel.
func (r VLANRange) join(host *netns.Namespace, port netlink.Link) error {
	if r.First == r.Last {
		return host.Netlink().BridgeVlanAdd(port, r.First, false, false, false, true)
	}
	return host.Netlink().BridgeVlanAddRange(port, r.First, r.Last, false, false, false, true)
}

func leaveAll(host *netns.Namespace, port netlink.Link) error {
	held, err := vlansOf(host, port)
	if err != nil {
		return err
	}
	for vid := range held {
		if err := host.Netlink().BridgeVlanDel(port, vid, false, false, false, true); err != nil {
			return fmt.Errorf("taking it out of VLAN %d: %w", vid, err)
		}
	}
	return nil
}

// nativeFlags are those of the VLAN of a port's untagged frames.
const nativeFlags = nl.BRIDGE_VLAN_INFO_PVID | nl.BRIDGE_VLAN_INFO_UNTAGGED

// vlansOf lists a port's VLANs with their flags.
func vlansOf(host *netns.Namespace, port netlink.Link) (map[uint16]uint16, error) {
	listed, err := netns.Dump(func() ([]*nl.BridgeVlanInfo, error) {
		all, err := host.Netlink().BridgeVlanList()
		return all[int32(port.Attrs().Index)], err
	})
	if err != nil {
		return nil, fmt.Errorf("listing its VLANs: %w", err)
	}
	vlans := make(map[uint16]uint16, len(listed))
	for _, v := range listed {
		vlans[v.Vid] = v.Flags & nativeFlags
	}
	return vlans, nil
}
