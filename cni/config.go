// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/state"
)

// Config is weir's own entry in the runtime's configuration. The keys are those
// of Multus where one exists; what only Multus needs (kubeconfig, logFile, ...)
// is taken without complaint and has no effect, since the agent speaks to
// Kubernetes and writes the log.
type Config struct {
	types.PluginConf

	// RuntimeConfig holds the capabilities that the runtime gives. They are for the
	// default network (NPWG specification 7.5).
	RuntimeConfig map[string]any `json:"runtimeConfig,omitempty"`

	// Delegates are configurations or configuration lists given in full. The
	// first is the default network. Not read when ClusterNetwork is set.
	Delegates []json.RawMessage `json:"delegates,omitempty"`
	// ClusterNetwork names the default network: a NetworkAttachmentDefinition
	// in MultusNamespace, a configuration in ConfDir by its name, a directory
	// or a file.
	ClusterNetwork string `json:"clusterNetwork,omitempty"`
	// DefaultNetworks are networks for every pod that is not in
	// SystemNamespaces, looked up like ClusterNetwork. Read only with it.
	DefaultNetworks []string `json:"defaultNetworks,omitempty"`
	// SystemNamespaces get no DefaultNetworks. Default: kube-system.
	SystemNamespaces []string `json:"systemNamespaces,omitempty"`
	// MultusNamespace holds ClusterNetwork and DefaultNetworks. Default:
	// kube-system.
	MultusNamespace string `json:"multusNamespace,omitempty"`
	// AuxiliaryCNIChainName names a directory beside the file of ClusterNetwork whose
	// plugins every pod has behind all of its networks.
	AuxiliaryCNIChainName string `json:"auxiliaryCNIChainName,omitempty"`
	// NamespaceIsolation keeps pods to networks of their own namespace and of
	// GlobalNamespaces.
	NamespaceIsolation bool `json:"namespaceIsolation,omitempty"`
	// GlobalNamespaces is a list, separated by commas, of namespaces whose
	// networks any pod may use. Default: default.
	GlobalNamespaces string `json:"globalNamespaces,omitempty"`
	// ReadinessIndicatorFile is a file that must be there before an ADD, GC or STATUS:
	// the default network's plugin writes it when it is ready.
	ReadinessIndicatorFile string `json:"readinessindicatorfile,omitempty"`
	// ConfDir holds configurations that are found by name. Default:
	// /etc/cni/multus/net.d.
	ConfDir string `json:"confDir,omitempty"`
	// BinDir is searched for plugins before CNI_PATH. Default: the agent's
	// --cni-bin-dir.
	BinDir string `json:"binDir,omitempty"`
	// Socket is where the agent listens. Only the plugin on the node reads it.
	Socket string `json:"socket,omitempty"`
}

// ParseConfig reads weir's configuration and fills the defaults in.
func ParseConfig(data []byte) (*Config, error) {
	c := &Config{
		SystemNamespaces: []string{"kube-system"},
		MultusNamespace:  "kube-system",
		GlobalNamespaces: "default",
		ConfDir:          "/etc/cni/multus/net.d",
	}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, newError(types.ErrDecodingFailure, fmt.Errorf("reading weir's configuration: %w", err))
	}
	return c, nil
}

// isChained tells a configuration of weir that stands behind another plugin of a
// list.
func (c *Config) isChained() bool { return c.ClusterNetwork == "" && len(c.Delegates) == 0 }

// keyOf is the key of the record of a request.
func keyOf(req *api.CNIRequest) string {
	config, err := ParseConfig(req.Config)
	if err == nil && config.isChained() {
		return state.Key(req.ContainerID, req.IfName)
	}
	return req.ContainerID
}

// mayUse tells whether a pod of one namespace may use networks of another.
func (c *Config) mayUse(podNamespace, networkNamespace string) bool {
	if !c.NamespaceIsolation || podNamespace == networkNamespace {
		return true
	}
	global := strings.Split(c.GlobalNamespaces, ",")
	return slices.ContainsFunc(global, func(ns string) bool { return strings.TrimSpace(ns) == networkNamespace })
}
