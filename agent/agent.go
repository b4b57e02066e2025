// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/weir-cni/weir/cni"
	"github.com/weir-cni/weir/devices"
	"github.com/weir-cni/weir/install"
	"github.com/weir-cni/weir/kube"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/manifests"
	"github.com/weir-cni/weir/metrics"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/runner"
	"github.com/weir-cni/weir/state"
	"github.com/weir-cni/weir/traces"
)

// Options say where an agent finds and keeps things. Agents whose options differ
// in every path run side by side.
type Options struct {
	// Manifests is the folder of NetworkAttachmentDefinitions and pods; empty where
	// they are a Kubernetes cluster's.
	Manifests string
	// Kubeconfig says how the cluster is reached; empty for the service account of the
	// pod that the agent runs in.
	Kubeconfig string
	// Node is the node's name in the cluster.
	Node string
	// KubeletSocket is where the kubelet tells which devices it gave a pod.
	KubeletSocket string
	// Socket is the unix socket on which the plugin and weirctl are served.
	Socket string
	// StateDir holds the records of sandboxes.
	StateDir string
	// BPFDir holds the pins of every attachment. bpffs is mounted where it is
	// missing.
	BPFDir string
	// CNIBinDir is where executed plugins are.
	CNIBinDir string
	// Plugins says how they are executed.
	Plugins runner.Options
	// Install puts the plugin and weir's entry in their places on the node and keeps
	// them there; without a Plugin nothing is installed. Its BinDir is CNIBinDir.
	Install install.Options
	// Settings is a file with further keys of weir's entry; empty for none.
	Settings string
	// MetricsAddress is the host:port of the Prometheus endpoint; empty for none.
	MetricsAddress string
	// MetricsConfig is a file with the TLS and the authentication of that endpoint, in the
	// format of Prometheus's exporters; empty for neither.
	MetricsConfig string
	// PageAddress is the host:port of the agent's page, of loopback; empty for the socket
	// alone.
	PageAddress string
	// Profiles serves the profiles of the process there too, below /debug/pprof/.
	Profiles bool
	// Version is the version of the agent, for the metric weir_build_info.
	Version string
	// Log takes what an operator must know, from LogLevel on.
	Log      *slog.Logger
	LogLevel *slog.LevelVar
}

// statusDir is the directory of network statuses within Options.StateDir.
const statusDir = "network-status"

// Run is an agent's life: it takes over what is there, and serves until ctx ends
// or something that it cannot do without fails.
func Run(ctx context.Context, o Options) error {
	if err := errors.Join(o.validateMetricsConfig(), o.validatePage()); err != nil {
		return err
	}
	a, err := open(ctx, o)
	if err != nil {
		return err
	}
	defer a.close()
	a.reconcile(ctx)
	return a.serve(ctx)
}

// agent is an agent's parts. The closers run in reverse when it ends.
type agent struct {
	options  Options
	log      *slog.Logger
	plugin   *cni.Plugin
	registry *registry
	segments *segments
	store    store
	networks *networkFollower
	follower *podFollower    // nil without a cluster
	devices  cni.Allocations // nil without a cluster
	claims   cni.Claims      // nil without a cluster
	keeper   *claimKeeper    // nil without a cluster
	metrics  *metrics.Handler
	// operations measures the requests of the runtime.
	operations *metrics.Operations
	requests   *metrics.Requests // of the Kubernetes API
	// work measures what the agent does beside them.
	work *metrics.Work
	// tracer makes their spans.
	tracer  trace.Tracer
	locks   keyedMutex
	closers []io.Closer
}

// store is where pods and networks come from.
type store interface {
	cni.Store
	census
	io.Closer
	// OnNetwork has changed called with the name, namespace/name, of every network that
	// there is, and whenever one may have changed. It is to be called before Run.
	OnNetwork(changed func(network string)) error
	// Run follows what changes until ctx ends.
	Run(ctx context.Context) error
}

