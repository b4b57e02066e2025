// SPDX-License-Identifier: Apache-2.0

// Package state keeps the records of sandboxes on disk: one file for each
// container, written whole or not at all, and known to be damaged when it is.
package state

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/weir-cni/weir/attachment"
)

// RecordsDir is the directory of records within an agent's state directory.
const RecordsDir = "sandboxes"

// Phase is how far a sandbox has come.
type Phase string

// The phases.
const (
	// Adding: an ADD is under way, or its agent died in the middle of it.
	Adding Phase = "adding"
	// Ready: ADD has succeeded.
	Ready Phase = "ready"
	// Deleting: a DEL, or the undoing of an ADD, has failed and is to be
	// tried again.
	Deleting Phase = "deleting"
)

// Version is that of the records that this weir writes, and the only one it reads.
const Version = 1

// Record is what weir made, or is about to make, for one container.
type Record struct {
	// Version is set by Save.
	Version     int    `json:"version"`
	ContainerID string `json:"containerID"`
	// Chained is the CNI_IFNAME of a request in which weir stands behind another
	// plugin of a list, which may come for each interface of a container. It is
	// empty where weir makes all of a container's networks.
	Chained string         `json:"chained,omitempty"`
	Netns   string         `json:"netns"`
	Pod     attachment.Pod `json:"pod"`
	Phase   Phase          `json:"phase"`
	// Config is weir's own configuration at ADD.
	Config json.RawMessage `json:"config"`
	// Path is where plugins were looked for; Args is CNI_ARGS.
	Path []string `json:"path"`
	Args string   `json:"args,omitempty"`
	// Delegates are the networks in the order of ADD; the default network first.
	Delegates []Delegate `json:"delegates"`
	Created   time.Time  `json:"created"`
}

// Key tells a record from all others: the container's ID and, of a chained
// request, its interface, as ID@interface. No container ID has an @.
func (r *Record) Key() string { return Key(r.ContainerID, r.Chained) }

// Key is the key of the record of a container, or of one interface of it where
// weir is chained.
func Key(containerID, chained string) string {
	if chained == "" {
		return containerID
	}
	return containerID + "@" + chained
}

// Delegate is one network of a sandbox.
type Delegate struct {
	// Interface is the CNI_IFNAME of the delegate.
	Interface string `json:"interface"`
	// Network is the name in network-status: namespace/name, or that of the
	// configuration.
	Network string `json:"network"`
	// Default is set for the default network alone.
	Default bool `json:"default,omitempty"`
	// Config is the configuration, or list, exactly as ADD used it.
	Config json.RawMessage `json:"config"`
	// Options is the configuration whose key weir is in force; empty while that is
	// Config's.
	Options json.RawMessage `json:"options,omitempty"`
	// Saved is what a device was like that was moved into the pod, for the way back.
	Saved json.RawMessage `json:"saved,omitempty"`
	// Auxiliary is set for the chain of plugins that every pod has behind its networks.
	Auxiliary bool `json:"auxiliary,omitempty"`
	// Selection is the element of the pod's annotation that the network is of; empty
	// for the networks that every pod gets.
	Selection json.RawMessage `json:"selection,omitempty"`
	// Resource is the resource of which the network has a device, DeviceID is that
	// device, and DeviceInfo the file with what is known of it; empty without.
	Resource   string `json:"resource,omitempty"`
	DeviceID   string `json:"deviceID,omitempty"`
	DeviceInfo string `json:"deviceInfo,omitempty"`
	// Claim is the IPAMClaim that the addresses are of; nil for none.
	Claim *Claim `json:"claim,omitempty"`
	// RuntimeConfig holds the capabilities that the runtime or the pod asked for.
	RuntimeConfig map[string]any `json:"runtimeConfig,omitempty"`
	// NoDefaultRoute is set where another network of the pod keeps the default
	// route, and Gateways are those of the network that keeps it, where the pod
	// named some.
	NoDefaultRoute bool         `json:"noDefaultRoute,omitempty"`
	Gateways       []netip.Addr `json:"gateways,omitempty"`
	// Args are added to CNI_ARGS.
	Args [][2]string `json:"args,omitempty"`
	// Result is what ADD returned; empty until it did.
	Result json.RawMessage `json:"result,omitempty"`
	// Attachment is nil for the default network, which weir does not guard.
	Attachment *attachment.Attachment `json:"attachment,omitempty"`
}

// ErrCorrupt is the error of a record that is not as it was written.
var ErrCorrupt = errors.New("the record is damaged")

