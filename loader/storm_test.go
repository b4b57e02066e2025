// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"testing"

	"github.com/weir-cni/weir/bpf"
)

func TestStorms(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		storms Storms
		want   bpf.StormTicks
		err    error
	}{
		{"none", Storms{}, bpf.StormTicks{}, nil},
		{"one a second", Storms{Broadcast: 1}, bpf.StormTicks{Broadcast: 16e9}, nil},
		{"each its own", Storms{Broadcast: 1000, Multicast: 2000, Unknown: 3}, bpf.StormTicks{Broadcast: 16e6, Multicast: 8e6, Unknown: 5333333333}, nil},
		{"the most", Storms{Multicast: StormMax}, bpf.StormTicks{Multicast: 160}, nil},
		{"too many", Storms{Unknown: StormMax + 1}, bpf.StormTicks{Unknown: 159}, ErrStorm},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := test.storms.ticks(); got != test.want {
				t.Errorf("ticks %v, want %v", got, test.want)
			}
			if err := test.storms.Validate(); !errors.Is(err, test.err) {
				t.Errorf("error %v, want %v", err, test.err)
			}
		})
	}
}
