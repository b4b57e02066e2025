// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/cni"
)

// ErrNotFound is the error of an object that no file holds.
var ErrNotFound = fs.ErrNotExist

// Store is a folder's pods and networks. Its methods may be called at the same
// time; what they return must not be changed.
type Store struct {
	dir, statusDir string
	log            *slog.Logger
	watcher        *fsnotify.Watcher
	poll           time.Duration
	watched        os.FileInfo // the folder that the watch is on; nil when none
	trouble        string      // of the last look at the folder
	looked         func()      // called after each; nil for nobody

	mu      sync.Mutex
	files   map[string]*file // the last good content of each
	objects *objects         // of all files together
	clashes map[clash]bool   // those that the log has
	changed func(network string)
}

const (
	// pollEvery is how often the folder is looked at without an event: a watch
	// sees neither what links lead to nor another folder that took the name.
	pollEvery = 5 * time.Second
	// temporary begins the names of statuses that are being written.
	temporary = ".tmp-"
)

// Open reads the folder, which must exist. Network statuses are written to
// statusDir, a file for each pod.
func Open(dir, statusDir string, log *slog.Logger) (*Store, error) {
	if err := prepare(statusDir); err != nil {
		return nil, fmt.Errorf("preparing the directory of network statuses: %w", err)
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watching %s: %w", dir, err)
	}
	s := &Store{
		dir: filepath.Clean(dir), statusDir: statusDir, log: log, watcher: watcher, poll: pollEvery,
		files: map[string]*file{}, changed: func(string) {},
	}
	if err := s.look(); err != nil {
		return nil, errors.Join(fmt.Errorf("reading %s: %w", dir, err), watcher.Close())
	}
	return s, nil
}

// prepare makes the directory of statuses and removes what a write that was cut
// off has left there.
func prepare(statusDir string) error {
	if err := os.MkdirAll(statusDir, 0o700); err != nil {
		return err
	}
	left, err := filepath.Glob(filepath.Join(statusDir, temporary+"*"))
	for _, path := range left {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// Close stops watching.
func (s *Store) Close() error { return s.watcher.Close() }

// Run follows changes of the folder until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	ticker := time.NewTicker(s.poll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case event, open := <-s.watcher.Events:
			if !open {
				return nil
			}
			if event.Name == s.dir {
				s.watched = nil
			}
		case err, open := <-s.watcher.Errors:
			if !open {
				return nil
			}
			s.log.Warn("changes of the manifests may have been missed: reading them all", "err", err)
		}
		s.report(s.look())
		if s.looked != nil {
			s.looked()
		}
	}
}

// look reads what has changed, in the folder that has the name now.
func (s *Store) look() error {
	if err := s.rewatch(); err != nil {
		return err
	}
	return s.reload()
}

// rewatch puts the watch on the folder that has the name now: a watch stays with
// its folder when that is moved, and goes when it is removed.
func (s *Store) rewatch() error {
	info, err := os.Stat(s.dir)
	if err != nil {
		s.watched = nil
		return err
	}
	if s.watched != nil && os.SameFile(s.watched, info) {
		return nil
	}
	if err := s.watcher.Remove(s.dir); err != nil && !errors.Is(err, fsnotify.ErrNonExistentWatch) {
		return err
	}
	if err := s.watcher.Add(s.dir); err != nil {
		return err
	}
	s.watched = info
	return nil
}

// report logs what is wrong with the folder, once.
func (s *Store) report(err error) {
	trouble := ""
	if err != nil {
		trouble = err.Error()
	}
	if trouble != "" && trouble != s.trouble {
		s.log.Error("the manifests cannot be read: what they held before stays", "err", err)
	}
	s.trouble = trouble
}

// reload reads the files that have changed and puts all objects together.
func (s *Store) reload() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	files, clashes := map[string]*file{}, map[clash]bool{}
	before := s.objects
	s.objects = newObjects()
	for _, entry := range entries {
		f := s.refresh(entry)
		if f == nil {
			continue
		}
		files[entry.Name()] = f
		for _, c := range s.objects.add(f.objects, entry.Name()) {
			clashes[c] = true
		}
	}
	s.reportClashes(clashes)
	s.files, s.clashes = files, clashes
	s.tellChanges(before)
	return nil
}

