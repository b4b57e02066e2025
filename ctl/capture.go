// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"fmt"
	"io"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/drops"
)

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
		data, length := drops.OnTheWire(&all[i])
		info := gopacket.CaptureInfo{Timestamp: all[i].Time, CaptureLength: len(data), Length: length}
		if err := c.to.WritePacket(info, data); err != nil {
			return fmt.Errorf("writing a packet: %w", err)
		}
	}
	return nil
}
