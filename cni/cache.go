// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	current "github.com/containernetworking/cni/pkg/types/100"
)

// cached is a file of libcni's cache of attachments, which libcni writes for
// executed plugins. weir writes one for each native network too: from these files
// a DEL finds its way when the record is lost.
type cached struct {
	Kind           string         `json:"kind"`
	ContainerID    string         `json:"containerId"`
	Config         []byte         `json:"config"`
	IfName         string         `json:"ifName"`
	NetworkName    string         `json:"networkName"`
	Netns          string         `json:"netns,omitempty"`
	CNIArgs        [][2]string    `json:"cniArgs,omitempty"`
	CapabilityArgs map[string]any `json:"capabilityArgs,omitempty"`
	Result         any            `json:"result,omitempty"`
	// Saved is weir's own: that of the record.
	Saved json.RawMessage `json:"weirSaved,omitempty"`
}

// cacheDir is libcni's directory of such files within a cache directory.
const cacheDir = "results"

func (j *job) cachePath() string {
	return filepath.Join(j.plugin.CacheDir, cacheDir, j.list.Name+"-"+j.record.ContainerID+"-"+j.stored.Interface)
}

// remember writes what the next CHECK or DEL needs where libcni looks for it.
func (j *job) remember(result *current.Result) error {
	r := j.runtime()
	data, err := json.Marshal(&cached{
		Kind: libcni.CNICacheV1, ContainerID: r.ContainerID, Config: j.list.Bytes, IfName: r.IfName, NetworkName: j.list.Name,
		Netns: r.NetNS, CNIArgs: r.Args, CapabilityArgs: r.CapabilityArgs, Result: result, Saved: j.stored.Saved,
	})
	if err != nil {
		return fmt.Errorf("writing the attachment for the cache: %w", err)
	}
	path := j.cachePath()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("making the cache of attachments: %w", err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("caching the attachment: %w", err)
	}
	return nil
}

func (j *job) forgetCached() error {
	if err := os.Remove(j.cachePath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the attachment from the cache: %w", err)
	}
	return nil
}

// cachedOf are the cached attachments of a container. A file that cannot be read
// is none.
func (p *Plugin) cachedOf(containerID string) []cached {
	files, _ := filepath.Glob(filepath.Join(p.CacheDir, cacheDir, "*-"+containerID+"-*"))
	var found []cached
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		var c cached
		if json.Unmarshal(data, &c) == nil && c.Kind == libcni.CNICacheV1 && c.ContainerID == containerID && c.IfName != "" {
			found = append(found, c)
		}
	}
	return found
}
