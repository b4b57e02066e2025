// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/weir-cni/weir/bpf"
)

// dropBuffer is the ring buffer to which all guards report that a loader has loaded. It is
// there while one of them is open: what is pinned keeps it beyond that.
type dropBuffer struct {
	spec *ebpf.MapSpec

	mu    sync.Mutex
	made  *ebpf.Map // nil without users
	users int
}

// acquire is the buffer, for as long as it is not released. To release it again does
// nothing.
func (b *dropBuffer) acquire() (m *ebpf.Map, release func() error, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.users == 0 {
		if b.made, err = ebpf.NewMap(b.spec); err != nil {
			return nil, nil, err
		}
	}
	b.users++
	return b.made, sync.OnceValue(b.release), nil
}

func (b *dropBuffer) release() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.users--
	if b.users > 0 {
		return nil
	}
	return b.made.Close()
}

// DropBuffer is the ring buffer to which the guard reports drops, for the caller to close; nil for a
// guard of a build that had none.
func (g *Guard) DropBuffer() (*ebpf.Map, error) {
	g.open.RLock()
	defer g.open.RUnlock()
	buffer, err := g.drops.Clone()
	if err != nil {
		return nil, fmt.Errorf("opening the buffer of drops of %s: %w", g.dir, err)
	}
	return buffer, nil
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
