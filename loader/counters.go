// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path/filepath"
	"slices"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/weir-cni/weir/bpf"
)

// Counters is the sum over all CPUs, read with one system call, and of what was counted
// before the programs were replaced.
func (g *Guard) Counters() (bpf.Counters, error) {
	g.open.RLock()
	defer g.open.RUnlock()
	return readAll(g.counters, g.carried)
}

// ReadCounters reads the counters from the pins of a guard that is not open, as
// a tool does while no agent runs.
func ReadCounters(dir string) (bpf.Counters, error) {
	readOnly := &ebpf.LoadPinOptions{ReadOnly: true}
	var counters, carried *ebpf.Map
	if err := openMap(&counters, filepath.Join(dir, pinCounters), readOnly); err != nil {
		return bpf.Counters{}, fmt.Errorf("opening the counters in %s: %w", dir, err)
	}
	defer counters.Close()
	if err := openMap(&carried, filepath.Join(dir, pinCarried), readOnly); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return bpf.Counters{}, fmt.Errorf("opening what was counted before in %s: %w", dir, err)
	}
	defer carried.Close()
	return readAll(counters, carried)
}

// readAll reads the counters and, where there are any, those of before.
func readAll(counters, carried *ebpf.Map) (bpf.Counters, error) {
	now, err := readCounters(counters)
	if err != nil || carried == nil {
		return now, err
	}
	before, err := readCounters(carried)
	return bpf.Sum([]bpf.Counters{now, before}), err
}

func readCounters(m *ebpf.Map) (bpf.Counters, error) {
	if m.ValueSize() != uint32(unsafe.Sizeof(bpf.Counters{})) {
		return readForeign(m)
	}
	var perCPU []bpf.Counters
	var err error
	if m.Type() == ebpf.PerCPUArray {
		err = m.Lookup(uint32(0), &perCPU)
	} else {
		perCPU = make([]bpf.Counters, 1)
		err = m.Lookup(uint32(0), &perCPU[0])
	}
	if err != nil {
		return bpf.Counters{}, fmt.Errorf("reading the counters: %w", err)
	}
	return bpf.Sum(perCPU), nil
}

// newCarried makes the map of what was counted before the programs were replaced.
func (l *Loader) newCarried(sum bpf.Counters) (*ebpf.Map, error) {
	spec := l.carried.Copy()
	spec.Contents = []ebpf.MapKV{{Key: uint32(0), Value: sum}}
	return ebpf.NewMap(spec)
}

// field is where a map of another build counts, and where this build does.
type field struct {
	offset uint32
	count  func(*bpf.Counters) *bpf.Count
}

// readForeign reads the counters of another build, whose verdicts its BTF names. One that
// this build does not know is left out.
func readForeign(m *ebpf.Map) (bpf.Counters, error) {
	fields, err := fieldsOf(m)
	if err != nil {
		return bpf.Counters{}, fmt.Errorf("reading the layout of the counters: %w", err)
	}
	var perCPU []rawValue
	if m.Type() == ebpf.PerCPUArray {
		err = m.Lookup(uint32(0), &perCPU)
	} else {
		perCPU = make([]rawValue, 1)
		err = m.Lookup(uint32(0), &perCPU[0])
	}
	if err != nil {
		return bpf.Counters{}, fmt.Errorf("reading the counters: %w", err)
	}
	var sum bpf.Counters
	for _, value := range perCPU {
		for _, f := range fields {
			count := f.count(&sum)
			count.Packets += binary.NativeEndian.Uint64(value[f.offset:])
			count.Bytes += binary.NativeEndian.Uint64(value[f.offset+8:])
		}
	}
	return sum, nil
}

// rawValue is a value of a map as its bytes.
type rawValue []byte

// UnmarshalBinary implements encoding.BinaryUnmarshaler.
func (v *rawValue) UnmarshalBinary(data []byte) error {
	*v = slices.Clone(data)
	return nil
}

// fieldsOf are the counters of a map that this build has too.
func fieldsOf(m *ebpf.Map) ([]field, error) {
	counters, err := typeOf[*btf.Struct](m, "weir_counters")
	if err != nil {
		return nil, err
	}
	var fields []field
	for path, count := range paths() {
		offset, found := offsetOf(counters, path)
		if found && offset+sizeOfCount <= m.ValueSize() {
			fields = append(fields, field{offset, count})
		}
	}
	if len(fields) == 0 {
		return nil, fmt.Errorf("%s has no counter that is known here: %w", counters.Name, fs.ErrNotExist)
	}
	return fields, nil
}

// sizeOfCount is that of a struct weir_count, in bytes.
const sizeOfCount = 16

// paths are the members that lead to each counter, and the counter.
func paths() iter.Seq2[[]string, func(*bpf.Counters) *bpf.Count] {
	return func(yield func([]string, func(*bpf.Counters) *bpf.Count) bool) {
		for _, d := range []bpf.Direction{bpf.Ingress, bpf.Egress} {
			for v := range bpf.Verdicts() {
				if !yield([]string{d.String(), v.Reason()}, func(c *bpf.Counters) *bpf.Count { return &c.Verdicts[d][v] }) {
					return
				}
			}
			for class := range bpf.Classes() {
				for family := range bpf.Families() {
					path := []string{d.String() + "_allowed", class.Name(), family.Name()}
					if !yield(path, func(c *bpf.Counters) *bpf.Count { return &c.Allowed[d][class][family] }) {
						return
					}
				}
			}
		}
	}
}

// offsetOf is the offset in bytes of a struct weir_count within a struct.
func offsetOf(of *btf.Struct, path []string) (uint32, bool) {
	var offset uint32
	for _, name := range path {
		begins, member, err := memberOf(of, name)
		if err != nil {
			return 0, false
		}
		offset, of = offset+begins, member
	}
	return offset, of.Size == sizeOfCount
}

// memberOf is a member of a struct that is one itself, and its offset in bytes.
func memberOf(of *btf.Struct, name string) (uint32, *btf.Struct, error) {
	for _, m := range of.Members {
		if inner, is := btf.As[*btf.Struct](m.Type); is && m.Name == name {
			return m.Offset.Bytes(), inner, nil
		}
	}
	return 0, nil, fmt.Errorf("%s has no %s: %w", of.Name, name, fs.ErrNotExist)
}
