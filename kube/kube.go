// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	nadclient "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/client/clientset/versioned"
	nadinformers "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/client/informers/externalversions"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/cni"
	"github.com/weir-cni/weir/devices"
)

const (
	// readTimeout bounds a read of one object, in which the runtime waits.
	readTimeout = 30 * time.Second
	// Requests a second: those of a node that starts and brings up all its pods.
	queriesPerSecond, queriesBurst = 50, 100
	// writtenFor is how long the watch may take to tell what this store has written.
	writtenFor = time.Minute
)

// Options say which cluster a store is of.
type Options struct {
	// Kubeconfig is a file that says how the API server is reached; empty for the
	// service account of the pod that the agent runs in.
	Kubeconfig string
	// Node is the name of this node, whose pods are watched.
	Node string
	// UserAgent is what the API server's log calls the agent.
	UserAgent string
	// Requested is told of each request to the API server: its method, or WATCH, the status
	// code of the answer, or "error", and how long it took to begin. It may be nil.
	Requested func(verb, code string, took time.Duration)
	// Log takes what goes wrong with the watches.
	Log *slog.Logger
}

// Store knows the pods of a node and the networks of its cluster, and publishes what
// becomes of them. Its methods may be called at the same time.
type Store struct {
	node     string
	log      *slog.Logger
	core     kubernetes.Interface
	networks nadclient.Interface

	podCache     cache.SharedIndexInformer
	networkCache cache.SharedIndexInformer
	failures     failures // of watching
	// pods is podCache with what this store has written itself, which the watch tells
	// a little later.
	pods     cache.MutationCache
	claims   *claims
	members  *members
	events   record.EventBroadcaster
	recorder record.EventRecorder
}

var _ cni.Store = (*Store)(nil)

// Open makes the store of a cluster. Nothing is asked of the API server before Run.
func Open(o Options) (*Store, error) {
	config, err := restConfig(o)
	if err != nil {
		return nil, fmt.Errorf("finding the Kubernetes API: %w", err)
	}
	networks, err := nadclient.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client of NetworkAttachmentDefinitions: %w", err)
	}
	claims, err := newClaims(config)
	if err != nil {
		return nil, err
	}
	members, err := newMembers(config)
	if err != nil {
		return nil, err
	}
	config = rest.CopyConfig(config)
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	core, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client of the Kubernetes API: %w", err)
	}
	return newStore(core, networks, claims, members, o)
}

func restConfig(o Options) (config *rest.Config, err error) {
	if o.Kubeconfig == "" {
		config, err = rest.InClusterConfig()
	} else {
		config, err = clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
	}
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = queriesPerSecond, queriesBurst
	config.UserAgent = o.UserAgent
	measured(config, o.Requested)
	return config, nil
}

func newStore(core kubernetes.Interface, networks nadclient.Interface, claims *claims, members *members, o Options) (*Store, error) {
	ofNode := informers.WithTweakListOptions(func(options *metav1.ListOptions) {
		options.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", o.Node).String()
	})
	s := &Store{
		node:     o.Node,
		log:      o.Log,
		core:     core,
		networks: networks,
		claims:   claims,
		members:  members,
		podCache: informers.NewSharedInformerFactoryWithOptions(core, 0, ofNode).Core().V1().Pods().Informer(),
		networkCache: nadinformers.NewSharedInformerFactory(networks, 0).
			K8sCniCncfIo().V1().NetworkAttachmentDefinitions().Informer(),
	}
	s.pods = cache.NewIntegerResourceVersionMutationCache(klog.Background(), s.podCache.GetStore(), nil, writtenFor, false)
	s.events, s.recorder = newRecorder(o.Node)
	return s, errors.Join(
		s.podCache.SetTransform(trimmed),
		s.networkCache.SetTransform(trimmed),
		s.podCache.SetWatchErrorHandlerWithContext(s.watchFailed("pods")),
		s.networkCache.SetWatchErrorHandlerWithContext(s.watchFailed("NetworkAttachmentDefinitions")),
	)
}

// trimmed takes from an object, before it is cached, what nobody here reads and
// makes up much of it.
func trimmed(object any) (any, error) {
	if accessor, err := meta.Accessor(object); err == nil {
		accessor.SetManagedFields(nil)
	}
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil
	}
	pod.Spec.Volumes = nil
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			c := &containers[i]
			c.Env, c.EnvFrom, c.Command, c.Args, c.VolumeMounts = nil, nil, nil, nil, nil
		}
	}
	return pod, nil
}

// watchFailed says so; the watch itself begins anew, ever more slowly.
func (s *Store) watchFailed(what string) cache.WatchErrorHandlerWithContext {
	return func(_ context.Context, _ *cache.Reflector, err error) {
		if !apierrors.IsResourceExpired(err) && !errors.Is(err, context.Canceled) {
			s.failures.add(what)
			s.log.Warn("watching the Kubernetes API", "what", what, "err", err)
		}
	}
}

