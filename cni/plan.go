// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/state"
)

// podArgs are the CNI_ARGS by which a Kubernetes runtime names the pod.
type podArgs struct {
	types.CommonArgs
	K8S_POD_NAMESPACE          types.UnmarshallableString
	K8S_POD_NAME               types.UnmarshallableString
	K8S_POD_UID                types.UnmarshallableString
	K8S_POD_INFRA_CONTAINER_ID types.UnmarshallableString
}

// PodOf is the pod that a request's CNI_ARGS name; empty when they name none.
func PodOf(args string) (attachment.Pod, error) {
	pod := podArgs{CommonArgs: types.CommonArgs{IgnoreUnknown: true}}
	if err := types.LoadArgs(args, &pod); err != nil {
		return attachment.Pod{}, newError(types.ErrInvalidEnvironmentVariables, fmt.Errorf("reading CNI_ARGS %q: %w", args, err))
	}
	return attachment.Pod{
		Namespace: string(pod.K8S_POD_NAMESPACE),
		Name:      string(pod.K8S_POD_NAME),
		UID:       string(pod.K8S_POD_UID),
	}, nil
}

// plan is what an ADD comes down to: a record that says everything, and nothing
// done yet.
func (p *Plugin) plan(ctx context.Context, req *api.CNIRequest, pod attachment.Pod) (*state.Record, error) {
	config, err := ParseConfig(req.Config)
	if err != nil {
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
	delegates, err := p.clusterDelegates(ctx, config, record.Pod)
	if err != nil {
		return err
	}
	delegates[0].RuntimeConfig = config.RuntimeConfig
	selections, err := p.selections(ctx, record.Pod)
	if err != nil {
		return err
	}
	for i := range selections {
		d, err := p.selectedDelegate(ctx, config, record.Pod, &selections[i])
		if err != nil {
			return err
		}
		delegates = append(delegates, *d)
	}
	for i := range delegates {
		nameInterface(&delegates[i], i, ifname)
	}
	record.Delegates = delegates
	placeDefaultRoute(delegates, selections)
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

// selections are those of the pod's annotation, in its order.
func (p *Plugin) selections(ctx context.Context, pod attachment.Pod) ([]Selection, error) {
	if pod.Name == "" {
		return nil, nil
	}
	object, err := p.findPod(ctx, pod)
	if err != nil {
		return nil, err
	}
	selections, err := ParseSelections(object.Annotations[nadv1.NetworkAttachmentAnnot], pod.Namespace)
	if err != nil {
		return nil, newError(types.ErrInvalidNetworkConfig, err)
	}
	return selections, nil
}

func (p *Plugin) findPod(ctx context.Context, pod attachment.Pod) (*corev1.Pod, error) {
	object, err := p.Networks.Pod(ctx, pod.Namespace, pod.Name)
	switch {
	case err != nil:
		return nil, newError(types.ErrTryAgainLater, fmt.Errorf("looking the pod up: %w", err))
	case pod.UID != "" && object.UID != "" && string(object.UID) != pod.UID:
		return nil, newError(types.ErrTryAgainLater,
			fmt.Errorf("the runtime asks for the pod with UID %s, the one that is there has %s", pod.UID, object.UID))
	}
	return object, nil
}

func (p *Plugin) selectedDelegate(ctx context.Context, config *Config, pod attachment.Pod, s *Selection) (*state.Delegate, error) {
	network := s.Namespace + "/" + s.Name
	if !config.mayUse(pod.Namespace, s.Namespace) {
		return nil, invalid("network %s: namespaceIsolation keeps pods of namespace %s to networks of their own namespace and of %s",
			network, pod.Namespace, config.GlobalNamespaces)
	}
	object, err := p.Networks.Network(ctx, s.Namespace, s.Name)
	if err != nil {
		return nil, newError(types.ErrInvalidNetworkConfig, fmt.Errorf("network %s: looking the NetworkAttachmentDefinition up: %w", network, err))
	}
	data, err := configOf(object, config.ConfDir)
	if err != nil {
		return nil, invalid("network %s: %w", network, err)
	}
	d := &state.Delegate{Network: network, Interface: s.InterfaceRequest, Config: data}
	if err := applySelection(d, s); err != nil {
		return nil, invalid("network %s: %w", network, err)
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
