// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/ipam"
	"github.com/weir-cni/weir/state"
)

// knownClaims are the claims of a cluster.
type knownClaims struct {
	claims  map[string]*IPAMClaim // by namespace/name
	err     error
	written []string
}

func (k *knownClaims) Claim(_ context.Context, namespace, name string) (*IPAMClaim, error) {
	claim := k.claims[namespace+"/"+name]
	if claim == nil && k.err == nil {
		return nil, fmt.Errorf("the cluster has no IPAMClaim %s/%s: %w", namespace, name, ErrNotFound)
	}
	return claim, k.err
}

func (k *knownClaims) SetClaim(_ context.Context, claim *state.Claim, ips []string, pod string) error {
	if k.err == nil {
		k.written = append(k.written, fmt.Sprintf("%s %v %s", claim, ips, pod))
	}
	return k.err
}

func TestClaimFor(t *testing.T) {
	t.Parallel()
	const (
		lan    = `{"cniVersion":"1.0.0","name":"lan-of-ours","type":"macvlan","ipam":{"type":"host-local"}}`
		wanted = "vm"
	)
	tests := []struct {
		name, network string
		claim         *IPAMClaim
		err           error
		alone         bool // without a cluster
		want          *state.Claim
		says          string
		code          uint
	}{
		{name: "has addresses", network: lan, claim: &IPAMClaim{Network: "lan-of-ours", IPs: []string{"192.0.2.7/24"}, Requests: []string{"192.0.2.9/24"}},
			want: &state.Claim{Namespace: "pods", Name: "vm", UID: "1", IPs: []string{"192.0.2.7/24"}}},
		{name: "asks for some", network: lan, claim: &IPAMClaim{Network: "nets/lan", Requests: []string{"192.0.2.9/24"}},
			want: &state.Claim{Namespace: "pods", Name: "vm", UID: "1", IPs: []string{"192.0.2.9/24"}}},
		{name: "new", network: lan, claim: &IPAMClaim{Network: "lan-of-ours"}, want: &state.Claim{Namespace: "pods", Name: "vm", UID: "1"}},
		{name: "of an executed plugin", network: `{"cniVersion":"1.0.0","name":"o","type":"ovn-k8s-cni-overlay"}`, alone: true},
		{name: "not there", network: lan, says: "the cluster has no IPAMClaim pods/vm", code: types.ErrTryAgainLater},
		{name: "the API server is away", network: lan, err: errors.New("no answer"), says: "no answer", code: types.ErrTryAgainLater},
		{name: "no cluster", network: lan, alone: true, says: "this agent knows of no cluster", code: types.ErrInvalidNetworkConfig},
		{name: "of another network", network: lan, claim: &IPAMClaim{Network: "wan"}, says: `IPAMClaim pods/vm is for network "wan"`, code: types.ErrInvalidNetworkConfig},
		{name: "no address", network: lan, claim: &IPAMClaim{Network: "lan-of-ours", IPs: []string{"x"}}, says: `IPAMClaim pods/vm: "x"`, code: types.ErrInvalidNetworkConfig},
		{name: "an IPAM that is executed", network: `{"cniVersion":"1.0.0","name":"lan","type":"macvlan","ipam":{"type":"dhcp"}}`,
			says: `the network's IPAM is "dhcp"`, code: types.ErrInvalidNetworkConfig},
		{name: "no IPAM", network: `{"cniVersion":"1.0.0","name":"lan","type":"macvlan"}`, says: `the network's IPAM is ""`, code: types.ErrInvalidNetworkConfig},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := &Plugin{}
			if !test.alone {
				known := &knownClaims{err: test.err, claims: map[string]*IPAMClaim{}}
				if test.claim != nil {
					test.claim.Namespace, test.claim.Name, test.claim.UID = "pods", "vm", "1"
					known.claims["pods/vm"] = test.claim
				}
				p.Claims = known
			}
			got, err := p.claimFor(t.Context(), attachment.Pod{Namespace: "pods", Name: "web"},
				&Selection{Namespace: "nets", Name: "lan", IPAMClaimReference: wanted}, json.RawMessage(test.network))
			if test.says != "" {
				wantError(t, invalid("x: %w", err), test.says, test.code)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("claim (-want +got):\n%s", diff)
			}
		})
	}
}

