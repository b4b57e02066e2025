// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/cni"
	"github.com/weir-cni/weir/drops"
	"github.com/weir-cni/weir/inspect"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/metrics"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/segment"
)

// registry holds the guards of the node and the attachments that they belong to.
type registry struct {
	loader   *loader.Loader
	segments *segments
	host     *netns.Namespace
	bpfDir   string
	// specOf is what the guard of an attachment is made of.
	specOf  func(*attachment.Attachment) (loader.Spec, error)
	sockets *sockets
	// measure begins to measure a work, whose end what it returns is told.
	measure func(work string) (done func(error))
	masters *masters
	// report tells the users of a pod what happens to it.
	report func(attachment.Pod, cni.Event)
	log    *slog.Logger
	lock   func(containerID string) (unlock func())
	warden *warden
	// journal has what rings brings of drops.
	journal *drops.Journal
	rings   *drops.Rings
	// busy is held while a guard is looked at or changed: that requests of its container
	// go on must not keep one from being restored.
	busy keyedMutex

	mu        sync.Mutex
	guards    map[attachment.ID]*loader.Guard
	loading   map[attachment.ID]chan loaded
	published map[attachment.ID]attachment.Attachment
	adding    atomic.Int32 // requests under way

	waiting chan attachment.Attachment // for promotion
}

var _ cni.Guards = (*registry)(nil)

// promotionsMax bounds the attachments that wait for promotion. One that finds
// no place keeps its filters until the agent starts again.
const promotionsMax = 4096

// newRegistry makes an empty registry. lock keeps requests of a container away
// while its guard is promoted.
func newRegistry(l *loader.Loader, s *segments, host *netns.Namespace, bpfDir string, lock func(string) func(), log *slog.Logger) *registry {
	r := &registry{
		host:      host,
		lock:      lock,
		loader:    l,
		segments:  s,
		report:    func(attachment.Pod, cni.Event) {},
		measure:   func(string) func(error) { return func(error) {} },
		bpfDir:    bpfDir,
		log:       log,
		sockets:   newSockets(log),
		masters:   newMasters(l, host, filepath.Join(bpfDir, loader.RingDir), log),
		guards:    map[attachment.ID]*loader.Guard{},
		loading:   map[attachment.ID]chan loaded{},
		published: map[attachment.ID]attachment.Attachment{},
		waiting:   make(chan attachment.Attachment, promotionsMax),
	}
	r.warden = newWarden(r)
	r.journal = drops.NewJournal()
	r.rings = drops.NewRings(r.journal.Take, log)
	return r
}

// loaded is what loading programs came to.
type loaded struct {
	guard *loader.Guard
	err   error
}

