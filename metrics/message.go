// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"io"
	"math"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/weir-cni/weir/inspect"
)

// Numbers of the fields of io.prometheus.client's messages (metrics.proto of
// prometheus/client_model).
const (
	familyName, familyHelp, familyType, familyMetric = 1, 2, 3, 4
	metricLabel, metricGauge, metricCounter          = 1, 2, 3
	labelName, labelValue                            = 1, 2
	valueNumber                                      = 1 // of a gauge and of a counter
	counterCreated                                   = 3
	timestampSeconds, timestampNanos                 = 1, 2
)

// messageSink writes series as messages of protobuf, each a field of its metric's.
type messageSink struct {
	seriesBuffers
	// labels and created are those of the attachment at hand, as fields.
	labels, created []byte
	message, value  []byte // at hand
}

func (s *messageSink) family(w io.Writer, f *metric, series []byte) error {
	kind := dto.MetricType_GAUGE
	if f.kind == prometheus.CounterValue {
		kind = dto.MetricType_COUNTER
	}
	head := appendText(appendText(nil, familyName, f.name), familyHelp, f.help)
	head = protowire.AppendVarint(protowire.AppendTag(head, familyType, protowire.VarintType), uint64(kind))
	message := append(protowire.AppendVarint(nil, uint64(len(head)+len(series))), head...)
	if _, err := w.Write(message); err != nil {
		return err
	}
	_, err := w.Write(series)
	return err
}

func (s *messageSink) begin(a *inspect.Attachment) {
	s.labels = s.labels[:0]
	for i, value := range labelsOf(a) {
		s.labels = s.appendLabel(s.labels, attachmentLabels[i], value)
	}
	s.value = s.value[:0]
	if seconds := a.Created.Unix(); seconds != 0 {
		s.value = protowire.AppendVarint(protowire.AppendTag(s.value, timestampSeconds, protowire.VarintType), uint64(seconds))
	}
	if nanos := a.Created.Nanosecond(); nanos != 0 {
		s.value = protowire.AppendVarint(protowire.AppendTag(s.value, timestampNanos, protowire.VarintType), uint64(nanos))
	}
	s.created = appendField(s.created[:0], counterCreated, s.value)
}

// send gives a counter the birth of the attachment, as metricSink does.
func (s *messageSink) send(f *metric, _ *inspect.Attachment, value float64, more ...string) {
	s.message = append(s.message[:0], s.labels...)
	for i, text := range more {
		s.message = s.appendLabel(s.message, f.labels[len(attachmentLabels)+i], text)
	}
	s.finish(f, value, s.created)
}

func (s *messageSink) node(f *metric, value int) {
	s.message = s.message[:0]
	s.finish(f, float64(value), nil)
}

// finish adds the value to the message at hand, and the message to its metric's.
func (s *messageSink) finish(f *metric, value float64, created []byte) {
	s.value = protowire.AppendFixed64(protowire.AppendTag(s.value[:0], valueNumber, protowire.Fixed64Type), math.Float64bits(value))
	if f.kind == prometheus.CounterValue {
		s.message = appendField(s.message, metricCounter, append(s.value, created...))
	} else {
		s.message = appendField(s.message, metricGauge, s.value)
	}
	b := s.of(f)
	b.Write(appendField(b.AvailableBuffer(), familyMetric, s.message))
}

func (s *messageSink) appendLabel(to []byte, name, value string) []byte {
	s.value = appendText(appendText(s.value[:0], labelName, name), labelValue, value)
	return appendField(to, metricLabel, s.value)
}

func appendField(to []byte, number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(to, number, protowire.BytesType), value)
}

func appendText(to []byte, number protowire.Number, value string) []byte {
	return protowire.AppendString(protowire.AppendTag(to, number, protowire.BytesType), value)
}