// claimNode is a node with a pool of addresses.
type claimNode struct {
	*testing.T
	*Plugin
	pool  string // a file for each address
	known *knownClaims
}

func newClaimNode(t *testing.T) *claimNode {
	t.Helper()
	records, err := state.Open(filepath.Join(t.TempDir(), "records"))
	if err != nil {
		t.Fatal(err)
	}
	leases, err := state.OpenLeases(filepath.Join(t.TempDir(), "leases"))
	if err != nil {
		t.Fatal(err)
	}
	known := &knownClaims{}
	return &claimNode{T: t, pool: t.TempDir(), known: known, Plugin: &Plugin{Records: records, Leases: leases, Claims: known}}
}

// network is that of a pod, whose sandbox is recorded, for the claim with a UID.
func (c *claimNode) network(pod, uid string, ips ...string) *native {
	c.Helper()
	record := &state.Record{ContainerID: pod, Pod: attachment.Pod{Namespace: "pods", Name: pod}, Phase: state.Adding}
	if err := c.Records.Save(record); err != nil {
		c.Fatal(err)
	}
	config := map[string]any{"cniVersion": "1.0.0", "name": "lan", "type": "macvlan", "ipam": map[string]any{
		"type": "host-local", "dataDir": c.pool, "subnet": "192.0.2.0/24", "routes": []map[string]any{{"dst": "198.51.100.0/24"}},
	}}
	stored := &state.Delegate{Interface: "net1"}
	if uid != "" {
		stored.Claim = &state.Claim{Namespace: "pods", Name: "vm", UID: uid, IPs: ips}
		config["runtimeConfig"] = map[string]any{"ips": ips}
	}
	data, err := json.Marshal(config)
	if err != nil {
		c.Fatal(err)
	}
	plugin, err := ipam.Parse(data, nil, "", nil)
	if err != nil {
		c.Fatal(err)
	}
	return &native{job: job{plugin: c.Plugin, record: record, stored: stored}, config: data, ipam: plugin}
}

func (c *claimNode) assign(n *native) string {
	c.Helper()
	result, err := n.assignClaimed(c.Context())
	if err != nil {
		c.Fatal(err)
	}
	if len(result.Routes) != 1 {
		c.Errorf("routes %v", result.Routes)
	}
	return strings.Join(addressesOf(result), " ")
}

// end is a DEL.
func (c *claimNode) end(n *native) {
	c.Helper()
	if err := errors.Join(n.release(c.Context()), c.Records.Delete(n.record.Key())); err != nil {
		c.Fatal(err)
	}
}

// wantReserved compares what the pool has given away, and how many leases there are.
func (c *claimNode) wantReserved(leases int, addresses ...string) {
	c.Helper()
	files, err := filepath.Glob(c.pool + "/lan/192.*")
	if err != nil {
		c.Fatal(err)
	}
	var got []string
	for _, file := range files {
		got = append(got, filepath.Base(file))
	}
	slices.Sort(addresses)
	if diff := cmp.Diff(addresses, got); diff != "" {
		c.Errorf("reserved (-want +got):\n%s", diff)
	}
	all, err := c.Leases.List()
	if err != nil || len(all) != leases {
		c.Errorf("%d leases, want %d; error %v", len(all), leases, err)
	}
}

func TestClaimKeepsItsAddressFromPodToPod(t *testing.T) {
	t.Parallel()
	c := newClaimNode(t)
	first := c.network("first", "1")
	if got := c.assign(first); got != "192.0.2.2/24" {
		t.Errorf("the first pod has %s", got)
	}
	c.end(first)
	c.wantReserved(1, "192.0.2.2")
	other := c.network("other", "")
	if result, err := other.ipam.Add(t.Context(), other.request()); err != nil || addressesOf(result)[0] != "192.0.2.3/24" {
		t.Errorf("a pod without a claim: %v, %v", result, err)
	}
	second := c.network("second", "1", "192.0.2.2/24")
	if got := c.assign(second); got != "192.0.2.2/24" {
		t.Errorf("the second pod has %s", got)
	}
	want := []string{"pods/vm [192.0.2.2/24] first", "pods/vm [192.0.2.2/24] second"}
	if diff := cmp.Diff(want, c.known.written); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
	deleted := func(*state.Claim) bool { return true }
	if err := c.ReleaseClaims(t.Context(), deleted); err != nil {
		t.Error(err)
	}
	c.wantReserved(1, "192.0.2.2", "192.0.2.3")
	c.end(second)
	if err := c.ReleaseClaims(t.Context(), func(*state.Claim) bool { return false }); err != nil {
		t.Error(err)
	}
	c.wantReserved(1, "192.0.2.2", "192.0.2.3")
	if err := c.ReleaseClaims(t.Context(), deleted); err != nil {
		t.Error(err)
	}
	c.wantReserved(0, "192.0.2.3")
}

