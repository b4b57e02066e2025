// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/fsnotify/fsnotify"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/weir-cni/weir/attachment"
)

// ErrNotFound is the error of an object that no file holds.
var ErrNotFound = fs.ErrNotExist

// Store is a folder's pods and networks. Its methods may be called at the same
// time; what they return must not be changed.
type Store struct {
	dir, statusDir string
	log            *slog.Logger
	watcher        *fsnotify.Watcher

	mu      sync.Mutex
	files   map[string]*file // the last good content of each
	objects *objects         // of all files together
}

// Open reads the folder, which must exist. Network statuses are written to
// statusDir, a file for each pod.
func Open(dir, statusDir string, log *slog.Logger) (*Store, error) {
	if err := os.MkdirAll(statusDir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of network statuses: %w", err)
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watching %s: %w", dir, err)
	}
	s := &Store{dir: dir, statusDir: statusDir, log: log, watcher: watcher, files: map[string]*file{}}
	if err := errors.Join(watcher.Add(dir), s.reload()); err != nil {
		return nil, errors.Join(fmt.Errorf("reading %s: %w", dir, err), watcher.Close())
	}
	return s, nil
}

// Close stops watching.
func (s *Store) Close() error { return s.watcher.Close() }

// Run follows changes of the folder until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, open := <-s.watcher.Events:
			if !open {
				return nil
			}
		case err, open := <-s.watcher.Errors:
			if !open {
				return nil
			}
			s.log.Warn("changes of the manifests may have been missed: reading them all", "err", err)
		}
		if err := s.reload(); err != nil {
			s.log.Error("reading the manifests", "err", err)
		}
	}
}

// reload reads the files that have changed and puts all objects together.
func (s *Store) reload() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	files := map[string]*file{}
	s.objects = newObjects()
	for _, entry := range entries {
		name := entry.Name()
		if !isManifest(name) {
			continue
		}
		if f := s.refresh(name); f != nil {
			files[name] = f
			s.objects.add(f.objects, name, s.log)
		}
	}
	s.files = files
	return nil
}

// refresh is a file as it is now, or as it last was when it was right.
func (s *Store) refresh(name string) *file {
	old := s.files[name]
	stamp, err := stampOf(filepath.Join(s.dir, name))
	if err != nil {
		return nil
	}
	if old != nil && old.stamp == stamp {
		return old
	}
	objects, err := readFile(filepath.Join(s.dir, name), s.log)
	if err == nil {
		return &file{stamp: stamp, objects: objects}
	}
	s.log.Error("a manifest is not right: what it held before stays", "file", name, "err", err)
	if old == nil {
		return &file{stamp: stamp, objects: newObjects()}
	}
	return &file{stamp: stamp, objects: old.objects}
}

// Pod finds a pod. The error is ErrNotFound when no file holds it.
func (s *Store) Pod(_ context.Context, namespace, name string) (*corev1.Pod, error) {
	return find(s, "pod", key{namespace, name}, func(o *objects) map[key]*corev1.Pod { return o.pods })
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
		return nil, fmt.Errorf("reading %s: %w", s.dir, err)
	}
	if found := of(s.current())[k]; found != nil {
		return found, nil
	}
	return nil, fmt.Errorf("%s %s/%s is in no file of %s: %w", kind, k.namespace, k.name, s.dir, ErrNotFound)
}

func (s *Store) current() *objects {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.objects
}

// SetNetworkStatus writes what a pod's networks came to as a JSON list into
// namespace.name.json of the status directory; nil removes the file.
func (s *Store) SetNetworkStatus(_ context.Context, pod attachment.Pod, status []nadv1.NetworkStatus) error {
	path := filepath.Join(s.statusDir, pod.Namespace+"."+pod.Name+".json")
	if status == nil {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing the network status: %w", err)
		}
		return nil
	}
	data, err := json.MarshalIndent(status, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the network status: %w", err)
	}
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("writing the network status: %w", err)
	}
	return os.Rename(path+".new", path)
}
