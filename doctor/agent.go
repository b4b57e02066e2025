// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/mod/semver"

	"github.com/weir-cni/weir/inspect"
	"github.com/weir-cni/weir/install"
)

func (e *exam) agent(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	version, err := inspect.Version(ctx, e.Socket)
	e.answers = !errors.Is(err, inspect.ErrNoAgent)
	switch {
	case !e.answers:
		e.fail("agent", "start it: until then no pod is attached or taken off. Guards go on", "%v", err)
	case err != nil:
		e.warn("agent", "bring the agent and this tool to one version", "it does not tell its version: %v", err)
	case version != e.Version:
		e.warn("agent", "bring them to one version", "it answers on %s and is of version %s, this tool of %s", e.Socket, version, e.Version)
	default:
		e.ok("agent", "it answers on %s and is of version %s, as this tool", e.Socket, version)
	}
}

// multus are the types of Multus's plugins.
var multus = []string{"multus", "multus-shim"}

// configuration looks at what a runtime reads.
func (e *exam) configuration(ctx context.Context) {
	all, err := install.Find(e.ConfDir)
	if err != nil {
		e.fail("configuration", "run this as root, or name the runtime's directory with --cni-conf-dir", "%v", err)
		return
	}
	own := slices.IndexFunc(all, func(f install.Found) bool { return has(f, "weir") })
	if own < 0 {
		e.fail("configuration", "start the agent with --install, or write one: docs/configuration.md",
			"no configuration in %s has weir in it", e.ConfDir)
	} else {
		e.first(ctx, all, own)
	}
	e.others(all, own)
}

func has(f install.Found, types ...string) bool {
	return f.Network != nil && slices.ContainsFunc(f.Network.Types, func(t string) bool { return slices.Contains(types, t) })
}

// first looks at what comes before weir's entry: runtimes take the first that they can use.
func (e *exam) first(ctx context.Context, all []install.Found, own int) {
	path := all[own].Path
	if own > 0 {
		e.fail("configuration", "rename it so that weir's comes first; of Multus's, weirctl migrate takes the place",
			"%s comes before weir's, %s", all[0].Path, path)
		return
	}
	e.ok("configuration", "%s comes first", path)
	if e.answers {
		e.attaches(ctx, path)
	}
}

// attaches asks what a runtime asks before it takes the node for ready.
func (e *exam) attaches(ctx context.Context, path string) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	config, err := pluginConfig(path)
	if err == nil {
		err = inspect.Status(ctx, e.Socket, config, e.BinDir)
	}
	if err != nil {
		e.fail("attaching", "see to what it names", "the agent could attach no pod now: %v", err)
		return
	}
	e.ok("attaching", "the agent could attach a pod now")
}

// pluginConfig is the configuration that a runtime gives weir.
func pluginConfig(path string) ([]byte, error) {
	if filepath.Ext(path) != ".conflist" {
		return os.ReadFile(path)
	}
	list, err := libcni.NetworkConfFromFile(path)
	if err != nil {
		return nil, err
	}
	for _, plugin := range list.Plugins {
		if plugin.Network.Type != "weir" {
			continue
		}
		var config map[string]any
		if err := json.Unmarshal(plugin.Bytes, &config); err != nil {
			return nil, err
		}
		config["name"], config["cniVersion"] = list.Name, list.CNIVersion
		return json.Marshal(config)
	}
	return nil, fmt.Errorf("%s has no plugin weir of its own", path)
}

// others looks for Multus, for a second entry of weir and for what cannot be read.
func (e *exam) others(all []install.Found, own int) {
	quiet := true
	for i, f := range all {
		switch {
		case i == own:
			continue
		case has(f, multus...):
			e.warn("others", "weirctl migrate shows how weir takes its place", "%s is Multus's: two plugins for one annotation", f.Path)
		case has(f, "weir"):
			e.warn("others", "remove the one that is not wanted", "%s has weir in it too", f.Path)
		case f.Err != nil:
			e.warn("others", "mend or remove it: a runtime may take it or fail at it", "%v", f.Err)
		default:
			continue
		}
		quiet = false
	}
	if quiet {
		e.ok("others", "no other configuration attaches pods to further networks")
	}
}

// plugin executes the plugin as a runtime does to learn its versions.
func (e *exam) plugin(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	path := filepath.Join(e.BinDir, "weir")
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = []string{"CNI_COMMAND=VERSION"}
	cmd.Stdin = strings.NewReader(`{"cniVersion":"1.0.0"}`)
	out, err := cmd.Output()
	var answer struct {
		Supported []string `json:"supportedVersions"`
	}
	if err == nil {
		err = json.Unmarshal(out, &answer)
	}
	if err != nil || len(answer.Supported) == 0 {
		e.fail("plugin", "start the agent with --install, or put the file there", "%s does not work: %v", path, err)
		return
	}
	e.ok("plugin", "%s works, up to CNI %s", path, answer.Supported[len(answer.Supported)-1])
}

// listsLinks is a version of bpftool that lists tcx links, which 7.1 does not.
const listsLinks = "v7.5.0"

// bpftool is needed by nothing of weir's, and the documentation uses it.
func (e *exam) bpftool(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "bpftool", "version").Output()
	if errors.Is(err, exec.ErrNotFound) {
		e.ok("bpftool", "it is not installed here, and nothing needs it")
		return
	}
	line, _, _ := bytes.Cut(out, []byte("\n"))
	fields := strings.Fields(string(line))
	switch {
	case err != nil || len(fields) < 2 || !semver.IsValid(fields[1]):
		e.warn("bpftool", "install another one where you want to use it", "it does not tell its version: %q, %v", line, err)
	case semver.Compare(fields[1], listsLinks) < 0:
		e.ok("bpftool", "%s may show tcx links as type 11 and not in bpftool net; 7.5 does", fields[1])
	default:
		e.ok("bpftool", "%s shows tcx links", fields[1])
	}
}
