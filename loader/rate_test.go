// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"github.com/weir-cni/weir/bpf"
)

func TestRateValidate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		rate Rate
		want error
	}{
		{"none", Rate{}, nil},
		{"without a burst", Rate{BitsPerSecond: 1e6}, nil},
		{"with a burst", Rate{1e6, 1e5}, nil},
		{"a burst shorter than a frame", Rate{1e6, 1}, nil},
		{"the burst that container runtimes set", Rate{1e6, math.MaxInt32}, nil},
		{"the same at the least rate", Rate{8, math.MaxInt32}, nil},
		{"the greatest rate", Rate{1e15, math.MaxUint64}, nil},
		{"a burst alone", Rate{0, 1}, ErrRate},
		{"less than a byte a second", Rate{7, 0}, ErrRate},
		{"more than Kubernetes takes", Rate{1e15 + 1, 0}, ErrRate},
		{"the greatest number", Rate{math.MaxUint64, 0}, ErrRate},
		{"a burst of decades", Rate{8, 1e10}, ErrRate},
		{"a burst beyond 128 bits of arithmetic", Rate{8, math.MaxUint64}, ErrRate},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if err := test.rate.Validate(); !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
		})
	}
}

func TestRateBurst(t *testing.T) {
	t.Parallel()
	const ms = bpf.TicksPerSecond / 1000
	tests := []struct {
		name string
		rate Rate
		want uint64
	}{
		{"20 ms of a fast one", Rate{BitsPerSecond: 1e9}, 20 * ms},
		{"ten frames of a slow one", Rate{BitsPerSecond: 1e6}, bpf.TicksPerSecond * 121120 / 1e6},
		{"as told", Rate{1e6, 1e6}, 1000 * ms},
		{"less than the default, as told", Rate{1e9, 1e6}, ms},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := test.rate.burst(); got != test.want {
				t.Errorf("%d ticks, want %d", got, test.want)
			}
		})
	}
}

// What Validate takes, the programs' arithmetic of 64 bits holds.
func TestRateArithmeticNeverOverflows(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := Rate{rapid.Uint64().Draw(t, "rate"), rapid.Uint64().Draw(t, "burst")}
		if r.Validate() != nil || r == (Rate{}) {
			return
		}
		want := new(big.Int).SetUint64(r.BurstBits)
		want.Mul(want, big.NewInt(bpf.TicksPerSecond)).Div(want, new(big.Int).SetUint64(r.BitsPerSecond))
		if got := r.burst(); r.BurstBits > 0 && (want.Cmp(new(big.Int).SetUint64(got)) != 0 || got > 1<<62) {
			t.Errorf("%v: burst of %d ticks, want %s", r, got, want)
		}
		// The longest packet that a kernel makes (GSO_MAX_SIZE) and as much in headers.
		const longest = 2 * 8 * 65536 * 8
		if longest > (math.MaxUint64-r.BitsPerSecond)/bpf.TicksPerSecond {
			t.Errorf("%v: the cost of %d bits overflows", r, longest)
		}
	})
}
