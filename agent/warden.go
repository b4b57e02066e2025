// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/cni"
	"github.com/weir-cni/weir/inspect"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
)

const (
	// sweepEvery is how often guards are looked at without a sign: that a program was
	// attached the kernel does not tell.
	sweepEvery = 2 * time.Second
	// Between two looks at the guards of a namespace there is a pause, so that a pod that
	// never ceases to tamper does not keep the agent busy. It grows while guards have to
	// be restored.
	pauseLeast, pauseMost = 50 * time.Millisecond, 250 * time.Millisecond
	// reopenEvery is how often a namespace that could not be watched is tried again.
	reopenEvery = 10 * time.Second
	// reportEvery is how often a pod is told the same.
	reportEvery = time.Minute
)

// What was wrong with a guard that was restored, as metrics have it.
const (
	wasRemoved  = "removed"
	wasPreceded = "preceded"
)

// warden notices what somebody does to guards, restores them and tells of it. It watches
// the network namespaces in which guards are.
type warden struct {
	registry *registry

	mu     sync.Mutex
	wards  map[attachment.ID]*ward
	places map[string]*post // by the path of the namespace; "" is the node's own
	wake   chan struct{}
}

// ward is a guard that is watched.
type ward struct {
	attachment.Attachment
	restored map[string]uint64
	gone     bool
	told     map[string]time.Time // by the reason of the event
}

// post is a namespace that is watched.
type post struct {
	ns    *netns.Namespace
	own   bool // not the node's
	watch *netns.Watch
	left  chan struct{} // closed when nothing of it is left to watch
}

func newWarden(r *registry) *warden {
	return &warden{
		registry: r,
		wards:    map[attachment.ID]*ward{}, places: map[string]*post{}, wake: make(chan struct{}, 1),
	}
}

// postOf is the name of the namespace in which the guard of an attachment is.
func postOf(a *attachment.Attachment) string {
	if a.HostInterface != "" {
		return ""
	}
	return a.Netns
}

// watch begins to watch a guard, as soon as run comes to it.
func (w *warden) watch(a attachment.Attachment) {
	w.mu.Lock()
	w.wards[a.ID] = &ward{Attachment: a, restored: map[string]uint64{}, told: map[string]time.Time{}}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// ignore ceases to watch a guard. When it returns, nothing is being done to that.
func (w *warden) ignore(id attachment.ID) {
	defer w.registry.busy.lock(id.String())()
	w.mu.Lock()
	defer w.mu.Unlock()
	was, ok := w.wards[id]
	if !ok {
		return
	}
	delete(w.wards, id)
	name := postOf(&was.Attachment)
	if len(w.wardsAt(name)) == 0 {
		w.leave(name)
	}
}

// wardsAt lists the guards of a namespace. The caller holds mu.
func (w *warden) wardsAt(name string) []*ward {
	var all []*ward
	for _, ward := range w.wards {
		if postOf(&ward.Attachment) == name {
			all = append(all, ward)
		}
	}
	return all
}

// leave ends the watch of a namespace. The caller holds mu.
func (w *warden) leave(name string) {
	if p := w.places[name]; p != nil {
		delete(w.places, name)
		close(p.left)
		_ = p.watch.Close()
	}
}

// tell adds what is known of a guard to what it says itself.
func (w *warden) tell(id attachment.ID, guard *inspect.Guard) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ward := w.wards[id]
	if ward == nil {
		return
	}
	guard.Restored = maps.Clone(ward.restored)
	if ward.gone {
		guard.Hook = loader.Gone
	}
}

// run watches until ctx ends.
func (w *warden) run(ctx context.Context) error {
	var group errgroup.Group
	defer func() {
		w.leaveAll()
		_ = group.Wait() // those that watch have no error
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.wake:
		case <-time.After(reopenEvery):
		}
		for _, name := range w.unwatched() {
			w.open(&group, name)
		}
	}
}

func (w *warden) leaveAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name := range w.places {
		w.leave(name)
	}
}

// unwatched are the namespaces with guards that are not watched yet.
func (w *warden) unwatched() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	names := map[string]bool{}
	for _, ward := range w.wards {
		if name := postOf(&ward.Attachment); w.places[name] == nil {
			names[name] = true
		}
	}
	return slices.Collect(maps.Keys(names))
}

