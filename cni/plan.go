// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/state"
)

// plan is what an ADD comes down to: a record that says everything, and nothing
// done yet.
func (p *Plugin) plan(ctx context.Context, req *api.CNIRequest, pod attachment.Pod) (*state.Record, error) {
	config, err := ParseConfig(req.Config)
	if err != nil {
		return nil, err
	}
	if err := p.awaitReady(ctx, config); err != nil {
		return nil, err
	}
	if config.isChained() {
		return p.planChained(config, req, pod)
	}
	record := p.newRecord(config, req, pod)
	return record, p.planDelegates(ctx, config, record, req.IfName)
}

func (p *Plugin) newRecord(config *Config, req *api.CNIRequest, pod attachment.Pod) *state.Record {
	return &state.Record{
		ContainerID: req.ContainerID,
		Netns:       req.Netns,
		Pod:         pod,
		Phase:       state.Adding,
		Config:      req.Config,
		Path:        p.searchPath(config, req.Path),
		Args:        req.Args,
		Created:     time.Now(),
	}
}

func aboutPod(pod attachment.Pod, err error) error {
	if pod.Name == "" {
		return err
	}
	return fmt.Errorf("pod %s: %w", pod, err)
}

// searchPath is where plugins are looked for, each directory once.
func (p *Plugin) searchPath(config *Config, cniPath string) []string {
	var path []string
	for _, dir := range append([]string{config.BinDir, p.BinDir}, filepath.SplitList(cniPath)...) {
		if dir != "" && !slices.Contains(path, dir) {
			path = append(path, dir)
		}
	}
	return path
}

func (p *Plugin) planDelegates(ctx context.Context, config *Config, record *state.Record, ifname string) error {
	object, err := p.findPod(ctx, record.Pod)
	if err != nil {
		return err
	}
	if object.UID != "" {
		record.Pod.UID = string(object.UID)
	}
	wanted, err := wishesOf(object.Annotations, record.Pod.Namespace, config)
	if err != nil {
		return newError(types.ErrInvalidNetworkConfig, err)
	}
	delegates, err := p.clusterDelegates(ctx, config, record.Pod)
	if err != nil {
		return err
	}
	selections := make([]*Selection, len(delegates))
	if selections[0] = wanted.cluster; wanted.cluster != nil {
		d, err := p.defaultDelegate(ctx, config, record.Pod, wanted.cluster, ifname)
		if err != nil {
			return err
		}
		delegates[0] = *d
	}
	delegates[0].RuntimeConfig = joinedMaps(config.RuntimeConfig, delegates[0].RuntimeConfig)
	for i := range wanted.networks {
		d, err := p.selectedDelegate(ctx, config, record.Pod, &wanted.networks[i])
		if err != nil {
			return err
		}
		delegates, selections = append(delegates, *d), append(selections, &wanted.networks[i])
	}
	auxiliary, err := auxiliaryDelegate(config)
	if err != nil {
		return err
	}
	if auxiliary != nil {
		delegates, selections = append(delegates, *auxiliary), append(selections, nil)
	}
	for i := range delegates {
		nameInterface(&delegates[i], i, ifname)
	}
	if err := p.allocate(ctx, object, record.ContainerID, delegates, nil); err != nil {
		return err
	}
	record.Delegates = delegates
	if err := placeDefaultRoute(delegates, selections); err != nil {
		return newError(types.ErrInvalidNetworkConfig, err)
	}
	return checkUnique(delegates)
}

// nameInterface gives the default network the runtime's CNI_IFNAME and every
// other the name asked for, or net with its place in the list.
func nameInterface(d *state.Delegate, place int, ifname string) {
	d.Default = place == 0
	switch {
	case d.Default:
		d.Interface = ifname
	case d.Interface == "":
		d.Interface = fmt.Sprintf("net%d", place)
	}
}

func checkUnique(delegates []state.Delegate) error {
	owner := map[string]string{}
	for _, d := range delegates {
		if other, taken := owner[d.Interface]; taken {
			return newError(types.ErrInvalidNetworkConfig,
				fmt.Errorf("network %s: interface %s is already that of network %s", d.Network, d.Interface, other))
		}
		owner[d.Interface] = d.Network
	}
	return nil
}

// selectedDelegate is the network of an element of the pod's annotation.
func (p *Plugin) selectedDelegate(ctx context.Context, config *Config, pod attachment.Pod, s *Selection) (*state.Delegate, error) {
	if !config.mayUse(pod.Namespace, s.Namespace) {
		return nil, invalid("network %s: namespaceIsolation keeps pods of namespace %s to networks of their own namespace and of %s",
			s.network(), pod.Namespace, config.GlobalNamespaces)
	}
	return p.definedDelegate(ctx, config, pod, s)
}

