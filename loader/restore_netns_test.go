// SPDX-License-Identifier: Apache-2.0

//go:build netns

package loader

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/bpf"
)

func (b *bench) promote(t *testing.T) {
	t.Helper()
	if err := b.loader.Promote(b.place(), b.guard); err != nil {
		t.Fatal(err)
	}
}

// refuses makes sure that the guard is in force.
func (b *bench) refuses(t *testing.T) {
	t.Helper()
	before := b.count(t, bpf.Egress, "spoofed_ipv4").Packets
	b.pod.Send("net1", spoofed(t, b))
	if after := b.count(t, bpf.Egress, "spoofed_ipv4").Packets; after != before+1 {
		t.Errorf("%d spoofed packets were refused, want 1", after-before)
	}
}

// acceptingFilter lets all that the pod sends pass before what is behind it sees that.
func acceptingFilter(t *testing.T, b *bench) netlink.Filter {
	t.Helper()
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: b.pod.Link("net1").Attrs().Index, Parent: netlink.HANDLE_MIN_EGRESS, Priority: filterPriority, Handle: 77, Protocol: 3,
		},
		Fd: accepting(t).FD(), Name: "accepting", DirectAction: true,
	}
}

func accepting(t *testing.T) *ebpf.Program {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Close() })
	return program
}

// What was taken off, or put before the guard, as filters or as links, Check finds and
// Restore undoes.
func TestNetnsRestore(t *testing.T) {
	clsact := func(b *bench) netlink.Qdisc { return clsactOn(b.pod.Link("net1").Attrs().Index) }
	attach := func(t *testing.T, b *bench, how ebpf.AttachType, linked bool) error {
		return b.ns.Do(func() error {
			index, program := b.pod.Link("net1").Attrs().Index, accepting(t)
			if !linked {
				return link.RawAttachProgram(link.RawAttachProgramOptions{Target: index, Program: program, Attach: how, Anchor: link.Head()})
			}
			l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: program, Attach: how, Anchor: link.Head()})
			if err == nil {
				t.Cleanup(func() { _ = l.Close() })
			}
			return err
		})
	}
	tests := []struct {
		name     string
		promoted bool
		tamper   func(t *testing.T, b *bench) error
		want     error
	}{
		{"the qdisc", false, func(_ *testing.T, b *bench) error { return b.pod.Netlink().QdiscDel(clsact(b)) }, ErrDetached},
		{"one filter", false, func(_ *testing.T, b *bench) error {
			return b.pod.Netlink().FilterDel(b.guard.sides(b.place())[1].filter(b.pod.Link("net1").Attrs().Index))
		}, ErrDetached},
		{"another qdisc", false, func(_ *testing.T, b *bench) error {
			if err := b.pod.Netlink().QdiscDel(clsact(b)); err != nil {
				return err
			}
			return b.pod.Netlink().QdiscAdd(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
				LinkIndex: b.pod.Link("net1").Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS,
			}})
		}, ErrDetached},
		{"a filter before egress", false, func(t *testing.T, b *bench) error {
			return b.pod.Netlink().FilterAdd(acceptingFilter(t, b))
		}, ErrPreceded},
		{"a filter in the place of egress", false, func(t *testing.T, b *bench) error {
			f := acceptingFilter(t, b)
			f.Attrs().Handle = filterHandle
			return b.pod.Netlink().FilterReplace(f)
		}, ErrDetached},
		{"a filter of another kind in our priority", false, func(_ *testing.T, b *bench) error {
			if err := b.pod.Netlink().QdiscDel(clsact(b)); err != nil {
				return err
			}
			if err := b.pod.Netlink().QdiscAdd(clsact(b)); err != nil {
				return err
			}
			return b.pod.Netlink().FilterAdd(&netlink.U32{FilterAttrs: netlink.FilterAttrs{
				LinkIndex: b.pod.Link("net1").Attrs().Index, Parent: netlink.HANDLE_MIN_EGRESS, Priority: filterPriority, Protocol: 0x0800,
			}, ClassId: 1})
		}, ErrDetached},
		{"a program before egress", true, func(t *testing.T, b *bench) error { return attach(t, b, ebpf.AttachTCXEgress, false) }, ErrPreceded},
		{"a program before ingress", true, func(t *testing.T, b *bench) error { return attach(t, b, ebpf.AttachTCXIngress, false) }, ErrPreceded},
		{"a link before egress", true, func(t *testing.T, b *bench) error { return attach(t, b, ebpf.AttachTCXEgress, true) }, ErrPreceded},
		{"the pins of the links", true, func(_ *testing.T, b *bench) error {
			return errors.Join(os.Remove(filepath.Join(b.spec.Dir, pinEgressLink)), os.Remove(filepath.Join(b.spec.Dir, pinIngressLink)))
		}, ErrDetached},
		{"the link that is detached", true, func(_ *testing.T, b *bench) error {
			l, err := link.LoadPinnedLink(filepath.Join(b.spec.Dir, pinEgressLink), nil)
			if err != nil {
				return err
			}
			return errors.Join(l.Detach(), l.Close())
		}, ErrDetached},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			if test.promoted {
				b.promote(t)
			}
			if test.promoted && HookOf(b.spec.Dir) == Clsact {
				return // a kernel without tcx has nothing that could come before a link
			}
			b.refuses(t)
			if err := test.tamper(t, b); err != nil {
				t.Fatal(err)
			}
			if err := b.guard.Check(b.place()); !errors.Is(err, test.want) {
				t.Fatalf("error %v, want %v", err, test.want)
			}
			if err := b.guard.Restore(b.place()); err != nil {
				t.Fatal(err)
			}
			if err := b.guard.Check(b.place()); err != nil {
				t.Error(err)
			}
			b.refuses(t)
			b.promote(t)
			b.checkOneHook(t)
			if err := b.guard.Check(b.place()); err != nil {
				t.Error(err)
			}
			b.refuses(t)
			b.losesNothing(t, func() {})
		})
	}
}

