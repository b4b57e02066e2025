// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"

	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/netns"
)

// RingDir is the name of the directory, beside those of the guards, in which the ring is
// pinned while it is on a master.
const RingDir = "masters"

// ErrRingFull is the error of a node that has more attachments on masters than the ring has
// room for.
var ErrRingFull = fmt.Errorf("there are too many attachments on masters: the ring has room for %d", ringSlots)

// ringSlots is the number of attachments that the ring has room for (WEIR_SLOTS_MAX).
const ringSlots = 4096

// Ring is the outer ring: programs on the masters of macvlan and ipvlan, out of the pods'
// reach, which call those of the attachments. Its methods may be called at the same time.
type Ring struct {
	loader *Loader
	host   *netns.Namespace
	dir    string

	mu       sync.Mutex
	programs *masterPrograms // nil until a master needs them
	maps     ringMaps
	taken    map[uint32]bool // slots
	seats    map[uint32]*seat
	masters  map[int]Kind // on which the programs are
}

// ringMaps are the maps of a ring. The first three are those of attachments too.
type ringMaps struct {
	Locals    *ebpf.Map `ebpf:"weir_locals"`
	Owners    *ebpf.Map `ebpf:"weir_owners"`
	Ring      *ebpf.Map `ebpf:"weir_ring"`
	Senders   *ebpf.Map `ebpf:"weir_senders"`
	Receivers *ebpf.Map `ebpf:"weir_receivers"`
}

func (m *ringMaps) byName() map[string]**ebpf.Map {
	return map[string]**ebpf.Map{
		bpf.LocalsMap: &m.Locals, bpf.OwnersMap: &m.Owners, bpf.RingMap: &m.Ring,
		bpf.SendersMap: &m.Senders, bpf.ReceiversMap: &m.Receivers,
	}
}

// pinOf is the name of a map's pin.
func pinOf(name string) string { return name[len("weir_"):] }

// OpenRing opens the ring whose pins are in a directory, or makes one that is not on any
// master yet. Maps of another layout are made anew.
func (l *Loader) OpenRing(host *netns.Namespace, dir string) (*Ring, error) {
	r := &Ring{
		loader: l, host: host, dir: dir,
		taken: map[uint32]bool{}, seats: map[uint32]*seat{}, masters: map[int]Kind{},
	}
	if err := r.openMaps(); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the ring in %s: %w", dir, explain(err)), r.Close())
	}
	return r, nil
}

func (r *Ring) openMaps() error {
	spec, err := bpf.MasterSpec()
	if err != nil {
		return err
	}
	for name, to := range r.maps.byName() {
		pinned, err := ebpf.LoadPinnedMap(filepath.Join(r.dir, pinOf(name)), nil)
		switch {
		case err == nil && spec.Maps[name].Compatible(pinned) == nil:
			*to = pinned
			continue
		case err == nil:
			err = pinned.Close()
		case errors.Is(err, fs.ErrNotExist):
			err = nil
		}
		if err != nil {
			return err
		}
		if *to, err = ebpf.NewMap(spec.Maps[name]); err != nil {
			return err
		}
	}
	return r.readSlots()
}

// readSlots finds which slots an earlier agent has given to attachments.
func (r *Ring) readSlots() error {
	var key bpf.LocalKey
	var local bpf.Local
	entries := r.maps.Locals.Iterate()
	for entries.Next(&key, &local) {
		r.taken[local.Slot] = true
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("reading who is on the masters: %w", err)
	}
	return nil
}

// masterPrograms are the programs of a node's masters.
type masterPrograms struct {
	Leaving   *ebpf.Program `ebpf:"weir_leaving"`
	Crossing  *ebpf.Program `ebpf:"weir_crossing"`
	ToMAC     *ebpf.Program `ebpf:"weir_to_mac"`
	ToAddress *ebpf.Program `ebpf:"weir_to_address"`
}

func (p *masterPrograms) close() error {
	return errors.Join(p.Leaving.Close(), p.Crossing.Close(), p.ToMAC.Close(), p.ToAddress.Close())
}

// load loads the programs once. The caller holds mu.
func (r *Ring) load() error {
	if r.programs != nil {
		return nil
	}
	spec, err := bpf.MasterSpec()
	if err != nil {
		return err
	}
	if err := errors.Join(
		spec.Variables["weir_has_cookie"].Set(KnowsNamespaces()),
		spec.Variables["bpf_metadata_build"].Set(cString(r.loader.build, int(spec.Variables["bpf_metadata_build"].Size()))),
	); err != nil {
		return err
	}
	shared := map[string]*ebpf.Map{}
	for name, m := range r.maps.byName() {
		shared[name] = *m
	}
	var programs masterPrograms
	if err := spec.LoadAndAssign(&programs, &ebpf.CollectionOptions{MapReplacements: shared}); err != nil {
		return fmt.Errorf("loading the programs of masters: %w", explain(err))
	}
	r.programs = &programs
	return nil
}