// Prepare begins to load the programs of an attachment.
func (r *registry) Prepare(id attachment.ID, spec loader.Spec) {
	done := make(chan loaded, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loading[id] = done
	go func() {
		guard, err := r.load(id, spec)
		done <- loaded{guard, err}
	}()
}

// takeLoaded is the guard that Prepare loads, once; false when it was not asked.
func (r *registry) takeLoaded(id attachment.ID) (loaded, bool) {
	r.mu.Lock()
	done, ok := r.loading[id]
	delete(r.loading, id)
	r.mu.Unlock()
	if !ok {
		return loaded{}, false
	}
	return <-done, true
}

// Attach guards an interface, with the programs that Prepare has loaded.
func (r *registry) Attach(place loader.Place, id attachment.ID, spec loader.Spec) (*loader.Guard, error) {
	l, prepared := r.takeLoaded(id)
	if !prepared {
		l.guard, l.err = r.load(id, spec)
	}
	if l.err != nil {
		return nil, l.err
	}
	if err := r.loader.Attach(place, l.guard, spec); err != nil {
		return nil, err
	}
	if err := r.masters.seat(id, place, l.guard, spec); err != nil {
		return nil, errors.Join(err, l.guard.Unseat(), l.guard.Detach(place), loader.Remove(spec.Dir), l.guard.Close())
	}
	r.keepSockets(id, place, spec)
	r.expectDrops(id, spec)
	r.readDrops(id, l.guard)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.guards[id] = l.guard
	return l.guard, nil
}

// load loads the programs of an attachment with the table of its segment.
func (r *registry) load(id attachment.ID, spec loader.Spec) (*loader.Guard, error) {
	var err error
	if spec.Members, err = r.segments.acquire(context.Background(), id, &spec); err != nil {
		return nil, err
	}
	if spec.Ring, err = r.masters.open(id); err != nil {
		return nil, err
	}
	return r.loader.Load(spec)
}

// Join makes an attachment known to the others of its segment.
func (r *registry) Join(id attachment.ID, place segment.Place, m segment.Member) error {
	return r.segments.join(id, place, m)
}

// Check tells whether the guard of an attachment is in place.
func (r *registry) Check(place loader.Place, a *attachment.Attachment) error {
	guard := r.guardOf(a.ID)
	if guard == nil {
		return fmt.Errorf("%w: its pins are missing in %s", loader.ErrDetached, r.dirOf(a))
	}
	return guard.Check(place)
}

// Ignore has the warden leave an attachment alone.
func (r *registry) Ignore(id attachment.ID) { r.warden.ignore(id) }

// Detach takes the programs of a guard off an interface that lives on.
func (r *registry) Detach(place loader.Place, a *attachment.Attachment) error {
	guard := r.guardOf(a.ID)
	if guard == nil {
		return nil
	}
	return guard.Detach(place)
}

// Remove takes a guard away, and an attachment that never had one out of sight.
func (r *registry) Remove(a *attachment.Attachment) error {
	r.warden.ignore(a.ID)
	r.mu.Lock()
	guard := r.guards[a.ID]
	delete(r.guards, a.ID)
	delete(r.published, a.ID)
	r.mu.Unlock()
	var err error
	if guard != nil {
		err = guard.Unseat()
	}
	if a.PinDir != "" {
		err = errors.Join(err, loader.Remove(r.dirOf(a)))
	}
	if l, unused := r.takeLoaded(a.ID); unused && l.err == nil {
		err = errors.Join(err, l.guard.Close())
	}
	if guard != nil {
		err = errors.Join(err, guard.Close())
	}
	r.masters.Release(a.ID)
	r.forgetDrops(a.ID)
	return errors.Join(err, r.segments.leave(a.ID), r.sockets.Release(a.ID))
}

// keepSockets keeps the pod from sending round a guard that is on its own end.
func (r *registry) keepSockets(id attachment.ID, place loader.Place, spec loader.Spec) {
	if !place.Opposite {
		r.sockets.Keep(id, spec.Dir, place.Namespace, spec.GoesRound)
	}
}

func (r *registry) dirOf(a *attachment.Attachment) string {
	return filepath.Join(r.bpfDir, a.PinDir)
}

func (r *registry) guardOf(id attachment.ID) *loader.Guard {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.guards[id]
}

// adopt opens the guard of an attachment that an earlier agent made.
func (r *registry) adopt(a attachment.Attachment) error {
	if a.PinDir != "" {
		guard, err := loader.Open(r.dirOf(&a))
		if err != nil {
			return err
		}
		r.mu.Lock()
		r.guards[a.ID] = guard
		r.mu.Unlock()
		r.knowDrops(&a)
		r.readDrops(a.ID, guard)
		if err := r.adoptMember(&a, guard); err != nil {
			return err
		}
		if err := r.adoptPlace(&a, guard); err != nil {
			r.log.Warn("what is on the pod's master, and what its sockets are denied, stays as it is", "pod", a.Pod.String(),
				"network", a.Network, "netif", a.Interface, "err", err)
		}
	}
	r.Publish(a)
	return nil
}

func (r *registry) adoptMember(a *attachment.Attachment, guard *loader.Guard) error {
	if a.Isolation == "" {
		return nil
	}
	spec, err := r.specOf(a)
	if err != nil {
		return err
	}
	return r.segments.adopt(a, spec.Place, guard)
}

// adoptPlace goes on with what there is for a guard outside its own interface.
func (r *registry) adoptPlace(a *attachment.Attachment, guard *loader.Guard) error {
	if a.HostInterface != "" {
		return nil
	}
	spec, err := r.specOf(a)
	if err != nil {
		return err
	}
	pod, err := netns.Open(a.Netns)
	if err != nil {
		return err
	}
	defer pod.Close()
	place := cni.Place(r.host, pod, a)
	r.keepSockets(a.ID, place, spec)
	return r.masters.seat(a.ID, place, guard, spec)
}

// Publish makes an attachment seen by metrics and tools, has its guard watched, and queues
// it for promotion.
func (r *registry) Publish(a attachment.Attachment) {
	r.mu.Lock()
	r.published[a.ID] = a
	r.mu.Unlock()
	if a.PinDir == "" {
		return
	}
	r.knowDrops(&a)
	r.warden.watch(a)
	r.enqueue(a)
}

// republish shows what has changed of an attachment that is still there.
func (r *registry) republish(a attachment.Attachment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, there := r.published[a.ID]; there {
		r.published[a.ID] = a
		r.knowDrops(&a)
	}
}

// enqueue has a guard renewed and promoted, where it needs that.
func (r *registry) enqueue(a attachment.Attachment) {
	select {
	case r.waiting <- a:
	default:
		r.log.Warn("too many attachments wait for tcx links: this one keeps its clsact filters",
			"pod", a.Pod.String(), "network", a.Network, "netif", a.Interface)
	}
}

// Published lists the attachments of a container.
func (r *registry) Published(containerID string) []attachment.Attachment {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []attachment.Attachment
	for id, a := range r.published {
		if id.ContainerID == containerID {
			all = append(all, a)
		}
	}
	return all
}

// Attachments reads the counters of every attachment, ordered by pod and
// interface.
func (r *registry) Attachments() []inspect.Attachment {
	all, measures := r.snapshot(), loader.MeasuresRuns()
	for i := range all {
		all[i].Guard = r.readOf(all[i].ID, measures)
		if all[i].Guard != nil {
			r.warden.tell(all[i].ID, all[i].Guard)
		}
	}
	all = slices.DeleteFunc(all, r.wentAway)
	slices.SortFunc(all, inspect.ByPod)
	return all
}

// snapshot is what is published, without counters: those are read without the
// lock, which every request needs.
func (r *registry) snapshot() []inspect.Attachment {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]inspect.Attachment, 0, len(r.published))
	for _, a := range r.published {
		all = append(all, inspect.Attachment{Attachment: a})
	}
	return all
}

