// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/state"
)

// clusterDelegates are the networks that weir's own configuration names: the
// default network first.
func (p *Plugin) clusterDelegates(ctx context.Context, config *Config, pod attachment.Pod) ([]state.Delegate, error) {
	if config.ClusterNetwork == "" {
		return inlineDelegates(config.Delegates)
	}
	names := []string{config.ClusterNetwork}
	if !slices.Contains(config.SystemNamespaces, pod.Namespace) {
		names = append(names, config.DefaultNetworks...)
	}
	var delegates []state.Delegate
	for _, name := range names {
		d, err := p.namedDelegate(ctx, config, name)
		if err != nil {
			return nil, invalid("network %s: %w", name, err)
		}
		delegates = append(delegates, *d)
	}
	return delegates, nil
}

func inlineDelegates(configs []json.RawMessage) ([]state.Delegate, error) {
	var delegates []state.Delegate
	for i, data := range configs {
		list, err := parseNetwork(data)
		if err != nil {
			return nil, invalid("delegates[%d]: %w", i, err)
		}
		delegates = append(delegates, state.Delegate{Network: list.Name, Config: data})
	}
	return delegates, nil
}

// namedDelegate looks a network up by the one name that clusterNetwork and
// defaultNetworks hold: a NetworkAttachmentDefinition, a configuration in the
// configuration directory, a directory, or a file, in this order.
func (p *Plugin) namedDelegate(ctx context.Context, config *Config, name string) (*state.Delegate, error) {
	if strings.Contains(name, "/") {
		return fileDelegate(name)
	}
	object, err := p.Networks.Network(ctx, config.MultusNamespace, name)
	switch {
	case err == nil:
		data, err := configOf(object, config.ConfDir)
		return &state.Delegate{
			Network: config.MultusNamespace + "/" + name, Config: data, Resource: object.Annotations[resourceAnnotation],
		}, err
	case !errors.Is(err, ErrNotFound):
		return nil, newError(types.ErrTryAgainLater, err)
	}
	data, err := configByName(config.ConfDir, name)
	return &state.Delegate{Network: name, Config: data}, err
}

func fileDelegate(path string) (*state.Delegate, error) {
	path, err := fileOf(path)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	if filepath.Ext(path) == ".conflist" {
		if data, err = withSubdirectory(path, data); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	list, err := parseNetwork(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &state.Delegate{Network: list.Name, Config: data}, nil
}

// fileOf is the file that a path means: of a directory the first configuration.
func fileOf(path string) (string, error) {
	if info, err := os.Stat(path); err != nil || !info.IsDir() {
		return path, nil
	}
	files, err := libcni.ConfFiles(path, configExtensions)
	if err != nil || len(files) == 0 {
		return "", fmt.Errorf("no configuration in %s: %w", path, errors.Join(err, fs.ErrNotExist))
	}
	return slices.Min(files), nil
}

var configExtensions = []string{".conf", ".conflist", ".json"}

// configOf is the CNI configuration of a NetworkAttachmentDefinition (NPWG
// specification 3.4.1 and 3.4.2): its own, or that of the file with its name.
func configOf(object *nadv1.NetworkAttachmentDefinition, confDir string) (json.RawMessage, error) {
	if strings.TrimSpace(object.Spec.Config) == "" {
		return configByName(confDir, object.Name)
	}
	return ownConfig(object)
}

// ownConfig is the configuration that the object itself has.
func ownConfig(object *nadv1.NetworkAttachmentDefinition) (json.RawMessage, error) {
	var config map[string]json.RawMessage
	if err := json.Unmarshal([]byte(object.Spec.Config), &config); err != nil {
		return nil, newError(types.ErrDecodingFailure, fmt.Errorf("spec.config is not a JSON object: %w", err))
	}
	if config == nil {
		return nil, newError(types.ErrDecodingFailure, errors.New("spec.config is not a JSON object: null"))
	}
	if name := config["name"]; len(name) > 0 && string(name) != `""` {
		return json.RawMessage(object.Spec.Config), nil
	}
	config["name"], _ = json.Marshal(object.Name)
	return json.Marshal(config)
}

// configByName finds the configuration with a name among the files of dir:
// lists before single configurations, as the specification has it.
func configByName(dir, name string) (json.RawMessage, error) {
	files, err := libcni.ConfFiles(dir, configExtensions)
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", dir, err)
	}
	slices.SortStableFunc(files, func(a, b string) int {
		return strings.Compare(listsFirst(a)+a, listsFirst(b)+b)
	})
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading the configuration: %w", err)
		}
		list, err := parseNetwork(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if list.Name == name {
			return data, nil
		}
	}
	return nil, fmt.Errorf("no configuration named %q in %s: %w", name, dir, fs.ErrNotExist)
}

func listsFirst(file string) string {
	if filepath.Ext(file) == ".conflist" {
		return "0"
	}
	return "1"
}