// open begins to watch a namespace. One that is gone has no guards any more.
func (w *warden) open(group *errgroup.Group, name string) {
	p, err := w.newPost(name)
	if err != nil {
		if !errors.Is(err, netns.ErrNotFound) && !errors.Is(err, netns.ErrNotNamespace) {
			w.registry.log.Error("guards in this namespace are not watched", "netns", name, "err", err)
		}
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.wardsAt(name)) == 0 { // taken away meanwhile
		_ = p.close()
		return
	}
	w.places[name] = p
	group.Go(func() error {
		w.patrol(name, p)
		return nil
	})
}

func (w *warden) newPost(name string) (p *post, err error) {
	p = &post{ns: w.registry.host, own: name != "", left: make(chan struct{})}
	if p.own {
		if p.ns, err = netns.Open(name); err != nil {
			return nil, err
		}
	}
	if p.watch, err = p.ns.Watch(); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// close lets go of the namespace, which is kept from ending until then.
func (p *post) close() error {
	var err error
	if p.watch != nil {
		err = p.watch.Close()
	}
	if p.own {
		err = errors.Join(err, p.ns.Close())
	}
	return err
}

// isThere tells that the namespace is the one that its path leads to.
func (p *post) isThere() bool {
	if !p.own {
		return true
	}
	now, err := os.Stat(p.ns.Path())
	return err == nil && p.ns.Is(now)
}

// patrol looks after the guards of one namespace, until there are none or it is gone.
func (w *warden) patrol(name string, p *post) {
	defer func() { _ = p.close() }()
	defer w.suspect(name, nil)
	w.suspect(name, p)
	pause := pauseLeast
	for p.isThere() {
		w.inspect(name, p, nil)
		for sweep := time.Now().Add(sweepEvery); time.Now().Before(sweep); {
			changes, err := p.watch.Next(sweep)
			if err != nil {
				if !errors.Is(err, os.ErrClosed) {
					w.registry.log.Error("guards in this namespace are not watched any more", "netns", name, "err", err)
				}
				w.abandon(name, p)
				return
			}
			if !changes.Lost && len(changes.Interfaces) == 0 {
				continue
			}
			w.suspect(name, p)
			pause = nextPause(pause, w.inspect(name, p, func(index int) bool { return changes.Lost || changes.Interfaces[index] }))
			if !p.wait(pause) {
				return
			}
		}
	}
	w.abandon(name, p)
}

// suspect looks whether the pod of a namespace can forge what its guards say; of one that is
// not watched any more, nil, it is not asked.
func (w *warden) suspect(name string, p *post) {
	if name == "" {
		return
	}
	can := false
	if p != nil {
		var err error
		if can, err = loader.CanForge(p.ns, w.indices(name)); err != nil {
			w.registry.log.Error("looking for what a pod could forge with", "netns", name, "err", err)
			return
		}
	}
	if err := w.registry.masters.suspect(name, can); err != nil {
		w.registry.log.Error("judging packets again on masters", "err", err)
	}
}

// indices are the numbers of the interfaces that have guards in a namespace.
func (w *warden) indices(name string) map[int]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := map[int]bool{}
	for _, ward := range w.wardsAt(name) {
		all[ward.Index] = true
	}
	return all
}

// nextPause doubles while guards had to be restored.
func nextPause(pause time.Duration, restored bool) time.Duration {
	if !restored {
		return pauseLeast
	}
	return min(2*pause, pauseMost)
}

// wait is false when there is nothing left to wait for.
func (p *post) wait(pause time.Duration) bool {
	select {
	case <-p.left:
		return false
	case <-time.After(pause):
		return true
	}
}

// abandon forgets a namespace that is gone.
func (w *warden) abandon(name string, p *post) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.places[name] == p {
		delete(w.places, name)
	}
}

// inspect looks at the guards of a namespace that a change concerns, all without one, and
// tells whether any had to be restored.
func (w *warden) inspect(name string, p *post, concerned func(index int) bool) (restored bool) {
	w.mu.Lock()
	wards := w.wardsAt(name)
	w.mu.Unlock()
	for _, ward := range wards {
		if concerned == nil || ward.Index == 0 || concerned(ward.Index) {
			restored = w.inspectOne(p, ward) || restored
		}
	}
	return restored
}

