// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/devices"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/segment"
	"github.com/weir-cni/weir/state"
)

// ErrNotFound is the error of a pod or network that its store does not have.
var ErrNotFound = fs.ErrNotExist

// ErrAway is the error of a store that cannot be asked at the moment.
var ErrAway = errors.New("try again later")

// Store knows pods and networks. What it returns is not changed by the caller.
type Store interface {
	// Pod finds a pod by its namespace and name; where it knows several of the name,
	// the one with the UID. The error is ErrNotFound when there is none.
	Pod(ctx context.Context, pod attachment.Pod) (*corev1.Pod, error)
	// Network finds a network; the error is ErrNotFound when there is none.
	Network(ctx context.Context, namespace, name string) (*nadv1.NetworkAttachmentDefinition, error)
	// SetNetworkStatus publishes what a pod's networks came to; nil takes it away.
	SetNetworkStatus(ctx context.Context, pod attachment.Pod, status []NetworkStatus) error
}

// Reporter tells the users of a pod what happens to it. It does not wait.
type Reporter interface {
	Report(pod attachment.Pod, e Event)
}

// Meter measures the steps of requests.
type Meter interface {
	// Step tells that a step of a network's part in a request with this CNI command took
	// so long. Names are few and fixed.
	Step(command, step string, took time.Duration)
}

// Guards puts the programs on interfaces and remembers those in force.
type Guards interface {
	// Prepare begins to load the programs of an attachment whose interface is
	// yet to be made, and returns at once. Attach or Remove must follow.
	Prepare(id attachment.ID, spec loader.Spec)
	// Attach guards an interface.
	Attach(place loader.Place, id attachment.ID, spec loader.Spec) (*loader.Guard, error)
	// Join makes an attachment known to the others of its segment, in the place of what
	// was known of it before. Remove takes it out.
	Join(id attachment.ID, place segment.Place, m segment.Member) error
	// Publish makes an attachment known whose ADD has succeeded.
	Publish(a attachment.Attachment)
	// Published lists the attachments of a container that were made known.
	Published(containerID string) []attachment.Attachment
	// Check tells whether the guard of an attachment is in place.
	Check(place loader.Place, a *attachment.Attachment) error
	// Ignore leaves an attachment that is about to be taken away to the caller: what
	// becomes of its interface from now on is nobody's tampering.
	Ignore(id attachment.ID)
	// Detach takes the programs of a guard off an interface that lives on. Remove
	// must follow.
	Detach(place loader.Place, a *attachment.Attachment) error
	// Remove takes a guard away, and the attachment out of what Publish made seen; what
	// is not there is no error.
	Remove(a *attachment.Attachment) error
}

// Plugin carries the requests of the container runtime out. Its methods may be
// called at the same time for different containers; for one container the
// caller calls one at a time.
type Plugin struct {
	// Networks knows pods and networks.
	Networks Store
	// Events tells the users of pods what happened; nil for nobody.
	Events Reporter
	// Devices finds the devices of pods; nil where there is no kubelet.
	Devices Allocations
	// DeviceInfo are the Device Information files.
	DeviceInfo devices.Info
	// Claims knows the IPAMClaims; nil where there is no cluster. Leases are what the node
	// holds for them.
	Claims Claims
	Leases *state.Leases
	// Guards holds the programs.
	Guards Guards
	// Records is where sandboxes are written down.
	Records *state.Dir
	// Host is the node's network namespace.
	Host *netns.Namespace
	// BinDir is searched for plugins first, but for the configuration's binDir.
	BinDir string
	// BPFDir holds a directory of pins for each attachment.
	BPFDir string
	// CacheDir holds libcni's cache of attachments.
	CacheDir string
	// Meter is told how long steps take; nil for nobody.
	Meter Meter
	// Exec finds and executes plugins.
	Exec invoke.Exec
	// Log takes what happens, with pod, network and interface.
	Log *slog.Logger
}

// recordOf is the record with a key, or nil when there is none.
func (p *Plugin) recordOf(key string) (*state.Record, error) {
	record, err := p.Records.Load(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return record, err
}
