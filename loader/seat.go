// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"maps"

	"github.com/weir-cni/weir/bpf"
)

// Pod is whose an attachment is, as the kernel knows the owners of sockets.
type Pod struct {
	// GoesRound gives leave to send past the guard. What is sent so is judged on the
	// master, but for what the kernel copies to neighbours on it.
	GoesRound bool
	// Netns is the cookie of the network namespace.
	Netns uint64
	// Cgroup is the number of the pod's control group, of which those of its containers
	// are part; 0 where it is not known.
	Cgroup uint64
}

// seat is the place of a guard in the ring.
type seat struct {
	ring   *Ring
	slot   uint32
	master Master
	pod    Pod
	keys   map[bpf.LocalKey]bool
}

// Seat has the programs on a master call those of a guard, and puts them on the master where
// they are not yet. One that has a seat keeps it; of the pod its leave may have changed.
func (r *Ring) Seat(g *Guard, m Master, pod Pod) error {
	if err := r.seat(g, m, pod); err != nil {
		return fmt.Errorf("having the master guarded: %w", err)
	}
	return nil
}

func (r *Ring) seat(g *Guard, m Master, pod Pod) error {
	if g.seat != nil {
		return g.seat.setLeave(pod.GoesRound)
	}
	if r.loader.spec.Maps[bpf.ControlMap].Compatible(g.control) != nil {
		return nil // of a build that knows no ring: it is seated when it is replaced
	}
	facts, err := g.factsNow()
	if err != nil {
		return err
	}
	s := &seat{ring: r, master: m, pod: pod, keys: map[bpf.LocalKey]bool{}}
	if err := s.take(g, facts); err != nil {
		return errors.Join(err, s.leave())
	}
	g.seat = s
	return g.change(func(c *bpf.Control) error {
		c.Master = uint32(m.Index)
		return nil
	})
}

// take takes a slot, that of an earlier agent where it has one, and makes the guard known:
// its programs first, without which what is for it would be dropped.
func (s *seat) take(g *Guard, facts *bpf.Facts) error {
	s.ring.mu.Lock()
	defer s.ring.mu.Unlock()
	keys := s.keysOf(facts)
	if err := s.choose(keys); err != nil {
		return err
	}
	s.ring.seats[s.slot] = s
	if err := s.put(g); err != nil {
		return err
	}
	if err := s.know(keys); err != nil {
		return err
	}
	if err := s.own(); err != nil {
		return err
	}
	return s.ring.attach(s.master)
}

// choose finds the slot. The caller holds the ring's mu.
func (s *seat) choose(keys map[bpf.LocalKey]bool) error {
	for key := range keys {
		var was bpf.Local
		if s.ring.maps.Locals.Lookup(&key, &was) == nil && s.ring.seats[was.Slot] == nil {
			s.slot = was.Slot
			return nil
		}
	}
	for slot := range uint32(ringSlots) {
		if !s.ring.taken[slot] {
			s.ring.taken[slot] = true
			s.slot = slot
			return nil
		}
	}
	return ErrRingFull
}

// put has the ring call the programs of a guard.
func (s *seat) put(g *Guard) error {
	return errors.Join(
		s.ring.maps.Senders.Put(s.slot, g.egress),
		s.ring.maps.Receivers.Put(s.slot, g.ingress),
	)
}

// keysOf are what an attachment is known by: its MAC or, where all have the same, its
// addresses.
func (s *seat) keysOf(facts *bpf.Facts) map[bpf.LocalKey]bool {
	keys := map[bpf.LocalKey]bool{}
	if s.master.Kind == ByMAC {
		key := bpf.LocalKey{Kind: bpf.MemberMAC, Master: uint32(s.master.Index)}
		copy(key.Address[:], facts.Mac[:])
		keys[key] = true
		return keys
	}
	for _, addr := range addressesOf(facts) {
		keys[bpf.LocalKey{Address: addr.As16(), Kind: bpf.MemberAddress, Master: uint32(s.master.Index)}] = true
	}
	return keys
}