func open(ctx context.Context, o Options) (*agent, error) {
	a := &agent{options: o, log: o.Log, requests: metrics.NewRequests()}
	if err := a.openParts(ctx); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

func (a *agent) openParts(ctx context.Context) error {
	if err := loader.EnsureFilesystem(a.options.BPFDir); err != nil {
		return err
	}
	// It sends what is left when all else is closed, so that another agent need not wait for it.
	spans, err := traces.Open(ctx, traces.Options{Version: a.options.Version, Node: a.options.Node, Log: a.log})
	if err != nil {
		return err
	}
	a.closers = append(a.closers, spans)
	a.tracer = spans.Tracer("github.com/weir-cni/weir/agent")
	lock, err := lockDir(a.options.StateDir)
	if err != nil {
		return err
	}
	a.closers = append(a.closers, lock)
	records, err := state.Open(filepath.Join(a.options.StateDir, state.RecordsDir))
	if err != nil {
		return fmt.Errorf("opening the records: %w", err)
	}
	host, err := netns.Current()
	if err != nil {
		return fmt.Errorf("opening the node's network namespace: %w", err)
	}
	a.closers = append(a.closers, host)
	events, err := a.openStore()
	if err != nil {
		return err
	}
	a.closers = append(a.closers, a.store)
	a.networks = newNetworkFollower(a)
	if err := a.store.OnNetwork(a.networks.note); err != nil {
		return err
	}
	plugins, err := runner.New(a.options.Plugins)
	if err != nil {
		return err
	}
	leases, err := state.OpenLeases(filepath.Join(a.options.StateDir, state.LeasesDir))
	if err != nil {
		return fmt.Errorf("opening the leases: %w", err)
	}
	loads, err := loader.New()
	if err != nil {
		return err
	}
	if a.segments, err = newSegments(loads, a.store, a.log); err != nil {
		return err
	}
	a.work = metrics.NewWork()
	a.registry = newRegistry(loads, a.segments, host, a.options.BPFDir, a.locks.lock, a.log)
	a.registry.measure = a.work.Begin
	a.closers = append(a.closers, a.registry)
	a.operations = metrics.NewOperations()
	more := append(a.clusterMetrics(), metrics.Plugins(plugins.Running, plugins.Waiting)...)
	more = append(more, a.operations, a.work, metrics.Segments(a.segments.sizes), metrics.Features(loader.Features()))
	a.metrics = metrics.New(a.registry, a.options.Node, a.options.Version, more...)
	a.plugin = &cni.Plugin{
		Networks: a.announced(),
		Events:   events,
		Devices:  a.devices,
		Claims:   a.claims,
		Leases:   leases,
		Guards:   a.registry,
		Records:  records,
		Host:     host,
		BinDir:   a.options.CNIBinDir,
		BPFDir:   a.options.BPFDir,
		CacheDir: a.options.StateDir,
		Meter:    a.operations,
		Exec:     plugins,
		Log:      a.log,
	}
	a.registry.specOf = a.plugin.GuardSpec
	if events != nil {
		a.registry.report = events.Report
	}
	return nil
}

// openStore opens what the options name, and what takes its pods' events.
func (a *agent) openStore() (cni.Reporter, error) {
	if a.options.Manifests != "" {
		folder, err := manifests.Open(a.options.Manifests, filepath.Join(a.options.StateDir, statusDir), a.log)
		if err != nil {
			return nil, fmt.Errorf("opening the manifests: %w", err)
		}
		a.store = folder
		return nil, nil
	}
	cluster, err := kube.Open(kube.Options{
		Kubeconfig: a.options.Kubeconfig, Node: a.options.Node, UserAgent: "weir-agent/" + a.options.Version,
		Requested: a.requests.Done, Log: a.log,
	})
	if err != nil {
		return nil, err
	}
	a.store, a.follower = cluster, newPodFollower(a, cluster)
	kubelet, err := devices.NewKubelet(a.options.KubeletSocket, a.log)
	if err != nil {
		return nil, err
	}
	a.closers = append(a.closers, kubelet)
	a.devices = &devices.Node{Name: a.options.Node, Kubelet: kubelet, Claims: cluster.ResourceClaims()}
	a.keeper = newClaimKeeper(a, cluster)
	a.claims = a.keeper
	return cluster, errors.Join(cluster.OnPod(a.follower.note), cluster.OnClaimGone(a.keeper.note))
}

// announced is the store, with what becomes of a cluster's pods told to the members of their
// segments.
func (a *agent) announced() cni.Store {
	if cluster, ok := a.store.(*kube.Store); ok {
		return &announcer{cluster, a.segments}
	}
	return a.store
}

// clusterMetrics are those of an agent in a cluster.
func (a *agent) clusterMetrics() []prometheus.Collector {
	if a.follower == nil {
		return nil
	}
	cluster := a.follower.store
	return []prometheus.Collector{metrics.Missed(a.follower.Missed), a.requests, metrics.Watches(cluster.Cached, cluster.WatchFailures)}
}

func (a *agent) close() {
	for i := len(a.closers) - 1; i >= 0; i-- {
		if err := a.closers[i].Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			a.log.Error("closing", "err", err)
		}
	}
}

func (a *agent) serve(ctx context.Context) error {
	l, err := a.listen()
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.store.Run(ctx) })
	group.Go(func() error { return a.segments.run(ctx) })
	group.Go(func() error { return a.registry.promote(ctx) })
	group.Go(func() error { return a.registry.warden.run(ctx) })
	group.Go(func() error { return a.registry.masters.run(ctx) })
	group.Go(func() error { return a.networks.run(ctx) })
	group.Go(func() error { return a.watchDevices(ctx) })
	group.Go(func() error { return a.serveSocket(ctx, l.socket) })
	if a.options.Install.Plugin != "" {
		group.Go(func() error { return a.keepInstalled(ctx) })
	}
	if a.follower != nil {
		group.Go(func() error { return a.follower.run(ctx) })
		group.Go(func() error { return a.keeper.run(ctx) })
	}
	if l.metrics != nil {
		group.Go(func() error { return a.serveMetrics(ctx, l.metrics) })
	}
	if l.page != nil {
		group.Go(func() error { return a.servePage(ctx, l.page) })
	}
	return group.Wait()
}
