// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"cmp"
	"slices"
	"time"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/attachment"
)

// reading is what the counters said at one instant.
type reading struct {
	at          time.Time
	attachments []api.AttachmentStatus
}

// rate is what one attachment, network or pod carries, each second. Directions are the
// pod's.
type rate struct {
	Pod         string `json:"pod,omitempty"`
	Interface   string `json:"interface,omitempty"`
	Network     string `json:"network,omitempty"`
	Attachments int    `json:"attachments"`
	// Bits are of whole frames, as the wire carries them.
	ReceiveBits     float64 `json:"receiveBitsPerSecond"`
	TransmitBits    float64 `json:"transmitBitsPerSecond"`
	ReceivePackets  float64 `json:"receivePacketsPerSecond"`
	TransmitPackets float64 `json:"transmitPacketsPerSecond"`
	Drops           float64 `json:"dropsPerSecond"`
}

func (r *rate) packets() float64 { return r.ReceivePackets + r.TransmitPackets }

// ratesBetween are the rates of each attachment that the later reading has.
func ratesBetween(before, after reading) []rate {
	seconds := after.at.Sub(before.at).Seconds()
	earlier := map[attachment.ID]*api.AttachmentStatus{}
	for i := range before.attachments {
		earlier[before.attachments[i].ID] = &before.attachments[i]
	}
	rates := []rate{}
	for i := range after.attachments {
		now := &after.attachments[i]
		then := earlier[now.ID]
		// One that is new, or was made again under the same name, began at zero.
		if then == nil || !then.Created.Equal(now.Created) {
			then = &api.AttachmentStatus{}
		}
		rates = append(rates, rateOf(then, now, seconds))
	}
	return rates
}

func rateOf(then, now *api.AttachmentStatus, seconds float64) rate {
	per := func(before, after uint64) float64 {
		if after < before || seconds <= 0 {
			return 0
		}
		return float64(after-before) / seconds
	}
	return rate{
		Pod: podOf(now), Interface: now.Interface, Network: now.Network, Attachments: 1,
		ReceiveBits:     8 * per(then.Receive.Bytes, now.Receive.Bytes),
		TransmitBits:    8 * per(then.Transmit.Bytes, now.Transmit.Bytes),
		ReceivePackets:  per(then.Receive.Packets, now.Receive.Packets),
		TransmitPackets: per(then.Transmit.Packets, now.Transmit.Packets),
		Drops:           per(packetsOf(then.Dropped), packetsOf(now.Dropped)),
	}
}

// What rates can be summed up by.
const (
	byAttachment = "attachment"
	byNetwork    = "network"
	byPod        = "pod"
)

var groupings = []string{byAttachment, byNetwork, byPod}

// sumUp adds the rates of what belongs together.
func sumUp(rates []rate, by string) []rate {
	if by == byAttachment {
		return slices.Clone(rates)
	}
	place := map[string]int{}
	sums := []rate{}
	for _, r := range rates {
		if by == byNetwork {
			r.Pod = ""
		} else {
			r.Network = ""
		}
		r.Interface = ""
		key := r.Pod + " " + r.Network
		at, known := place[key]
		if !known {
			place[key] = len(sums)
			sums = append(sums, r)
			continue
		}
		sums[at].add(&r)
	}
	return sums
}

func (r *rate) add(more *rate) {
	r.Attachments += more.Attachments
	r.ReceiveBits += more.ReceiveBits
	r.TransmitBits += more.TransmitBits
	r.ReceivePackets += more.ReceivePackets
	r.TransmitPackets += more.TransmitPackets
	r.Drops += more.Drops
}

// sortKeys are what rates can be sorted by: the greatest first, names in their order.
var sortKeys = []string{"rx", "tx", "pps", "drops", "name"}

func sortRates(rates []rate, by string) {
	value := func(r *rate) float64 {
		switch by {
		case "rx":
			return r.ReceiveBits
		case "tx":
			return r.TransmitBits
		case "pps":
			return r.packets()
		case "drops":
			return r.Drops
		default:
			return 0
		}
	}
	slices.SortStableFunc(rates, func(a, b rate) int {
		return cmp.Or(cmp.Compare(value(&b), value(&a)),
			cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Network, b.Network), cmp.Compare(a.Interface, b.Interface))
	})
}