// ErrVersion is the error of a whole record of another version of weir, which
// this one would misread.
var ErrVersion = errors.New("the record is of another version")

// Dir is a directory of records. Its methods may be called at the same time for
// different containers.
type Dir struct {
	path string
}

const (
	suffix    = ".json"
	temporary = ".tmp-"
	// sumLength is that of the first line of a file: the SHA-256 of the rest.
	sumLength = sha256.Size * 2
)

// Open makes the directory if it is missing and removes what a write that was cut
// off has left.
func Open(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), temporary) {
			continue
		}
		if err := os.Remove(filepath.Join(path, entry.Name())); err != nil {
			return nil, err
		}
	}
	return &Dir{path}, nil
}

func (d *Dir) file(key string) (string, error) {
	name := key + suffix
	if !filepath.IsLocal(name) || strings.ContainsRune(name, filepath.Separator) || strings.HasPrefix(name, ".") {
		return "", fmt.Errorf("container ID %q names no file: %w", key, fs.ErrInvalid)
	}
	return filepath.Join(d.path, name), nil
}

// Save writes a record, and sets its Version. When it returns nil the record
// survives a loss of power.
func (d *Dir) Save(r *Record) error {
	path, err := d.file(r.Key())
	if err != nil {
		return err
	}
	r.Version = Version
	data, err := encode(r)
	if err != nil {
		return fmt.Errorf("writing the record of %s: %w", r.Key(), err)
	}
	if err := d.replace(path, data); err != nil {
		return fmt.Errorf("writing the record of %s: %w", r.Key(), err)
	}
	return nil
}

func encode(value any) ([]byte, error) {
	body, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	return append([]byte(sum(body)+"\n"), body...), nil
}

func sum(body []byte) string {
	hash := sha256.Sum256(body)
	return hex.EncodeToString(hash[:])
}

func (d *Dir) replace(path string, data []byte) error {
	f, err := os.CreateTemp(d.path, temporary)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return d.sync()
}

func (d *Dir) sync() error {
	dir, err := os.Open(d.path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Load reads the record of a container. The error is fs.ErrNotExist when there is
// none, ErrCorrupt when it is damaged or that of another container, ErrVersion
// when another version of weir wrote it.
func (d *Dir) Load(key string) (*Record, error) {
	path, err := d.file(key)
	if err != nil {
		return nil, err
	}
	return load(path)
}

func load(path string) (*Record, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading a record: %w", err)
	}
	r, err := decode(strings.TrimSuffix(filepath.Base(path), suffix), data)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return r, nil
}

// bodyOf is what encode was given, as JSON.
func bodyOf(data []byte) ([]byte, error) {
	if len(data) <= sumLength || data[sumLength] != '\n' || string(data[:sumLength]) != sum(data[sumLength+1:]) {
		return nil, ErrCorrupt
	}
	return data[sumLength+1:], nil
}

func decode(key string, data []byte) (*Record, error) {
	body, err := bodyOf(data)
	if err != nil {
		return nil, err
	}
	// The version first: the rest of another one need not even have this form.
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(body, &head); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if head.Version != Version {
		return nil, fmt.Errorf("%w: %d, not %d", ErrVersion, head.Version, Version)
	}
	r := &Record{}
	if err := json.Unmarshal(body, r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	// A copy under another name would make two owners of one sandbox.
	if r.Key() != key {
		return nil, fmt.Errorf("%w: it is that of container %q", ErrCorrupt, r.Key())
	}
	return r, nil
}

// List reads every record. Those that cannot be read are named in the error; the
// others are returned beside it.
func (d *Dir) List() ([]*Record, error) { return Read(d.path) }

// Read reads every record of a directory without changing anything there. One
// that does not exist has none.
func Read(path string) ([]*Record, error) {
	entries, err := os.ReadDir(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing the records: %w", err)
	}
	var records []*Record
	var errs []error
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") || filepath.Ext(entry.Name()) != suffix {
			continue
		}
		r, err := load(filepath.Join(path, entry.Name()))
		switch {
		case err == nil:
			records = append(records, r)
		case !errors.Is(err, fs.ErrNotExist):
			errs = append(errs, err)
		}
	}
	return records, errors.Join(errs...)
}

// Delete removes the record of a container; one that is not there is no error.
func (d *Dir) Delete(key string) error {
	path, err := d.file(key)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the record of %s: %w", key, err)
	}
	return d.sync()
}
