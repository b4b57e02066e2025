// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"cmp"
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

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/install"
)

// Options say where a node's files are.
type Options struct {
	// ConfDir is the runtime's directory of configurations. Default: install.DefaultConfDir.
	ConfDir string
	// BinDir is the runtime's directory of plugins. Default: install.DefaultBinDir.
	BinDir string
	// Name is that of the file of weir's entry. Default: install.DefaultName.
	Name string
	// DaemonConfig is the configuration of the thick deployment's daemon. Default:
	// multus.d/daemon-config.json in ConfDir, if it is there.
	DaemonConfig string
	// Daemon is its content, where that is in no file; DaemonConfig is what it is called
	// then. Optional.
	Daemon []byte
	// NetworkName is the name that the entry bears. Default: the default network's.
	NetworkName string
	// Settings are further keys of weir's entry. They go before those of Multus.
	Settings map[string]any
	// Socket is that of the agent, which is asked whether it could attach a pod with the
	// entry; an entry's own goes before it. Optional: nobody is asked without it.
	Socket string
	// StateDir is where the journal is kept. Default: api.DefaultStateDir.
	StateDir string
	// Force has Revert restore files that somebody has changed since.
	Force bool
}

func (o Options) withDefaults() (Options, error) {
	o.Name = cmp.Or(o.Name, install.DefaultName)
	if filepath.Base(o.Name) != o.Name || filepath.Ext(o.Name) != ".conflist" || strings.HasPrefix(o.Name, ".") {
		return o, fmt.Errorf("%q is not the name of a .conflist file", o.Name)
	}
	var errs [3]error
	o.ConfDir, errs[0] = filepath.Abs(cmp.Or(o.ConfDir, install.DefaultConfDir))
	o.BinDir, errs[1] = filepath.Abs(cmp.Or(o.BinDir, install.DefaultBinDir))
	o.StateDir, errs[2] = filepath.Abs(cmp.Or(o.StateDir, api.DefaultStateDir))
	return o, errors.Join(errs[:]...)
}

// Plan is what a migration would change. It prints as a text for people and as JSON.
type Plan struct {
	// APIVersion is that of weirctl's documents.
	APIVersion string `json:"apiVersion"`
	// Deployment is Multus's: thick or thin; empty where there is none.
	Deployment string `json:"deployment"`
	// Files are Multus's configurations, that which the runtime reads first.
	Files []string `json:"files"`
	// Keys are those of Multus's configuration.
	Keys []Key `json:"keys"`
	// Path and Entry are the file of weir's entry and its content.
	Path  string          `json:"path"`
	Entry json.RawMessage `json:"entry,omitempty"`
	// Settings are the keys of the entry that an agent which keeps the entry must be
	// given (its --settings), or it writes the entry without them.
	Settings map[string]any `json:"settings"`
	// Operations are done in this order.
	Operations []Operation `json:"operations"`
	// Applied tells that they have been done.
	Applied bool `json:"applied"`
	// Interrupted tells that an Apply or a Revert was cut off on this node. Operations are
	// those with which Revert undoes it, and there is a plan only after that.
	Interrupted bool `json:"interrupted"`
	// Notes are what the node's owner should know and do.
	Notes []string `json:"notes"`
	// Problems are why the plan cannot be applied; none when it can.
	Problems []string `json:"problems"`

	options Options
	steps   []step
	// kept is weir's entry as it is there already; nil where it is written.
	kept []byte
	// lacking are those of Settings that it has not got.
	lacking []string
}

// Key is a key of Multus's configuration and what becomes of it.
type Key struct {
	Name    string          `json:"name"`
	Value   json.RawMessage `json:"value"`
	File    string          `json:"file"`
	Verdict Verdict         `json:"verdict"`
	Why     string          `json:"why,omitempty"`
}

// Operation is what is done to a file.
type Operation struct {
	// Do is write or rename.
	Do   string `json:"do"`
	Path string `json:"path"`
	// To is the new name.
	To string `json:"to,omitempty"`
}

// Suffix is appended to the names of Multus's files.
const Suffix = ".before-weir"

// Inspect makes the plan of a node. It changes nothing. What is in the way of the
// migration is in the plan; the error is that of a directory that cannot be read. On a
// node that has been migrated it is what was done.
func Inspect(ctx context.Context, o Options) (*Plan, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("inspecting Multus: %w", err)
	}
	all, err := findMultus(o.ConfDir)
	if err != nil {
		return nil, fmt.Errorf("inspecting Multus: %w", err)
	}
	p := &Plan{
		APIVersion: api.Version, Files: []string{}, Keys: []Key{}, Settings: map[string]any{}, Operations: []Operation{},
		Notes: []string{}, Problems: []string{}, Path: filepath.Join(o.ConfDir, o.Name), options: o,
	}
	if p.hasJournal() {
		p.resume(all)
		return p, nil
	}
	if p.checkNode(all); len(all.files) == 0 {
		p.problem("there is no configuration of Multus in %s", o.ConfDir)
		return p, nil
	}
	for _, m := range all.files {
		p.Files = append(p.Files, m.path)
	}
	effective := p.readKeys(all.files[0])
	entry, err := p.entryOf(effective)
	if err != nil {
		p.problem("%v", err)
		return p, nil
	}
	if err := p.planSteps(entry, all.files); err != nil {
		p.problem("%v", err)
	} else {
		p.askAgent(ctx)
	}
	p.note(all, effective, entry)
	return p, nil
}

func (p *Plan) problem(format string, args ...any) {
	p.Problems = append(p.Problems, fmt.Sprintf(format, args...))
}

