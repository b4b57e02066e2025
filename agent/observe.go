// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/exporter-toolkit/web"
	"go.opentelemetry.io/otel/trace"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/cni"
)

// serveMetrics serves the Prometheus endpoint and nothing else but health and, where the
// options want them, the profiles of the process.
func (a *agent) serveMetrics(ctx context.Context, listener net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", a.metrics)
	mux.HandleFunc("GET "+api.ReadyPath, a.handleReady)
	handleHealth(mux)
	if a.options.Profiles {
		handleProfiles(mux)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: headerTimeout}
	// It says where it listens, and whether there is TLS.
	flags := &web.FlagConfig{WebConfigFile: &a.options.MetricsConfig}
	return serveBy(ctx, server, listener.Addr(), func() error { return web.Serve(listener, server, flags, a.log.With("serving", "metrics")) })
}

// handleProfiles serves what go tool pprof asks for.
func handleProfiles(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
}

// validateMetricsConfig finds what is wrong with the file before anything is served.
func (o *Options) validateMetricsConfig() error {
	if err := web.Validate(o.MetricsConfig); err != nil {
		return fmt.Errorf("the configuration of the metrics endpoint, %s: %w", o.MetricsConfig, err)
	}
	return nil
}

// startSpan begins the span of a request that attaches or detaches a pod; that of another is
// none.
func (a *agent) startSpan(ctx context.Context, req *api.CNIRequest) (context.Context, trace.Span) {
	if req.Command != "ADD" && req.Command != "DEL" {
		return ctx, trace.SpanFromContext(ctx)
	}
	return a.tracer.Start(ctx, "CNI "+req.Command, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(cni.SpanAttributes(req)...))
}

func (a *agent) handleLogLevel(w http.ResponseWriter, _ *http.Request) {
	a.reply(w, api.LogLevel{Level: a.options.LogLevel.Level()})
}

// handleSetLogLevel changes what is logged from now on, until the agent ends.
func (a *agent) handleSetLogLevel(w http.ResponseWriter, r *http.Request) {
	var wanted api.LogLevel
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, requestMax)).Decode(&wanted); err != nil {
		http.Error(w, fmt.Sprintf("reading the log level: %v", err), http.StatusBadRequest)
		return
	}
	was := a.options.LogLevel.Level()
	a.options.LogLevel.Set(wanted.Level)
	a.log.Log(r.Context(), max(wanted.Level, slog.LevelInfo), "the log level was changed", "from", was.String(), "to", wanted.Level.String())
	a.reply(w, wanted)
}
