// SPDX-License-Identifier: Apache-2.0

// Package traces sends the spans of requests to an OpenTelemetry collector, where the
// environment asks for it. It holds the SDK: who makes spans needs the API alone. Spans
// wait in a queue of their own, and are dropped when it is full, so that no request
// waits for a collector.
package traces
