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

// textHandler answers scrapes. Of a node with many attachments there are many thousand series:
// in the text formats these are written as they are read, which takes a small part of what a
// registry takes. All else, and other formats, are the registries'.
type textHandler struct {
	collector *Collector
	others    prometheus.Gatherer
	whole     http.Handler
	running   chan struct{} // has room for the scrapes that are served at a time
	sinks     sync.Pool     // of *textSink, whose buffers have grown
}

// ServeHTTP answers a scrape.
func (h *textHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case h.running <- struct{}{}:
		defer func() { <-h.running }()
	default:
		http.Error(w, fmt.Sprintf("%d scrapes are served already, try again later.", cap(h.running)), http.StatusServiceUnavailable)
		return
	}
	format := expfmt.NegotiateAccept(r.Header, expfmt.DefaultOpenMetricsAcceptedFormats()...)
	isOpen := format.FormatType() == expfmt.TypeOpenMetrics
	if !isOpen && format.FormatType() != expfmt.TypeTextPlain {
		h.whole.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Content-Type", string(format))
	w.Header().Set("Vary", "Accept, Accept-Encoding")
	// An error is that of a peer who has gone.
	if !takesGzip(r.Header) {
		_ = h.write(w, format, isOpen)
		return
	}
	w.Header().Set("Content-Encoding", "gzip")
	packed, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err == nil {
		_ = errors.Join(h.write(packed, format, isOpen), packed.Close())
	}
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

func (h *textHandler) write(w io.Writer, format expfmt.Format, isOpen bool) error {
	text, ok := h.sinks.Get().(*textSink)
	if !ok {
		text = &textSink{series: map[*metric]*bytes.Buffer{}}
	}
	defer h.sinks.Put(text)
	text.reset()
	h.collector.walk(text)
	for _, f := range h.collector.all() {
		if series := text.series[f]; series != nil && series.Len() > 0 {
			if _, err := io.WriteString(w, f.header(isOpen)); err != nil {
				return err
			}
			if _, err := w.Write(series.Bytes()); err != nil {
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

// textSink writes series as both text formats have them.
type textSink struct {
	series map[*metric]*bytes.Buffer
	// labels are those of the attachment at hand.
	labels []byte
}

func (s *textSink) reset() {
	for _, b := range s.series {
		b.Reset()
	}
}

func (s *textSink) of(f *metric) *bytes.Buffer {
	b := s.series[f]
	if b == nil {
		b = &bytes.Buffer{}
		s.series[f] = b
	}
	return b
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