// wentAway tells that an attachment could not be read because it was taken away
// meanwhile.
func (r *registry) wentAway(a inspect.Attachment) bool {
	return a.Guard != nil && a.Guard.Err != nil && r.guardOf(a.ID) == nil
}

// readOf reads the guard of an attachment, which may be replaced meanwhile.
func (r *registry) readOf(id attachment.ID, measures bool) *inspect.Guard {
	for {
		guard := r.guardOf(id)
		read := read(guard, measures)
		if read == nil || read.Err == nil || r.guardOf(id) == guard {
			return read
		}
	}
}

// read reads one guard's counters, and what the kernel measures of its programs; nil when there
// is no guard.
func read(guard *loader.Guard, measures bool) *inspect.Guard {
	if guard == nil {
		return nil
	}
	counters, err := guard.Counters()
	if err != nil {
		counters = bpf.Counters{}
	}
	hits, errHits := guard.Hits()
	samples, errSamples := guard.Samples()
	var runs *[2]loader.Runs
	var errRuns error
	if measures {
		runs, errRuns = guard.Runs()
	}
	return &inspect.Guard{
		Hook: guard.Hook(), Counters: counters, Hits: hits, Samples: samples, Runs: runs,
		Err: errors.Join(err, errHits, errSamples, errRuns),
	}
}

// Close lets go of the guards; what they enforce stays in force.
func (r *registry) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, guard := range r.guards {
		errs = append(errs, guard.Close())
	}
	clear(r.guards)
	return errors.Join(append(errs, r.sockets.Close(), r.masters.Close(), r.rings.Close())...)
}

// Promotion takes the kernel's lock of network configuration, which every request
// needs: it waits for requests to end, looking every quietStep, quietFor at most.
const (
	quietFor  = time.Second
	quietStep = 10 * time.Millisecond
)

// promote moves guards from filters to links, one after the other, until ctx ends.
func (r *registry) promote(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case a := <-r.waiting:
			r.waitForQuiet(ctx)
			if err := r.promoteOne(ctx, a); err != nil {
				r.log.Warn("the guard keeps its programs and hooks as they are", "pod", a.Pod.String(),
					"network", a.Network, "netif", a.Interface, "err", err)
			}
		}
	}
}

func (r *registry) waitForQuiet(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, quietFor)
	defer cancel()
	for r.adding.Load() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-time.After(quietStep):
		}
	}
}

func (r *registry) promoteOne(ctx context.Context, a attachment.Attachment) error {
	defer r.lock(a.ContainerID)()
	defer r.busy.lock(a.String())()
	guard := r.guardOf(a.ID)
	if guard == nil {
		return nil // taken away meanwhile
	}
	pod, err := netns.Open(a.Netns)
	if err != nil {
		return err
	}
	defer pod.Close()
	place := cni.Place(r.host, pod, &a)
	spec, err := r.specOf(&a)
	if err != nil {
		// What it is to be made of is not known: it stays as it is.
		return errors.Join(err, r.toLinks(place, guard))
	}
	if guard, err = r.renew(ctx, place, &a, guard, spec); err != nil {
		return err
	}
	err = r.masters.seat(a.ID, place, guard, spec)
	r.keepSockets(a.ID, place, spec)
	return errors.Join(err, r.toLinks(place, guard))
}

func (r *registry) toLinks(place loader.Place, guard *loader.Guard) error {
	done := r.measure(metrics.Promote)
	err := r.loader.Promote(place, guard)
	done(err)
	return err
}

// renew replaces the programs of a guard until they are those of this build, made as its
// network wants them. Scrapes go on with the old guard until the new one is in its place.
func (r *registry) renew(
	ctx context.Context, place loader.Place, a *attachment.Attachment, guard *loader.Guard, spec loader.Spec,
) (*loader.Guard, error) {
	for {
		outdated, err := r.loader.IsOutdated(spec)
		if err != nil || !outdated {
			return guard, err
		}
		if spec.Members, err = r.segments.acquire(ctx, a.ID, &spec); err != nil {
			return guard, err
		}
		if spec.Ring, err = r.masters.open(a.ID); err != nil {
			return guard, err
		}
		done := r.measure(metrics.Replace)
		newer, err := r.loader.Replace(place, guard, spec)
		done(err)
		if err != nil {
			return guard, err
		}
		r.mu.Lock()
		r.guards[a.ID] = newer
		r.mu.Unlock()
		r.readDrops(a.ID, newer)
		r.log.Info("the guard has new programs", "pod", a.Pod.String(), "network", a.Network, "netif", a.Interface)
		if err := guard.Close(); err != nil {
			return newer, err
		}
		guard = newer
	}
}