// Filters of the pod's own behind the guard are no business of it.
func TestNetnsRestoreLeavesOthersAlone(t *testing.T) {
	b := newBench(t)
	behind := acceptingFilter(t, b)
	behind.Attrs().Priority = filterPriority + 1
	first := uint32(1)
	elsewhere := acceptingFilter(t, b)
	elsewhere.Attrs().Chain = &first
	for _, f := range []netlink.Filter{behind, elsewhere} {
		if err := b.pod.Netlink().FilterAdd(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.guard.Check(b.place()); err != nil {
		t.Error(err)
	}
	if err := b.guard.Restore(b.place()); err != nil {
		t.Error(err)
	}
	if before, there := b.guard.sides(b.place())[1].filters(b.ns, b.pod.Link("net1").Attrs().Index); !there || len(before) > 0 {
		t.Errorf("the filters before: %v; ours is there: %t", before, there)
	}
	b.refuses(t)
}

// A guard is found by the number of its interface, whatever the name.
func TestNetnsPlaceOfARenamedInterface(t *testing.T) {
	b := newBench(t)
	place, err := b.place().Lookup()
	if err != nil {
		t.Fatal(err)
	}
	net1 := b.pod.Link("net1")
	for _, step := range []error{
		b.pod.Netlink().LinkSetDown(net1), b.pod.Netlink().LinkSetName(net1, "other"), b.pod.Netlink().LinkSetUp(net1),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	if err := b.guard.Check(b.place()); err == nil {
		t.Error("by its old name: no error")
	}
	for _, do := range []func() error{
		func() error { return b.guard.Check(place) },
		func() error { return b.loader.Promote(place, b.guard) },
		func() error { return b.guard.Check(place) },
		func() error { return b.guard.Detach(place) },
	} {
		if err := do(); err != nil {
			t.Error(err)
		}
	}
	if err := b.guard.Check(place); !errors.Is(err, ErrDetached) {
		t.Errorf("after its end: %v", err)
	}
}
