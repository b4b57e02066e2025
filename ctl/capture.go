// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/frame"
)

// onTheWire is the beginning of a dropped packet with its tag in place, and the length of
// the whole.
func onTheWire(d *api.DroppedPacket) (data []byte, length int) {
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

// descriptionOf is what the packet is, in a line.
func descriptionOf(d *api.DroppedPacket) string {
	data, _ := onTheWire(d)
	return frame.Describe(data)
}

func macsOf(d *api.DroppedPacket) string { return frame.Addresses(d.Packet) }

// aboutMACs are the reasons that are understood by the MACs alone.
var aboutMACs = []string{"spoofed_mac", "foreign_destination", "unknown_storm"}

// packetOf is the description, and the MACs where they are why it was dropped.
func packetOf(d *api.DroppedPacket) string {
	if slices.Contains(aboutMACs, d.Reason) && macsOf(d) != "" {
		return macsOf(d) + " " + descriptionOf(d)
	}
	return descriptionOf(d)
}

const (
	pcapOutput = "pcap"
	// captureMax is more than what there is of any packet, its tag included.
	captureMax = 256
)

// capture is a file of packets in the format of libpcap, with times in nanoseconds.
type capture struct{ to *pcapgo.Writer }

func newCapture(w io.Writer) (*capture, error) {
	c := &capture{pcapgo.NewWriterNanos(w)}
	if err := c.to.WriteFileHeader(captureMax, layers.LinkTypeEthernet); err != nil {
		return nil, fmt.Errorf("writing the header of the capture: %w", err)
	}
	return c, nil
}

func (c *capture) write(all ...api.DroppedPacket) error {
	for i := range all {
		data, length := onTheWire(&all[i])
		info := gopacket.CaptureInfo{Timestamp: all[i].Time, CaptureLength: len(data), Length: length}
		if err := c.to.WritePacket(info, data); err != nil {
			return fmt.Errorf("writing a packet: %w", err)
		}
	}
	return nil
}