// tellChanges tells of the networks that are others than they were; of all where none were.
func (s *Store) tellChanges(before *objects) {
	for k, network := range s.objects.networks {
		if before == nil || before.networks[k] != network {
			s.changed(k.namespace + "/" + k.name)
		}
	}
}

// OnNetwork has changed called with the name, namespace/name, of every network that there
// is, and whenever one may have changed. It must return at once. It is to be called
// before Run.
func (s *Store) OnNetwork(changed func(network string)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed = changed
	s.tellChanges(nil)
	return nil
}

// reportClashes logs those that the log has not.
func (s *Store) reportClashes(clashes map[clash]bool) {
	for c := range clashes {
		if !s.clashes[c] {
			s.log.Error("an object is in two files: this one is not used",
				"kind", c.kind, "namespace", c.namespace, "name", c.name, "file", c.file)
		}
	}
}

// refresh is a file as it is now, or as it last was when it was right; nil for
// what is no manifest.
func (s *Store) refresh(entry fs.DirEntry) *file {
	name := entry.Name()
	if !isManifest(name) {
		return nil
	}
	path, began := filepath.Join(s.dir, name), time.Now()
	now, err := stampOf(path)
	isLink := entry.Type()&fs.ModeSymlink != 0
	if errors.Is(err, errNoFile) || errors.Is(err, fs.ErrNotExist) && !isLink {
		return nil
	}
	old := cmp.Or(s.files[name], &file{objects: newObjects()})
	if err == nil && old.settled && now == old.stamp {
		return old
	}
	f := &file{stamp: now, settled: now.isSettled(began), objects: old.objects}
	if err == nil {
		f.objects, err = readFile(path, s.log)
	}
	if err == nil {
		return f
	}
	f.objects, f.problem = old.objects, err.Error()
	if f.stamp != old.stamp || f.problem != old.problem {
		s.log.Error("a manifest is not right: what it held before stays", "file", name, "err", err)
	}
	return f
}

// Pod finds a pod. The error is ErrNotFound when no file holds it.
func (s *Store) Pod(_ context.Context, pod attachment.Pod) (*corev1.Pod, error) {
	return find(s, "pod", key{pod.Namespace, pod.Name}, func(o *objects) map[key]*corev1.Pod { return o.pods })
}

// Network finds a network. The error is ErrNotFound when no file holds it.
func (s *Store) Network(_ context.Context, namespace, name string) (*nadv1.NetworkAttachmentDefinition, error) {
	return find(s, "NetworkAttachmentDefinition", key{namespace, name},
		func(o *objects) map[key]*nadv1.NetworkAttachmentDefinition { return o.networks })
}

// find reads the folder again before it says that an object is not there: a file
// may have been written an instant ago.
func find[T any](s *Store, kind string, k key, of func(*objects) map[key]*T) (*T, error) {
	if found := of(s.current())[k]; found != nil {
		return found, nil
	}
	if err := s.reload(); err != nil {
		return nil, &folderError{s.dir, err}
	}
	if found := of(s.current())[k]; found != nil {
		return found, nil
	}
	return nil, fmt.Errorf("%s %s/%s is in no file of %s: %w", kind, k.namespace, k.name, s.dir, ErrNotFound)
}

// folderError is the error of a folder that cannot be read. It wraps nothing: a
// folder that is not there says nothing of what is not in it, and must not be
// taken for ErrNotFound.
type folderError struct {
	dir string
	err error
}

func (e *folderError) Error() string { return fmt.Sprintf("reading %s: %v", e.dir, e.err) }

func (s *Store) current() *objects {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.objects
}

// SetNetworkStatus writes what a pod's networks came to as a JSON list into
// namespace.name.json of the status directory, whole or not at all; nil removes
// the file.
func (s *Store) SetNetworkStatus(_ context.Context, pod attachment.Pod, status []cni.NetworkStatus) error {
	name := pod.Namespace + "." + pod.Name + ".json"
	if strings.ContainsRune(name, filepath.Separator) {
		return fmt.Errorf("pod %q names no file: %w", pod, fs.ErrInvalid)
	}
	path := filepath.Join(s.statusDir, name)
	if status == nil {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing the network status: %w", err)
		}
		return nil
	}
	data, err := json.MarshalIndent(status, "", "  ")
	if err == nil {
		err = s.replace(path, append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("writing the network status: %w", err)
	}
	return nil
}

func (s *Store) replace(path string, data []byte) error {
	f, err := os.CreateTemp(s.statusDir, temporary)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
