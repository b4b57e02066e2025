// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/netns"
)

// side is one direction of a guard: its program, and where that is attached.
type side struct {
	name    string
	program *ebpf.Program
	hook
	pin string
}

// Place is where the programs of a guard sit.
type Place struct {
	// Namespace is where the interface lies.
	Namespace *netns.Namespace
	// Interface is its name there.
	Interface string
	// Index is its number there, which stays when it is renamed. Optional: without it the
	// interface is found by its name.
	Index int
	// Opposite is set when the interface is not the pod's own but the other end
	// of its cable: what comes in there is what the pod has sent.
	Opposite bool
}

// Lookup is the place with the index that the interface of its name has.
func (p Place) Lookup() (Place, error) {
	p.Index = 0
	l, err := p.link()
	if err != nil {
		return p, err
	}
	p.Index = l.Attrs().Index
	return p, nil
}

func (p Place) link() (l netlink.Link, err error) {
	if p.Index != 0 {
		l, err = p.Namespace.Netlink().LinkByIndex(p.Index)
	} else {
		l, err = p.Namespace.Netlink().LinkByName(p.Interface)
	}
	if err != nil {
		return nil, fmt.Errorf("looking up %s: %w", p.Interface, err)
	}
	return l, nil
}

// hook is one of the two at which an interface runs programs.
type hook struct {
	attach ebpf.AttachType
	parent uint32
}

func (g *Guard) sides(p Place) []side {
	in := hook{ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS}
	out := hook{ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS}
	if p.Opposite {
		in, out = out, in
	}
	return []side{
		{bpf.IngressProgram, g.ingress, in, pinIngressLink},
		{bpf.EgressProgram, g.egress, out, pinEgressLink},
	}
}

// The place of our filters among those of a clsact qdisc: before all others.
const (
	filterPriority = 1
	filterHandle   = 1
)

func attachFilters(p Place, g *Guard) error {
	l, err := p.link()
	if err != nil {
		return err
	}
	ns, index := p.Namespace, l.Attrs().Index
	if err := ns.Netlink().QdiscAdd(clsactOn(index)); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("adding a clsact qdisc: %w", err)
	}
	for _, s := range g.sides(p) {
		if err := ns.Netlink().FilterReplace(s.filter(index)); err != nil {
			return errors.Join(fmt.Errorf("adding the filter %s: %w", s.name, err), g.clear(p, index))
		}
	}
	return nil
}

func clsactOn(index int) netlink.Qdisc {
	return &netlink.GenericQdisc{
		QdiscType: "clsact",
		QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: index,
			Handle:    netlink.MakeHandle(0xffff, 0),
			Parent:    netlink.HANDLE_CLSACT,
		},
	}
}

func (s side) filter(index int) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index,
			Parent:    s.parent,
			Handle:    filterHandle,
			Priority:  filterPriority,
			Protocol:  unix.ETH_P_ALL,
		},
		Fd:           s.program.FD(),
		Name:         s.name,
		DirectAction: true,
	}
}

// clear takes our filters off, and the qdisc when nobody else uses it. The kernel
// stops an interface that is up while its qdisc goes (dev_deactivate), and drops
// what it is to send meanwhile.
func (g *Guard) clear(p Place, index int) error {
	if err := g.removeFilters(p, index); err != nil {
		return err
	}
	return removeUnusedClsact(p.Namespace, index)
}

// removeFilters takes our filters off.
func (g *Guard) removeFilters(p Place, index int) error {
	for _, s := range g.sides(p) {
		if !s.hasFilter(p.Namespace, index) {
			continue
		}
		if err := p.Namespace.Netlink().FilterDel(s.filter(index)); err != nil && !isGone(err) {
			return fmt.Errorf("removing the filter %s: %w", s.name, err)
		}
	}
	return nil
}

func removeUnusedClsact(ns *netns.Namespace, index int) error {
	l, err := ns.Netlink().LinkByIndex(index)
	if err != nil {
		return fmt.Errorf("looking up the interface of index %d: %w", index, err)
	}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		others, err := netns.Dump(func() ([]netlink.Filter, error) { return ns.Netlink().FilterList(l, parent) })
		if err != nil || len(others) > 0 {
			return err
		}
	}
	if err := ns.Netlink().QdiscDel(clsactOn(index)); err != nil && !isGone(err) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("removing the clsact qdisc: %w", err)
	}
	return nil
}

// hasFilter tells whether the side's own program is among the filters.
func (s side) hasFilter(ns *netns.Namespace, index int) bool {
	_, there := s.filters(ns, index)
	return there
}

// filters tells whether the side's own program is among the filters, and lists those that
// see a packet before it. The kernel puts a new filter before the others of its priority,
// and ours is the first priority that there is.
func (s side) filters(ns *netns.Namespace, index int) (before []netlink.Filter, there bool) {
	l, err := ns.Netlink().LinkByIndex(index)
	if err != nil || !hasClsact(ns, l) {
		return nil, false
	}
	filters, err := netns.Dump(func() ([]netlink.Filter, error) { return ns.Netlink().FilterList(l, s.parent) })
	if err != nil {
		return nil, false
	}
	id := s.programID()
	for _, f := range filters {
		if chain := f.Attrs().Chain; chain != nil && *chain != 0 {
			continue // where only filters of the first chain lead
		}
		if ours, ok := f.(*netlink.BpfFilter); ok && ours.Id == int(id) {
			return before, true
		}
		before = append(before, f)
	}
	return nil, false
}

