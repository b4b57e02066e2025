// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/ipam"
	"github.com/weir-cni/weir/ipvlan"
	"github.com/weir-cni/weir/macvlan"
	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
)

// device is a type of interface that weir makes itself.
type device interface {
	// Validate finds what is wrong with the configuration on this node.
	Validate(host, pod *netns.Namespace) error
	// Create makes the interface in the pod, down and without addresses.
	Create(host, pod *netns.Namespace, name string) (*current.Interface, error)
	// Check compares the interface with the configuration.
	Check(host, pod *netns.Namespace, name string) error
	// MasterLink finds the interface below, also when none is named.
	MasterLink(host, pod *netns.Namespace) (netlink.Link, error)
}

// parser reads a configuration and CNI_ARGS, and says which mode was chosen.
type parser func(config []byte, args string) (d device, mode string, err error)

// parsers are those of the types that weir makes itself.
func parsers() map[string]parser {
	return map[string]parser{
		"macvlan": func(config []byte, args string) (device, string, error) {
			c, err := macvlan.Parse(config, args)
			if err != nil {
				return nil, "", err
			}
			return c, c.Mode, nil
		},
		"ipvlan": func(config []byte, args string) (device, string, error) {
			c, err := ipvlan.Parse(config, args)
			if err != nil {
				return nil, "", err
			}
			return c, c.Mode, nil
		},
	}
}

// native is a delegate that weir carries out in process, over netlink.
type native struct {
	job
	device device
	mode   string
	config []byte
	ipam   ipam.Plugin
}

// native says how the delegate is made in process; nil when its plugins are
// to be executed.
func (j job) native() func() (delegate, error) {
	if len(j.list.Plugins) != 1 {
		return nil
	}
	parse, ok := parsers()[j.list.Plugins[0].Network.Type]
	if !ok {
		return nil
	}
	return func() (delegate, error) { return j.makeNative(parse) }
}

func (j job) makeNative(parse parser) (delegate, error) {
	config, err := withRuntimeConfig(j.list, j.stored.RuntimeConfig)
	if err != nil {
		return nil, err
	}
	n := &native{job: j, config: config}
	args := joinArgs(j.args())
	if n.device, n.mode, err = parse(config, args); err != nil {
		return nil, invalid("%w", err)
	}
	if n.ipam, err = ipam.Parse(config, j.record.Path, args); err != nil {
		return nil, invalid("%w", err)
	}
	return n, nil
}

// withRuntimeConfig is the configuration as the plugin would read it from its
// standard input. Native types take every capability that they have whether the
// network declares it or not: Multus gives theirs as CNI_ARGS too.
func withRuntimeConfig(list *libcni.NetworkConfigList, runtimeConfig map[string]any) ([]byte, error) {
	values := map[string]any{"name": list.Name, "cniVersion": list.CNIVersion}
	for key := range runtimeConfig {
		if key != "ips" && key != "mac" {
			return nil, invalid("%s: network type %s does not support it", key, list.Plugins[0].Network.Type)
		}
	}
	if len(runtimeConfig) > 0 {
		values["runtimeConfig"] = runtimeConfig
	}
	plugin, err := libcni.InjectConf(list.Plugins[0], values)
	if err != nil {
		return nil, invalid("%w", err)
	}
	return plugin.Bytes, nil
}

func joinArgs(pairs [][2]string) string {
	joined := make([]string, len(pairs))
	for i, pair := range pairs {
		joined[i] = pair[0] + "=" + pair[1]
	}
	return strings.Join(joined, ";")
}

func (n *native) request() ipam.Request {
	return ipam.Request{
		ContainerID: n.record.ContainerID,
		Netns:       n.record.Netns,
		IfName:      n.stored.Interface,
		Args:        joinArgs(n.args()),
		Path:        n.record.Path,
		Config:      n.config,
	}
}

func (n *native) validate(_ context.Context, pod *netns.Namespace) error {
	if err := n.checkVersion(); err != nil {
		return err
	}
	if err := n.device.Validate(n.plugin.Host, pod); err != nil {
		return invalid("%w", err)
	}
	return nil
}

// prepare has the programs loaded meanwhile, which takes longer than all the rest.
func (n *native) prepare() {
	if n.stored.Attachment != nil {
		n.plugin.Guards.Prepare(n.id(), n.guardSpec(n.ipam != nil))
	}
}

// checkVersion refuses what the reference plugins refuse.
func (n *native) checkVersion() error {
	if v := cmp.Or(n.list.CNIVersion, oldestVersion); !slices.Contains(version.All.SupportedVersions(), v) {
		return newError(types.ErrIncompatibleCNIVersion,
			fmt.Errorf("cniVersion %q: want one of %s", v, strings.Join(version.All.SupportedVersions(), ", ")))
	}
	return nil
}