// know makes the attachment known by the keys, and by no others. The caller holds the
// ring's mu.
func (s *seat) know(keys map[bpf.LocalKey]bool) error {
	local := s.local()
	for key := range keys {
		if err := s.ring.maps.Locals.Put(&key, &local); err != nil {
			return fmt.Errorf("making it known on interface %d: %w", s.master.Index, err)
		}
		s.keys[key] = true
	}
	for key := range maps.Clone(s.keys) {
		if keys[key] {
			continue
		}
		if err := s.forget(key); err != nil {
			return err
		}
	}
	return nil
}

func (s *seat) local() bpf.Local {
	local := bpf.Local{Pod: s.pod.Netns, Slot: s.slot}
	if s.master.Last {
		local.Flags |= bpf.LocalLast
	}
	if s.pod.GoesRound {
		local.Flags |= bpf.LocalRound
	}
	return local
}

// setLeave changes what the pod has leave for.
func (s *seat) setLeave(goesRound bool) error {
	s.ring.mu.Lock()
	defer s.ring.mu.Unlock()
	if s.pod.GoesRound == goesRound {
		return nil
	}
	s.pod.GoesRound = goesRound
	return s.know(maps.Clone(s.keys))
}

// forget drops a key, but for one that is another's by now.
func (s *seat) forget(key bpf.LocalKey) error {
	delete(s.keys, key)
	var now bpf.Local
	if s.ring.maps.Locals.Lookup(&key, &now) != nil || now.Slot != s.slot {
		return nil
	}
	return deleteKey(s.ring.maps.Locals, &key)
}

// follow makes the attachment known by what it has become.
func (s *seat) follow(facts *bpf.Facts) error {
	if s == nil {
		return nil
	}
	s.ring.mu.Lock()
	defer s.ring.mu.Unlock()
	return s.know(s.keysOf(facts))
}

func (s *seat) owners() []bpf.OwnerKey {
	owners := []bpf.OwnerKey{{Id: s.pod.Netns, Kind: bpf.OwnerNetns, Master: uint32(s.master.Index)}}
	if s.pod.Cgroup != 0 {
		owners = append(owners, bpf.OwnerKey{Id: s.pod.Cgroup, Kind: bpf.OwnerCgroup, Master: uint32(s.master.Index)})
	}
	return owners
}

// own makes known whose the pod's sockets are. The caller holds the ring's mu.
func (s *seat) own() error {
	for _, key := range s.owners() {
		if err := s.ring.maps.Owners.Put(&key, &bpf.Owner{Pod: s.pod.Netns, Slot: s.slot}); err != nil {
			return fmt.Errorf("making the pod's sockets known: %w", err)
		}
	}
	return nil
}

// disown forgets the pod's sockets, or gives them to another of its attachments on the same
// master. The caller holds the ring's mu.
func (s *seat) disown() error {
	for _, other := range s.ring.seats {
		if other != s && other.pod.Netns == s.pod.Netns && other.master.Index == s.master.Index {
			return other.own()
		}
	}
	var errs []error
	for _, key := range s.owners() {
		errs = append(errs, deleteKey(s.ring.maps.Owners, &key))
	}
	return errors.Join(errs...)
}

// leave gives the seat up. The programs stay on the master until Sweep.
func (s *seat) leave() error {
	s.ring.mu.Lock()
	defer s.ring.mu.Unlock()
	if s.ring.seats[s.slot] != s {
		return nil
	}
	delete(s.ring.seats, s.slot)
	errs := []error{s.disown()}
	for key := range maps.Clone(s.keys) {
		errs = append(errs, s.forget(key))
	}
	return errors.Join(append(errs, s.ring.clearSlot(s.slot))...)
}

// Unseat has the ring know nothing of the guard any more. It is no error without a seat.
func (g *Guard) Unseat() error {
	if g.seat == nil {
		return nil
	}
	if err := g.seat.leave(); err != nil {
		return fmt.Errorf("leaving the ring: %w", err)
	}
	g.seat = nil
	return nil
}
