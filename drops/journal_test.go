// SPDX-License-Identifier: Apache-2.0

package drops

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/bpf"
)

var born = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func web() attachment.Attachment {
	return attachment.Attachment{
		ID:      attachment.ID{ContainerID: "c0ffee", Interface: "net1"},
		Pod:     attachment.Pod{Namespace: "shop", Name: "web"},
		Network: "shop/lan",
		Rules: []attachment.Rule{
			{Direction: "ingress", Rule: "in", Action: "deny"}, {Direction: "egress", Rule: "first", Action: "deny"}, {Direction: "egress", Rule: "1", Action: "deny"},
		},
	}
}

// dropOf is a drop of an attachment, which can be told from others by its length.
func dropOf(tb testing.TB, number uint64, n int) *bpf.Drop {
	tb.Helper()
	return &bpf.Drop{Attachment: number, Length: uint32(n), Verdict: verdictOf(tb, "spoofed_mac"), Direction: uint8(bpf.Egress), Rule: bpf.NoRule}
}

func lengths(all []api.DroppedPacket) (n []uint32) {
	for i := range all {
		n = append(n, all[i].Length)
	}
	return n
}

func TestJournalSaysWhatADropIs(t *testing.T) {
	t.Parallel()
	j := NewJournal()
	j.Know(1, web())
	d := dropOf(t, 1, 60)
	d.Captured, d.Packet, d.Rule, d.VlanProto, d.VlanTci = 3, [128]uint8{1, 2, 3}, 0, 0x0081, 0x2007
	j.Take(d, born)
	want := []api.DroppedPacket{{
		Time: born, ID: web().ID, Pod: web().Pod, Network: "shop/lan", Direction: "egress", Reason: "spoofed_mac", Rule: "first", Length: 60,
		VLAN: &api.VLANTag{Protocol: "0x8100", TCI: 0x2007}, Packet: []byte{1, 2, 3},
	}}
	if diff := cmp.Diff(want, j.Kept(Filter{}, -1)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestJournalNamesRules(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		direction string
		number    int
		want      string
	}{{"ingress", 0, "in"}, {"ingress", 1, "1"}, {"egress", 0, "first"}, {"egress", 1, "1"}, {"egress", 7, "7"}} {
		if got := ruleName(web().Rules, test.direction, test.number); got != test.want {
			t.Errorf("%+v: %s", test, got)
		}
	}
}

func TestJournalKeepsTheLastOfEach(t *testing.T) {
	t.Parallel()
	j := NewJournal()
	j.Know(1, web())
	j.Know(2, attachment.Attachment{ID: attachment.ID{ContainerID: "beef", Interface: "net1"}})
	j.Take(dropOf(t, 2, 5000), born)
	var want []uint32
	for n := range 3*KeptMax + 7 {
		j.Take(dropOf(t, 1, n), born.Add(time.Duration(n+1)))
		want = append(want, uint32(n))
	}
	want = append([]uint32{5000}, want[len(want)-KeptMax:]...)
	if got := lengths(j.Kept(Filter{}, -1)); !slices.Equal(got, want) {
		t.Errorf("kept %v", got)
	}
	if got := lengths(j.Kept(Filter{}, 2)); !slices.Equal(got, want[len(want)-2:]) {
		t.Errorf("the last two: %v", got)
	}
	if got := j.Kept(Filter{Pod: "nobody"}, -1); got == nil || len(got) != 0 {
		t.Errorf("of nobody: %v", got)
	}
	if got := j.Kept(Filter{}, 0); len(got) != 0 {
		t.Errorf("the last none: %v", got)
	}
}

func TestJournalForgetsWhatIsLongGone(t *testing.T) {
	t.Parallel()
	j := NewJournal()
	for n := range uint64(GoneMax + 2) {
		j.Know(n, attachment.Attachment{ID: attachment.ID{ContainerID: fmt.Sprint("c", n)}})
		j.Take(dropOf(t, n, int(n)), born.Add(time.Duration(n)))
		j.Forget(n)
		j.Forget(n) // once more is once
	}
	if got := lengths(j.Kept(Filter{}, -1)); len(got) != GoneMax || got[0] != 2 {
		t.Errorf("%d are kept, from %d on", len(got), got[0])
	}
	// One that is back is not forgotten, and what nobody knows is not kept.
	j.Know(2, web())
	for n := range uint64(GoneMax) {
		j.Know(10_000+n, web())
		j.Forget(10_000 + n)
	}
	j.Take(dropOf(t, 5, 5), born)
	if got := lengths(j.Kept(Filter{}, -1)); !slices.Equal(got, []uint32{2}) {
		t.Errorf("kept %v", got)
	}
	j.Forget(77) // never known
	if len(j.sources) != GoneMax+1 || len(j.gone) != GoneMax {
		t.Errorf("%d sources, %d gone", len(j.sources), len(j.gone))
	}
}

// A follower that does not read costs the others nothing, and learns what it has missed.
func TestFollowersDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	j := NewJournal()
	j.Know(1, web())
	j.Take(dropOf(t, 1, 1), born)
	kept, slow := j.Follow(Filter{}, -1)
	_, quick := j.Follow(Filter{}, 0)
	_, other := j.Follow(Filter{Pod: "another"}, 0)
	if got := lengths(kept); !slices.Equal(got, []uint32{1}) {
		t.Errorf("begins with %v", got)
	}
	const more = 100
	for n := range queueMax + more {
		j.Take(dropOf(t, 1, n), born)
		if got := <-quick.Drops(); got.Length != uint32(n) {
			t.Fatalf("drop %d is %d", n, got.Length)
		}
	}
	if len(slow.Drops()) != queueMax || slow.Missed() != more || slow.Missed() != 0 || quick.Missed() != 0 || len(other.Drops()) != 0 {
		t.Errorf("%d wait, %d of another pod", len(slow.Drops()), len(other.Drops()))
	}
	slow.Close()
	quick.Close()
	quick.Close()
	j.Take(dropOf(t, 1, 1), born)
	if len(quick.Drops()) != 0 || len(j.followers) != 1 {
		t.Error("it goes on after its end")
	}
}

func TestFilter(t *testing.T) {
	t.Parallel()
	d := &api.DroppedPacket{ID: web().ID, Pod: web().Pod, Direction: "egress", Reason: "spoofed_mac"}
	whole := Filter{Namespace: "shop", Pod: "web", Interface: "net1", Direction: "egress", Reasons: []string{"isolated", "spoofed_mac"}}
	for _, f := range []Filter{{}, whole} {
		if !f.Matches(d) {
			t.Errorf("%+v does not match", f)
		}
		if got, err := FilterOf(f.Query()); err != nil || !cmp.Equal(got, f) {
			t.Errorf("%+v is read as %+v, %v", f, got, err)
		}
	}
	for _, f := range []Filter{{Namespace: "x"}, {Pod: "x"}, {Interface: "x"}, {Direction: "ingress"}, {Reasons: []string{"isolated"}}} {
		if f.Matches(d) {
			t.Errorf("%+v matches", f)
		}
	}
	for _, query := range []string{"direction=up", "reason=allowed", "reason=spoofed_mac&reason=bad"} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := FilterOf(values); !errors.Is(err, ErrFilter) {
			t.Errorf("%s: %v", query, err)
		}
	}
}
