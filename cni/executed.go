// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/weir-cni/weir/netns"
)

// executed is a delegate whose plugins are programs on the node.
type executed struct {
	job
}

func (d *executed) cni() *libcni.CNIConfig {
	exec := &invoke.DefaultExec{RawExec: &invoke.RawExec{}, PluginDecoder: version.PluginDecoder{}}
	return libcni.NewCNIConfigWithCacheDir(d.record.Path, d.plugin.CacheDir, exec)
}

func (d *executed) runtime() *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID:    d.record.ContainerID,
		NetNS:          d.record.Netns,
		IfName:         d.stored.Interface,
		Args:           d.args(),
		CapabilityArgs: d.stored.RuntimeConfig,
	}
}

func (d *executed) validate(context.Context, *netns.Namespace) error {
	for _, plugin := range d.list.Plugins {
		if _, err := invoke.FindInPath(plugin.Network.Type, d.record.Path); err != nil {
			return invalid("type: %w", err)
		}
	}
	return nil
}

// prepare does nothing: what there is to check is known only from the result.
func (d *executed) prepare() {}

func (d *executed) add(ctx context.Context, pod *netns.Namespace) (result *current.Result, err error) {
	err = d.step("execute", func() error {
		result, err = d.execute(ctx)
		return err
	})
	if err != nil || d.stored.Attachment == nil {
		return result, err
	}
	return result, d.step("guard", func() error { return d.guardMade(pod, result) })
}

func (d *executed) execute(ctx context.Context) (*current.Result, error) {
	answer, err := d.cni().AddNetworkList(ctx, d.list, d.runtime())
	if err != nil {
		return nil, executing(ctx, err)
	}
	result, err := current.NewResultFromResult(answer)
	if err != nil {
		return nil, fmt.Errorf("reading the plugin's result: %w", err)
	}
	return result, nil
}

func (d *executed) check(ctx context.Context, pod *netns.Namespace, _ *current.Result) error {
	if err := d.cni().CheckNetworkList(ctx, d.list, d.runtime()); err != nil && !predatesCheck(d.list) {
		return executing(ctx, err)
	}
	return d.checkGuard(pod)
}

// predatesCheck is true for configurations of a version that has no CHECK; the
// specification has a runtime not ask.
func predatesCheck(list *libcni.NetworkConfigList) bool {
	hasCheck, err := version.GreaterThanOrEqualTo(list.CNIVersion, "0.4.0")
	return err == nil && !hasCheck
}

func (d *executed) del(ctx context.Context, pod *netns.Namespace) error {
	runtime := d.runtime()
	if pod == nil {
		runtime.NetNS = ""
	}
	err := d.cni().DelNetworkList(ctx, d.list, runtime)
	if err != nil {
		err = executing(ctx, err)
	}
	return errors.Join(err, d.removeGuard())
}

// executing says that a plugin was cut off, where it was: libcni tells only that
// it was killed.
func executing(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("executing the plugin: %w: %w", ctx.Err(), err)
	}
	return fmt.Errorf("executing the plugin: %w", err)
}
