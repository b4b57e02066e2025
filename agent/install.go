// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"

	"github.com/weir-cni/weir/cni"
	"github.com/weir-cni/weir/install"
	"github.com/weir-cni/weir/kube"
	"github.com/weir-cni/weir/state"
)

// installation is what is installed, with what becomes of it among the node's events.
func (a *agent) installation() (install.Options, error) {
	o := a.options.Install
	o.BinDir, o.Log = a.options.CNIBinDir, a.log
	if cluster, ok := a.store.(*kube.Store); ok {
		o.Report = func(reason, message string) {
			cluster.ReportNode(cni.Event{Warning: true, Reason: reason, Message: message})
		}
	}
	settings, err := readSettings(a.options.Settings)
	if err != nil {
		return o, err
	}
	o.Settings = map[string]any{"socket": a.options.Socket}
	maps.Copy(o.Settings, settings)
	return o, nil
}

func (a *agent) keepInstalled(ctx context.Context) error {
	o, err := a.installation()
	if err != nil {
		return err
	}
	return install.Keep(ctx, o)
}

func readSettings(path string) (map[string]any, error) {
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the settings: %w", err)
	}
	var settings map[string]any
	if err := yaml.UnmarshalStrict(data, &settings); err != nil {
		return nil, fmt.Errorf("reading the settings in %s: %w", path, err)
	}
	return settings, nil
}

// Uninstall takes the plugin and weir's entry off the node, and what weir keeps there
// unless pods still have networks of weir's, which are named in the log. No agent may
// be running.
func Uninstall(o Options) error {
	lock, err := lockDir(o.StateDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	o.Install.BinDir, o.Install.Log = o.CNIBinDir, o.Log
	if err := install.Remove(o.Install); err != nil {
		return err
	}
	records, err := state.Open(filepath.Join(o.StateDir, state.RecordsDir))
	if err != nil {
		return fmt.Errorf("opening the records: %w", err)
	}
	left, err := records.List()
	for _, record := range left {
		o.Log.Warn("a pod keeps its networks and their guards, which nobody takes away with it", "pod", record.Pod.String(),
			"container_id", record.ContainerID, "networks", len(record.Delegates))
	}
	if err != nil || len(left) > 0 {
		return err
	}
	if err := releaseLeases(o, records); err != nil {
		return err
	}
	return errors.Join(removeTree(o.StateDir), removeTree(o.BPFDir))
}

// releaseLeases gives back what the node holds for IPAMClaims: no pod of it can use them
// any more. A later weir asks for the same addresses.
func releaseLeases(o Options, records *state.Dir) error {
	leases, err := state.OpenLeases(filepath.Join(o.StateDir, state.LeasesDir))
	if err != nil {
		return fmt.Errorf("opening the leases: %w", err)
	}
	p := &cni.Plugin{Records: records, Leases: leases, Log: o.Log}
	return p.ReleaseClaims(context.Background(), func(*state.Claim) bool { return true })
}

// removeTree removes a directory and what is in it. One that is a mount point, as in a
// container, stays, and is empty then.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, entry := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, entry.Name())))
	}
	_ = os.Remove(dir)
	return errors.Join(errs...)
}
