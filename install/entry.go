// SPDX-License-Identifier: Apache-2.0

package install

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"
)

// pluginType is weir's type in configurations, and the name of the plugin's file.
const pluginType = "weir"

// Entry is weir's own entry in the runtime's configuration.
type Entry struct {
	// Name is that of the network, for the runtime.
	Name string
	// CNIVersion and CNIVersions are those that the runtime may choose from.
	CNIVersion  string
	CNIVersions []string
	// Capabilities are asked of the runtime, for the default network.
	Capabilities []string
	// Settings are weir's other keys, clusterNetwork or delegates among them.
	Settings map[string]any
}

// EntryFor is weir's entry for a default network. It bears the network's name where
// name is empty.
//
// Its version is the network's, which the runtime has been seen to take: an old one
// refuses configurations of a version that it does not know. Below 0.4.0 there is no
// CHECK, and DEL is not told what ADD returned; every runtime that still works with
// Kubernetes knows 0.4.0, so the entry has it where the network has an older version or
// none. GC and STATUS need 1.1.0, and are had where the network has that.
func EntryFor(network *Network, name string, settings map[string]any) Entry {
	settings = maps.Clone(settings)
	if settings == nil {
		settings = map[string]any{}
	}
	settings["clusterNetwork"] = network.Path
	if name == "" {
		name = network.Name
	}
	return Entry{
		Name:         name,
		CNIVersion:   UsableVersion(network.CNIVersion),
		CNIVersions:  usableVersions(network.CNIVersions),
		Capabilities: network.Capabilities,
		Settings:     settings,
	}
}

// oldestVersion is the oldest that an entry has.
const oldestVersion = "0.4.0"

// UsableVersion is the newest version of the CNI specification that weir knows and
// that is not newer than the given one; 0.4.0 where that is older or none.
func UsableVersion(given string) string {
	usable := oldestVersion
	for _, known := range version.All.SupportedVersions() {
		if isAtLeast(known, usable) && isAtLeast(given, known) {
			usable = known
		}
	}
	return usable
}

func usableVersions(given []string) []string {
	var usable []string
	for _, v := range given {
		if isAtLeast(v, oldestVersion) && slices.Contains(version.All.SupportedVersions(), v) {
			usable = append(usable, v)
		}
	}
	return usable
}

// isAtLeast is false for what is no version.
func isAtLeast(v, other string) bool {
	ok, err := version.GreaterThanOrEqualTo(v, other)
	return err == nil && ok
}

// reserved are the keys of an entry that no setting may have.
var reserved = []string{"type", "name", "cniVersion", "cniVersions", "capabilities", "plugins", "prevResult", "runtimeConfig"}

// Render is the entry as a configuration list.
func (e Entry) Render() ([]byte, error) {
	plugin := map[string]any{}
	for key, value := range e.Settings {
		if slices.Contains(reserved, key) {
			return nil, fmt.Errorf("rendering weir's entry: %s is no setting", key)
		}
		plugin[key] = value
	}
	plugin["type"] = pluginType
	if len(e.Capabilities) > 0 {
		capabilities := map[string]bool{}
		for _, c := range e.Capabilities {
			capabilities[c] = true
		}
		plugin["capabilities"] = capabilities
	}
	data, err := json.MarshalIndent(struct {
		CNIVersion             string           `json:"cniVersion"`
		CNIVersions            []string         `json:"cniVersions,omitempty"`
		Name                   string           `json:"name"`
		LoadOnlyInlinedPlugins bool             `json:"loadOnlyInlinedPlugins"`
		Plugins                []map[string]any `json:"plugins"`
	}{e.CNIVersion, e.CNIVersions, e.Name, true, []map[string]any{plugin}}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("rendering weir's entry: %w", err)
	}
	return append(data, '\n'), nil
}

// CheckEntry reads a file as a runtime would and tells whether it is an entry of weir.
func CheckEntry(path string) error {
	list, err := libcni.NetworkConfFromFile(path)
	if err != nil {
		return fmt.Errorf("reading weir's entry back: %w", err)
	}
	if len(list.Plugins) != 1 || list.Plugins[0].Network.Type != pluginType {
		return fmt.Errorf("reading weir's entry back: %s is not of the one plugin %s", path, pluginType)
	}
	if err := utils.ValidateNetworkName(list.Name); err != nil {
		return fmt.Errorf("reading weir's entry back: %w", err)
	}
	return nil
}