func TestClaimOfAnotherNode(t *testing.T) {
	t.Parallel()
	c := newClaimNode(t)
	if got := c.assign(c.network("web", "1", "192.0.2.77/24")); got != "192.0.2.77/24" {
		t.Errorf("the pod has %s", got)
	}
	c.wantReserved(1, "192.0.2.77")
}

func TestClaimWithOtherAddressesThanBefore(t *testing.T) {
	t.Parallel()
	c := newClaimNode(t)
	first := c.network("first", "1", "192.0.2.77/24")
	c.assign(first)
	c.end(first)
	if got := c.assign(c.network("second", "1", "192.0.2.88/24")); got != "192.0.2.88/24" {
		t.Errorf("the pod has %s", got)
	}
	c.wantReserved(1, "192.0.2.88")
}

func TestClaimIsOnePodsAtATime(t *testing.T) {
	t.Parallel()
	c := newClaimNode(t)
	first, second := c.network("first", "1"), c.network("second", "1")
	c.assign(first)
	_, err := second.assignClaimed(t.Context())
	wantError(t, err, "the addresses of IPAMClaim pods/vm are in use by net1 of container first on this node", types.ErrTryAgainLater)
	if err := second.release(t.Context()); err != nil {
		t.Error(err)
	}
	c.wantReserved(1, "192.0.2.2")
	// The first one's record is lost, and nobody will end its hold.
	if err := c.Records.Delete("first"); err != nil {
		t.Fatal(err)
	}
	if got := c.assign(second); got != "192.0.2.2/24" {
		t.Errorf("the second pod has %s", got)
	}
}

func TestClaimThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	c := newClaimNode(t)
	other := c.network("other", "")
	if _, err := other.ipam.Add(t.Context(), other.request()); err != nil {
		t.Fatal(err)
	}
	taken := c.network("web", "1", "192.0.2.2/24")
	if _, err := taken.assignClaimed(t.Context()); !errors.Is(err, ipam.ErrInUse) {
		t.Errorf("an address that is another's: %v", err)
	}
	c.end(taken)
	c.wantReserved(0, "192.0.2.2")
}

// The claim is told of its addresses in time or the pod fails; they are kept for it.
func TestClaimThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	c := newClaimNode(t)
	c.known.err = errors.New("no answer")
	n := c.network("web", "1")
	if _, err := n.assignClaimed(t.Context()); err == nil || !strings.Contains(err.Error(), "IPAMClaim pods/vm: no answer") {
		t.Errorf("error %v", err)
	}
	c.end(n)
	c.wantReserved(1, "192.0.2.2")
	c.known.err = nil
	if got := c.assign(c.network("again", "1")); got != "192.0.2.2/24" {
		t.Errorf("the next pod has %s", got)
	}
}

// A damaged lease is made anew.
func TestClaimWithADamagedLease(t *testing.T) {
	t.Parallel()
	c := newClaimNode(t)
	dir := t.TempDir()
	var err error
	if c.Leases, err = state.OpenLeases(dir); err != nil {
		t.Fatal(err)
	}
	first := c.network("first", "1")
	c.assign(first)
	c.end(first)
	if err := os.WriteFile(filepath.Join(dir, "1.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := c.assign(c.network("second", "1", "192.0.2.2/24")); got != "192.0.2.2/24" {
		t.Errorf("the pod has %s", got)
	}
	c.wantReserved(1, "192.0.2.2")
}
