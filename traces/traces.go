// SPDX-License-Identifier: Apache-2.0

package traces

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// flushTimeout bounds the time that the last spans have to reach the collector.
const flushTimeout = 3 * time.Second

// protocol is the one of OTLP's that is spoken.
const protocol = "http/protobuf"

// Options say whose spans these are.
type Options struct {
	// Version is that of the agent.
	Version string
	// Node is the node's name in its cluster; empty without one.
	Node string
	// Log is told when spans cannot be sent, and when they can be again.
	Log *slog.Logger
}

// Provider makes the tracers whose spans are sent; none are where the environment does
// not ask for it.
type Provider struct {
	trace.TracerProvider
	sdk *sdktrace.TracerProvider // nil for none
}

// Open reads the variables of OpenTelemetry from the environment: spans are sent when
// OTEL_TRACES_EXPORTER is otlp, or, without it, when a variable names an OTLP endpoint. It
// does not look for the collector.
func Open(ctx context.Context, o Options) (*Provider, error) {
	wanted, err := isWanted()
	if err != nil {
		return nil, err
	}
	if !wanted {
		return &Provider{TracerProvider: noop.NewTracerProvider()}, nil
	}
	about, err := resourceOf(ctx, &o)
	if err != nil {
		return nil, err
	}
	client, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening the exporter of traces: %w", err)
	}
	sdk := sdktrace.NewTracerProvider(sdktrace.WithResource(about), sdktrace.WithBatcher(&exporter{SpanExporter: client, log: o.Log}))
	return &Provider{TracerProvider: sdk, sdk: sdk}, nil
}

// Close sends what is left to send, or gives up after a time. It may be called again.
func (p *Provider) Close() error {
	if p.sdk == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	if err := p.sdk.Shutdown(ctx); err != nil {
		return fmt.Errorf("sending the last traces: %w", err)
	}
	return nil
}

// endpoints are the variables that name a collector.
func endpoints() []string {
	return []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"}
}

func isWanted() (bool, error) {
	if os.Getenv("OTEL_SDK_DISABLED") == "true" {
		return false, nil
	}
	switch exporter := os.Getenv("OTEL_TRACES_EXPORTER"); exporter {
	case "otlp":
	case "none":
		return false, nil
	case "":
		if os.Getenv(endpoints()[0]) == "" && os.Getenv(endpoints()[1]) == "" {
			return false, nil
		}
	default:
		return false, fmt.Errorf("OTEL_TRACES_EXPORTER is %q: want otlp or none", exporter)
	}
	return true, errors.Join(checkProtocol(), checkEndpoints())
}

func checkProtocol() error {
	for _, name := range []string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		if spoken := os.Getenv(name); spoken != "" {
			if spoken != protocol {
				return fmt.Errorf("%s is %q: want %s", name, spoken, protocol)
			}
			return nil
		}
	}
	return nil
}

// checkEndpoints finds what the exporter would pass over, to send to localhost instead.
func checkEndpoints() error {
	for _, name := range endpoints() {
		endpoint := os.Getenv(name)
		if endpoint == "" {
			continue
		}
		if u, err := url.Parse(endpoint); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("%s is %q: want a URL like http://collector:4318", name, endpoint)
		}
	}
	return nil
}

// resourceOf describes the agent. What the environment says of it comes last, and so holds.
func resourceOf(ctx context.Context, o *Options) (*resource.Resource, error) {
	options := []resource.Option{
		resource.WithSchemaURL(semconv.SchemaURL),
		resource.WithTelemetrySDK(),
		resource.WithAttributes(semconv.ServiceName("weir-agent"), semconv.ServiceVersion(o.Version)),
	}
	if o.Node != "" {
		options = append(options, resource.WithAttributes(semconv.K8SNodeName(o.Node)))
	}
	about, err := resource.New(ctx, append(options, resource.WithFromEnv())...)
	if err != nil {
		return nil, fmt.Errorf("reading OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	return about, nil
}

// exporter tells once that spans cannot be sent, and once that they can be again.
type exporter struct {
	sdktrace.SpanExporter
	log    *slog.Logger
	failed atomic.Bool
}

// ExportSpans implements sdktrace.SpanExporter. Spans that cannot be sent are lost.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	switch {
	case err != nil && !e.failed.Swap(true):
		e.log.Warn("traces cannot be sent", "err", err)
	case err == nil && e.failed.Swap(false):
		e.log.Info("traces are sent again")
	}
	return nil
}
