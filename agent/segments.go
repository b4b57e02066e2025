// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/cni"
	"github.com/weir-cni/weir/kube"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/segment"
)

const (
	// membersWithin is how long an ADD waits until the members of its segment are known on
	// this node, and until it is known itself.
	membersWithin = 30 * time.Second
	membersStep   = 5 * time.Millisecond
	// settleFor is how long changes of members are gathered, which come in bursts.
	settleFor = 50 * time.Millisecond
)

// census knows what the pods of other nodes are attached to.
type census interface {
	// WatchMembers begins to find that out.
	WatchMembers()
	// MembersSynced tells that all is known.
	MembersSynced() bool
	// OnMembers has changed called whenever it may have changed.
	OnMembers(changed func()) error
	Members(yield func(pod string, attached []cni.Attached) bool)
	Networks(yield func(*nadv1.NetworkAttachmentDefinition) bool)
}

// segments keeps the tables of the segments that attachments of this node are in. A table
// lives as long as there is such an attachment.
type segments struct {
	loader *loader.Loader
	census census
	log    *slog.Logger
	wake   chan struct{}

	mu     sync.Mutex
	tables map[string]*table
	places map[string]knownPlace
}

// table is the members of a segment.
type table struct {
	// members is what guards share. There are others besides only where guards were loaded
	// while those before them could not be found.
	members []*loader.Members
	own     map[attachment.ID]own
	trouble string // with the last look, as the log has it
}

// own is an attachment of this node, and where its network stood when it was made.
type own struct {
	network string
	place   segment.Place
	segment.Member
}

// knownPlace is where a network stood by the last of its configurations that could be read.
type knownPlace struct {
	config string
	place  segment.Place
}

func newSegments(l *loader.Loader, c census, log *slog.Logger) (*segments, error) {
	s := &segments{
		loader: l, census: c, log: log, wake: make(chan struct{}, 1),
		tables: map[string]*table{}, places: map[string]knownPlace{},
	}
	return s, c.OnMembers(s.note)
}

// note remembers that members may have changed.
func (s *segments) note() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run follows what changes until ctx ends.
func (s *segments) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(settleFor):
		}
		s.follow()
	}
}

// acquire is the table of a segment for an attachment that is about to have a guard; nil
// where it may talk to all. It has all members by then that other nodes have told. The error
// is cni.ErrAway when they cannot be known.
func (s *segments) acquire(ctx context.Context, id attachment.ID, spec *loader.Spec) (*loader.Members, error) {
	if !spec.Place.Isolation.Restricted() {
		return nil, nil
	}
	if members := s.known(id, spec.Place.Segment); members != nil {
		return members, nil
	}
	s.census.WatchMembers()
	ctx, cancel := context.WithTimeout(ctx, membersWithin)
	defer cancel()
	if !waitUntil(ctx, s.census.MembersSynced) {
		return nil, fmt.Errorf("the members of segment %s are not known: %w", spec.Place.Segment, cni.ErrAway)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.tableOf(spec.Place.Segment)
	if err != nil {
		return nil, err
	}
	t.own[id] = own{network: spec.Network, place: spec.Place}
	return t.members[0], s.refresh(spec.Place.Segment, t)
}

// known is the table of an attachment that is in it; nil where it is in none.
func (s *segments) known(id attachment.ID, name string) *loader.Members {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tables[name]; t != nil {
		if _, in := t.own[id]; in {
			return t.members[0]
		}
	}
	return nil
}

func waitUntil(ctx context.Context, done func() bool) bool {
	for !done() {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(membersStep):
		}
	}
	return true
}

func (s *segments) tableOf(name string) (*table, error) {
	if t := s.tables[name]; t != nil {
		return t, nil
	}
	members, err := s.loader.NewMembers()
	if err != nil {
		return nil, err
	}
	t := &table{members: []*loader.Members{members}, own: map[attachment.ID]own{}}
	s.tables[name] = t
	return t, nil
}

// adopt takes over the table of an attachment that an earlier agent has guarded. Nothing
// is taken out of it until all members are known.
func (s *segments) adopt(a *attachment.Attachment, place segment.Place, guard *loader.Guard) error {
	if !place.Isolation.Restricted() {
		return nil
	}
	s.census.WatchMembers()
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tables[place.Segment]
	if t == nil {
		t = &table{own: map[attachment.ID]own{}}
	}
	if err := t.adopt(s.loader, guard); err != nil {
		return err
	}
	s.tables[place.Segment] = t
	m, err := memberOf(a, place, guard)
	t.own[a.ID] = own{a.Network, place, m}
	s.note()
	return err
}

// memberOf is what an attachment that is there is known by.
func memberOf(a *attachment.Attachment, place segment.Place, guard *loader.Guard) (segment.Member, error) {
	m := segment.Member{}
	m.MAC, _ = net.ParseMAC(a.MAC)
	for _, prefix := range a.Addresses {
		m.Addresses = append(m.Addresses, prefix.Addr())
	}
	linkLocals, err := guard.LinkLocals()
	for _, address := range linkLocals {
		if !place.SharedMAC || address != loader.LinkLocal(m.MAC) {
			m.Addresses = append(m.Addresses, address)
		}
	}
	return m, err
}