// add guards the interface before it is up and before it has an address, so that
// no packet leaves it or reaches it uncounted.
func (n *native) add(ctx context.Context, pod *netns.Namespace) (*current.Result, error) {
	result := &current.Result{CNIVersion: current.ImplementedSpecVersion}
	var guard *guarded
	steps := []struct {
		name string
		do   func() error
	}{
		{"create", func() error { return n.create(pod, result) }},
		{"guard", func() (err error) {
			guard, err = n.attachGuard(pod, result.Interfaces[0], n.ipam != nil)
			return err
		}},
		{"assign", func() error { return n.assign(ctx, result) }},
		{"allow", func() error { return guard.allow(sourcesOf(result)) }},
		{"configure", func() error { return n.configure(pod, result) }},
		{"allow", func() error { return guard.allowOwn(pod, result) }},
	}
	for _, s := range steps {
		if err := n.step(s.name, s.do); err != nil {
			return nil, err
		}
	}
	return result, nil
}

func (n *native) create(pod *netns.Namespace, result *current.Result) error {
	made, err := n.device.Create(n.plugin.Host, pod, n.stored.Interface)
	if err != nil {
		return err
	}
	made.Sandbox = n.record.Netns
	result.Interfaces = []*current.Interface{made}
	if n.stored.Attachment == nil {
		return nil
	}
	master, err := n.device.MasterLink(n.plugin.Host, pod)
	if err != nil {
		return err
	}
	n.stored.Attachment.Master, n.stored.Attachment.Mode = master.Attrs().Name, n.mode
	return nil
}

func (n *native) configure(pod *netns.Namespace, result *current.Result) error {
	if err := netif.Configure(pod, n.stored.Interface, result); err != nil {
		return fmt.Errorf("configuring %s: %w", n.stored.Interface, err)
	}
	return nil
}

// assign asks the IPAM plugin for addresses and puts them into the result.
func (n *native) assign(ctx context.Context, result *current.Result) error {
	result.DNS = dnsOf(n.config)
	if n.ipam == nil {
		return nil
	}
	assigned, err := n.ipam.Add(ctx, n.request())
	if err != nil {
		return fmt.Errorf("assigning addresses: %w", err)
	}
	if len(assigned.IPs) == 0 {
		return invalid("ipam: the plugin gave no address")
	}
	result.IPs, result.Routes = assigned.IPs, assigned.Routes
	for _, ip := range result.IPs {
		ip.Interface = current.Int(0)
	}
	return nil
}

func dnsOf(config []byte) types.DNS {
	var conf types.PluginConf
	if err := json.Unmarshal(config, &conf); err != nil {
		return types.DNS{}
	}
	return conf.DNS
}

func (n *native) check(ctx context.Context, pod *netns.Namespace, result *current.Result) error {
	if err := n.checkAddresses(ctx, result); err != nil {
		return fmt.Errorf("checking the addresses: %w", err)
	}
	return errors.Join(
		n.device.Check(n.plugin.Host, pod, n.stored.Interface),
		netif.Check(pod, n.stored.Interface, result),
		n.checkGuard(pod),
	)
}

// oldestVersion is what a configuration without cniVersion is taken for, as libcni
// does.
const oldestVersion = "0.1.0"

func (n *native) checkAddresses(ctx context.Context, result *current.Result) error {
	if n.ipam == nil {
		return nil
	}
	plugin, err := libcni.NetworkPluginConfFromBytes(n.config)
	if err != nil {
		return err
	}
	// A plugin gets the previous result in the version of its configuration.
	previous, err := result.GetAsVersion(cmp.Or(n.list.CNIVersion, oldestVersion))
	if err != nil {
		return err
	}
	plugin, err = libcni.InjectConf(plugin, map[string]any{"prevResult": previous})
	if err != nil {
		return err
	}
	request := n.request()
	request.Config = plugin.Bytes
	return n.ipam.Check(ctx, request)
}

func (n *native) del(ctx context.Context, pod *netns.Namespace) error {
	var errs []error
	if n.ipam != nil {
		if err := n.ipam.Del(ctx, n.request()); err != nil {
			errs = append(errs, fmt.Errorf("releasing the addresses: %w", err))
		}
	}
	if pod != nil {
		if err := netif.Delete(pod, n.stored.Interface); err != nil {
			errs = append(errs, fmt.Errorf("deleting %s: %w", n.stored.Interface, err))
		}
	}
	return errors.Join(append(errs, n.removeGuard())...)
}
