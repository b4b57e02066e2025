// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
)

// multus is a configuration of Multus's as a file has it.
type multus struct {
	path  string
	data  []byte
	mode  fs.FileMode
	keys  map[string]json.RawMessage
	thick bool
	// beside are the other plugins of a list.
	beside []string
}

// errNotMultus is the error of a file that is somebody else's.
var errNotMultus = errors.New("it is not Multus's")

// found is what there is of Multus in the runtime's directory.
type found struct {
	files  []*multus // in the order in which runtimes read them
	broken []string  // files that cannot be read, and why
	others []string  // all other files, in order
}

// findMultus reads every configuration in the runtime's directory. A file counts by the
// type that it has, not by its name.
func findMultus(dir string) (*found, error) {
	if _, err := os.ReadDir(dir); err != nil {
		return nil, fmt.Errorf("listing: %w", err)
	}
	paths, err := libcni.ConfFiles(dir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", dir, err)
	}
	slices.Sort(paths)
	f := &found{}
	for _, path := range paths {
		m, err := readMultus(path)
		switch {
		case err == nil:
			f.files = append(f.files, m)
		case errors.Is(err, errNotMultus):
			f.others = append(f.others, path)
		default:
			f.broken = append(f.broken, err.Error())
		}
	}
	return f, nil
}

func readMultus(path string) (*multus, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m := &multus{path: path, data: data, mode: info.Mode().Perm()}
	if err := m.parse(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// parse finds Multus's own entry in the file: all of it, or a plugin of a list, with
// the list's keys.
func (m *multus) parse() error {
	if err := json.Unmarshal(m.data, &m.keys); err != nil {
		return err
	}
	raw, isList := m.keys["plugins"]
	if !isList {
		return m.isOwn(m.keys)
	}
	var plugins []map[string]json.RawMessage
	if err := json.Unmarshal(raw, &plugins); err != nil {
		return err
	}
	var own map[string]json.RawMessage
	for _, plugin := range plugins {
		if own == nil && m.isOwn(plugin) == nil {
			own = plugin
			continue
		}
		m.beside = append(m.beside, text(value(plugin, "type")))
	}
	if own == nil {
		return errNotMultus
	}
	delete(m.keys, "plugins")
	for key, value := range own {
		m.keys[key] = value
	}
	return nil
}

func (m *multus) isOwn(plugin map[string]json.RawMessage) error {
	switch text(value(plugin, "type")) {
	case "multus-shim":
		m.thick = true
	case "multus":
	default:
		return errNotMultus
	}
	return nil
}

// value is that of a key in whatever case.
func value(keys map[string]json.RawMessage, name string) json.RawMessage {
	if v, ok := keys[name]; ok {
		return v
	}
	for key, v := range keys {
		if strings.EqualFold(key, name) {
			return v
		}
	}
	return nil
}

// text is a JSON string, or empty.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// daemonConfig is where the thick deployment's daemon finds its configuration.
func daemonConfig(confDir string) string {
	return filepath.Join(confDir, "multus.d", "daemon-config.json")
}

// readDaemon reads the daemon's configuration, from its file where it is not given.
func readDaemon(path string, data []byte) (map[string]json.RawMessage, error) {
	if data == nil {
		var err error
		if data, err = os.ReadFile(path); err != nil {
			return nil, fmt.Errorf("reading the daemon's configuration: %w", err)
		}
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(data, &keys); err != nil {
		return nil, fmt.Errorf("reading the daemon's configuration %s: %w", path, err)
	}
	return keys, nil
}
