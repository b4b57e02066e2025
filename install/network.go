// SPDX-License-Identifier: Apache-2.0

package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"
)

// Network is a configuration that a runtime could use, as far as weir's entry
// depends on it.
type Network struct {
	// Path is the file's, not that which a link leads to. It is empty where there is no
	// file.
	Path string
	// Name is the network's.
	Name string
	// CNIVersion and CNIVersions are as the file has them.
	CNIVersion  string
	CNIVersions []string
	// Capabilities are those that any of its plugins declares, in order.
	Capabilities []string
	// Types are those of its plugins.
	Types []string
}

// ErrMeta is the error of a configuration that has weir or Multus among its plugins.
// It cannot be the default network of weir: an entry of either would nest, and weir
// behind another plugin would wait for the request that waits for it.
var ErrMeta = errors.New("weir or Multus is among its plugins")

// metaTypes are weir's and Multus's.
var metaTypes = []string{pluginType, "multus", "multus-shim"}

// extensions are those of the files that runtimes read.
var extensions = []string{".conf", ".conflist", ".json"}

// sizeMax is that of a configuration, as containerd has it.
const sizeMax = 2 << 20

// ReadNetwork reads a configuration as a runtime does: one with the extension
// .conflist is a list, any other that of a single plugin. The error is ErrMeta for one
// that has weir or Multus in it; the network is there with it.
func ReadNetwork(path string) (*Network, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	network, err := parseNetwork(path, data)
	if err == nil {
		err = network.checkTypes()
	}
	if err != nil {
		return network, fmt.Errorf("%s: %w", path, err)
	}
	return network, nil
}

// ParseNetwork reads a configuration that is in no file of its own: a list where it has
// plugins, and else that of a single plugin. The error is as that of ReadNetwork.
func ParseNetwork(data []byte) (*Network, error) {
	var shape map[string]json.RawMessage
	if err := json.Unmarshal(data, &shape); err != nil {
		return nil, err
	}
	parse := parseSingle
	if _, isList := shape["plugins"]; isList {
		parse = parseList
	}
	network, err := parse("", data)
	if err != nil {
		return nil, err
	}
	return network, network.checkTypes()
}

func (n *Network) checkTypes() error {
	if slices.ContainsFunc(n.Types, func(t string) bool { return slices.Contains(metaTypes, t) }) {
		return ErrMeta
	}
	return nil
}

// readFile reads a regular file. Opening anything else, a named pipe say, might never
// return.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, sizeMax+1))
	if err != nil {
		return nil, err
	}
	if len(data) > sizeMax {
		return nil, fmt.Errorf("%s is longer than %d bytes", path, sizeMax)
	}
	return data, nil
}

// parseNetwork reads what the file of a path holds.
func parseNetwork(path string, data []byte) (*Network, error) {
	if filepath.Ext(path) == ".conflist" {
		return parseList(path, data)
	}
	return parseSingle(path, data)
}

func parseSingle(path string, data []byte) (*Network, error) {
	plugin, err := libcni.NetworkPluginConfFromBytes(data)
	if err != nil {
		return nil, err
	}
	return newNetwork(path, plugin.Network.Name, data, []*libcni.PluginConfig{plugin})
}

func parseList(path string, data []byte) (*Network, error) {
	list, err := libcni.NetworkConfFromBytes(data)
	if err != nil {
		return nil, err
	}
	plugins := list.Plugins
	// libcni joins the name to the directory as it is.
	if path != "" && utils.ValidateNetworkName(list.Name) == nil && !list.LoadOnlyInlinedPlugins {
		more, err := libcni.NetworkPluginConfsFromFiles(filepath.Dir(path), list.Name)
		if err != nil {
			return nil, err
		}
		plugins = append(plugins, more...)
	}
	if len(plugins) == 0 {
		return nil, errors.New("plugins: missing")
	}
	return newNetwork(path, list.Name, data, plugins)
}

func newNetwork(path, name string, data []byte, plugins []*libcni.PluginConfig) (*Network, error) {
	if err := utils.ValidateNetworkName(name); err != nil {
		return nil, err
	}
	n := &Network{Path: path, Name: name}
	var versions struct {
		CNIVersion  string   `json:"cniVersion"`
		CNIVersions []string `json:"cniVersions"`
	}
	if err := json.Unmarshal(data, &versions); err != nil {
		return nil, err
	}
	n.CNIVersion, n.CNIVersions = versions.CNIVersion, versions.CNIVersions
	for _, v := range append([]string{n.CNIVersion}, n.CNIVersions...) {
		if _, _, _, err := version.ParseVersion(v); err != nil {
			return nil, err
		}
	}
	capabilities := map[string]bool{}
	for _, plugin := range plugins {
		n.Types = append(n.Types, plugin.Network.Type)
		for c, has := range plugin.Network.Capabilities {
			if has {
				capabilities[c] = true
			}
		}
	}
	n.Capabilities = slices.Sorted(maps.Keys(capabilities))
	return n, nil
}

// Found is a file that a runtime would read.
type Found struct {
	Path string
	// Network is what it holds; nil when that cannot be used.
	Network *Network
	// Err is why the file cannot be the default network's; nil when it can.
	Err error
}

// Find reads every configuration of a directory, in the order in which runtimes do.
// A directory that does not exist has none.
func Find(dir string) ([]Found, error) {
	paths, err := libcni.ConfFiles(dir, extensions)
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", dir, err)
	}
	slices.Sort(paths)
	var all []Found
	for _, path := range paths {
		network, err := ReadNetwork(path)
		if _, gone := os.Lstat(path); errors.Is(gone, fs.ErrNotExist) {
			continue
		}
		all = append(all, Found{path, network, err})
	}
	return all, nil
}

// Default is the first of the configurations that can be the default network; nil
// when none can.
func Default(all []Found) *Network {
	for _, found := range all {
		if found.Err == nil {
			return found.Network
		}
	}
	return nil
}
