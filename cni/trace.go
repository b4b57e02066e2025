// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/state"
)

// traceScope names what makes the spans.
const traceScope = "github.com/weir-cni/weir/cni"

// traced does a part of a request in a span of its own. Where the context has no span the
// request is not traced, and this costs next to nothing.
func traced(ctx context.Context, name string, do func(ctx context.Context) error, attributes ...attribute.KeyValue) error {
	tracer := trace.SpanFromContext(ctx).TracerProvider().Tracer(traceScope, trace.WithSchemaURL(semconv.SchemaURL))
	ctx, span := tracer.Start(ctx, name, trace.WithAttributes(attributes...))
	err := do(ctx)
	EndSpan(span, err)
	return err
}

// EndSpan ends the span of a request, or of a part of one, with what came of it.
func EndSpan(span trace.Span, err error) {
	defer span.End()
	if err == nil || !span.IsRecording() {
		return
	}
	span.RecordError(err)
	span.SetStatus(codes.Error, err.Error())
	span.SetAttributes(semconv.ErrorTypeKey.String(strconv.FormatUint(uint64(Error(err).Code), 10)))
}

// SpanAttributes say which container, pod and interface a request is about.
func SpanAttributes(req *api.CNIRequest) []attribute.KeyValue {
	all := []attribute.KeyValue{semconv.ContainerID(req.ContainerID), semconv.NetworkInterfaceName(req.IfName)}
	pod, err := PodOf(req.Args)
	if err != nil || pod.Name == "" {
		return all
	}
	return append(all, semconv.K8SNamespaceName(pod.Namespace), semconv.K8SPodName(pod.Name), semconv.K8SPodUID(pod.UID))
}

// networkAttributes say which network and interface a span is about.
func networkAttributes(d *state.Delegate) []attribute.KeyValue {
	return []attribute.KeyValue{attribute.String("weir.network.name", d.Network), semconv.NetworkInterfaceName(d.Interface)}
}
