// SPDX-License-Identifier: Apache-2.0

package install

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
)

// Defaults of Options.
const (
	DefaultBinDir  = "/opt/cni/bin"
	DefaultConfDir = "/etc/cni/net.d"
	DefaultName    = "00-weir.conflist"
)

// Options say what is installed, and where.
type Options struct {
	// Plugin is the file of the plugin that is installed as BinDir/weir.
	Plugin string
	// BinDir is the runtime's directory of plugins. Default: DefaultBinDir.
	BinDir string
	// ConfDir is the runtime's directory of configurations. Default: DefaultConfDir.
	ConfDir string
	// Name is that of the file of weir's entry in ConfDir, a .conflist. It must sort
	// before those of all others. Default: DefaultName.
	Name string
	// DefaultNetwork is the file of the default network: its name in ConfDir, or a
	// path. Default: the first in ConfDir that has neither weir nor Multus in it.
	DefaultNetwork string
	// NetworkName is the name that the entry bears. Default: the default network's.
	NetworkName string
	// Settings are further keys of weir's entry.
	Settings map[string]any
	// Report takes what the node's owner should know: one of the reasons, and a
	// sentence. It must not block. Optional.
	Report func(reason, message string)
	// Log takes what happens. Default: none.
	Log *slog.Logger
}

// withDefaults fills the defaults in and finds what cannot be.
func (o Options) withDefaults() (Options, error) {
	o.Name = cmp.Or(o.Name, DefaultName)
	if filepath.Base(o.Name) != o.Name || filepath.Ext(o.Name) != ".conflist" || strings.HasPrefix(o.Name, ".") {
		return o, fmt.Errorf("%q is not the name of a .conflist file", o.Name)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	var errs [2]error
	o.BinDir, errs[0] = filepath.Abs(cmp.Or(o.BinDir, DefaultBinDir))
	o.ConfDir, errs[1] = filepath.Abs(cmp.Or(o.ConfDir, DefaultConfDir))
	return o, errors.Join(errs[:]...)
}

// forKeep finds what cannot be kept.
func (o Options) forKeep() (Options, error) {
	o, err := o.withDefaults()
	if err != nil {
		return o, err
	}
	if o.Plugin == "" {
		return o, errors.New("no plugin to install is named")
	}
	for _, key := range []string{"clusterNetwork", "delegates"} {
		if _, given := o.Settings[key]; given {
			return o, fmt.Errorf("%s is no setting: the default network is found", key)
		}
	}
	if o.DefaultNetwork != "" && !filepath.IsAbs(o.DefaultNetwork) {
		o.DefaultNetwork = filepath.Join(o.ConfDir, o.DefaultNetwork)
	}
	if o.DefaultNetwork == o.entry() {
		return o, errors.New("weir's own entry cannot be the default network")
	}
	_, err = EntryFor(&Network{Name: "example", Path: "/example"}, o.NetworkName, o.Settings).Render()
	return o, err
}

// entry is the path of weir's entry.
func (o *Options) entry() string { return filepath.Join(o.ConfDir, o.Name) }

// plugin is the path of the installed plugin.
func (o *Options) plugin() string { return filepath.Join(o.BinDir, pluginType) }

// Keep installs weir and follows what changes until ctx ends: the default network's
// configuration, and what anybody does to weir's files. What cannot be done is
// reported and tried again. When ctx ends everything stays as it is. The error is that
// of options which cannot be.
func Keep(ctx context.Context, o Options) error {
	o, err := o.forKeep()
	if err != nil {
		return fmt.Errorf("installing weir: %w", err)
	}
	k := newKeeper(o, ordinary)
	defer k.close()
	k.run(ctx)
	return nil
}