// parseNetwork reads a configuration or a configuration list.
func parseNetwork(data []byte) (*libcni.NetworkConfigList, error) {
	var shape struct {
		Name       string            `json:"name"`
		CNIVersion string            `json:"cniVersion"`
		Type       string            `json:"type"`
		Plugins    []json.RawMessage `json:"plugins"`
	}
	if err := json.Unmarshal(data, &shape); err != nil {
		return nil, fmt.Errorf("the configuration is not JSON: %w", err)
	}
	switch {
	case len(shape.Plugins) > 0:
		return networkOf(data)
	case shape.Type == "":
		return nil, errors.New("type: missing")
	}
	list, err := json.Marshal(map[string]any{
		"name":       shape.Name,
		"cniVersion": shape.CNIVersion,
		"plugins":    []json.RawMessage{data},
	})
	if err != nil {
		return nil, fmt.Errorf("making a list of the configuration: %w", err)
	}
	return networkOf(list)
}

// networkOf reads a configuration list. encoding/json takes "Plugins" for
// "plugins" and libcni does not, so a list may come out with no plugin at all.
func networkOf(list []byte) (*libcni.NetworkConfigList, error) {
	network, err := libcni.NetworkConfFromBytes(list)
	if err == nil && len(network.Plugins) == 0 {
		return nil, errors.New("plugins: missing")
	}
	return network, err
}

// applySelection puts what the pod asked for where the network's plugins read
// it: the capabilities, CNI_ARGS, and args.cni.
func applySelection(d *state.Delegate, s *Selection) error {
	d.RuntimeConfig = capabilities(s)
	if err := checkCapabilities(d); err != nil {
		return err
	}
	if len(s.IPRequest) > 0 {
		d.Args = append(d.Args, [2]string{"IP", strings.Join(s.IPRequest, ",")})
	}
	if s.MacRequest != "" {
		d.Args = append(d.Args, [2]string{"MAC", s.MacRequest})
	}
	if s.CNIArgs == nil || len(*s.CNIArgs) == 0 {
		return nil
	}
	merged, err := mergeCNIArgs(d.Config, *s.CNIArgs)
	d.Config = merged
	return err
}

// checkCapabilities fails a pod that asks for what no plugin of the network
// declares (NPWG specification 4.1.2.1.3 to 4.1.2.1.10). The native types need not
// declare what they have, nor need any network for the guard's bandwidth.
func checkCapabilities(d *state.Delegate) error {
	list, err := parseNetwork(d.Config)
	if err != nil {
		return err
	}
	known := append([]string{capabilityBandwidth}, nativeTypes()[list.Plugins[0].Network.Type].capabilities...)
	for _, key := range slices.Sorted(maps.Keys(d.RuntimeConfig)) {
		if !slices.Contains(known, key) && !declares(list, key) {
			return fmt.Errorf("%s: no plugin of the network declares this capability", key)
		}
	}
	return nil
}

func declares(list *libcni.NetworkConfigList, capability string) bool {
	return slices.ContainsFunc(list.Plugins, func(p *libcni.PluginConfig) bool { return p.Network.Capabilities[capability] })
}

func capabilities(s *Selection) map[string]any {
	all := map[string]any{}
	if len(s.IPRequest) > 0 {
		all["ips"] = s.IPRequest
	}
	if s.MacRequest != "" {
		all["mac"] = s.MacRequest
	}
	if s.DeviceID != "" {
		all["deviceID"] = s.DeviceID
	}
	if s.InfinibandGUIDRequest != "" {
		all["infinibandGUID"] = s.InfinibandGUIDRequest
	}
	if len(s.PortMappingsRequest) > 0 {
		all["portMappings"] = s.PortMappingsRequest
	}
	if s.BandwidthRequest != nil {
		all["bandwidth"] = s.BandwidthRequest
	}
	return all
}

// mergeCNIArgs merges the pod's cni-args into args.cni of every plugin, the
// pod's keys first (NPWG specification 4.1.2.1.6).
func mergeCNIArgs(data json.RawMessage, cniArgs map[string]any) (json.RawMessage, error) {
	return eachPlugin(data, func(plugin map[string]any) { mergeInto(plugin, cniArgs) })
}

// eachPlugin changes every plugin of a configuration or a list.
func eachPlugin(data json.RawMessage, change func(plugin map[string]any)) (json.RawMessage, error) {
	var config map[string]any
	if err := json.Unmarshal(data, &config); err != nil {
		return nil, fmt.Errorf("the configuration is not a JSON object: %w", err)
	}
	plugins, isList := config["plugins"].([]any)
	if !isList {
		plugins = []any{config}
	}
	for _, plugin := range plugins {
		if fields, ok := plugin.(map[string]any); ok {
			change(fields)
		}
	}
	return json.Marshal(config)
}

func mergeInto(plugin, cniArgs map[string]any) {
	args, _ := plugin["args"].(map[string]any)
	if args == nil {
		args = map[string]any{}
		plugin["args"] = args
	}
	existing, _ := args["cni"].(map[string]any)
	if existing == nil {
		existing = map[string]any{}
		args["cni"] = existing
	}
	for key, value := range cniArgs {
		existing[key] = value
	}
}
