// SPDX-License-Identifier: Apache-2.0

// Package collector is an OpenTelemetry collector for tests: it takes spans by OTLP over
// HTTP and keeps them.
package collector

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Span is a span, with the attributes of what made it under Resource.
type Span struct {
	*tracepb.Span
	Attributes, Resource map[string]string
}

// Collector keeps the spans that it was sent.
type Collector struct {
	mu     sync.Mutex
	spans  []Span
	status int
}

// Serve takes spans from a listener until the test ends.
func Serve(tb testing.TB, listener net.Listener) *Collector {
	c := &Collector{status: http.StatusOK}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", func(w http.ResponseWriter, r *http.Request) {
		status, err := c.take(r)
		if err != nil {
			tb.Errorf("what was sent to the collector: %v", err)
			status = http.StatusBadRequest
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
		w.WriteHeader(status)
	})
	server := &http.Server{Handler: mux}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			tb.Errorf("the collector: %v", err)
		}
	}()
	tb.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return c
}

// Answer has the collector answer with an HTTP status from now on; with another than 200 it
// keeps nothing.
func (c *Collector) Answer(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = status
}

// Spans are those that were sent so far.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Span(nil), c.spans...)
}

func (c *Collector) take(r *http.Request) (int, error) {
	if kind := r.Header.Get("Content-Type"); kind != "application/x-protobuf" {
		return 0, fmt.Errorf("it is %q", kind)
	}
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		unpacked, err := gzip.NewReader(body)
		if err != nil {
			return 0, err
		}
		body = unpacked
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return 0, err
	}
	var sent coltracepb.ExportTraceServiceRequest
	if err := proto.Unmarshal(data, &sent); err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status == http.StatusOK {
		c.spans = append(c.spans, spansOf(&sent)...)
	}
	return c.status, nil
}

func spansOf(sent *coltracepb.ExportTraceServiceRequest) []Span {
	var spans []Span
	for _, of := range sent.ResourceSpans {
		for _, scope := range of.ScopeSpans {
			for _, span := range scope.Spans {
				spans = append(spans, Span{Span: span, Attributes: textOf(span.Attributes), Resource: textOf(of.Resource.Attributes)})
			}
		}
	}
	return spans
}

func textOf(attributes []*commonpb.KeyValue) map[string]string {
	text := map[string]string{}
	for _, a := range attributes {
		text[a.Key] = a.Value.GetStringValue()
	}
	return text
}
