// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/pin"
)

// Pin is something that is pinned in the directory of a guard, as the kernel knows it.
type Pin struct {
	// Path is the file's.
	Path string `json:"path"`
	// Kind is map, prog or link, as bpftool has it, and ID the number by which bpftool
	// finds it.
	Kind string `json:"kind"`
	ID   uint32 `json:"id"`
	// Name is that of a map or program, Type the kernel's for any.
	Name string `json:"name,omitempty"`
	Type string `json:"type"`
	// Tag is the hash of a program's instructions.
	Tag string `json:"tag,omitempty"`
	// Program is that of a link, and Index the number of the interface that a tcx link is
	// on; 0 of one that has lost it.
	Program uint32 `json:"program,omitempty"`
	Index   uint32 `json:"index,omitempty"`
}

// Kinds of pins.
const (
	KindMap     = "map"
	KindProgram = "prog"
	KindLink    = "link"
)

// Pins lists what is pinned in the directory of a guard, in the order of names. What
// cannot be read is named in the error.
func Pins(dir string) ([]Pin, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("listing the pins: %w", err)
	}
	var pins []Pin
	var errs []error
	for _, entry := range entries {
		p, err := pinAt(filepath.Join(dir, entry.Name()))
		switch {
		case err == nil:
			pins = append(pins, p)
		case !errors.Is(err, fs.ErrNotExist):
			errs = append(errs, fmt.Errorf("reading the pin %s: %w", filepath.Join(dir, entry.Name()), err))
		}
	}
	return pins, errors.Join(errs...)
}

func pinAt(path string) (Pin, error) {
	pinned, err := pin.Load(path, nil)
	if err != nil {
		return Pin{}, err
	}
	defer pinned.Close()
	switch p := pinned.(type) {
	case *ebpf.Map:
		return mapAt(path, p)
	case *ebpf.Program:
		return programAt(path, p)
	case link.Link:
		return linkAt(path, p)
	default:
		return Pin{}, fmt.Errorf("%T: %w", p, ebpf.ErrNotSupported)
	}
}

func mapAt(path string, m *ebpf.Map) (Pin, error) {
	info, err := m.Info()
	if err != nil {
		return Pin{}, err
	}
	id, _ := info.ID()
	return Pin{Path: path, Kind: KindMap, ID: uint32(id), Name: info.Name, Type: info.Type.String()}, nil
}

func programAt(path string, p *ebpf.Program) (Pin, error) {
	info, err := p.Info()
	if err != nil {
		return Pin{}, err
	}
	id, _ := info.ID()
	return Pin{Path: path, Kind: KindProgram, ID: uint32(id), Name: info.Name, Type: info.Type.String(), Tag: info.Tag}, nil
}

func linkAt(path string, l link.Link) (Pin, error) {
	info, err := l.Info()
	if err != nil {
		return Pin{}, err
	}
	p := Pin{Path: path, Kind: KindLink, ID: uint32(info.ID), Type: "other", Program: uint32(info.Program)}
	if tcx := info.TCX(); tcx != nil {
		p.Type, p.Index = string(TCX), tcx.Ifindex
	} else if info.Cgroup() != nil {
		p.Type = "cgroup"
	}
	return p, nil
}
