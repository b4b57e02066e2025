// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"

	"github.com/weir-cni/weir/bpf"
)

// Storms are limits of what a pod sends that a switch copies to every port, in packets a
// second, each segment of a GSO packet by itself. 0 is no limit. After a rest, as many pass
// at once as in one second.
type Storms struct {
	Broadcast, Multicast uint32
	// Unknown is unicast to a MAC from which the pod has not heard yet. It remembers 1,024.
	Unknown uint32
}

// StormMax is the greatest limit of a storm, in packets a second.
const StormMax = 100_000_000

// ErrStorm is the error of a limit that cannot be kept.
var ErrStorm = errors.New("unusable storm limit")

// Validate tells what is wrong with the limits. The error is ErrStorm.
func (s Storms) Validate() error {
	for name, limit := range map[string]uint32{"broadcast": s.Broadcast, "multicast": s.Multicast, "unknown unicast": s.Unknown} {
		if limit > StormMax {
			return fmt.Errorf("%w: %d packets a second of %s are more than %d", ErrStorm, limit, name, StormMax)
		}
	}
	return nil
}

func (s Storms) ticks() bpf.StormTicks {
	return bpf.StormTicks{Broadcast: ticksOfOne(s.Broadcast), Multicast: ticksOfOne(s.Multicast), Unknown: ticksOfOne(s.Unknown)}
}

// ticksOfOne is the time of one packet, rounded down: no limit is kept too strictly.
func ticksOfOne(limit uint32) uint64 {
	if limit == 0 {
		return 0
	}
	return uint64(bpf.TicksPerSecond) / uint64(limit)
}
