// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/weir-cni/weir/install"
)

// Where an agent has its settings from when it runs as deploy/weir.yaml has it.
const (
	settingsMap       = "weir-settings"
	settingsNamespace = "weir-system"
	settingsKey       = "settings.yaml"
	settingsRestart   = "kubectl -n weir-system rollout restart daemonset/weir"
)

// defaults are weir's own of the keys that it shares with Multus.
func defaults() map[string]any {
	return map[string]any{
		"systemNamespaces":   []any{"kube-system"},
		"multusNamespace":    "kube-system",
		"namespaceIsolation": false,
		"globalNamespaces":   "default",
		"confDir":            "/etc/cni/multus/net.d",
		"binDir":             install.DefaultBinDir,
		"defaultNetworks":    []any{},
	}
}

// settingsOf are the keys of an entry that an agent which keeps it must be told: the
// default network and its own socket it knows itself.
func settingsOf(e install.Entry) map[string]any {
	settings, usual := map[string]any{}, defaults()
	for name, value := range e.Settings {
		value = plain(value)
		if !isNetwork(name) && name != "socket" && value != nil && !reflect.DeepEqual(value, usual[name]) {
			settings[name] = value
		}
	}
	return settings
}

// plain is a value as encoding/json reads it.
func plain(value any) any {
	data, err := json.Marshal(value)
	if err != nil {
		return value
	}
	var v any
	if json.Unmarshal(data, &v) != nil {
		return value
	}
	return v
}

// parseEntry is an entry of weir's that was rendered.
func parseEntry(data []byte) (install.Entry, error) {
	var list struct {
		Name        string           `json:"name"`
		CNIVersion  string           `json:"cniVersion"`
		CNIVersions []string         `json:"cniVersions"`
		Plugins     []map[string]any `json:"plugins"`
	}
	if err := json.Unmarshal(data, &list); err != nil || len(list.Plugins) != 1 {
		return install.Entry{}, fmt.Errorf("reading weir's entry: it is no list of one plugin: %w", err)
	}
	plugin := list.Plugins[0]
	e := install.Entry{Name: list.Name, CNIVersion: list.CNIVersion, CNIVersions: list.CNIVersions, Settings: plugin}
	if capabilities, ok := plugin["capabilities"].(map[string]any); ok {
		maps.DeleteFunc(capabilities, func(_ string, has any) bool { return has != true })
		e.Capabilities = slices.Sorted(maps.Keys(capabilities))
	}
	delete(plugin, "type")
	delete(plugin, "capabilities")
	return e, nil
}

// compare finds what the entry that is there has not got of the one that is wanted.
func (p *Plan) compare(wanted install.Entry) error {
	there, err := parseEntry(p.kept)
	if err != nil {
		return err
	}
	p.Entry = p.kept
	if !hasNetworkOf(there, wanted) {
		p.problem("weir's entry %s has the default network %s, and Multus has %s: have the agent that keeps the entry take "+
			"that file (--default-network); where none keeps it, remove the entry",
			p.Path, networkText(there), networkText(wanted))
	} else if path := differingFile(there, wanted); path != "" {
		p.Notes = append(p.Notes, fmt.Sprintf("Multus has a copy of the default network, and %s is no longer the same: "+
			"with weir the file counts", path))
	}
	if name := p.options.NetworkName; name != "" && name != there.Name {
		p.problem("weir's entry %s is called %s: an agent that keeps it gives it the default network's name", p.Path, there.Name)
	}
	has, needed := settingsOf(there), settingsOf(wanted)
	for _, name := range slices.Sorted(maps.Keys(needed)) {
		if !reflect.DeepEqual(has[name], needed[name]) {
			p.lacking = append(p.lacking, name)
		}
	}
	p.Settings = has
	maps.Copy(p.Settings, needed)
	if len(p.lacking) > 0 {
		p.problem("weir's entry %s has not got Multus's %s: give them to the agent that keeps it, as above; "+
			"where none does, remove the entry", p.Path, strings.Join(p.lacking, ", "))
	}
	return nil
}

// explainKept says of each key that is kept where an agent has it from.
func (p *Plan) explainKept() {
	for i := range p.Keys {
		key := &p.Keys[i]
		if key.Verdict != Kept {
			continue
		}
		why := "by default"
		switch _, needed := p.Settings[key.Name]; {
		case key.Name == "delegates" && p.kept != nil:
			key.Verdict, key.Why = Differs, "weir's entry names the file of the default network"
			continue
		case isNetwork(key.Name):
			continue
		case needed:
			why = "by the agent's settings"
		}
		if key.Why != "" {
			why += "; " + key.Why
		}
		key.Why = why
	}
}

// hasNetworkOf tells whether one entry has the default network of another: the same
// one, or in a file what the other has in full.
func hasNetworkOf(there, wanted install.Entry) bool {
	if cluster := wanted.Settings["clusterNetwork"]; cluster != nil {
		return reflect.DeepEqual(plain(cluster), plain(there.Settings["clusterNetwork"]))
	}
	all, _ := plain(wanted.Settings["delegates"]).([]any)
	if reflect.DeepEqual(plain(there.Settings["delegates"]), any(all)) {
		return true
	}
	path, _ := plain(there.Settings["clusterNetwork"]).(string)
	if len(all) != 1 || path == "" {
		return false
	}
	network, err := install.ReadNetwork(path)
	first, _ := all[0].(map[string]any)
	return err == nil && first["name"] == network.Name
}

// differingFile is the file of an entry's default network, where another entry has that
// network in full and in other words.
func differingFile(there, wanted install.Entry) string {
	all, _ := plain(wanted.Settings["delegates"]).([]any)
	path, _ := plain(there.Settings["clusterNetwork"]).(string)
	if len(all) != 1 || path == "" {
		return ""
	}
	var inFile any
	if data, err := os.ReadFile(path); err == nil && json.Unmarshal(data, &inFile) == nil && reflect.DeepEqual(inFile, all[0]) {
		return ""
	}
	return path
}

func networkText(e install.Entry) string {
	if cluster := e.Settings["clusterNetwork"]; cluster != nil {
		return fmt.Sprint(plain(cluster))
	}
	all, _ := plain(e.Settings["delegates"]).([]any)
	names := make([]string, len(all))
	for i := range all {
		delegate, _ := all[i].(map[string]any)
		names[i] = fmt.Sprint(delegate["name"])
	}
	return strings.Join(names, " and ") + ", in full"
}

// writeSettings says what the agent is to be told, ready to be pasted.
func (p *Plan) writeSettings(b *strings.Builder) {
	names := strings.Join(slices.Sorted(maps.Keys(p.Settings)), ", ")
	switch {
	case len(p.Entry) == 0:
		return
	case len(p.Settings) == 0:
		b.WriteString("\nThe agent needs no settings: all keys have weir's defaults\n")
		return
	case p.kept != nil && len(p.lacking) == 0:
		fmt.Fprintf(b, "\nThe agent has its settings already: %s\n", names)
		return
	}
	data, err := yaml.Marshal(p.Settings)
	if err != nil {
		return
	}
	fmt.Fprintf(b, "\nAn agent that keeps the entry (--install) has these keys from ConfigMap %s: %s. To be pasted:\n\n", settingsMap, names)
	fmt.Fprintf(b, "kubectl apply -f - <<'EOF'\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: %s\n  namespace: %s\ndata:\n  %s: |\n",
		settingsMap, settingsNamespace, settingsKey)
	for line := range bytes.Lines(data) {
		fmt.Fprintf(b, "    %s", line)
	}
	fmt.Fprintf(b, "EOF\n%s\n", settingsRestart)
}