// inspectOne keeps others from the guard meanwhile. The agent's own changes leave it whole
// at each instant, and an interface that the agent takes away is ignored before.
func (w *warden) inspectOne(p *post, ward *ward) (restored bool) {
	defer w.registry.busy.lock(ward.String())()
	guard := w.registry.guardOf(ward.ID)
	if !w.isWatched(ward) || guard == nil {
		return false
	}
	place := cni.Place(w.registry.host, p.ns, &ward.Attachment)
	w.number(place, ward)
	err := guard.Check(place)
	switch {
	case err == nil:
		w.setGone(ward, false)
		return false
	case netif.IsNotFound(err):
		w.missed(ward)
		return false
	case errors.Is(err, loader.ErrDetached), errors.Is(err, loader.ErrPreceded):
		w.restore(place, guard, ward, err)
		return true
	default:
		if w.isNews(ward, "") {
			w.logOf(ward).Error("looking at a guard", "err", err)
		}
		return false
	}
}

// number remembers which interface it is, should it be renamed, where the record does not say.
func (w *warden) number(place loader.Place, ward *ward) {
	if ward.Index != 0 {
		return
	}
	if found, err := place.Lookup(); err == nil {
		ward.Index = found.Index
	}
}

func (w *warden) isWatched(ward *ward) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wards[ward.ID] == ward
}

func (w *warden) setGone(ward *ward, gone bool) (changed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	changed = ward.gone != gone
	ward.gone = gone
	return changed
}

// missed tells once of an interface that is not there any more. With the pod's namespace
// the node's end of a cable goes too, before the runtime says so.
func (w *warden) missed(ward *ward) {
	if _, err := os.Stat(ward.Netns); err != nil || !w.setGone(ward, true) {
		return
	}
	w.logOf(ward).Warn("a guarded interface was deleted or moved away")
	w.tellPod(ward, cni.ReasonInterfaceGone, fmt.Sprintf(
		"%s of network %s was deleted, or moved away, in the pod. It comes back with a new pod", ward.Interface, ward.Network))
}

func (w *warden) restore(place loader.Place, guard *loader.Guard, ward *ward, wrong error) {
	err := guard.Restore(place)
	if err == nil {
		err = w.registry.loader.Promote(place, guard)
	}
	switch {
	case netif.IsNotFound(err): // programs are taken off an interface before its name is
		w.missed(ward)
		return
	case err != nil:
		w.failed(ward, fmt.Errorf("%w: %w", wrong, err))
		return
	}
	times := w.count(ward, wrong)
	if !w.isNews(ward, cni.ReasonGuardRestored) {
		return
	}
	w.logOf(ward).Warn("a guard was tampered with and is in force again", "wrong", wrong, "times", times)
	w.tellPod(ward, cni.ReasonGuardRestored, fmt.Sprintf(
		"The guard of %s (network %s) was tampered with and is in force again: %v (%d times in all)", ward.Interface, ward.Network, wrong, times))
}

func (w *warden) failed(ward *ward, err error) {
	if !w.isNews(ward, cni.ReasonGuardRemoved) {
		return
	}
	w.logOf(ward).Error("a guard was tampered with and cannot be restored yet", "err", err)
	w.tellPod(ward, cni.ReasonGuardRemoved, fmt.Sprintf(
		"The guard of %s (network %s) was tampered with and cannot be restored yet: %v", ward.Interface, ward.Network, err))
}

// count counts a restoration, and returns how many there were.
func (w *warden) count(ward *ward, wrong error) (times uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	reason := wasRemoved
	if errors.Is(wrong, loader.ErrPreceded) {
		reason = wasPreceded
	}
	ward.restored[reason]++
	return ward.restored[wasRemoved] + ward.restored[wasPreceded]
}

// isNews is false for what was said not long ago.
func (w *warden) isNews(ward *ward, what string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(ward.told[what]) < reportEvery {
		return false
	}
	ward.told[what] = time.Now()
	return true
}

func (w *warden) tellPod(ward *ward, reason, message string) {
	w.registry.report(ward.Pod, cni.Event{Warning: true, Reason: reason, Message: message})
}

func (w *warden) logOf(ward *ward) *slog.Logger {
	return w.registry.log.With("pod", ward.Pod.String(), "network", ward.Network, "netif", ward.Interface)
}
