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

	"github.com/weir-cni/weir/ipam"
	"github.com/weir-cni/weir/netns"
)

// native is a delegate whose first plugin weir carries out in process, over
// netlink. The plugins behind it are executed.
type native struct {
	job
	device device
	config []byte
	ipam   ipam.Plugin
	rest   *executed // nil when there is nothing behind
}

// native says how the delegate is made in process; nil when its first plugin is
// to be executed.
func (j job) native() func() (delegate, error) {
	known, ok := nativeTypes()[j.list.Plugins[0].Network.Type]
	if !ok {
		return nil
	}
	return func() (delegate, error) { return j.makeNative(known) }
}

func (j job) makeNative(known nativeType) (delegate, error) {
	config, err := j.withRuntimeConfig(known.capabilities)
	if err != nil {
		return nil, err
	}
	n := &native{job: j, config: config, rest: j.behindFirst()}
	args := joinArgs(j.args())
	if n.device, err = known.parse(config, args); err != nil {
		return nil, invalid("%w", err)
	}
	if n.ipam, err = ipam.Parse(config, j.record.Path, args, j.plugin.Exec); err != nil {
		return nil, invalid("%w", err)
	}
	return n, nil
}

// withRuntimeConfig is the configuration of the first plugin as it would read it
// from its standard input. Native types take every capability that they have
// whether the network declares it or not: Multus gives theirs as CNI_ARGS too.
func (j job) withRuntimeConfig(capabilities []string) ([]byte, error) {
	first := j.list.Plugins[0]
	given := map[string]any{}
	for key, value := range j.stored.RuntimeConfig {
		if slices.Contains(capabilities, key) || first.Network.Capabilities[key] {
			given[key] = value
		}
	}
	values := map[string]any{"name": j.list.Name, "cniVersion": j.list.CNIVersion}
	if len(given) > 0 {
		values["runtimeConfig"] = given
	}
	plugin, err := libcni.InjectConf(first, values)
	if err != nil {
		return nil, invalid("%w", err)
	}
	return plugin.Bytes, nil
}

// behindFirst are the plugins of the list behind the first; nil when there are none.
func (j job) behindFirst() *executed {
	if len(j.list.Plugins) == 1 {
		return nil
	}
	behind := *j.list
	behind.Plugins = behind.Plugins[1:]
	rest := &executed{job: j}
	rest.list = &behind
	return rest
}

func joinArgs(pairs [][2]string) string {
	joined := make([]string, len(pairs))
	for i, pair := range pairs {
		joined[i] = pair[0] + "=" + pair[1]
	}
	return strings.Join(joined, ";")
}

