// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/weir-cni/weir/bpf"
)

// Ring is the ring to which the guard reports drops, for the caller to close; nil for a
// guard of a build that had none.
func (g *Guard) Ring() (*ebpf.Map, error) {
	g.open.RLock()
	defer g.open.RUnlock()
	ring, err := g.drops.Clone()
	if err != nil {
		return nil, fmt.Errorf("opening the ring of drops of %s: %w", g.dir, err)
	}
	return ring, nil
}

// Samples is what became of drops, the sum over all CPUs; all
// zero for a guard of a build that reported none.
func (g *Guard) Samples() (bpf.Samples, error) {
	g.open.RLock()
	defer g.open.RUnlock()
	return readSamples(g.samples)
}

// ReadSamples reads the samples from the pins of a guard that is not open.
func ReadSamples(dir string) (bpf.Samples, error) {
	var samples *ebpf.Map
	err := openMap(&samples, filepath.Join(dir, pinSamples), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return bpf.Samples{}, fmt.Errorf("opening the samples in %s: %w", dir, err)
	}
	defer samples.Close()
	return readSamples(samples)
}

func readSamples(m *ebpf.Map) (bpf.Samples, error) {
	var sum bpf.Samples
	if m == nil {
		return sum, nil
	}
	var perCPU []bpf.Samples
	if err := m.Lookup(uint32(0), &perCPU); err != nil {
		return sum, fmt.Errorf("reading the samples: %w", err)
	}
	for _, s := range perCPU {
		sum.Sampled += s.Sampled
		sum.Limited += s.Limited
		sum.RingFull += s.RingFull
	}
	return sum, nil
}
