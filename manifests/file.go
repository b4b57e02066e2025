// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"
)

// fileMax bounds a manifest, in bytes.
const fileMax = 4 << 20

// errTooLarge is the error of a manifest beyond fileMax.
var errTooLarge = fmt.Errorf("larger than %d bytes", fileMax)

// key names an object of one kind.
type key struct{ namespace, name string }

// objects are the pods and networks of one or more files.
type objects struct {
	pods     map[key]*corev1.Pod
	networks map[key]*nadv1.NetworkAttachmentDefinition
}

func newObjects() *objects {
	return &objects{pods: map[key]*corev1.Pod{}, networks: map[key]*nadv1.NetworkAttachmentDefinition{}}
}

// add takes the objects of a file in; those that are there already stay.
func (o *objects) add(from *objects, name string, log *slog.Logger) {
	addMissing(o.pods, from.pods, "Pod", name, log)
	addMissing(o.networks, from.networks, "NetworkAttachmentDefinition", name, log)
}

func addMissing[T any](to, from map[key]*T, kind, name string, log *slog.Logger) {
	for k, object := range from {
		if to[k] != nil {
			log.Warn("an object is in two files: this one is not used", "kind", kind,
				"namespace", k.namespace, "name", k.name, "file", name)
			continue
		}
		to[k] = object
	}
}

// file is the content of a manifest and what tells that it has changed.
type file struct {
	stamp   stamp
	objects *objects
}

// stamp changes whenever a file is written or replaced.
type stamp struct {
	size, modified int64
	path           string // with links followed: a volume of Kubernetes swaps them
}

func stampOf(path string) (stamp, error) {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return stamp{}, err
	}
	info, err := os.Stat(target)
	if err != nil {
		return stamp{}, err
	}
	if !info.Mode().IsRegular() {
		return stamp{}, errors.ErrUnsupported
	}
	return stamp{info.Size(), info.ModTime().UnixNano(), target}, nil
}

func isManifest(name string) bool {
	return !strings.HasPrefix(name, ".") && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name))
}

func readFile(path string, log *slog.Logger) (*objects, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	limited := &io.LimitedReader{R: f, N: fileMax + 1}
	found, err := decode(limited, log)
	if limited.N <= 0 {
		return nil, errTooLarge
	}
	return found, err
}

// decode reads the documents of a manifest.
func decode(r io.Reader, log *slog.Logger) (*objects, error) {
	found := newObjects()
	decoder := yaml.NewYAMLOrJSONDecoder(r, 4096)
	for number := 1; ; number++ {
		var raw runtime.RawExtension
		err := decoder.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err == nil {
			err = found.decode(raw.Raw, log)
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", number, err)
		}
	}
}

// decode reads one object, or a list of them.
func (o *objects) decode(data []byte, log *slog.Logger) error {
	if len(data) == 0 || string(data) == "null" {
		return nil
	}
	var meta struct {
		metav1.TypeMeta `json:",inline"`
		Items           []runtime.RawExtension `json:"items"`
	}
	if err := sigsyaml.Unmarshal(data, &meta); err != nil {
		return err
	}
	switch {
	case meta.Kind == "Pod" && meta.APIVersion == "v1":
		return decodeInto(o.pods, data, func(p *corev1.Pod) *metav1.ObjectMeta { return &p.ObjectMeta })
	case meta.Kind == "NetworkAttachmentDefinition" && meta.APIVersion == nadv1.SchemeGroupVersion.String():
		return decodeInto(o.networks, data, func(n *nadv1.NetworkAttachmentDefinition) *metav1.ObjectMeta { return &n.ObjectMeta })
	case strings.HasSuffix(meta.Kind, "List"):
		return o.decodeList(meta.Items, log)
	case meta.Kind == "":
		return errors.New("kind is missing")
	}
	log.Debug("an object that is neither a pod nor a network is passed over", "apiVersion", meta.APIVersion, "kind", meta.Kind)
	return nil
}

func (o *objects) decodeList(items []runtime.RawExtension, log *slog.Logger) error {
	for i, item := range items {
		if err := o.decode(item.Raw, log); err != nil {
			return fmt.Errorf("items[%d]: %w", i, err)
		}
	}
	return nil
}

func decodeInto[T any](into map[key]*T, data []byte, metaOf func(*T) *metav1.ObjectMeta) error {
	object := new(T)
	if err := sigsyaml.Unmarshal(data, object); err != nil {
		return err
	}
	meta := metaOf(object)
	meta.Namespace = cmp.Or(meta.Namespace, metav1.NamespaceDefault)
	k := key{meta.Namespace, meta.Name}
	switch {
	case meta.Name == "":
		return errors.New("metadata.name is missing")
	case into[k] != nil:
		return fmt.Errorf("%s/%s is in the file twice", k.namespace, k.name)
	}
	into[k] = object
	return nil
}
