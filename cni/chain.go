// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"

	"github.com/weir-cni/weir/state"
)

// withSubdirectory is the configuration list of a file with the plugins of the files
// *.conf in the directory beside it that bears the list's name, unless the list wants
// none of them (CNI specification 1.1, loadOnlyInlinedPlugins). They stand in the list
// itself, so that a DEL needs no file.
func withSubdirectory(path string, data []byte) (json.RawMessage, error) {
	list, err := libcni.NetworkConfFromBytes(data)
	if err != nil {
		return nil, err
	}
	// libcni joins the name to the directory as it is.
	if list.LoadOnlyInlinedPlugins || utils.ValidateNetworkName(list.Name) != nil {
		return data, nil
	}
	more, err := libcni.NetworkPluginConfsFromFiles(filepath.Dir(path), list.Name)
	if err != nil || len(more) == 0 {
		return data, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, err
	}
	plugins := []json.RawMessage{}
	if inlined, ok := fields["plugins"]; ok {
		if err := json.Unmarshal(inlined, &plugins); err != nil {
			return nil, err
		}
	}
	if fields["plugins"], err = json.Marshal(append(plugins, bytesOf(more)...)); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}

func bytesOf(plugins []*libcni.PluginConfig) []json.RawMessage {
	all := make([]json.RawMessage, len(plugins))
	for i, plugin := range plugins {
		all[i] = plugin.Bytes
	}
	return all
}

// auxiliaryDelegate is the chain that auxiliaryCNIChainName names: the plugins of the
// files *.conf in the directory of that name beside the file of the default network.
// Every pod has it behind all of its networks. It is nil where there are no such files.
func auxiliaryDelegate(config *Config) (*state.Delegate, error) {
	name := config.AuxiliaryCNIChainName
	if name == "" {
		return nil, nil
	}
	d, err := chainBeside(config, name)
	if err != nil {
		return nil, invalid("auxiliaryCNIChainName: %w", err)
	}
	return d, nil
}

func chainBeside(config *Config, name string) (*state.Delegate, error) {
	if !strings.Contains(config.ClusterNetwork, "/") {
		return nil, fmt.Errorf("clusterNetwork is %q, and not the path of a file beside which the chain could be", config.ClusterNetwork)
	}
	if err := utils.ValidateNetworkName(name); err != nil {
		return nil, err
	}
	file, err := fileOf(config.ClusterNetwork)
	if err != nil {
		return nil, err
	}
	plugins, err := libcni.NetworkPluginConfsFromFiles(filepath.Dir(file), name)
	if err != nil || len(plugins) == 0 {
		return nil, err
	}
	for _, plugin := range plugins {
		if plugin.Network.Type == "" {
			return nil, errors.New("type: missing")
		}
	}
	chain, err := json.Marshal(map[string]any{
		"cniVersion": config.CNIVersion,
		"name":       name,
		"plugins":    bytesOf(plugins),
	})
	if err != nil {
		return nil, err
	}
	return &state.Delegate{Network: name, Config: chain, Auxiliary: true}, nil
}
