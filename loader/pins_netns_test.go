// SPDX-License-Identifier: Apache-2.0

//go:build netns

package loader

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// What is pinned is told as bpftool would, before and after links have taken the place of
// filters, and when the interface is gone.
func TestNetnsPinsAreListed(t *testing.T) {
	b := newBench(t)
	kinds := func() map[string]Pin {
		t.Helper()
		pins, err := Pins(b.spec.Dir)
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]Pin{}
		for _, p := range pins {
			if p.ID == 0 || p.Type == "" {
				t.Errorf("%+v", p)
			}
			all[filepath.Base(p.Path)] = p
		}
		return all
	}
	before := kinds()
	for name, kind := range map[string]string{pinCounters: KindMap, pinFacts: KindMap, pinControl: KindMap, pinIngress: KindProgram, pinEgress: KindProgram} {
		if before[name].Kind != kind {
			t.Errorf("%s: %+v", name, before[name])
		}
	}
	if p := before[pinEgress]; p.Name != "weir_egress" || p.Type != "SchedCLS" || p.Tag == "" {
		t.Errorf("%+v", p)
	}
	if err := b.loader.Promote(b.place(), b.guard); err != nil {
		t.Fatal(err)
	}
	if HookOf(b.spec.Dir) != TCX {
		return // a kernel without links
	}
	index := b.pod.Link("net1").Attrs().Index
	after := kinds()
	if p := after[pinEgressLink]; p.Kind != KindLink || p.Type != "tcx" || p.Program != before[pinEgress].ID || int(p.Index) != index {
		t.Errorf("%+v", p)
	}
	if err := b.pod.Netlink().LinkDel(b.pod.Link("net1")); err != nil {
		t.Fatal(err)
	}
	if p := kinds()[pinEgressLink]; p.Index != 0 {
		t.Errorf("after the interface: %+v", p)
	}
}

func TestNetnsPinsOfNothing(t *testing.T) {
	if _, err := Pins(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "counters"), []byte("no pin"), 0o600); err != nil {
		t.Fatal(err)
	}
	if pins, err := Pins(dir); err == nil || len(pins) != 0 {
		t.Errorf("%v, %v", pins, err)
	}
}
