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
	"syscall"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
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

// clash is an object that a file holds and one before it has already.
type clash struct {
	key
	kind, file string
}

// add takes the objects of a file in; those that are there already stay, and are
// returned.
func (o *objects) add(from *objects, name string) []clash {
	return slices.Concat(
		addMissing(o.pods, from.pods, "Pod", name),
		addMissing(o.networks, from.networks, "NetworkAttachmentDefinition", name),
	)
}

func addMissing[T any](to, from map[key]*T, kind, name string) []clash {
	var clashes []clash
	for k, object := range from {
		if to[k] != nil {
			clashes = append(clashes, clash{k, kind, name})
			continue
		}
		to[k] = object
	}
	return clashes
}

// file is the content of a manifest and what tells that it has changed.
type file struct {
	stamp stamp
	// settled is set when the stamp is so old that another change of the file
	// would not bear the same.
	settled bool
	objects *objects
	// problem is why the file as it is now does not count; empty when it does.
	problem string
}

// stamp changes whenever a file is written or replaced, or a link on the way to
// it, as those of a volume of Kubernetes, is swapped.
type stamp struct {
	device, inode uint64
	size          int64
	// changed is the time of the inode's change in nanoseconds: that of the
	// content can be set back, as by cp -p.
	changed int64
}

// clockTick is more than the kernel's clock for files may stand still: 10 ms
// with CONFIG_HZ=100.
const clockTick = 20 * time.Millisecond

// errNoFile is the error of what is not a regular file.
var errNoFile = errors.New("not a regular file")

func stampOf(path string) (stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}, err
	}
	sys, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return stamp{}, errNoFile
	}
	return stamp{device: sys.Dev, inode: sys.Ino, size: info.Size(), changed: sys.Ctim.Nano()}, nil
}

// isSettled tells that a change after now would show in the stamp.
func (s stamp) isSettled(now time.Time) bool { return now.Sub(time.Unix(0, s.changed)) > clockTick }

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
	case isList(meta.Kind):
		return o.decodeList(meta.Items, log)
	case meta.Kind == "":
		return errors.New("kind is missing")
	}
	log.Debug("an object that is neither a pod nor a network is passed over", "apiVersion", meta.APIVersion, "kind", meta.Kind)
	return nil
}

func (o *objects) decodeList(items []runtime.RawExtension, log *slog.Logger) error {
	for i, item := range items {
		if err := o.decodeItem(item.Raw, log); err != nil {
			return fmt.Errorf("items[%d]: %w", i, err)
		}
	}
	return nil
}

// decodeItem reads an object of a list. One that is a list too is refused: each
// level is parsed again, so that a few kilobytes of them would take minutes.
func (o *objects) decodeItem(data []byte, log *slog.Logger) error {
	var meta metav1.TypeMeta
	if err := sigsyaml.Unmarshal(data, &meta); err != nil {
		return err
	}
	if isList(meta.Kind) {
		return errors.New("a list in a list")
	}
	return o.decode(data, log)
}

func isList(kind string) bool { return strings.HasSuffix(kind, "List") }

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
	case len(validation.IsDNS1123Subdomain(meta.Name)) > 0:
		return fmt.Errorf("metadata.name %.80q: %s", meta.Name, validation.IsDNS1123Subdomain(meta.Name)[0])
	case len(validation.IsDNS1123Label(meta.Namespace)) > 0:
		return fmt.Errorf("metadata.namespace %.80q: %s", meta.Namespace, validation.IsDNS1123Label(meta.Namespace)[0])
	case into[k] != nil:
		return fmt.Errorf("%s/%s is in the file twice", k.namespace, k.name)
	}
	into[k] = object
	return nil
}
