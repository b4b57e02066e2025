// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/netns"
)

// nextDir is the directory of the pins that are to take the place of those in a guard's
// own. It is whole once it has pinEgress, the last that is made there and the last that
// leaves it.
const nextDir = "next"

// IsOutdated tells a guard whose programs are of another build or made in another way than
// the spec says, or whose replacement was cut off.
func (l *Loader) IsOutdated(spec Spec) (bool, error) {
	metadata, err := ReadMetadata(spec.Dir)
	if err != nil {
		return false, err
	}
	settings, err := spec.settings()
	if err != nil {
		return false, err
	}
	return metadata.Build != l.build || metadata.Settings != settings || exists(filepath.Join(spec.Dir, nextDir)), nil
}

// Replace puts programs of this build, made as the spec says, in the place of a guard's,
// and returns the guard that they make. Each packet meets the old program of its
// direction or the new one, each with the sources that it was made for, and is counted
// once: the counters go on, in the same map, or, where its layout is another, in a new
// one beside which what was counted is kept. The old guard is left to the caller to
// close. Where an earlier replacement was cut off, that is finished instead; IsOutdated
// tells whether another is needed.
//
// The addresses stay those that are in force. Where the spec is another than the old guard's,
// they are those of the spec, with the link-local ones that are in force. Nobody else may
// change the guard meanwhile.
func (l *Loader) Replace(p Place, old *Guard, spec Spec) (*Guard, error) {
	r := &replacement{loader: l, place: p, old: old, dir: old.dir, next: filepath.Join(old.dir, nextDir)}
	begin := func() error { return r.prepare(spec) }
	if exists(filepath.Join(r.next, pinEgress)) {
		begin = r.open
	}
	err := begin()
	if err == nil {
		err = r.carryOut()
	}
	// What was kept of a guard before the old one stays where it is.
	if err == nil && r.guard.carried == nil {
		err = openIfThere(&r.guard.carried, filepath.Join(r.dir, pinCarried))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("replacing the programs in %s: %w", r.dir, err), r.close())
	}
	r.guard.dir = r.dir
	return r.guard, nil
}

// replacement is a change from one guard to another in the same directory.
type replacement struct {
	loader     *Loader
	place      Place
	old, guard *Guard
	dir, next  string
}

func (r *replacement) close() error {
	if r.guard == nil {
		return nil
	}
	return r.guard.Close()
}

// prepare makes the new guard and its pins; nothing is in force yet.
func (r *replacement) prepare(spec Spec) error {
	if err := Remove(r.next); err != nil {
		return err
	}
	facts, err := r.facts(spec)
	if err != nil {
		return err
	}
	if r.guard, err = r.loader.load(spec, r.shared(spec)); err != nil {
		return explain(err)
	}
	if err := r.fill(facts, spec); err != nil {
		return err
	}
	if err := os.Mkdir(r.next, 0o700); err != nil {
		return err
	}
	if err := r.guard.pin(r.next); err != nil {
		return errors.Join(err, Remove(r.next))
	}
	return nil
}

// shared are the maps that both guards have, those whose layout is the same, and the table
// of the segment.
func (r *replacement) shared(spec Spec) map[string]*ebpf.Map {
	shared := map[string]*ebpf.Map{}
	maps.Copy(shared, sharedOf(spec))
	candidates := map[string]*ebpf.Map{bpf.CountersMap: r.old.counters}
	if spec.isLimited() && r.old.rate != nil {
		candidates[bpf.RateMap] = r.old.rate
	}
	if spec.Place.Isolation.Restricted() && spec.Members == nil && r.old.members != nil {
		candidates[bpf.MembersMap] = r.old.members
	}
	layout := r.loader.spec.Copy().Maps
	if r.old.hits != nil && r.hasSameRules(spec) {
		candidates[bpf.HitsMap] = r.old.hits
		spec.Rules.size(layout)
	}
	if r.old.samples != nil {
		candidates[bpf.SamplesMap] = r.old.samples
	}
	for name, m := range candidates {
		if layout[name].Compatible(m) == nil {
			shared[name] = m
		}
	}
	return shared
}

// hasSameRules tells that the old guard has the same rules, of which the hits go on.
func (r *replacement) hasSameRules(spec Spec) bool {
	metadata, err := ReadMetadata(r.dir)
	return err == nil && metadata.Rules != "" && metadata.Rules == spec.Rules.digest()
}

// facts are those that are in force or, where their layout is another, those of the
// spec. Where the network's settings have changed they are both: which link-local
// addresses the interface has, only those in force say.
func (r *replacement) facts(spec Spec) (*bpf.Facts, error) {
	specs := r.loader.spec.Maps
	if specs[bpf.FactsMap].Compatible(r.old.facts) != nil || specs[bpf.ControlMap].Compatible(r.old.control) != nil {
		return factsOf(spec.sources())
	}
	var control bpf.Control
	if err := r.old.control.Lookup(uint32(0), &control); err != nil {
		return nil, err
	}
	facts := &bpf.Facts{}
	if err := r.old.facts.Lookup(control.Slot, facts); err != nil {
		return nil, err
	}
	changed, err := r.hasOtherSettings(spec)
	if err != nil || !changed {
		return facts, err
	}
	now := spec.sources()
	now.MAC = facts.Mac[:]
	now.Prefixes = withLinkLocals(now.Prefixes, facts)
	return factsOf(now)
}

