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
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/netns"
)

// restoreAttempts is how often Restore begins anew when somebody takes away what it has just
// made.
const restoreAttempts = 5

// Restore puts the programs of a guard back to where Check misses them: as filters, which
// are in force at once. Promote makes links of them. What sees packets before them is
// taken away, whoever attached it. Nobody else may change the guard meanwhile.
func (g *Guard) Restore(p Place) error {
	l, err := p.link()
	if err != nil {
		return err
	}
	index := l.Attrs().Index
	err = p.Namespace.Do(func() error {
		for range restoreAttempts - 1 {
			if g.restoreAll(p, index) == nil {
				return nil
			}
			// A qdisc of another kind, or with filters of another kind in our priority, has no
			// place for ours. Or the pod has removed it meanwhile: there is none (EINVAL).
			if err := p.Namespace.Netlink().QdiscDel(clsactOn(index)); err != nil && !isGone(err) && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("removing the qdisc that has no place for it: %w", err)
			}
		}
		return g.restoreAll(p, index)
	})
	if err != nil {
		return fmt.Errorf("restoring the guard on %s: %w", p.Interface, err)
	}
	return nil
}

func (g *Guard) restoreAll(p Place, index int) error {
	for _, s := range g.sides(p) {
		if err := g.restore(s, p.Namespace, index); err != nil {
			return fmt.Errorf("restoring %s: %w", s.name, err)
		}
	}
	return nil
}

func (g *Guard) restore(s side, ns *netns.Namespace, index int) error {
	if s.isLinked(index, g.dir) {
		return s.clearWayToLink(index)
	}
	if !s.hasFilter(ns, index) {
		// A link that has lost its interface, or was detached, is of no use any more.
		if err := os.Remove(filepath.Join(g.dir, s.pin)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := errors.Join(g.holdIngress(), s.addFilter(ns, index)); err != nil {
			return err
		}
	}
	before, there := s.filters(ns, index)
	if !there {
		return ErrDetached
	}
	return removeAll(ns, before)
}

// holdIngress ends the chain with what ingress allows, so that a link which comes before
// the filter leaves it nothing to count.
func (g *Guard) holdIngress() error {
	return g.change(func(c *bpf.Control) error {
		c.IngressAction = actOK
		return nil
	})
}

// actOK is TC_ACT_OK (linux/pkt_cls.h).
const actOK = 0

func (s side) addFilter(ns *netns.Namespace, index int) error {
	if err := ns.Netlink().QdiscAdd(clsactOn(index)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return ns.Netlink().FilterReplace(s.filter(index))
}

func removeAll(ns *netns.Namespace, filters []netlink.Filter) error {
	for _, f := range filters {
		if err := ns.Netlink().FilterDel(f); err != nil && !isGone(err) {
			return fmt.Errorf("removing a filter before it: %w", err)
		}
	}
	return nil
}

// linksBefore lists the programs that the interface runs before the side's own. It runs
// inside the namespace of the interface.
func (s side) linksBefore(index int) ([]link.AttachedProgram, error) {
	attached, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: s.attach})
	if err != nil {
		return nil, fmt.Errorf("listing the programs beside %s: %w", s.name, err)
	}
	id := s.programID()
	for i, program := range attached.Programs {
		if program.ID == id {
			return attached.Programs[:i], nil
		}
	}
	return nil, fmt.Errorf("%w: %s is missing", ErrDetached, s.name)
}

func (s side) clearWayToLink(index int) error {
	before, err := s.linksBefore(index)
	if err != nil {
		return err
	}
	for _, program := range before {
		if err := s.evict(index, program); err != nil {
			return fmt.Errorf("removing a program before it: %w", err)
		}
	}
	return nil
}

// evict detaches a program, be it attached by itself or by a link that somebody holds. One
// that is gone meanwhile is no error.
func (s side) evict(index int, attached link.AttachedProgram) error {
	var err error
	if id, linked := attached.LinkID(); linked {
		err = detachLink(id)
	} else {
		err = s.detachProgram(index, attached.ID)
	}
	if isGone(err) {
		return nil
	}
	return err
}

func detachLink(id link.ID) error {
	l, err := link.NewFromID(id)
	if err != nil {
		return err
	}
	defer l.Close()
	return l.Detach()
}

func (s side) detachProgram(index int, id ebpf.ProgramID) error {
	program, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return err
	}
	defer program.Close()
	return link.RawDetachProgram(link.RawDetachProgramOptions{Target: index, Program: program, Attach: s.attach})
}
