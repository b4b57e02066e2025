// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/sockopt"
)

// masters keeps the outer ring: the programs on the masters of macvlan and ipvlan.
type masters struct {
	loader *loader.Loader
	host   *netns.Namespace
	dir    string
	log    *slog.Logger

	left chan struct{} // wakes run when an attachment has left

	mu    sync.Mutex
	ring  *loader.Ring // nil while there are no attachments
	users map[attachment.ID]bool
	// suspects are the namespaces whose pods can forge what their guards say; told is what
	// the ring was told of that last, nil for nothing.
	suspects map[string]bool
	told     *bool
}

func newMasters(l *loader.Loader, host *netns.Namespace, dir string, log *slog.Logger) *masters {
	return &masters{
		loader: l, host: host, dir: dir, log: log,
		left: make(chan struct{}, 1), users: map[attachment.ID]bool{}, suspects: map[string]bool{},
	}
}

// open is the ring, for an attachment that has it until Release.
func (m *masters) open(id attachment.ID) (*loader.Ring, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.reopen(); err != nil {
		return nil, err
	}
	m.users[id] = true
	return m.ring, nil
}

// reopen opens the ring, where it is not open. The caller holds mu.
func (m *masters) reopen() error {
	if m.ring != nil {
		return nil
	}
	ring, err := m.loader.OpenRing(m.host, m.dir)
	if err != nil {
		return err
	}
	m.ring, m.told = ring, nil
	return nil
}

// suspect says whether the pod of a namespace can forge what its guard says. While one of
// them can, none is believed.
func (m *masters) suspect(namespace string, can bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if can {
		m.suspects[namespace] = true
	} else {
		delete(m.suspects, namespace)
	}
	distrusts := len(m.suspects) > 0
	if m.ring == nil || m.told != nil && *m.told == distrusts {
		return nil
	}
	m.told = &distrusts
	if distrusts {
		m.log.Warn("a pod can forge what its guard says of packets: all are judged again on masters", "netns", namespace)
	}
	return m.ring.Distrust(distrusts)
}

// Release ends what open began.
func (m *masters) Release(id attachment.ID) {
	m.mu.Lock()
	delete(m.users, id)
	m.mu.Unlock()
	select {
	case m.left <- struct{}{}:
	default:
	}
}

// seat guards the master of an attachment too, where it has one. One that has a seat in the
// ring keeps it.
func (m *masters) seat(id attachment.ID, place loader.Place, guard *loader.Guard, spec loader.Spec) error {
	master, has, err := loader.MasterOf(place, m.host)
	if err != nil || !has {
		return err
	}
	ring, err := m.open(id)
	if err != nil {
		return err
	}
	cookie, err := sockopt.Cookie(place.Namespace)
	if err != nil {
		return err
	}
	return ring.Seat(guard, master, loader.Pod{Netns: cookie, Cgroup: m.cgroupOf(spec), GoesRound: spec.GoesRound})
}

// cgroupOf is the number of the pod's control group, where the kernel tells programs no
// better whose a socket is; 0 where there is none.
func (m *masters) cgroupOf(spec loader.Spec) uint64 {
	if loader.KnowsNamespaces() {
		return 0
	}
	cgroup, err := sockopt.PodCgroup(spec.PodUID)
	if err != nil && !errors.Is(err, sockopt.ErrNoCgroup) {
		m.log.Warn("the pod's sockets are not known by its control group", "pod", spec.Pod, "network", spec.Network,
			"netif", spec.Interface, "err", err)
	}
	return cgroup
}

// Forget drops what an earlier agent has left on masters for attachments that are gone.
func (m *masters) Forget() error {
	if _, err := os.Stat(m.dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.reopen(); err != nil {
		return err
	}
	return m.ring.Forget()
}

const (
	// sweepMastersEvery is how long a master may be without the programs when somebody takes
	// them off.
	sweepMastersEvery = 5 * time.Second
	// leaveMastersAfter is how long the programs stay on a master after its last attachment:
	// the next one often comes at once.
	leaveMastersAfter = 200 * time.Millisecond
)

// run looks after the masters until ctx ends.
func (m *masters) run(ctx context.Context) error {
	ticker := time.NewTicker(sweepMastersEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-m.left:
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(leaveMastersAfter):
			}
		}
		m.sweep()
	}
}

func (m *masters) sweep() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ring == nil {
		return
	}
	restored, err := m.ring.Sweep()
	if err != nil {
		m.log.Error("looking after the programs on masters", "err", err)
	}
	for _, index := range restored {
		m.log.Warn("programs that somebody took off a master are back", "index", index)
	}
	if len(m.users) > 0 {
		return
	}
	if err := m.ring.Close(); err != nil {
		m.log.Error("closing the programs of masters", "err", err)
	}
	m.ring = nil
}

// Close lets go of the ring; what is pinned stays in force.
func (m *masters) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ring == nil {
		return nil
	}
	return m.ring.Close()
}
