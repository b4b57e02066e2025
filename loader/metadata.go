// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// Metadata is what a guard says of itself: that of its Spec, as it was cut.
type Metadata struct {
	Pod, Interface, Network, ContainerID string
	// Build is that of the programs, see bpf.Build; empty of a build that had none.
	Build string
	// Settings tell guards apart that are made in different ways; empty of a build that did not say.
	Settings string
	// Rules tell rules apart; empty where there are none.
	Rules string
}

// ReadMetadata reads the metadata of a pinned guard, as bpftool prog does. The
// error is fs.ErrNotExist when there is no guard.
func ReadMetadata(dir string) (*Metadata, error) {
	m, err := readMetadata(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the metadata of the guard in %s: %w", dir, err)
	}
	return m, nil
}

func readMetadata(dir string) (*Metadata, error) {
	program, err := ebpf.LoadPinnedProgram(filepath.Join(dir, pinEgress), nil)
	if err != nil {
		return nil, err
	}
	defer program.Close()
	constants, err := constantsOf(program)
	if err != nil {
		return nil, err
	}
	defer constants.Close()
	value, err := constants.LookupBytes(uint32(0))
	if err != nil {
		return nil, err
	}
	// Where in the constants each of them lies.
	section, err := typeOf[*btf.Datasec](constants, ".rodata")
	if err != nil {
		return nil, err
	}
	read := func(name string) string { return textAt(section, "bpf_metadata_"+name, value) }
	return &Metadata{
		Pod: read("pod"), Interface: read("interface"), Network: read("network"), ContainerID: read("container"),
		Build: read("build"), Settings: read("settings"), Rules: read("rules"),
	}, nil
}

// constantsOf is the map of a program that holds its constants.
func constantsOf(program *ebpf.Program) (*ebpf.Map, error) {
	info, err := program.Info()
	if err != nil {
		return nil, err
	}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return nil, err
		}
		info, err := m.Info()
		if err == nil && strings.HasSuffix(info.Name, ".rodata") {
			return m, nil
		}
		_ = m.Close()
	}
	return nil, fmt.Errorf("the program has no constants: %w", ebpf.ErrNotSupported)
}

// typeOf is the type with a name in the BTF of a map.
func typeOf[T btf.Type](m *ebpf.Map, name string) (t T, err error) {
	handle, err := m.Handle()
	if err != nil {
		return t, err
	}
	defer handle.Close()
	spec, err := handle.Spec(nil)
	if err != nil {
		return t, err
	}
	err = spec.TypeByName(name, &t)
	return t, err
}

// textAt is a C string of the section; empty where there is none of the name.
func textAt(section *btf.Datasec, name string, value []byte) string {
	for _, v := range section.Vars {
		if v.Type.TypeName() != name || int(v.Offset+v.Size) > len(value) {
			continue
		}
		text, _, _ := bytes.Cut(value[v.Offset:v.Offset+v.Size], []byte{0})
		return string(text)
	}
	return ""
}
