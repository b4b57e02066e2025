// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"maps"
	"net/netip"
	"testing"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/cni"
	"github.com/weir-cni/weir/segment"
)

// listed is a census of what it holds.
type listed struct {
	synced   bool
	pods     map[string][]cni.Attached
	networks map[string]string
}

func (l *listed) WatchMembers()          {}
func (l *listed) MembersSynced() bool    { return l.synced }
func (l *listed) OnMembers(func()) error { return nil }

func (l *listed) Members(yield func(string, []cni.Attached) bool) {
	for pod, attached := range l.pods {
		if !yield(pod, attached) {
			return
		}
	}
}

func (l *listed) Networks(yield func(*nadv1.NetworkAttachmentDefinition) bool) {
	for name, config := range l.networks {
		if !yield(&nadv1.NetworkAttachmentDefinition{
			ObjectMeta: metav1.ObjectMeta{Namespace: "pods", Name: name}, Spec: nadv1.NetworkAttachmentDefinitionSpec{Config: config},
		}) {
			return
		}
	}
}

func at(network, address string) []cni.Attached {
	return []cni.Attached{{Network: network, Member: segment.Member{Addresses: []netip.Addr{netip.MustParseAddr(address)}}}}
}

// Members are those of the networks that name the segment, as these stand now, or stood
// when they could be read; an attachment of this node says where its own stood.
func TestMembersOfSegment(t *testing.T) {
	t.Parallel()
	network := func(weir string) string { return `{"cniVersion":"1.0.0","type":"macvlan","weir":` + weir + `}` }
	census := &listed{
		synced: true,
		networks: map[string]string{
			"alone": network(`{"isolation":"isolated"}`),
			"red":   network(`{"isolation":{"community":"red"},"segment":"lan"}`),
			"apart": network(`{"isolation":"isolated","segment":"lan"}`),
			"free":  network(`{"isolation":"promiscuous","segment":"lan"}`),
			"plain": `{"cniVersion":"1.0.0","type":"macvlan"}`,
			"bad":   `{"isolation`,
			"file":  "",
		},
		pods: map[string][]cni.Attached{
			"pods/1": at("pods/alone", "192.0.2.1"), "pods/2": at("pods/red", "192.0.2.2"), "pods/3": at("pods/apart", "192.0.2.3"),
			"pods/4": at("pods/free", "192.0.2.4"), "pods/5": at("pods/plain", "192.0.2.5"), "pods/6": at("pods/bad", "192.0.2.6"),
			"pods/7": at("pods/file", "192.0.2.7"), "pods/8": at("pods/gone", "192.0.2.8"),
		},
	}
	s, err := newSegments(nil, census, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	isolated, red := segment.Of(segment.Isolated), segment.OfCommunity("red")
	own := &table{own: map[attachment.ID]own{
		{ContainerID: "a"}: {"pods/file", segment.Place{Segment: "lan", Isolation: isolated}, segment.Member{Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.17")}}},
	}}
	of := func(members map[string]segment.Isolation) segment.Table {
		want := segment.Table{}
		for address, isolation := range members {
			want[segment.Key{Address: netip.MustParseAddr(address)}] = isolation
		}
		return want
	}
	check := func(when string, want map[string]segment.Isolation) {
		t.Helper()
		if got := s.membersOf("lan", own); !maps.Equal(got, of(want)) {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	check("as it is", map[string]segment.Isolation{"192.0.2.2": red, "192.0.2.3": isolated, "192.0.2.7": isolated, "192.0.2.17": isolated})
	if got := s.membersOf("pods/alone", &table{}); !maps.Equal(got, of(map[string]segment.Isolation{"192.0.2.1": isolated})) {
		t.Errorf("a network by itself has %v", got)
	}
	census.networks["red"] = network(`{"isolation":"lonely"}`)
	delete(census.networks, "apart")
	check("with networks that cannot be read or are gone", map[string]segment.Isolation{"192.0.2.2": red, "192.0.2.3": isolated, "192.0.2.7": isolated, "192.0.2.17": isolated})
	census.networks["red"] = network(`{}`)
	census.networks["plain"] = network(`{"isolation":"isolated","segment":"lan"}`)
	census.networks["file"] = network(`{"isolation":{"community":"red"},"segment":"lan"}`)
	check("with networks that are others", map[string]segment.Isolation{"192.0.2.3": isolated, "192.0.2.5": isolated, "192.0.2.7": red, "192.0.2.17": red})
}

// Nobody waits for members where the network has no isolation.
func TestNoMembersWithoutIsolation(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	if err := a.segments.adopt(&attachment.Attachment{}, segment.Place{Isolation: segment.Of(segment.Promiscuous)}, nil); err != nil || len(a.segments.tables) != 0 {
		t.Errorf("%v, %v", a.segments.tables, err)
	}
	if err := a.segments.join(attachment.ID{}, segment.Place{Segment: "lan"}, segment.Member{}); err == nil {
		t.Error("joined a segment that has no table")
	}
	if a.segments.concerns([]cni.NetworkStatus{{Name: "pods/lan"}}) {
		t.Error("a status is of a member where there is none")
	}
}