// KnowsNamespaces tells that programs of tc can ask which network namespace a socket is of.
func KnowsNamespaces() bool {
	return features.HaveProgramHelper(ebpf.SchedCLS, bpf.CookieHelper) == nil
}

// share adds the maps that the programs of attachments have in common with the ring.
func (r *Ring) share(shared map[string]*ebpf.Map) {
	shared[bpf.LocalsMap], shared[bpf.OwnersMap], shared[bpf.RingMap] = r.maps.Locals, r.maps.Owners, r.maps.Ring
}

// Distrust has what the guards inside the namespaces have said not believed, or believed
// again.
func (r *Ring) Distrust(distrusts bool) error {
	value := bpf.Ring{}
	if distrusts {
		value.Distrusts = 1
	}
	if err := r.maps.Ring.Put(uint32(0), &value); err != nil {
		return fmt.Errorf("telling the ring whom to believe: %w", err)
	}
	return nil
}

// pin pins the maps, where they are not yet. The caller holds mu.
func (r *Ring) pin() error {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return err
	}
	for name, m := range r.maps.byName() {
		path := filepath.Join(r.dir, pinOf(name))
		if (*m).IsPinned() && exists(path) {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := (*m).Pin(path); err != nil {
			return fmt.Errorf("pinning %s: %w", name, err)
		}
	}
	return nil
}

// unpin removes the pins, when the ring is on no master. The caller holds mu.
func (r *Ring) unpin() error {
	var errs []error
	for _, m := range r.maps.byName() {
		if (*m).IsPinned() {
			errs = append(errs, (*m).Unpin())
		}
	}
	return errors.Join(append(errs, Remove(r.dir))...)
}

// Forget drops what an earlier agent has left of attachments that are gone. It is called
// when those that are there have their seats.
func (r *Ring) Forget() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	errs := []error{
		deleteIf(r.maps.Locals, func(_ *bpf.LocalKey, l *bpf.Local) bool { return r.seats[l.Slot] == nil }),
		deleteIf(r.maps.Owners, func(_ *bpf.OwnerKey, o *bpf.Owner) bool { return r.seats[o.Slot] == nil }),
	}
	for slot := range r.taken {
		if r.seats[slot] == nil {
			errs = append(errs, r.clearSlot(slot))
		}
	}
	return errors.Join(append(errs, r.findMasters())...)
}

// deleteIf removes the entries of a map of which the function says so.
func deleteIf[K, V any](m *ebpf.Map, gone func(*K, *V) bool) error {
	var keys []K
	var key K
	var value V
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		if gone(&key, &value) {
			keys = append(keys, key)
		}
	}
	errs := []error{entries.Err()}
	for i := range keys {
		errs = append(errs, deleteKey(m, &keys[i]))
	}
	return errors.Join(errs...)
}

func deleteKey(m *ebpf.Map, key any) error {
	if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

// clearSlot makes a slot free. The caller holds mu.
func (r *Ring) clearSlot(slot uint32) error {
	delete(r.taken, slot)
	return errors.Join(deleteKey(r.maps.Senders, slot), deleteKey(r.maps.Receivers, slot))
}

// findMasters finds the masters that an earlier agent has put the programs on. The caller
// holds mu.
func (r *Ring) findMasters() error {
	entries, err := os.ReadDir(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, entry := range entries {
		if index, err := strconv.Atoi(entry.Name()); err == nil && r.masters[index] == "" {
			r.masters[index] = left
		}
	}
	return err
}

// Sweep takes the programs off masters that have no attachments any more, and puts them
// back on those from which somebody has taken them, which it names.
func (r *Ring) Sweep() (restored []int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	used := map[int]bool{}
	for _, s := range r.seats {
		used[s.master.Index] = true
	}
	var errs []error
	for index, kind := range r.masters {
		if !used[index] {
			errs = append(errs, r.detach(index))
			continue
		}
		put, err := r.ensure(index, kind)
		if errs = append(errs, err); put {
			restored = append(restored, index)
		}
	}
	if len(r.masters) == 0 {
		errs = append(errs, r.unpin())
	}
	return restored, errors.Join(errs...)
}

// Close lets go of the ring; what is pinned stays in force.
func (r *Ring) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, m := range r.maps.byName() {
		errs = append(errs, (*m).Close())
	}
	if r.programs != nil {
		errs = append(errs, r.programs.close())
	}
	return errors.Join(errs...)
}