// Run watches until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	stop := s.startEvents()
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { s.podCache.RunWithContext(ctx); return nil })
	group.Go(func() error { s.networkCache.RunWithContext(ctx); return nil })
	group.Go(func() error { s.claims.run(ctx); return nil })
	group.Go(func() error { s.members.run(ctx); return nil })
	return group.Wait()
}

// Close ends what Run has not.
func (s *Store) Close() error {
	s.events.Shutdown()
	return nil
}

// Synced tells that the watches know all that there is.
func (s *Store) Synced() bool { return s.podCache.HasSynced() && s.networkCache.HasSynced() }

// WaitForPods waits until the pods of the node are known, or ctx ends.
func (s *Store) WaitForPods(ctx context.Context) bool {
	return cache.WaitForCacheSync(ctx.Done(), s.podCache.HasSynced)
}

// OnPod has changed called for every pod of the node whenever it may have changed,
// or is gone. It must return at once. It is to be called before Run.
func (s *Store) OnPod(changed func(pod attachment.Pod)) error {
	tell := func(object any) {
		if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = gone.Obj
		}
		if pod, ok := object.(*corev1.Pod); ok {
			changed(PodOf(pod))
		}
	}
	_, err := s.podCache.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: tell, UpdateFunc: func(_, now any) { tell(now) }, DeleteFunc: tell,
	})
	return err
}

// OnNetwork has changed called with the name, namespace/name, of every network that there
// is, and whenever one may have changed. It must return at once. It is to be called
// before Run.
func (s *Store) OnNetwork(changed func(network string)) error {
	tell := func(object any) {
		if network, ok := object.(*nadv1.NetworkAttachmentDefinition); ok {
			changed(network.Namespace + "/" + network.Name)
		}
	}
	_, err := s.networkCache.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: tell, UpdateFunc: func(_, now any) { tell(now) },
	})
	return err
}

// ResourceClaims reads what DRA has allocated.
func (s *Store) ResourceClaims() devices.ClaimReader { return devices.Cluster{Client: s.core} }

// PodOf names a pod.
func PodOf(pod *corev1.Pod) attachment.Pod {
	return attachment.Pod{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)}
}

// Pods lists the pods of the node as they were last seen.
func (s *Store) Pods() []*corev1.Pod {
	var pods []*corev1.Pod
	for _, object := range s.podCache.GetStore().List() {
		if pod, ok := object.(*corev1.Pod); ok {
			pods = append(pods, pod)
		}
	}
	return pods
}

// Pod finds a pod, which is not to be changed. Where the watch does not know it, or
// knows another of its name, it is read at once. The error is cni.ErrNotFound when
// there is none.
func (s *Store) Pod(ctx context.Context, wanted attachment.Pod) (*corev1.Pod, error) {
	if pod := s.Known(wanted); pod != nil {
		return pod, nil
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	pod, err := s.core.CoreV1().Pods(wanted.Namespace).Get(ctx, wanted.Name, metav1.GetOptions{})
	if err != nil {
		return nil, asking("pod", wanted.Namespace, wanted.Name, err)
	}
	return pod, nil
}

// Known is a pod of the node as it was last seen or written here, which is not to be
// changed; nil where the watch does not know it.
func (s *Store) Known(wanted attachment.Pod) *corev1.Pod {
	object, found, _ := s.pods.GetByKey(wanted.Namespace + "/" + wanted.Name)
	if pod, ok := object.(*corev1.Pod); found && ok && isIt(pod, wanted) {
		return pod
	}
	return nil
}

func isIt(pod *corev1.Pod, wanted attachment.Pod) bool {
	return wanted.UID == "" || string(pod.UID) == wanted.UID || cni.IsStatic(pod, wanted.UID)
}

// Network finds a network, which is not to be changed. One that the watch does not
// know is read at once. The error is cni.ErrNotFound when there is none.
func (s *Store) Network(ctx context.Context, namespace, name string) (*nadv1.NetworkAttachmentDefinition, error) {
	object, found, _ := s.networkCache.GetStore().GetByKey(namespace + "/" + name)
	if network, ok := object.(*nadv1.NetworkAttachmentDefinition); found && ok {
		return network, nil
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	network, err := s.networks.K8sCniCncfIoV1().NetworkAttachmentDefinitions(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, asking("NetworkAttachmentDefinition", namespace, name, err)
	}
	return network, nil
}

// notFoundError is the error of an object that the cluster does not have.
type notFoundError struct{ object string }

func (e *notFoundError) Error() string { return "the cluster has no " + e.object }

func (e *notFoundError) Unwrap() error { return cni.ErrNotFound }

// asking makes an error of one of the API server's. What the API server does not say
// itself is told apart from that it says that there is none.
func asking(kind, namespace, name string, err error) error {
	if apierrors.IsNotFound(err) {
		return &notFoundError{kind + " " + namespace + "/" + name}
	}
	return &awayError{fmt.Errorf("asking the Kubernetes API for %s %s/%s: %w", kind, namespace, name, err)}
}

// awayError is the error of an API server that did not answer as it should.
type awayError struct{ error }

func (e *awayError) Unwrap() []error { return []error{cni.ErrAway, e.error} }
