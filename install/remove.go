// SPDX-License-Identifier: Apache-2.0

package install

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Remove takes weir off the node: first its entries, so that pods start with the
// default network's plugin again, then the plugin. Entries that weir has left under
// another name go, too, as nobody could use them. It may be called again, and whether
// anything is there or not.
//
// A list in which weir stands behind other plugins is not weir's to change: the plugin
// stays where there is one, and the error names it.
//
// No agent must be keeping the files, nor should pods be left that were attached with
// weir: CRI-O deletes a pod with the configuration that it was attached with, and so
// with the plugin that is removed here.
func Remove(o Options) error {
	o, err := o.withDefaults()
	if err == nil {
		err = o.remove()
	}
	if err != nil {
		return fmt.Errorf("removing weir: %w", err)
	}
	return nil
}

func (o *Options) remove() error {
	uses, err := o.removeEntries()
	if err = errors.Join(err, RemoveTemporary(o.ConfDir), flushIfThere(o.ConfDir)); err != nil {
		return err
	}
	if len(uses) > 0 {
		return fmt.Errorf("the plugin stays, since weir is in %s: take it out there first", strings.Join(uses, ", "))
	}
	return errors.Join(removeIfThere(o.plugin()), RemoveTemporary(o.BinDir), flushIfThere(o.BinDir))
}

func flushIfThere(dir string) error {
	if err := Flush(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// removeEntries removes weir's entries, and returns the files that have weir in them
// and stay.
func (o *Options) removeEntries() (uses []string, err error) {
	files, err := os.ReadDir(o.ConfDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	errs := []error{err}
	for _, file := range files {
		path := filepath.Join(o.ConfDir, file.Name())
		types := typesOf(path)
		switch {
		case isEntry(types), path == o.entry() && types == nil:
			errs = append(errs, removeIfThere(path))
		case slices.Contains(types, pluginType) && !strings.HasSuffix(path, ciliumSuffix):
			uses = append(uses, path)
		}
	}
	return uses, errors.Join(errs...)
}

func isEntry(types []string) bool { return len(types) == 1 && types[0] == pluginType }

// typesOf are the types of a configuration's plugins, also where Cilium has renamed it;
// nil when it is none.
func typesOf(path string) []string {
	original := strings.TrimSuffix(path, ciliumSuffix)
	if !slices.Contains(extensions, filepath.Ext(original)) {
		return nil
	}
	data, err := readFile(path)
	if err != nil {
		return nil
	}
	network, err := parseNetwork(original, data)
	if err != nil {
		return nil
	}
	return network.Types
}
