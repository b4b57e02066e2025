// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/weir-cni/weir/inspect"
)

// seriesHandler answers scrapes. Of a node with many attachments there are many thousand
// series: these are written as they are read, which takes a small part of what a registry
// takes. All else, and rare formats, are the registries'.
type seriesHandler struct {
	collector       *Collector
	others          prometheus.Gatherer
	whole           http.Handler
	running         chan struct{} // has room for the scrapes that are served at a time
	texts, messages sync.Pool     // of *textSink and *messageSink, whose buffers have grown
}

// ServeHTTP answers a scrape.
func (h *seriesHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case h.running <- struct{}{}:
		defer func() { <-h.running }()
	default:
		http.Error(w, fmt.Sprintf("%d scrapes are served already, try again later.", cap(h.running)), http.StatusServiceUnavailable)
		return
	}
	format := expfmt.NegotiateAccept(r.Header, expfmt.DefaultOpenMetricsAcceptedFormats()...)
	if !isWritten(format) {
		h.whole.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Content-Type", string(format))
	w.Header().Set("Vary", "Accept, Accept-Encoding")
	// An error is that of a peer who has gone.
	if !takesGzip(r.Header) {
		_ = h.write(w, format)
		return
	}
	w.Header().Set("Content-Encoding", "gzip")
	packed, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err == nil {
		_ = errors.Join(h.write(packed, format), packed.Close())
	}
}

// isWritten tells whether series are written in a format, and not the registries' to make.
func isWritten(format expfmt.Format) bool {
	switch format.FormatType() {
	case expfmt.TypeOpenMetrics, expfmt.TypeTextPlain, expfmt.TypeProtoDelim:
		return true
	}
	return false
}

// takesGzip tells whether the peer takes a compressed answer (RFC 9110, 12.5.3).
func takesGzip(header http.Header) bool {
	for _, one := range strings.Split(header.Get("Accept-Encoding"), ",") {
		coding, weight, _ := strings.Cut(one, ";")
		if strings.TrimSpace(coding) == "gzip" {
			return strings.Trim(strings.TrimPrefix(strings.TrimSpace(weight), "q="), "0.") != "" || strings.TrimSpace(weight) == ""
		}
	}
	return false
}

// formatted is a sink that keeps series as a format has them.
type formatted interface {
	sink
	reset()
	// family writes a metric and its series.
	family(w io.Writer, f *metric, series []byte) error
	// of are the series of a metric.
	of(f *metric) *bytes.Buffer
}

// sinkFor is one for a format, and what takes it back.
func (h *seriesHandler) sinkFor(format expfmt.Format) (to formatted, done func()) {
	if format.FormatType() == expfmt.TypeProtoDelim {
		messages, ok := h.messages.Get().(*messageSink)
		if !ok {
			messages = &messageSink{seriesBuffers: seriesBuffers{}}
		}
		return messages, func() { h.messages.Put(messages) }
	}
	text, ok := h.texts.Get().(*textSink)
	if !ok {
		text = &textSink{seriesBuffers: seriesBuffers{}}
	}
	text.isOpen = format.FormatType() == expfmt.TypeOpenMetrics
	return text, func() { h.texts.Put(text) }
}

func (h *seriesHandler) write(w io.Writer, format expfmt.Format) error {
	to, done := h.sinkFor(format)
	defer done()
	to.reset()
	h.collector.walk(to)
	for _, f := range h.collector.all() {
		if series := to.of(f).Bytes(); len(series) > 0 {
			if err := to.family(w, f, series); err != nil {
				return err
			}
		}
	}
	// What could not be gathered is left out, as everywhere.
	others, _ := h.others.Gather()
	encoder := expfmt.NewEncoder(w, format)
	for _, f := range others {
		if err := encoder.Encode(f); err != nil {
			return err
		}
	}
	if closer, ok := encoder.(expfmt.Closer); ok {
		return closer.Close()
	}
	return nil
}

// header is what stands before the series. OpenMetrics calls a counter by its name without
// the suffix.
func (f *metric) header(isOpen bool) string {
	name, kind := f.name, "gauge"
	if f.kind == prometheus.CounterValue {
		kind = "counter"
		if isOpen {
			name = strings.TrimSuffix(name, "_total")
		}
	}
	return "# HELP " + name + " " + f.help + "\n# TYPE " + name + " " + kind + "\n"
}

// seriesBuffers are the series of each metric.
type seriesBuffers map[*metric]*bytes.Buffer

func (s seriesBuffers) reset() {
	for _, b := range s {
		b.Reset()
	}
}

func (s seriesBuffers) of(f *metric) *bytes.Buffer {
	b := s[f]
	if b == nil {
		b = &bytes.Buffer{}
		s[f] = b
	}
	return b
}

// textSink writes series as both text formats have them.
type textSink struct {
	seriesBuffers
	isOpen bool
	// labels are those of the attachment at hand.
	labels []byte
}

func (s *textSink) family(w io.Writer, f *metric, series []byte) error {
	if _, err := io.WriteString(w, f.header(s.isOpen)); err != nil {
		return err
	}
	_, err := w.Write(series)
	return err
}

func (s *textSink) begin(a *inspect.Attachment) {
	s.labels = append(s.labels[:0], '{')
	for i, value := range labelsOf(a) {
		s.labels = appendLabel(s.labels, attachmentLabels[i], value)
	}
}

func (s *textSink) send(f *metric, _ *inspect.Attachment, value float64, more ...string) {
	b := s.of(f)
	line := append(append(b.AvailableBuffer(), f.name...), s.labels...)
	for i, text := range more {
		line = appendLabel(line, f.labels[len(attachmentLabels)+i], text)
	}
	line[len(line)-1] = '}' // for the last comma
	line = append(line, ' ')
	if whole := uint64(value); float64(whole) == value {
		line = strconv.AppendUint(line, whole, 10)
	} else {
		line = strconv.AppendFloat(line, value, 'g', -1, 64)
	}
	b.Write(append(line, '\n'))
}

func (s *textSink) node(f *metric, value int) {
	fmt.Fprintf(s.of(f), "%s %d\n", f.name, value)
}

// needsEscape is strings.ContainsAny for what is short and hardly ever has any.
func needsEscape(value string) bool {
	for i := range len(value) {
		if c := value[i]; c == '\\' || c == '"' || c == '\n' {
			return true
		}
	}
	return false
}

// appendLabel appends a label and a comma.
func appendLabel(to []byte, name, value string) []byte {
	to = append(append(to, name...), '=', '"')
	if needsEscape(value) {
		value = strings.NewReplacer("\\", "\\\\", "\"", "\\\"", "\n", "\\n").Replace(value)
	}
	return append(append(to, value...), '"', ',')
}
