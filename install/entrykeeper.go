// SPDX-License-Identifier: Apache-2.0

package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// entryKeeper keeps weir's entry.
type entryKeeper struct {
	Options
	settle   time.Duration
	reporter *reporter
	gate     gate
	troubles map[string]string // what the log has, of each file that is passed over
	current  string            // the default network's file, by the entry
	lost     time.Time         // since when that cannot be used
	written  []byte            // the entry as it was last right
	file     os.FileInfo       // and its file
	failed   error             // of the last writing
}

// adopt takes over which default network an entry names that is there already.
func (e *entryKeeper) adopt() {
	data, err := readFile(e.entry())
	if err != nil {
		return
	}
	var list struct {
		Plugins []struct {
			ClusterNetwork string `json:"clusterNetwork"`
		} `json:"plugins"`
	}
	if json.Unmarshal(data, &list) == nil && len(list.Plugins) == 1 {
		e.current = list.Plugins[0].ClusterNetwork
	}
}

// look writes the entry where it is missing or another, and returns how long the next
// look may wait.
func (e *entryKeeper) look(now time.Time) (time.Duration, error) {
	all, err := Find(e.ConfDir)
	if err != nil {
		return never, err
	}
	// Whatever somebody put under the entry's name is not the default network.
	all = slices.DeleteFunc(all, func(f Found) bool { return f.Path == e.entry() })
	e.logTroubles(all)
	e.reporter.is(now, ReasonNotFirst, e.before(all))
	network, wait := e.choose(now, all)
	if network == nil {
		if wait == never {
			e.reporter.is(now, ReasonNoDefaultNetwork, e.lack())
		}
		return wait, nil
	}
	e.reporter.is(now, ReasonNoDefaultNetwork, "")
	data, err := EntryFor(network, e.NetworkName, e.Settings).Render()
	if err != nil {
		return never, err
	}
	same, err := holds(e.entry(), data, entryMode)
	if err != nil {
		return never, fmt.Errorf("looking at weir's entry: %w", err)
	}
	if same {
		e.keepAsIs(network, data)
		return never, nil
	}
	if wait := e.gate.wait(now); wait > 0 {
		return wait, e.failed
	}
	return e.write(now, network, data)
}

// choose finds the default network. One that has gone or is broken while the entry
// names it is waited for, since it may be about to be written anew: the pods that
// start meanwhile fail, and are tried again, where another network would be wrong.
func (e *entryKeeper) choose(now time.Time, all []Found) (*Network, time.Duration) {
	first := Default(all)
	if e.DefaultNetwork != "" {
		first = e.given()
	}
	if first != nil && (first.Path == e.DefaultNetwork || e.current == "" || isUsable(all, e.current) || !e.isThere()) {
		e.lost = time.Time{}
		return first, never
	}
	if first == nil && e.current == "" {
		return nil, never
	}
	if e.lost.IsZero() {
		e.lost = now
	}
	if left := e.settle - now.Sub(e.lost); left > 0 {
		return nil, left
	}
	return first, never
}

// given is the default network that the options name, if it can be used.
func (e *entryKeeper) given() *Network {
	network, err := ReadNetwork(e.DefaultNetwork)
	e.logTrouble(e.DefaultNetwork, err)
	if err != nil {
		return nil
	}
	return network
}

func isUsable(all []Found, path string) bool {
	for _, found := range all {
		if found.Path == path {
			return found.Err == nil
		}
	}
	return false
}

func (e *entryKeeper) isThere() bool {
	_, err := os.Lstat(e.entry())
	return err == nil
}

// lack says what it means that there is no default network.
func (e *entryKeeper) lack() string {
	which := "no configuration of a default network in " + e.ConfDir
	if e.DefaultNetwork != "" {
		which = fmt.Sprintf("the default network's configuration %s cannot be used", e.DefaultNetwork)
		if trouble := e.troubles[e.DefaultNetwork]; trouble != "" {
			which += ": " + trouble
		}
	}
	if e.isThere() {
		return which + ": weir's entry stays, and no pod can start until there is one"
	}
	return which + ": weir's entry is not written yet, and the node stays NotReady"
}

// logTroubles logs, once each, why files are passed over.
func (e *entryKeeper) logTroubles(all []Found) {
	there := map[string]bool{e.DefaultNetwork: true}
	for _, found := range all {
		there[found.Path] = true
		e.logTrouble(found.Path, found.Err)
	}
	for path := range e.troubles {
		if !there[path] {
			delete(e.troubles, path)
		}
	}
}

func (e *entryKeeper) logTrouble(path string, err error) {
	if err == nil {
		delete(e.troubles, path)
		return
	}
	if e.troubles[path] == err.Error() {
		return
	}
	e.troubles[path] = err.Error()
	if errors.Is(err, ErrMeta) {
		e.Log.Info("a configuration is not that of the default network", "file", path, "err", err)
		return
	}
	e.Log.Warn("a configuration cannot be used: it is passed over", "file", path, "err", err)
}

// before says which files a runtime reads before weir's entry.
func (e *entryKeeper) before(all []Found) string {
	var names []string
	for _, found := range all {
		if filepath.Base(found.Path) < e.Name {
			names = append(names, found.describe())
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("runtimes read %s before weir's %s: pods start without weir. Remove or rename what is not wanted",
		strings.Join(names, ", "), e.Name)
}

func (f *Found) describe() string {
	name := filepath.Base(f.Path)
	if f.Network == nil {
		return name + " (cannot be used)"
	}
	return fmt.Sprintf("%s (%s)", name, strings.Join(f.Network.Types, ", "))
}
