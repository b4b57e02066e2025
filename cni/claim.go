// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/ipam"
	"github.com/weir-cni/weir/state"
)

// IPAMClaim is what there is to know of an IPAMClaim (NPWG specification 1.3, section 8).
type IPAMClaim struct {
	Namespace, Name, UID string
	// Network is the name of the network that the claim is for.
	Network string
	// Requests are the addresses that its user asks for, IPs those that it has, each as
	// ADDRESS/LENGTH; OwnerPod is the pod that has them.
	Requests, IPs []string
	OwnerPod      string
}

// Claims knows the IPAMClaims of the cluster.
type Claims interface {
	// Claim reads a claim. The error is ErrNotFound when there is none.
	Claim(ctx context.Context, namespace, name string) (*IPAMClaim, error)
	// SetClaim writes the addresses of a claim and the pod that has them. The error is
	// ErrNotFound when the claim, the one with this UID, is not there any more.
	SetClaim(ctx context.Context, claim *state.Claim, ips []string, pod string) error
}

// claimedIPAMs are the types of IPAM whose addresses weir can hold between pods.
var claimedIPAMs = []string{"host-local", "static"}

var errNoClaims = errors.New("this agent knows of no cluster that could have IPAMClaims")

// claimFor finds the claim that an element names, in the pod's namespace. Of a network
// whose plugin is executed there is nothing to find: what claims are to it is its own
// affair, as with OVN-Kubernetes, which reads the pod's annotation itself.
func (p *Plugin) claimFor(ctx context.Context, pod attachment.Pod, s *Selection, config json.RawMessage) (*state.Claim, error) {
	if s.IPAMClaimReference == "" {
		return nil, nil
	}
	list, err := parseNetwork(config)
	if err != nil {
		return nil, err
	}
	first := list.Plugins[0].Network
	if _, isNative := nativeTypes()[first.Type]; !isNative {
		return nil, nil
	}
	if !slices.Contains(claimedIPAMs, first.IPAM.Type) {
		return nil, fmt.Errorf("the network's IPAM is %q, and only addresses of %q can be claimed", first.IPAM.Type, claimedIPAMs)
	}
	if p.Claims == nil {
		return nil, errNoClaims
	}
	claim, err := p.Claims.Claim(ctx, pod.Namespace, s.IPAMClaimReference)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, newError(types.ErrTryAgainLater, err)
	case err != nil:
		return nil, newError(types.ErrTryAgainLater, err)
	case claim.Network != list.Name && claim.Network != s.network():
		return nil, fmt.Errorf("IPAMClaim %s/%s is for network %q, and this is %q", claim.Namespace, claim.Name, claim.Network, list.Name)
	}
	ips := claim.IPs
	if len(ips) == 0 {
		ips = claim.Requests
	}
	if err := checkIPs(ips); err != nil {
		return nil, fmt.Errorf("IPAMClaim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	return &state.Claim{Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID, IPs: ips, Owner: claim.OwnerPod}, nil
}

// claimedRequest is that of an IPAM for a claim: the addresses are the claim's, whatever
// pod and interface have them.
func claimedRequest(claim *state.Claim, req ipam.Request) ipam.Request {
	req.ContainerID, req.IfName, req.Netns = "ipamclaim-"+claim.UID, "claim", ""
	return req
}

// assignClaimed is what the IPAM gave the claim when it was first used on this node.
func (n *native) assignClaimed(ctx context.Context) (*current.Result, error) {
	claim := n.stored.Claim
	lease, err := n.plugin.Leases.Take(claim, n.holder(), n.plugin.hasRecord)
	if held, is := errors.AsType[*state.HeldError](err); is {
		return nil, newError(types.ErrTryAgainLater, held)
	}
	if err != nil {
		return nil, err
	}
	assigned, err := leased(lease)
	if err != nil || assigned == nil || !hasAll(assigned, claim.IPs) {
		if assigned, err = n.lease(ctx, lease); err != nil {
			return nil, err
		}
	}
	if err := n.plugin.Claims.SetClaim(ctx, claim, addressesOf(assigned), n.record.Pod.Name); err != nil {
		return nil, fmt.Errorf("writing the addresses into IPAMClaim %s: %w", claim, err)
	}
	return assigned, nil
}

// lease has the IPAM reserve the claim's addresses, and whatever it held for the claim
// before released.
func (n *native) lease(ctx context.Context, lease *state.Lease) (*current.Result, error) {
	if err := n.plugin.releaseLease(ctx, lease); err != nil {
		return nil, err
	}
	req := claimedRequest(n.stored.Claim, n.request())
	if err := n.ipam.Del(ctx, req); err != nil {
		return nil, err
	}
	// First what is to be released: nothing is reserved that no lease tells of.
	lease.Config, lease.Path, lease.Args, lease.Result = n.config, n.record.Path, req.Args, nil
	if err := n.plugin.Leases.Save(lease); err != nil {
		return nil, err
	}
	assigned, err := n.ipam.Add(ctx, req)
	if err != nil {
		return nil, err
	}
	if !hasAll(assigned, n.stored.Claim.IPs) {
		return nil, invalid("ipam: it gave %v, and IPAMClaim %s has %v", addressesOf(assigned), n.stored.Claim, n.stored.Claim.IPs)
	}
	if lease.Result, err = json.Marshal(assigned); err != nil {
		return nil, err
	}
	return assigned, n.plugin.Leases.Save(lease)
}

// dropClaimed ends the pod's hold of a claim's addresses. They stay the claim's, unless it
// never got them.
func (n *native) dropClaimed(ctx context.Context) error {
	lease, err := n.plugin.Leases.Drop(n.stored.Claim.UID, n.holder())
	if err != nil || lease == nil || len(lease.Result) > 0 {
		return err
	}
	return n.plugin.Leases.Remove(lease.Claim.UID, func(lease *state.Lease) error { return n.plugin.releaseLease(ctx, lease) })
}

func (n *native) holder() string { return state.HolderOf(n.record.Key(), n.stored.Interface) }

func (p *Plugin) hasRecord(key string) bool {
	record, err := p.recordOf(key)
	return err != nil || record != nil
}

// leased is the IPAM's result in a lease; nil for none.
func leased(lease *state.Lease) (*current.Result, error) {
	if len(lease.Result) == 0 {
		return nil, nil
	}
	result, err := current.NewResult(lease.Result)
	if err != nil {
		return nil, err
	}
	return current.NewResultFromResult(result)
}

func addressesOf(result *current.Result) []string {
	var all []string
	for _, ip := range result.IPs {
		all = append(all, ip.Address.String())
	}
	return all
}

// hasAll tells whether a result has addresses, whatever the length of their prefixes.
func hasAll(result *current.Result, ips []string) bool {
	for _, ip := range ips {
		wanted, err := parseIP(ip)
		if err != nil || !slices.ContainsFunc(result.IPs, func(has *current.IPConfig) bool { return isAddress(has.Address, wanted.Addr()) }) {
			return false
		}
	}
	return true
}

func isAddress(has net.IPNet, wanted netip.Addr) bool {
	addr, ok := netip.AddrFromSlice(has.IP)
	return ok && addr.Unmap() == wanted.Unmap()
}

// releaseLease gives what a lease holds back to the node's pools.
func (p *Plugin) releaseLease(ctx context.Context, lease *state.Lease) error {
	if len(lease.Config) == 0 {
		return nil
	}
	plugin, err := ipam.Parse(lease.Config, lease.Path, lease.Args, p.Exec)
	if err != nil || plugin == nil {
		return err
	}
	req := claimedRequest(&lease.Claim, ipam.Request{Path: lease.Path, Args: lease.Args, Config: lease.Config})
	if err := plugin.Del(ctx, req); err != nil {
		return fmt.Errorf("releasing the addresses of IPAMClaim %s: %w", &lease.Claim, err)
	}
	return nil
}

// ReleaseClaims gives back the addresses of claims that are deleted and that no pod of the
// node uses.
func (p *Plugin) ReleaseClaims(ctx context.Context, isDeleted func(*state.Claim) bool) error {
	leases, err := p.Leases.List()
	errs := []error{err}
	for _, lease := range leases {
		if !isDeleted(&lease.Claim) {
			continue
		}
		if err := p.dropStale(lease); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, p.Leases.Remove(lease.Claim.UID, func(lease *state.Lease) error { return p.releaseLease(ctx, lease) }))
	}
	return errors.Join(errs...)
}

// dropStale takes a lease from a holder whose sandbox is gone without a word.
func (p *Plugin) dropStale(lease *state.Lease) error {
	if lease.Holder == "" || p.hasRecord(state.RecordOf(lease.Holder)) {
		return nil
	}
	_, err := p.Leases.Drop(lease.Claim.UID, lease.Holder)
	return err
}
