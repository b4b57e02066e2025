// SPDX-License-Identifier: Apache-2.0

package drops

import (
	"slices"
	"strconv"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/frame"
)

// OnTheWire is the beginning of a dropped packet with its tag in place, and the length of
// the whole in bytes.
func OnTheWire(d *api.DroppedPacket) (data []byte, length int) {
	data, length = d.Packet, max(int(d.Length), len(d.Packet))
	if d.VLAN == nil {
		return data, length
	}
	protocol, err := strconv.ParseUint(d.VLAN.Protocol, 0, 16)
	if err != nil {
		return data, length
	}
	tagged := frame.WithTag(data, uint16(protocol), d.VLAN.TCI)
	return tagged, length + len(tagged) - len(data)
}

// Description is what a dropped packet is, in a line.
func Description(d *api.DroppedPacket) string {
	data, _ := OnTheWire(d)
	return frame.Describe(data)
}

// MACs are the packet's, as frame.Addresses writes them.
func MACs(d *api.DroppedPacket) string { return frame.Addresses(d.Packet) }

// Summary is the description, behind the MACs where they are why the packet was dropped.
func Summary(d *api.DroppedPacket) string {
	if macs := MACs(d); macs != "" && slices.Contains(aboutMACs(), d.Reason) {
		return macs + " " + Description(d)
	}
	return Description(d)
}

// Summarize leaves of each drop its summary, as the description, and nothing of what the
// packet carried.
func Summarize(all []api.DroppedPacket) {
	for i := range all {
		all[i].Description, all[i].Packet = Summary(&all[i]), nil
	}
}

// aboutMACs are the reasons that are understood by the MACs alone.
func aboutMACs() []string { return []string{"spoofed_mac", "foreign_destination", "unknown_storm"} }
