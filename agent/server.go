// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/cni"
	"github.com/weir-cni/weir/inspect"
	"github.com/weir-cni/weir/kube"
)

const (
	// requestMax bounds the body of a request: a configuration with its cache
	// of results stays far below.
	requestMax = 16 << 20
	// headerTimeout bounds the time that a peer takes to send its header.
	headerTimeout = 10 * time.Second
	// stopTimeout bounds the time that requests under way have to end.
	stopTimeout = 10 * time.Second
)

func (a *agent) serveSocket(ctx context.Context, listener net.Listener) error {
	a.log.Info("serving", "socket", a.options.Socket)
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+api.CNIPath, a.handleCNI)
	if err := a.handlePage(mux); err != nil {
		return err
	}
	mux.HandleFunc("GET "+api.DropsPath, a.dropsUntil(ctx))
	mux.Handle("GET "+api.MetricsPath, a.metrics)
	mux.HandleFunc("GET "+api.LogLevelPath, a.handleLogLevel)
	mux.HandleFunc("PUT "+api.LogLevelPath, a.handleSetLogLevel)
	handleHealth(mux)
	browsers, err := a.pageForBrowsers()
	if err != nil {
		return err
	}
	return serve(ctx, listener, byClient(mux, browsers))
}

func handleHealth(mux *http.ServeMux) {
	mux.HandleFunc("GET "+api.HealthPath, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
}

// handleReady answers whether the agent knows what its cluster has.
func (a *agent) handleReady(w http.ResponseWriter, _ *http.Request) {
	if cluster, ok := a.store.(*kube.Store); ok && !cluster.Synced() {
		http.Error(w, "the pods and networks of the cluster are not known yet", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// listeners are where an agent is to be reached.
type listeners struct {
	socket  net.Listener
	metrics net.Listener // nil unless asked for
	page    net.Listener // nil unless asked for
}

// listen opens the socket last: who is answered there finds the others, too.
func (a *agent) listen() (l listeners, err error) {
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if a.options.MetricsAddress != "" {
		if l.metrics, err = net.Listen("tcp", a.options.MetricsAddress); err != nil {
			return l, fmt.Errorf("listening for metrics: %w", err)
		}
	}
	if a.options.PageAddress != "" {
		if l.page, err = net.Listen("tcp", a.options.PageAddress); err != nil {
			return l, fmt.Errorf("listening for the page: %w", err)
		}
	}
	l.socket, err = listenSocket(a.options.Socket)
	return l, err
}

func (l listeners) close() {
	for _, listener := range []net.Listener{l.metrics, l.page} {
		if listener != nil {
			_ = listener.Close()
		}
	}
}

// listenSocket takes the socket over from an agent that is gone. Only root may open it:
// who can write to it can have any plugin run.
func listenSocket(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("making the socket's directory: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("removing the socket of an earlier agent: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("restricting %s to root: %w", path, err), listener.Close())
	}
	return &rootListener{listener.(*net.UnixListener)}, nil
}

// rootListener turns away peers that are not root, also those that the mode of
// the socket let in before it was set.
type rootListener struct {
	*net.UnixListener
}

func (l *rootListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if isRoot(conn) {
			return conn, nil
		}
		_ = conn.Close()
	}
}

func isRoot(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	root := false
	err = raw.Control(func(fd uintptr) {
		peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		root = err == nil && peer.Uid == 0
	})
	return err == nil && root
}

// serve serves until ctx ends, then lets requests under way end.
func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: headerTimeout}
	return serveBy(ctx, server, listener.Addr(), func() error { return server.Serve(listener) })
}

// serveBy is serve, where start makes the server serve.
func serveBy(ctx context.Context, server *http.Server, address net.Addr, start func() error) error {
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		stopped <- server.Shutdown(deadline)
	})
	err := start()
	if stop() || !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving on %s: %w", address, err)
	}
	return <-stopped
}

func (a *agent) handleCNI(w http.ResponseWriter, r *http.Request) {
	var req api.CNIRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, requestMax)).Decode(&req); err != nil {
		http.Error(w, fmt.Sprintf("reading the request: %v", err), http.StatusBadRequest)
		return
	}
	began := time.Now()
	ctx, span := a.startSpan(r.Context(), &req)
	result, err := a.dispatch(ctx, &req)
	took := time.Since(began)
	cni.EndSpan(span, err)
	a.logRequest(&req, span, took, err)
	a.operations.Done(req.Command, codeOf(err), took)
	response, err := answer(result, err)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	a.reply(w, response)
}

// codeOf is the CNI code of an error; 0 for none.
func codeOf(err error) uint {
	if err == nil {
		return 0
	}
	return cni.Error(err).Code
}

func answer(result *current.Result, failure error) (*api.CNIResponse, error) {
	if failure != nil {
		return &api.CNIResponse{Error: cni.Error(failure)}, nil
	}
	if result == nil {
		return &api.CNIResponse{}, nil
	}
	data, err := json.Marshal(result)
	if err != nil {
		return nil, fmt.Errorf("writing the result: %w", err)
	}
	return &api.CNIResponse{Result: data}, nil
}

func (a *agent) logRequest(req *api.CNIRequest, span trace.Span, took time.Duration, err error) {
	pod, _ := cni.PodOf(req.Args) // what is wrong with CNI_ARGS is in the request's own error
	log := a.log.With("command", req.Command, "pod", pod.String(), "netif", req.IfName, "container_id", req.ContainerID, "took", took)
	if span.SpanContext().IsSampled() {
		log = log.With("trace_id", span.SpanContext().TraceID().String())
	}
	if err != nil {
		log.Error("request failed", "err", err)
		return
	}
	log.Info("request done")
}

// dispatch carries a request out. Those of one container come one after the
// other.
func (a *agent) dispatch(ctx context.Context, req *api.CNIRequest) (*current.Result, error) {
	switch req.Command {
	case "GC":
		return nil, a.plugin.GC(ctx, req, a.locks.lock)
	case "STATUS":
		return nil, a.plugin.Status(ctx, req)
	}
	defer a.locks.lock(req.ContainerID)()
	switch req.Command {
	case "ADD":
		return a.add(ctx, req)
	case "DEL":
		return nil, a.plugin.Del(ctx, req)
	case "CHECK":
		return nil, a.plugin.Check(ctx, req)
	default:
		return nil, types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("CNI_COMMAND %q is not known", req.Command), "")
	}
}

func (a *agent) add(ctx context.Context, req *api.CNIRequest) (*current.Result, error) {
	a.registry.adding.Add(1)
	defer a.registry.adding.Add(-1)
	return a.plugin.Add(ctx, req)
}

func (a *agent) handleAttachments(w http.ResponseWriter, _ *http.Request) {
	a.reply(w, inspect.List(a.registry.Attachments()))
}

func (a *agent) handleVersion(w http.ResponseWriter, _ *http.Request) {
	a.reply(w, api.VersionInfo{Version: a.options.Version})
}

func (a *agent) reply(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(value); err != nil {
		a.log.Debug("the peer went away before its answer", "err", err)
	}
}