// checkNode finds what is in the way whatever Multus's configuration says.
func (p *Plan) checkNode(all *found) {
	for _, path := range all.others {
		if path < p.Path {
			p.problem("the runtime would read %s before weir's entry: rename it first", path)
		}
	}
	for _, trouble := range all.broken {
		p.problem("a file that cannot be read may be Multus's: repair or remove it first: %s", trouble)
	}
	plugin := filepath.Join(p.options.BinDir, "weir")
	if info, err := os.Stat(plugin); err != nil || info.Mode()&0o111 == 0 {
		p.problem("the plugin %s is not there: install weir on the node first", plugin)
	}
}

// keys are Multus's configuration as it is in force, by the names that weir knows.
type keys map[string]json.RawMessage

// readKeys puts together what is in force: the file's keys and, over them, all of the
// daemon's (with the thick deployment), and says what becomes of each.
func (p *Plan) readKeys(m *multus) keys {
	p.Deployment = "thin"
	effective := keys{}
	p.addKeys(effective, m.path, m.keys)
	if m.thick {
		p.Deployment = "thick"
		p.addDaemon(effective)
		p.toNode(effective)
	}
	if len(m.beside) > 0 {
		p.problem("%s has other plugins beside Multus (%s), which weir's entry would not have", m.path, strings.Join(m.beside, ", "))
	}
	p.dropUnread(effective)
	slices.SortStableFunc(p.Keys, func(a, b Key) int { return strings.Compare(a.Name, b.Name) })
	return effective
}

func (p *Plan) addDaemon(effective keys) {
	path := cmp.Or(p.options.DaemonConfig, daemonConfig(p.options.ConfDir))
	daemon, err := readDaemon(path, p.options.Daemon)
	switch {
	case err == nil:
		p.Files = append(p.Files, path)
		p.addKeys(effective, path, daemon)
	case p.options.DaemonConfig == "" && errors.Is(err, fs.ErrNotExist):
		p.problem("the daemon's configuration, whose keys go before those of the file, is not on this node. Give it to weirctl " +
			"migrate --daemon-config - from this: kubectl -n kube-system get configmap multus-daemon-config " +
			`-o jsonpath='{.data.daemon-config\.json}'`)
	default:
		p.problem("%v", err)
	}
}

// addKeys puts the keys of a file over those that are there.
func (p *Plan) addKeys(effective keys, path string, all map[string]json.RawMessage) {
	var seen []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		value := all[name]
		key := Key{Name: name, Value: value, File: path, Verdict: Unknown, Why: "Multus has no such key, nor has weir"}
		if k := knownKey(name); k != nil {
			key.Name, key.Verdict, key.Why = k.name, k.verdict, k.why
			if k.is != nil && !k.is(value) {
				p.problem("%s: %s is not of the right kind: %s", path, name, value)
			}
			effective[k.name] = value
		}
		if slices.Contains(seen, key.Name) {
			p.problem("%s: %s is there twice, in upper and lower case", path, key.Name)
		}
		seen = append(seen, key.Name)
		p.Keys = slices.DeleteFunc(p.Keys, func(other Key) bool { return other.Name == key.Name })
		p.Keys = append(p.Keys, key)
	}
}

// dropUnread drops what neither Multus nor weir reads beside the other keys.
func (p *Plan) dropUnread(effective keys) {
	unread := map[string]string{"defaultNetworks": "it is read beside clusterNetwork alone, by Multus too"}
	if text(effective["clusterNetwork"]) != "" {
		unread = map[string]string{"delegates": "it is not read beside clusterNetwork, by Multus neither"}
	}
	for i := range p.Keys {
		if why, is := unread[p.Keys[i].Name]; is {
			delete(effective, p.Keys[i].Name)
			p.Keys[i].Verdict, p.Keys[i].Why = NoEffect, why
		}
	}
}

// planSteps finds what is to be done to the files. An entry of weir's that is there
// already stays: an agent that keeps it would write it again. Of Multus's files the one
// in force is the last to go.
func (p *Plan) planSteps(wanted install.Entry, files []*multus) error {
	data, err := wanted.Render()
	if err != nil {
		return err
	}
	p.Entry = data
	if p.kept, err = p.existing(); err != nil {
		return err
	}
	if p.kept == nil {
		p.Settings = settingsOf(wanted)
		p.addStep(step{Do: doWrite, Path: p.Path, Content: data, Mode: entryMode})
	} else if err := p.compare(wanted); err != nil {
		return err
	}
	p.explainKept()
	for _, m := range slices.Backward(files) {
		to := m.path + Suffix
		if _, err := os.Lstat(to); err == nil {
			p.problem("%s is there already: move it away first", to)
		}
		p.addStep(step{Do: doRename, Path: m.path, To: to, Content: m.data, Mode: m.mode})
	}
	return nil
}

func (p *Plan) addStep(s step) {
	p.steps = append(p.steps, s)
	p.Operations = append(p.Operations, Operation{Do: s.Do, Path: s.Path, To: s.To})
}

// existing is the file that has the name of weir's entry already; nil when there is
// none. It must be weir's.
func (p *Plan) existing() ([]byte, error) {
	info, err := os.Lstat(p.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if network, err := install.ReadNetwork(p.Path); !info.Mode().IsRegular() || !isWeirs(network, err) {
		return nil, fmt.Errorf("%s is there and is no entry of weir: move it away, or choose another name", p.Path)
	}
	return os.ReadFile(p.Path)
}

// isWeirs tells an entry of weir's by what install has read of it.
func isWeirs(network *install.Network, err error) bool {
	return network != nil && errors.Is(err, install.ErrMeta) && slices.Equal(network.Types, []string{"weir"})
}
