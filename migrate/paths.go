// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// toNode makes paths of the node of those that the thick deployment's daemon has: it
// runs in a pod, which has the node's directories elsewhere, and writes what it sees
// itself into its file.
func (p *Plan) toNode(effective keys) {
	mounts := p.mounts(effective)
	for _, name := range []string{"clusterNetwork", "confDir", "readinessindicatorfile"} {
		path := text(effective[name])
		if moved := onNode(mounts, path); moved != path {
			p.move(effective, name, moved, "on the node: "+moved)
		}
	}
	var networks []string
	if json.Unmarshal(effective["defaultNetworks"], &networks) != nil {
		return
	}
	moved := slices.Clone(networks)
	for i := range moved {
		moved[i] = onNode(mounts, moved[i])
	}
	if !slices.Equal(moved, networks) {
		p.move(effective, "defaultNetworks", moved, "on the node: "+strings.Join(moved, ", "))
	}
}

// mount is a directory of the node as the daemon's pod sees it.
type mount struct{ pod, node string }

func (p *Plan) mounts(effective keys) []mount {
	return []mount{
		{text(effective["cniConfigDir"]), p.options.ConfDir},
		{"/host", "/"},
		{text(effective["chrootDir"]), "/"},
	}
}

// onNode is the path on the node of one in the pod. What is there under the same path
// is meant so.
func onNode(mounts []mount, path string) string {
	if !filepath.IsAbs(path) || exists(path) {
		return path
	}
	candidate := path
	for _, m := range mounts {
		rest, err := filepath.Rel(m.pod, path)
		if m.pod == "" || err != nil || !filepath.IsLocal(rest) {
			continue
		}
		moved := filepath.Join(m.node, rest)
		if exists(moved) {
			return moved
		}
		if candidate == path {
			candidate = moved // a readiness indicator is not always there
		}
	}
	return candidate
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// move gives a key another value in weir's entry.
func (p *Plan) move(effective keys, name string, value any, why string) {
	data, err := json.Marshal(value)
	if err != nil {
		p.problem("%s: %v", name, err)
		return
	}
	effective[name] = data
	for i := range p.Keys {
		if p.Keys[i].Name == name {
			p.Keys[i].Why = why
		}
	}
}
