// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// KubeletSocket is where a kubelet serves its pod-resources API.
const KubeletSocket = "/var/lib/kubelet/pod-resources/kubelet.sock"

const (
	// answerTimeout bounds a question with all its repetitions.
	answerTimeout = 10 * time.Second
	// maxAnswer is the longest answer in bytes, that of a node with very many devices.
	maxAnswer = 16 << 20
	// withoutGet is for how long a kubelet that lacks Get is not asked for it again.
	withoutGet = 5 * time.Minute
)

var (
	// ErrNoKubelet is the error where the kubelet's socket does not exist.
	ErrNoKubelet = errors.New("no kubelet serves its pod-resources API here")
	// ErrUnknownPod is the error of a pod that the kubelet does not have.
	ErrUnknownPod = errors.New("the kubelet does not have the pod")
)

// Kubelet asks the kubelet of the node, by its pod-resources API v1. Its methods may be
// called at the same time.
type Kubelet struct {
	socket string
	log    *slog.Logger
	conn   *grpc.ClientConn
	api    podresources.PodResourcesListerClient
	lists  *sharedList
	// lacksGetUntil is a time in nanoseconds.
	lacksGetUntil atomic.Int64
}

// NewKubelet makes a client of the kubelet at a socket, which need not exist yet.
func NewKubelet(socket string, log *slog.Logger) (*Kubelet, error) {
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	// A kubelet that starts anew is found again within half a second.
	reconnect := backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: 500 * time.Millisecond}
	conn, err := grpc.NewClient("passthrough:///kubelet",
		grpc.WithContextDialer(dial),
		grpc.WithNoProxy(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: answerTimeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
	)
	if err != nil {
		return nil, fmt.Errorf("making a client of the kubelet at %s: %w", socket, err)
	}
	k := &Kubelet{socket: socket, log: log, conn: conn, api: podresources.NewPodResourcesListerClient(conn)}
	k.lists = newSharedList(k.list)
	return k, nil
}

// Close ends the connection and what is being asked.
func (k *Kubelet) Close() error { return k.conn.Close() }

// Devices are those that device plugins gave a pod: all its containers, among them
// the init containers that keep running; the kubelet does not tell of the others. The
// error is ErrNoKubelet where there is no socket and ErrUnknownPod where the kubelet
// has no such pod. A kubelet that limits the rate of questions, or starts anew, is
// asked again until ctx ends, for 10 seconds at most.
//
// The API knows pods by name alone, and the devices of a pod from the moment it is
// admitted, so the answer is right for a pod that is being set up, whose name no
// other can have.
func (k *Kubelet) Devices(ctx context.Context, namespace, name string) (IDs, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	pod, err := k.resources(ctx, namespace, name)
	if err != nil {
		return nil, fmt.Errorf("asking the kubelet for the devices of pod %s/%s: %w", namespace, name, err)
	}
	ids := IDs{}
	for _, container := range pod.GetContainers() {
		// A device of several NUMA nodes comes once for each of them.
		for _, devices := range container.GetDevices() {
			ids.add(devices.GetResourceName(), devices.GetDeviceIds()...)
		}
	}
	return ids, nil
}

func (k *Kubelet) resources(ctx context.Context, namespace, name string) (*podresources.PodResources, error) {
	if time.Now().UnixNano() >= k.lacksGetUntil.Load() {
		pod, err := k.get(ctx, namespace, name)
		switch {
		case err == nil && pod != nil:
			return pod, nil
		case err != nil && !k.cannotGet(err):
			return nil, err
		}
	}
	list, err := k.lists.get(ctx)
	if err != nil {
		return nil, err
	}
	return inList(list, namespace, name)
}

func (k *Kubelet) get(ctx context.Context, namespace, name string) (*podresources.PodResources, error) {
	var pod *podresources.PodResources
	err := patiently(ctx, isRestarting, func() error {
		answer, err := k.api.Get(ctx, &podresources.GetPodResourcesRequest{PodNamespace: namespace, PodName: name})
		pod = answer.GetPodResources()
		return k.explain(err)
	})
	return pod, err
}

// cannotGet tells an answer of Get that leaves it to List to say what is the case. A
// kubelet that limits the rate answers many by one List sooner than each by a Get. The
// answer of one whose feature gate KubeletPodResourcesGet is off has no code of its own,
// nor has that of one without the pod: only the first is worth remembering.
func (k *Kubelet) cannotGet(err error) bool {
	answer, isAnswer := status.FromError(err)
	if !isAnswer {
		return false
	}
	unknown := answer.Code() == codes.Unknown
	if answer.Code() == codes.Unimplemented || unknown && strings.Contains(answer.Message(), "disabled") {
		k.lacksGetUntil.Store(time.Now().Add(withoutGet).UnixNano())
		k.log.Debug("the kubelet cannot be asked for one pod, so it is for all", "err", err)
		return true
	}
	return unknown || isLimited(err)
}

func (k *Kubelet) list(ctx context.Context) (*podresources.ListPodResourcesResponse, error) {
	var list *podresources.ListPodResourcesResponse
	err := patiently(ctx, isRestartingOrLimited, func() (err error) {
		list, err = k.api.List(ctx, &podresources.ListPodResourcesRequest{})
		return k.explain(err)
	})
	return list, err
}

// inList finds the pod. Of two with its name none is taken: it would be a guess whose
// devices are whose.
func inList(list *podresources.ListPodResourcesResponse, namespace, name string) (*podresources.PodResources, error) {
	var found *podresources.PodResources
	for _, pod := range list.GetPodResources() {
		if pod.GetNamespace() != namespace || pod.GetName() != name {
			continue
		}
		if found != nil {
			return nil, errors.New("the kubelet has two pods of this name")
		}
		found = pod
	}
	if found == nil {
		return nil, ErrUnknownPod
	}
	return found, nil
}

// explain makes ErrNoKubelet of the error of a connection to a socket that is missing.
func (k *Kubelet) explain(err error) error {
	if status.Code(err) != codes.Unavailable {
		return err
	}
	if _, missing := os.Lstat(k.socket); errors.Is(missing, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrNoKubelet, missing)
	}
	return err
}
