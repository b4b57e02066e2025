// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/libcni"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/weir-cni/weir/netns"
)

// executed is a delegate whose plugins are programs on the node.
type executed struct {
	job
}

// executedOf is what of a delegate is executed; nil for nothing.
func executedOf(d delegate) *executed {
	switch d := d.(type) {
	case *executed:
		return d
	case *native:
		return d.rest
	}
	return nil
}

func (d *executed) cni() *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(d.record.Path, d.plugin.CacheDir, d.plugin.Exec)
}

func (d *executed) validate(context.Context, *netns.Namespace) error {
	for _, plugin := range d.list.Plugins {
		if _, err := d.plugin.Exec.FindInPath(plugin.Network.Type, d.record.Path); err != nil {
			return invalid("type: %w", err)
		}
	}
	return nil
}

// save does nothing: what a plugin must know to undo its work is its own affair.
func (d *executed) save(*netns.Namespace) error { return nil }

// prepare does nothing: what there is to check is known only from the result.
func (d *executed) prepare() {}

func (d *executed) add(ctx context.Context, pod *netns.Namespace) (result *current.Result, err error) {
	err = d.runUntilError(ctx, commandAdd,
		step{"execute", func() error { result, err = d.execute(ctx, d.before()); return err }},
		step{"guard", func() error { return d.guardMade(pod, result) }},
		step{"reroute", func() error { return d.rerouteMade(pod, result) }},
	)
	if err != nil {
		return nil, err
	}
	return result, nil
}

// before is the result of what comes before the first plugin: nothing, but for plugins
// that are made to come behind others.
func (d *executed) before() *current.Result {
	if !d.stored.Auxiliary {
		return nil
	}
	return &current.Result{CNIVersion: current.ImplementedSpecVersion}
}

// execute has the plugins carry ADD out, the first of them with the result of
// those before it, which is nil where there are none.
func (d *executed) execute(ctx context.Context, previous *current.Result) (*current.Result, error) {
	list, err := following(d.list, previous)
	if err != nil {
		return nil, err
	}
	answer, err := d.cni().AddNetworkList(ctx, list, d.runtime())
	if err != nil {
		return nil, executing(err)
	}
	result, err := current.NewResultFromResult(answer)
	if err != nil {
		return nil, fmt.Errorf("reading the plugin's result: %w", err)
	}
	return result, nil
}

// following is a list whose first plugin comes behind others. libcni gives only
// the second and those behind it a previous result of its own accord.
func following(list *libcni.NetworkConfigList, previous *current.Result) (*libcni.NetworkConfigList, error) {
	if previous == nil {
		return list, nil
	}
	converted, err := previous.GetAsVersion(list.CNIVersion)
	if err != nil {
		return nil, fmt.Errorf("converting the result for plugin %s: %w", list.Plugins[0].Network.Type, err)
	}
	first, err := libcni.InjectConf(list.Plugins[0], map[string]any{"prevResult": converted})
	if err != nil {
		return nil, fmt.Errorf("handing the result on to plugin %s: %w", list.Plugins[0].Network.Type, err)
	}
	after := *list
	after.Plugins = slices.Clone(list.Plugins)
	after.Plugins[0] = first
	return &after, nil
}

// check passes over an auxiliary chain that made no interface: plugins look for it.
func (d *executed) check(ctx context.Context, pod *netns.Namespace, result *current.Result) error {
	if d.stored.Auxiliary && madeNothing(result) {
		return nil
	}
	return d.runUntilError(ctx, commandCheck,
		step{"execute", func() error { return d.checkList(ctx) }},
		step{"guard", func() error { return d.checkGuard(pod) }},
	)
}

func (d *executed) checkList(ctx context.Context) error {
	if err := d.cni().CheckNetworkList(ctx, d.list, d.runtime()); err != nil && !predatesCheck(d.list) {
		return executing(err)
	}
	return nil
}

// predatesCheck is true for configurations of a version that has no CHECK; the
// specification has a runtime not ask.
func predatesCheck(list *libcni.NetworkConfigList) bool {
	hasCheck, err := version.GreaterThanOrEqualTo(list.CNIVersion, "0.4.0")
	return err == nil && !hasCheck
}

func (d *executed) del(ctx context.Context, pod *netns.Namespace) error {
	return d.runAll(ctx, commandDel,
		step{"execute", func() error { return d.delList(ctx, pod) }},
		step{"unguard", d.removeGuard},
	)
}

func (d *executed) delList(ctx context.Context, pod *netns.Namespace) error {
	runtime := d.runtime()
	if pod == nil {
		runtime.NetNS = ""
	}
	if err := d.cni().DelNetworkList(ctx, d.list, runtime); err != nil {
		return executing(err)
	}
	return nil
}

func executing(err error) error {
	return fmt.Errorf("executing the plugin: %w", err)
}