// hasClsact tells a clsact qdisc from one of ingress, to which filters of egress are
// filters of ingress too.
func hasClsact(ns *netns.Namespace, l netlink.Link) bool {
	qdiscs, err := netns.Dump(func() ([]netlink.Qdisc, error) { return ns.Netlink().QdiscList(l) })
	return err == nil && slices.ContainsFunc(qdiscs, func(q netlink.Qdisc) bool { return q.Type() == "clsact" })
}

// programID is that of the side's program; 0, which none has, when it cannot be told.
func (s side) programID() ebpf.ProgramID {
	info, err := s.program.Info()
	if err != nil {
		return 0
	}
	id, _ := info.ID()
	return id
}

// Promote moves the programs of a guard from filters to tcx links, where the
// kernel has them, and is no error where it has not. It may be called again
// after any failure, and at any time by another process. Each link ends the
// chain before the filter of the same program, which is removed only then. The
// qdisc stays, empty: no packet may be lost by its removal.
func (l *Loader) Promote(p Place, g *Guard) error {
	nl, err := p.link()
	if err != nil {
		return err
	}
	index := nl.Attrs().Index
	if err := p.Namespace.Do(func() error { return l.link(index, g.sides(p), g.dir) }); err != nil {
		return fmt.Errorf("linking the programs to %s: %w", p.Interface, err)
	}
	if !l.noLinks.Load() {
		if err := g.removeFilters(p, index); err != nil {
			return err
		}
	}
	return g.yieldIngress()
}

// link makes and pins the links that are not pinned yet. It runs inside the
// namespace of the interface, where the kernel looks the index up.
func (l *Loader) link(index int, sides []side, dir string) error {
	for _, s := range sides {
		if err := s.link(index, dir); errors.Is(err, ebpf.ErrNotSupported) {
			l.noLinks.Store(true)
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

func (s side) link(index int, dir string) error {
	path := filepath.Join(dir, s.pin)
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	made, err := link.AttachTCX(link.TCXOptions{
		Interface: index,
		Program:   s.program,
		Attach:    s.attach,
		Anchor:    link.Head(),
	})
	if err != nil {
		return fmt.Errorf("attaching %s: %w", s.name, err)
	}
	defer made.Close()
	if err := made.Pin(path); err != nil {
		return fmt.Errorf("pinning the link of %s: %w", s.name, err)
	}
	return nil
}

// ErrDetached is the error of a guard whose program is not on its interface.
var ErrDetached = errors.New("the guard is not attached")

// ErrPreceded is the error of a guard before which another program sees the packets.
var ErrPreceded = errors.New("another program is before the guard's")

// Check tells whether both programs are on the interface, before all others, and all
// that another agent would need is pinned. The error is ErrDetached when something is
// missing, ErrPreceded when something is before them.
func (g *Guard) Check(p Place) error {
	for _, pin := range g.pins() {
		if _, err := os.Lstat(filepath.Join(g.dir, pin)); err != nil {
			return fmt.Errorf("%w: its pin is missing: %w", ErrDetached, err)
		}
	}
	l, err := p.link()
	if err != nil {
		return err
	}
	return p.Namespace.Do(func() error {
		for _, s := range g.sides(p) {
			if err := s.check(p.Namespace, l.Attrs().Index, g.dir); err != nil {
				return fmt.Errorf("%w on %s", err, p.Interface)
			}
		}
		return nil
	})
}

// check runs inside the namespace of the interface, where the kernel looks the index up.
func (s side) check(ns *netns.Namespace, index int, dir string) error {
	var preceded bool
	if s.isLinked(index, dir) {
		before, err := s.linksBefore(index)
		if err != nil {
			return err
		}
		preceded = len(before) > 0
	} else {
		before, there := s.filters(ns, index)
		if !there {
			return fmt.Errorf("%w: %s is missing", ErrDetached, s.name)
		}
		preceded = len(before) > 0
	}
	if preceded {
		return fmt.Errorf("%w: %s is not the first", ErrPreceded, s.name)
	}
	return nil
}

func (s side) isLinked(index int, dir string) bool {
	pinned, err := link.LoadPinnedLink(filepath.Join(dir, s.pin), nil)
	if err != nil {
		return false
	}
	defer pinned.Close()
	info, err := pinned.Info()
	if err != nil {
		return false
	}
	tcx := info.TCX()
	return tcx != nil && int(tcx.Ifindex) == index
}

// Detach takes the programs off an interface that lives on, links and filters
// alike. It does not touch the other pins.
func (g *Guard) Detach(p Place) error {
	for _, s := range g.sides(p) {
		if err := os.Remove(filepath.Join(g.dir, s.pin)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing the link of %s: %w", s.name, err)
		}
	}
	l, err := p.link()
	if err != nil {
		return err
	}
	return g.clear(p, l.Attrs().Index)
}
