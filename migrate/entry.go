// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/utils"

	"github.com/weir-cni/weir/install"
)

// entryOf is weir's entry for the networks that Multus's configuration names.
func (p *Plan) entryOf(effective keys) (install.Entry, error) {
	entry, err := p.networkOf(effective)
	if err != nil {
		return entry, err
	}
	for name, value := range effective {
		if knownKey(name).verdict == Kept && !isNetwork(name) && string(value) != `""` {
			entry.Settings[name] = value
		}
	}
	maps.Copy(entry.Settings, p.options.Settings)
	if p.options.NetworkName != "" {
		entry.Name = p.options.NetworkName
	}
	if err := utils.ValidateNetworkName(entry.Name); err != nil {
		return entry, fmt.Errorf("the name of weir's entry: %w", err)
	}
	return entry, nil
}

// isNetwork tells the keys that say what the default network is.
func isNetwork(name string) bool { return name == "clusterNetwork" || name == "delegates" }

// networkOf is the entry as the default network makes it, found as Multus finds it.
func (p *Plan) networkOf(effective keys) (install.Entry, error) {
	name := text(effective["clusterNetwork"])
	switch {
	case strings.Contains(name, "/"):
		return p.entryForPath(name)
	case name != "":
		return entryForName(name, effective), nil
	}
	return p.entryForDelegate(effective["delegates"])
}

// entryForPath is that for a file, or for the first one of a directory. In the
// runtime's own directory that would be weir's own: there the file itself is named.
func (p *Plan) entryForPath(path string) (install.Entry, error) {
	info, err := os.Stat(path)
	if err != nil {
		return install.Entry{}, fmt.Errorf("clusterNetwork: %w", err)
	}
	if !info.IsDir() {
		return p.entryForFile(path)
	}
	all, err := install.Find(path)
	if err != nil {
		return install.Entry{}, fmt.Errorf("clusterNetwork: %w", err)
	}
	if filepath.Clean(path) == p.options.ConfDir {
		if network := install.Default(all); network != nil {
			return install.EntryFor(network, "", nil), nil
		}
	}
	if len(all) == 0 {
		return install.Entry{}, fmt.Errorf("clusterNetwork: no configuration in %s", path)
	}
	if all[0].Err != nil {
		return install.Entry{}, fmt.Errorf("clusterNetwork: %w", all[0].Err)
	}
	entry := install.EntryFor(all[0].Network, "", nil)
	entry.Settings["clusterNetwork"] = path
	return entry, nil
}

func (p *Plan) entryForFile(path string) (install.Entry, error) {
	network, err := install.ReadNetwork(path)
	if isWeirs(network, err) {
		p.Notes = append(p.Notes, tookWeirs)
		data, err := os.ReadFile(path)
		if err != nil {
			return install.Entry{}, fmt.Errorf("clusterNetwork: %w", err)
		}
		return parseEntry(data)
	}
	if err != nil {
		return install.Entry{}, fmt.Errorf("clusterNetwork: %w", err)
	}
	return install.EntryFor(network, "", nil), nil
}

// tookWeirs is said where Multus was started while weir's entry was there.
const tookWeirs = "Multus has taken weir's entry for its default network: when it starts it takes the first file that is not its own. " +
	"Until this node is migrated, weir and Multus both attach a pod's networks"

// entryForName is that for a NetworkAttachmentDefinition, or a configuration in confDir.
// What it holds the cluster knows: the rest is as Multus has it.
func entryForName(name string, effective keys) install.Entry {
	var capabilities map[string]bool
	_ = json.Unmarshal(effective["capabilities"], &capabilities) // what is of another kind is none
	maps.DeleteFunc(capabilities, func(_ string, has bool) bool { return !has })
	return install.Entry{
		Name:         text(effective["name"]),
		CNIVersion:   install.UsableVersion(text(effective["cniVersion"])),
		Capabilities: slices.Sorted(maps.Keys(capabilities)),
		Settings:     map[string]any{"clusterNetwork": name},
	}
}

// entryForDelegate is that for networks which are given in full, which weir reads as
// Multus does.
func (p *Plan) entryForDelegate(raw json.RawMessage) (install.Entry, error) {
	var delegates []json.RawMessage
	if err := json.Unmarshal(raw, &delegates); err != nil || len(delegates) == 0 {
		return install.Entry{}, errors.New("neither clusterNetwork nor delegates is in Multus's configuration")
	}
	var first *install.Network
	for i, delegate := range delegates {
		network, err := install.ParseNetwork(delegate)
		if isWeirs(network, err) && len(delegates) == 1 {
			p.Notes = append(p.Notes, tookWeirs)
			return parseEntry(delegate)
		}
		if err != nil {
			return install.Entry{}, fmt.Errorf("delegates[%d]: %w", i, err)
		}
		if i == 0 {
			first = network
		}
	}
	entry := install.EntryFor(first, "", nil)
	delete(entry.Settings, "clusterNetwork")
	entry.Settings["delegates"] = raw
	return entry, nil
}