// defaultDelegate is the default network that a pod has in place of the cluster's.
// Its interface is the runtime's to name.
func (p *Plugin) defaultDelegate(ctx context.Context, config *Config, pod attachment.Pod, s *Selection, ifname string) (*state.Delegate, error) {
	if s.InterfaceRequest != "" && s.InterfaceRequest != ifname {
		return nil, newError(types.ErrInvalidNetworkConfig, &SelectionError{defaultNetworkAnnotation, 1, s.Name, "interface",
			fmt.Errorf("the interface of the default network is %s", ifname)})
	}
	return p.definedDelegate(ctx, config, pod, s)
}

func (p *Plugin) definedDelegate(ctx context.Context, config *Config, pod attachment.Pod, s *Selection) (*state.Delegate, error) {
	object, err := p.Networks.Network(ctx, s.Namespace, s.Name)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, newError(types.ErrInvalidNetworkConfig, &missingNetworkError{s.Namespace, s.Name, err})
	case err != nil:
		return nil, newError(types.ErrTryAgainLater, fmt.Errorf("network %s: looking the NetworkAttachmentDefinition up: %w", s.network(), err))
	}
	data, err := configOf(object, config.ConfDir)
	if err != nil {
		return nil, invalid("network %s: %w", s.network(), err)
	}
	d := &state.Delegate{
		Network: s.network(), Interface: s.InterfaceRequest, Config: data, Resource: object.Annotations[resourceAnnotation],
	}
	if d.Claim, err = p.claimFor(ctx, pod, s, data); err != nil {
		return nil, invalid("network %s: ipam-claim-reference: %w", s.network(), err)
	}
	asked := *s
	if d.Claim != nil && len(d.Claim.IPs) > 0 {
		asked.IPRequest = d.Claim.IPs
	}
	if err := applySelection(d, &asked); err != nil {
		return nil, invalid("network %s: %w", s.network(), err)
	}
	if d.Selection, err = json.Marshal(s); err != nil {
		return nil, fmt.Errorf("network %s: writing down what the pod asks for: %w", s.network(), err)
	}
	return d, nil
}

// openPod opens the namespace that CNI_NETNS names. It must be another than the
// agent's own, which is the node's.
func (p *Plugin) openPod(path string) (*netns.Namespace, error) {
	if path == "" {
		return nil, newError(types.ErrInvalidEnvironmentVariables, errors.New("CNI_NETNS is empty"))
	}
	ns, err := netns.Open(path)
	if err != nil {
		return nil, newError(types.ErrInvalidNetNS, fmt.Errorf("opening CNI_NETNS: %w", err))
	}
	if ns.Same(p.Host) {
		_ = ns.Close()
		return nil, newError(types.ErrInvalidNetNS, fmt.Errorf("CNI_NETNS %s is the network namespace of the node itself", path))
	}
	return ns, nil
}

// checkRequest validates what the runtime itself said.
func checkRequest(req *api.CNIRequest) error {
	if err := attachment.ValidateContainerID(req.ContainerID); err != nil {
		return newError(types.ErrInvalidEnvironmentVariables, fmt.Errorf("CNI_CONTAINERID: %w", err))
	}
	if err := netif.ValidateName(req.IfName); err != nil {
		return newError(types.ErrInvalidEnvironmentVariables, fmt.Errorf("CNI_IFNAME: %w", err))
	}
	return nil
}

// checkName refuses a plan for a name that the pod already has, or, behind another
// plugin, for one that it lacks.
func checkName(pod *netns.Namespace, record *state.Record, d *state.Delegate) error {
	if err := netif.ValidateName(d.Interface); err != nil {
		return invalid("%w", err)
	}
	chained := record.Chained != ""
	_, err := pod.Netlink().LinkByName(d.Interface)
	switch {
	case err == nil && !chained:
		return invalid("the pod already has an interface %s", d.Interface)
	case netif.IsNotFound(err) && chained:
		return invalid("the pod has no interface %s that the plugin before weir should have made", d.Interface)
	case err == nil, netif.IsNotFound(err):
		return nil
	default:
		return fmt.Errorf("looking %s up in the pod: %w", d.Interface, err)
	}
}

// cniArgs splits CNI_ARGS into pairs, as libcni passes them on.
func cniArgs(args string) [][2]string {
	var pairs [][2]string
	for pair := range strings.SplitSeq(args, ";") {
		if key, value, ok := strings.Cut(pair, "="); ok {
			pairs = append(pairs, [2]string{key, value})
		}
	}
	return pairs
}
