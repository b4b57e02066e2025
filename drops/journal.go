// SPDX-License-Identifier: Apache-2.0

package drops

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/bpf"
)

const (
	// KeptMax is how many drops are kept of each attachment: by itself, so that a flood in
	// one pushes out nothing of another's.
	KeptMax = 64
	// GoneMax is how many attachments that are gone still have theirs.
	GoneMax = 256
	// queueMax is how many drops may wait for a follower.
	queueMax = 256
)

// Journal has the last drops of each attachment. Its methods may be called at the same time,
// and none of them waits for a follower.
type Journal struct {
	mu        sync.Mutex
	sources   map[uint64]*source
	gone      []uint64 // in the order in which they went
	followers map[*Follower]bool
}

// source is an attachment that drops.
type source struct {
	attachment.Attachment
	kept   []api.DroppedPacket
	oldest int // once there are KeptMax: which of them gives way next
}

func (s *source) keep(d *api.DroppedPacket) {
	if len(s.kept) < KeptMax {
		s.kept = append(s.kept, *d)
		return
	}
	s.kept[s.oldest] = *d
	s.oldest = (s.oldest + 1) % KeptMax
}

// NewJournal is an empty one.
func NewJournal() *Journal {
	return &Journal{sources: map[uint64]*source{}, followers: map[*Follower]bool{}}
}

// Know tells whose drops bear a number.
func (j *Journal) Know(number uint64, a attachment.Attachment) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.gone = slices.DeleteFunc(j.gone, func(n uint64) bool { return n == number })
	j.sourceOf(number).Attachment = a
}

// sourceOf is that of a number, made where there is none. The caller holds mu.
func (j *Journal) sourceOf(number uint64) *source {
	s := j.sources[number]
	if s == nil {
		s = &source{}
		j.sources[number] = s
	}
	return s
}

// Forget tells that an attachment is gone. Its drops, of which some may still be on their
// way, are kept until GoneMax others have gone.
func (j *Journal) Forget(number uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.sources[number] == nil || slices.Contains(j.gone, number) {
		return
	}
	j.gone = append(j.gone, number)
	if len(j.gone) > GoneMax {
		delete(j.sources, j.gone[0])
		j.gone = slices.Delete(j.gone, 0, 1)
	}
}

// Take keeps a drop, if it is of an attachment that is known, and passes it on.
func (j *Journal) Take(d *bpf.Drop, at time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	s, known := j.sources[d.Attachment], true
	if s == nil {
		s, known = &source{}, false
	}
	dropped := describe(d, at, &s.Attachment)
	if known {
		s.keep(&dropped)
	}
	for f := range j.followers {
		f.offer(&dropped)
	}
}

func describe(d *bpf.Drop, at time.Time, a *attachment.Attachment) api.DroppedPacket {
	direction := bpf.Direction(d.Direction)
	dropped := api.DroppedPacket{
		Time: at.UTC(), ID: a.ID, Pod: a.Pod, Network: a.Network,
		Direction: direction.String(), Reason: bpf.Verdict(d.Verdict).Reason(),
		Length: d.Length, Packet: slices.Clone(d.Packet[:d.Captured]),
	}
	if d.VlanProto != 0 {
		dropped.VLAN = &api.VLANTag{Protocol: fmt.Sprintf("0x%04x", bigEndian(d.VlanProto)), TCI: d.VlanTci}
	}
	if d.Rule != bpf.NoRule {
		dropped.Rule = ruleName(a.Rules, direction.String(), int(d.Rule))
	}
	return dropped
}

// bigEndian is a number that a record has in the order of the network.
func bigEndian(n uint16) uint16 { return n<<8 | n>>8 }

// ruleName is the name of a rule by its number in a direction; the number where there is no
// such rule, as of an attachment whose rules have just changed.
func ruleName(rules []attachment.Rule, direction string, number int) string {
	n := number
	for _, rule := range rules {
		if rule.Direction != direction {
			continue
		}
		if n == 0 {
			return rule.Rule
		}
		n--
	}
	return strconv.Itoa(number)
}

// Kept lists the last drops that match, the oldest first: so many at most, all for a number
// below 0.
func (j *Journal) Kept(f Filter, last int) []api.DroppedPacket {
	j.mu.Lock()
	all := j.kept(f)
	j.mu.Unlock()
	return newest(all, last)
}

// kept are those that match, in no order. The caller holds mu.
func (j *Journal) kept(f Filter) []api.DroppedPacket {
	all := []api.DroppedPacket{}
	for _, s := range j.sources {
		for i := range s.kept {
			if f.Matches(&s.kept[i]) {
				all = append(all, s.kept[i])
			}
		}
	}
	return all
}

// newest brings drops into the order of their times, and leaves the last of them: all for a
// number below 0.
func newest(all []api.DroppedPacket, last int) []api.DroppedPacket {
	slices.SortStableFunc(all, func(a, b api.DroppedPacket) int { return a.Time.Compare(b.Time) })
	if last >= 0 && last < len(all) {
		all = all[len(all)-last:]
	}
	return all
}

// Follow has drops that match passed on, from those on that Kept would list, until the
// follower is closed.
func (j *Journal) Follow(f Filter, last int) ([]api.DroppedPacket, *Follower) {
	follower := &Follower{journal: j, filter: f, queue: make(chan api.DroppedPacket, queueMax)}
	j.mu.Lock()
	j.followers[follower] = true
	all := j.kept(f)
	j.mu.Unlock()
	return newest(all, last), follower
}

// Follower receives drops as they come.
type Follower struct {
	journal *Journal
	filter  Filter
	queue   chan api.DroppedPacket
	missed  atomic.Uint64
}

// offer queues a drop, or counts that it found no room.
func (f *Follower) offer(d *api.DroppedPacket) {
	if !f.filter.Matches(d) {
		return
	}
	select {
	case f.queue <- *d:
	default:
		f.missed.Add(1)
	}
}

// Drops is where drops come.
func (f *Follower) Drops() <-chan api.DroppedPacket { return f.queue }

// Missed is how many drops found no room since it was last asked for.
func (f *Follower) Missed() uint64 { return f.missed.Swap(0) }

// Close ends what is passed on.
func (f *Follower) Close() {
	f.journal.mu.Lock()
	defer f.journal.mu.Unlock()
	delete(f.journal.followers, f)
}
