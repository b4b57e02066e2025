// SPDX-License-Identifier: Apache-2.0

package traces

import (
	"bytes"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-cni/weir/tests/collector"
)

// variables are those of this package, which a test begins without.
var variables = []string{"OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
	"OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME"}

func setEnvironment(t *testing.T, pairs ...string) {
	t.Helper()
	for _, name := range variables {
		t.Setenv(name, "")
	}
	for _, pair := range pairs {
		name, value, _ := strings.Cut(pair, "=")
		t.Setenv(name, value)
	}
}

func TestTheEnvironmentDecides(t *testing.T) {
	const endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318"
	for _, test := range []struct {
		name string
		env  []string
		on   bool
		want string // of the error
	}{
		{name: "nothing is said"},
		{name: "an endpoint", env: []string{endpoint}, on: true},
		{name: "an endpoint of traces", env: []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=https://collector/v1/traces"}, on: true},
		{name: "an exporter", env: []string{"OTEL_TRACES_EXPORTER=otlp"}, on: true},
		{name: "an endpoint and no exporter", env: []string{endpoint, "OTEL_TRACES_EXPORTER=none"}},
		{name: "disabled", env: []string{endpoint, "OTEL_SDK_DISABLED=true"}},
		{name: "the protocol", env: []string{endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"}, on: true},
		{name: "another exporter", env: []string{"OTEL_TRACES_EXPORTER=zipkin"}, want: `OTEL_TRACES_EXPORTER is "zipkin": want otlp or none`},
		{name: "another protocol", env: []string{endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}, want: `OTEL_EXPORTER_OTLP_PROTOCOL is "grpc": want http/protobuf`},
		{name: "another protocol for traces", env: []string{endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/json"},
			want: `OTEL_EXPORTER_OTLP_TRACES_PROTOCOL is "http/json"`},
		{name: "the protocol for traces alone", env: []string{endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf"}, on: true},
		{name: "an endpoint without a scheme", env: []string{"OTEL_EXPORTER_OTLP_ENDPOINT=collector:4318"}, want: `OTEL_EXPORTER_OTLP_ENDPOINT is "collector:4318": want a URL`},
		{name: "no host", env: []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http:///v1/traces"}, want: "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"},
		{name: "no attributes", env: []string{endpoint, "OTEL_RESOURCE_ATTRIBUTES=rubbish"}, want: "OTEL_RESOURCE_ATTRIBUTES"},
	} {
		t.Run(test.name, func(t *testing.T) {
			setEnvironment(t, test.env...)
			p, err := Open(t.Context(), Options{Log: slog.New(slog.DiscardHandler)})
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Fatalf("the error is %v, want %q in it", err, test.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			_, span := p.Tracer("test").Start(t.Context(), "test")
			if span.IsRecording() != test.on {
				t.Errorf("recording is %t, want %t", span.IsRecording(), test.on)
			}
			// Nothing ended, so nothing is left to send.
			for range 2 {
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestSpansAreSentWithWhatMadeThem(t *testing.T) {
	listener := listen(t)
	sent := collector.Serve(t, listener)
	setEnvironment(t, "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+listener.Addr().String(), "OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=lab,k8s.node.name=other")
	p := mustOpen(t, slog.DiscardHandler)
	end(t, p)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	spans := sent.Spans()
	if len(spans) != 1 {
		t.Fatalf("%d spans were sent, want 1", len(spans))
	}
	for name, want := range map[string]string{
		"service.name": "weir-agent", "service.version": "v1.2.3", "k8s.node.name": "other",
		"deployment.environment.name": "lab", "telemetry.sdk.name": "opentelemetry",
	} {
		if got := spans[0].Resource[name]; got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// What cannot be sent is said once, and that it can be sent again once.
func TestACollectorThatRefuses(t *testing.T) {
	listener := listen(t)
	sent := collector.Serve(t, listener)
	setEnvironment(t, "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+listener.Addr().String())
	var log buffer
	p := mustOpen(t, slog.NewTextHandler(&log, nil))
	for _, status := range []int{http.StatusForbidden, http.StatusForbidden, http.StatusOK, http.StatusOK} {
		sent.Answer(status)
		end(t, p)
		if err := p.sdk.ForceFlush(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	for _, once := range []string{"traces cannot be sent", "traces are sent again"} {
		if n := strings.Count(log.String(), once); n != 1 {
			t.Errorf("%q is in the log %d times:\n%s", once, n, log.String())
		}
	}
	if n := len(sent.Spans()); n != 2 {
		t.Errorf("%d spans were taken, want 2", n)
	}
}

// A collector that takes connections and never answers holds neither a span up nor the end.
func TestACollectorThatHangs(t *testing.T) {
	setEnvironment(t, "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+listen(t).Addr().String())
	p := mustOpen(t, slog.DiscardHandler)
	began := time.Now()
	for range 10_000 {
		end(t, p)
	}
	if took := time.Since(began); took > flushTimeout {
		t.Errorf("10000 spans took %s", took)
	}
	began = time.Now()
	if err := p.Close(); err == nil {
		t.Error("Close says that all was sent")
	}
	if took := time.Since(began); took > 2*flushTimeout {
		t.Errorf("Close took %s, want about %s", took, flushTimeout)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

func mustOpen(t *testing.T, handler slog.Handler) *Provider {
	t.Helper()
	p, err := Open(t.Context(), Options{Version: "v1.2.3", Node: "node1", Log: slog.New(handler)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// end makes a span and ends it.
func end(t *testing.T, p *Provider) {
	t.Helper()
	_, span := p.Tracer("test").Start(t.Context(), "test")
	span.End()
}

// buffer is a log that several write to.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(line)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