// hasOtherSettings tells that the old guard was made in another way. One of a build that
// did not say is taken for the same.
func (r *replacement) hasOtherSettings(spec Spec) (bool, error) {
	metadata, err := ReadMetadata(r.dir)
	if err != nil {
		return false, err
	}
	settings, err := spec.settings()
	return metadata.Settings != "" && metadata.Settings != settings, err
}

func (r *replacement) fill(facts *bpf.Facts, spec Spec) error {
	if err := r.guard.facts.Put(uint32(0), facts); err != nil {
		return err
	}
	// Of another layout nothing is known: until it is promoted ingress ends the chain.
	var control, was bpf.Control
	if r.old.control.Lookup(uint32(0), &was) == nil {
		control.IngressAction, control.Master = was.IngressAction, was.Master
	}
	if err := r.guard.control.Put(uint32(0), &control); err != nil {
		return err
	}
	return r.guard.SetRates(spec.Ingress, spec.Egress)
}

// open opens the guard of a replacement that was cut off: of its pins some may have
// come to their place already.
func (r *replacement) open() (err error) {
	r.guard, err = openFrom(r.dir, func(pin string) string {
		if path := filepath.Join(r.next, pin); exists(path) {
			return path
		}
		return filepath.Join(r.dir, pin)
	})
	return err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// carryOut does, or does again, all that comes after the new pins are whole.
func (r *replacement) carryOut() error {
	for _, step := range r.steps() {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (r *replacement) steps() []func() error {
	steps := []func() error{r.swap, waitForPrograms, r.carry}
	// The counters first: what is carried is in force beside the new ones alone. The
	// program of egress last.
	for _, pin := range []string{
		pinCounters, pinCarried, pinFacts, pinControl, pinRate, pinMembers, pinHits, pinDrops, pinSamples, pinIngress, pinEgress,
	} {
		steps = append(steps, func() error { return r.move(pin) })
	}
	return append(steps, func() error { return Remove(r.next) })
}

// swap puts the new programs where the old ones are: into links, which no packet
// notices, and into filters.
func (r *replacement) swap() error {
	l, err := r.place.link()
	if err != nil {
		return err
	}
	index := l.Attrs().Index
	if r.guard.seat = r.old.seat; r.guard.seat != nil {
		if err := r.guard.seat.put(r.guard); err != nil {
			return fmt.Errorf("replacing the programs that the master of %s calls: %w", r.place.Interface, err)
		}
	}
	for _, s := range r.guard.sides(r.place) {
		if err := s.swap(r.place.Namespace, index, filepath.Join(r.dir, s.pin)); err != nil {
			return fmt.Errorf("replacing %s on %s: %w", s.name, r.place.Interface, err)
		}
	}
	return nil
}

func (s side) swap(ns *netns.Namespace, index int, pin string) error {
	linked := exists(pin)
	if linked {
		if err := s.swapLink(pin); err != nil {
			return err
		}
	}
	// A filter is there until a promotion is through. Where there is neither, somebody
	// has removed it.
	if linked && !s.hasOurs(ns, index) {
		return nil
	}
	if err := ns.Netlink().QdiscAdd(clsactOn(index)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return ns.Netlink().FilterReplace(s.filter(index))
}

func (s side) swapLink(pin string) error {
	pinned, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return err
	}
	defer pinned.Close()
	return pinned.Update(s.program)
}

// hasOurs tells whether a filter of this direction is there, of whatever build.
func (s side) hasOurs(ns *netns.Namespace, index int) bool {
	l, err := ns.Netlink().LinkByIndex(index)
	if err != nil {
		return false
	}
	filters, err := netns.Dump(func() ([]netlink.Filter, error) { return ns.Netlink().FilterList(l, s.parent) })
	if err != nil {
		return false
	}
	for _, f := range filters {
		ours, ok := f.(*netlink.BpfFilter)
		if ok && ours.Priority == filterPriority && ours.Handle == filterHandle && ours.Name == s.name {
			return true
		}
	}
	return false
}

// carry keeps what was counted in a map that the new programs do not have. The old
// ones do not run any more.
func (r *replacement) carry() error {
	counters := filepath.Join(r.next, pinCounters)
	if !exists(counters) || exists(filepath.Join(r.next, pinCarried)) {
		return nil // done before
	}
	same, err := isSameMap(counters, filepath.Join(r.dir, pinCounters))
	if err != nil || same {
		return err
	}
	sum, err := ReadCounters(r.dir)
	if err != nil {
		return err
	}
	carried, err := r.loader.newCarried(sum)
	if err != nil {
		return fmt.Errorf("keeping what was counted: %w", err)
	}
	if err := carried.Pin(filepath.Join(r.next, pinCarried)); err != nil {
		return errors.Join(err, carried.Close())
	}
	r.guard.carried = carried
	return nil
}

func isSameMap(a, b string) (bool, error) {
	var ids [2]ebpf.MapID
	for i, path := range []string{a, b} {
		m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			return false, err
		}
		info, err := m.Info()
		if err = errors.Join(err, m.Close()); err != nil {
			return false, err
		}
		ids[i], _ = info.ID()
	}
	return ids[0] == ids[1], nil
}

// move brings a pin to its place, in one step.
func (r *replacement) move(pin string) error {
	from, to := filepath.Join(r.next, pin), filepath.Join(r.dir, pin)
	if exists(from) {
		return os.Rename(from, to)
	}
	if pin != pinRate && pin != pinMembers && pin != pinHits || slices.Contains(r.guard.pins(), pin) {
		return nil
	}
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