func (n *native) site(pod *netns.Namespace) site {
	return site{
		host: n.plugin.Host, pod: pod, network: n.list.Name, containerID: n.record.ContainerID,
		ifname: n.stored.Interface, saved: n.stored.Saved,
	}
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

func (n *native) validate(ctx context.Context, pod *netns.Namespace) error {
	if err := n.checkVersion(); err != nil {
		return err
	}
	if err := n.device.Validate(n.site(pod)); err != nil {
		return invalid("%w", err)
	}
	if n.rest == nil {
		return nil
	}
	return n.rest.validate(ctx, pod)
}

func (n *native) save(pod *netns.Namespace) (err error) {
	n.stored.Saved, err = n.device.Save(n.site(pod))
	return err
}

// prepare has the programs loaded meanwhile, which takes longer than all the rest.
func (n *native) prepare() {
	if n.stored.Attachment != nil {
		n.plugin.Guards.Prepare(n.id(), n.guardSpec(n.sends()))
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
	var m *made
	var guard *guarded
	err := n.runUntilError(ctx, commandAdd,
		step{"create", func() (err error) { m, err = n.create(pod, result); return err }},
		step{"guard", func() (err error) { guard, err = n.guardNew(pod, m); return err }},
		step{"assign", func() error { return n.assign(ctx, m, result) }},
		step{"allow", func() error { return guard.allow(sourcesOf(result)) }},
		step{"configure", func() error { return n.device.Configure(n.site(pod), m, result) }},
		step{"execute", func() (err error) { result, err = n.executeRest(ctx, result); return err }},
		step{"allow", func() error { return guard.settle(pod, n.stored.Interface, result) }},
		step{"remember", func() error { return n.remember(result) }},
	)
	if err != nil {
		return nil, err
	}
	return result, nil
}

func (n *native) create(pod *netns.Namespace, result *current.Result) (*made, error) {
	m, err := n.device.Create(n.site(pod))
	if err != nil {
		return nil, err
	}
	m.interfaces[m.pod].Sandbox = n.record.Netns
	result.Interfaces = m.interfaces
	if a := n.stored.Attachment; a != nil {
		a.Master, a.Mode, a.HostInterface = m.master, m.mode, m.hostEnd
	}
	return m, nil
}

func (n *native) guardNew(pod *netns.Namespace, m *made) (*guarded, error) {
	if m.absent {
		return &guarded{}, n.withoutInterface()
	}
	return n.attachGuard(pod, m.interfaces[m.pod], n.sends())
}

// sends is what the pod may send by the network's configuration.
func (n *native) sends() sending {
	return sending{addressed: n.ipam != nil, tagged: n.device.IsTagged()}
}

// assign asks the IPAM plugin for addresses and puts them into the result.
func (n *native) assign(ctx context.Context, m *made, result *current.Result) error {
	result.DNS = dnsOf(n.config)
	if n.ipam != nil {
		if err := n.reserveAddresses(ctx, m, result); err != nil {
			return err
		}
	}
	if err := n.device.Complete(result); err != nil {
		return invalid("%w", err)
	}
	n.reroute(result)
	return nil
}

func (n *native) reserveAddresses(ctx context.Context, m *made, result *current.Result) error {
	assign := func() (*current.Result, error) { return n.ipam.Add(ctx, n.request()) }
	if n.stored.Claim != nil {
		assign = func() (*current.Result, error) { return n.assignClaimed(ctx) }
	}
	assigned, err := assign()
	if err != nil {
		return fmt.Errorf("assigning addresses: %w", err)
	}
	if len(assigned.IPs) == 0 {
		return invalid("ipam: the plugin gave no address")
	}
	result.IPs, result.Routes = assigned.IPs, assigned.Routes
	for _, ip := range result.IPs {
		ip.Interface = current.Int(m.pod)
	}
	return nil
}

// executeRest hands the result on to the plugins behind.
func (n *native) executeRest(ctx context.Context, result *current.Result) (*current.Result, error) {
	if n.rest == nil {
		return result, nil
	}
	return n.rest.execute(ctx, result)
}

func dnsOf(config []byte) types.DNS {
	var conf types.PluginConf
	if err := json.Unmarshal(config, &conf); err != nil {
		return types.DNS{}
	}
	return conf.DNS
}

func (n *native) check(ctx context.Context, pod *netns.Namespace, result *current.Result) error {
	if err := n.run(ctx, commandCheck, step{"addresses", func() error { return n.checkAddresses(ctx, result) }}); err != nil {
		return fmt.Errorf("checking the addresses: %w", err)
	}
	steps := []step{
		{"interface", func() error { return n.device.Check(n.site(pod), result) }},
		{"guard", func() error { return n.checkGuard(pod) }},
	}
	if n.rest != nil {
		steps = append(steps, step{"execute", func() error { return n.rest.checkList(ctx) }})
	}
	return n.runAll(ctx, commandCheck, steps...)
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
	if n.stored.Claim != nil {
		request = claimedRequest(n.stored.Claim, request)
	}
	request.Config = plugin.Bytes
	return n.ipam.Check(ctx, request)
}

// del undoes the plugins in reverse. The guard goes when nothing is left that it
// could guard.
func (n *native) del(ctx context.Context, pod *netns.Namespace) error {
	var steps []step
	if n.rest != nil {
		steps = append(steps, step{"execute", func() error { return n.rest.delList(ctx, pod) }})
	}
	steps = append(steps,
		step{"release", func() error { return n.release(ctx) }},
		step{"delete", func() error { return n.deleteDevice(pod) }},
		step{"unguard", n.removeGuard},
	)
	if err := n.runAll(ctx, commandDel, steps...); err != nil {
		return err
	}
	return n.forgetCached()
}

func (n *native) deleteDevice(pod *netns.Namespace) error {
	result, err := storedResult(n.stored)
	return errors.Join(err, n.device.Delete(n.site(pod), result))
}

func (n *native) release(ctx context.Context) error {
	switch {
	case n.ipam == nil:
		return nil
	case n.stored.Claim != nil:
		return n.dropClaimed(ctx)
	}
	if err := n.ipam.Del(ctx, n.request()); err != nil {
		return fmt.Errorf("releasing the addresses: %w", err)
	}
	return nil
}
