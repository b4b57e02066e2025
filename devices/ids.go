// SPDX-License-Identifier: Apache-2.0

package devices

import "slices"

// IDs are the IDs of a pod's devices by the name of their resource. Those of a
// resource are in the order of their bytes, which for PCI addresses is that of the
// bus, and each is there once: the same devices give the same order at any time,
// whoever was asked for them.
type IDs map[string][]string

// Take takes the first ID of a resource away, and tells whether there was one.
func (ids IDs) Take(resource string) (id string, ok bool) {
	left := ids[resource]
	if len(left) == 0 {
		return "", false
	}
	ids[resource] = left[1:]
	return left[0], true
}

func (ids IDs) add(resource string, devices ...string) {
	for _, id := range devices {
		if resource == "" || id == "" {
			continue
		}
		if place, known := slices.BinarySearch(ids[resource], id); !known {
			ids[resource] = slices.Insert(ids[resource], place, id)
		}
	}
}

func (ids IDs) addAll(others IDs) {
	for resource, devices := range others {
		ids.add(resource, devices...)
	}
}