func (t *table) adopt(l *loader.Loader, guard *loader.Guard) error {
	for _, known := range t.members {
		if known.IsOf(guard) {
			return nil
		}
	}
	members, err := l.MembersOf(guard)
	if members == nil && err == nil && len(t.members) == 0 {
		members, err = l.NewMembers() // for the guards that take the place of those there
	}
	if err == nil && members != nil {
		t.members = append(t.members, members)
	}
	return err
}

// join makes an attachment known to the members of its segment on this node.
func (s *segments) join(id attachment.ID, place segment.Place, m segment.Member) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tables[place.Segment]
	if t == nil {
		return fmt.Errorf("segment %s has no table", place.Segment)
	}
	t.own[id] = own{t.own[id].network, place, m}
	added := segment.Table{}
	added.Add(place, m)
	s.note()
	return t.put(added)
}

// put adds members. What others are known by as well, to whom they may not talk, is taken for
// that of an isolated one until all members have been looked at.
func (t *table) put(added segment.Table) error {
	var errs []error
	for _, members := range t.members {
		errs = append(errs, members.Add(added))
	}
	return errors.Join(errs...)
}

// leave forgets an attachment, and the table with the last one.
func (s *segments) leave(id attachment.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for name, t := range s.tables {
		if _, there := t.own[id]; !there {
			continue
		}
		delete(t.own, id)
		s.note()
		if len(t.own) == 0 {
			errs = append(errs, t.close())
			delete(s.tables, name)
		}
	}
	return errors.Join(errs...)
}

func (t *table) close() error {
	var errs []error
	for _, members := range t.members {
		errs = append(errs, members.Close())
	}
	return errors.Join(errs...)
}

// follow looks at all tables.
func (s *segments) follow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, t := range s.tables {
		t.trouble = s.report(name, t.trouble, s.refresh(name, t))
	}
}

// report logs what is wrong with a segment, once.
func (s *segments) report(name, known string, err error) string {
	if err == nil {
		return ""
	}
	if err.Error() != known {
		s.log.Error("following the members of a segment", "segment", name, "err", err)
	}
	return err.Error()
}

// refresh makes a table what is known. Until all is known, what it has stays.
func (s *segments) refresh(name string, t *table) error {
	if !s.census.MembersSynced() {
		return nil
	}
	want := s.membersOf(name, t)
	var errs []error
	for _, members := range t.members {
		errs = append(errs, members.Set(want))
	}
	return errors.Join(errs...)
}

// membersOf is the members of a segment. Of an attachment of this node the cluster may tell
// what has been, so what is known here is added to that.
func (s *segments) membersOf(name string, t *table) segment.Table {
	want := segment.Table{}
	places := s.placesIn(name, t)
	for _, o := range t.own {
		want.Add(places[o.network], o.Member)
	}
	s.census.Members(func(_ string, attached []cni.Attached) bool {
		for i := range attached {
			want.Add(places[attached[i].Network], attached[i].Member)
		}
		return true
	})
	return want
}

// placesIn is where the networks of a segment stand: by their configuration as it is now, or
// as it last could be read, or else as it was for an attachment of this node.
func (s *segments) placesIn(name string, t *table) map[string]segment.Place {
	s.lookAtNetworks()
	places := map[string]segment.Place{}
	for _, o := range t.own {
		places[o.network] = o.place
	}
	for network, known := range s.places {
		if known.place.Segment == name {
			places[network] = known.place
		}
	}
	return places
}

// lookAtNetworks reads the configurations that have changed.
func (s *segments) lookAtNetworks() {
	s.census.Networks(func(object *nadv1.NetworkAttachmentDefinition) bool {
		name, config := object.Namespace+"/"+object.Name, object.Spec.Config
		if known, there := s.places[name]; there && known.config == config || !there && !strings.Contains(config, "isolation") {
			return true
		}
		place, err := cni.PlaceOf(object)
		if err != nil {
			s.log.Warn("a network's members stand where they stood, as its configuration cannot be read", "network", name, "err", err)
			place = s.places[name].place
		}
		s.places[name] = knownPlace{config, place}
		return true
	})
}

// sizes is how many addresses and MACs the table of each segment has.
func (s *segments) sizes() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	sizes := map[string]int{}
	for name, t := range s.tables {
		sizes[name] = t.members[0].Len()
	}
	return sizes
}

// concerns tells whether a network status is of a member of a segment of this node.
func (s *segments) concerns(status []cni.NetworkStatus) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tables {
		for _, o := range t.own {
			if slices.ContainsFunc(status, func(n cni.NetworkStatus) bool { return n.Name == o.network }) {
				return true
			}
		}
	}
	return false
}

// announcer publishes network statuses, and has those of members wait until the watch tells
// them here: of what is published in a cluster all watches tell the same order, so whoever
// publishes later knows who did before, when its ADD returns.
type announcer struct {
	*kube.Store
	segments *segments
}

// SetNetworkStatus publishes a status.
func (a *announcer) SetNetworkStatus(ctx context.Context, pod attachment.Pod, status []cni.NetworkStatus) error {
	if err := a.Store.SetNetworkStatus(ctx, pod, status); err != nil || !a.segments.concerns(status) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, membersWithin)
	defer cancel()
	want := cni.AttachedIn(status)
	if !waitUntil(ctx, func() bool { return reflect.DeepEqual(a.MembersOf(pod.Namespace, pod.Name), want) }) {
		return fmt.Errorf("the watch of pods does not tell the network status of %s: %w", pod, cni.ErrAway)
	}
	a.segments.follow()
	return nil
}
