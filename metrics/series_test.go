// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/protobuf/testing/protocmp"

	dto "github.com/prometheus/client_model/go"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/inspect"
	"github.com/weir-cni/weir/policy"
)

// crowded has what a name may hold, and what a node may have.
func crowded() source {
	odd, bare, second := web(), web(), web()
	odd.Pod.Name, odd.Network = "we\"b\\\n", "shop/{lan}"
	bare.Interface, bare.Guard = "net2", nil
	second.Interface = "net3"
	return source{web(), odd, bare, second}
}

// What is written at once is what a registry makes of the same: every family, with its help
// and type, and every series; in protobuf also since when a counter counts.
func TestWrittenIsThatOfARegistry(t *testing.T) {
	t.Parallel()
	formats := map[expfmt.FormatType]func(*testing.T, io.Reader) map[string]*dto.MetricFamily{
		expfmt.TypeTextPlain:  readText,
		expfmt.TypeProtoDelim: readMessages,
	}
	for kind, read := range formats {
		want := gathered(t, kind == expfmt.TypeProtoDelim)
		h := &seriesHandler{collector: NewCollector(crowded(), "node1"), others: prometheus.NewRegistry()}
		for range 2 { // the buffers of the first are used again
			var written bytes.Buffer
			if err := h.write(&written, expfmt.NewFormat(kind)); err != nil {
				t.Fatal(err)
			}
			got := read(t, &written)
			byLabels := protocmp.SortRepeated(func(a, b *dto.Metric) bool { return a.String() < b.String() })
			labels := protocmp.SortRepeated(func(a, b *dto.LabelPair) bool { return a.GetName() < b.GetName() })
			for _, families := range []map[string]*dto.MetricFamily{got, want} {
				for _, f := range families {
					sortLabels(f)
				}
			}
			if diff := gocmp.Diff(want, got, protocmp.Transform(), byLabels, labels); diff != "" {
				t.Errorf("%v (-registry +written):\n%s", kind, diff)
			}
		}
	}
}

// gathered are the families that a registry makes, with the births of counters or without.
func gathered(t *testing.T, born bool) map[string]*dto.MetricFamily {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewCollector(crowded(), "node1"))
	all, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	families := map[string]*dto.MetricFamily{}
	for _, f := range all {
		for _, m := range f.Metric {
			if m.Counter != nil && !born {
				m.Counter.CreatedTimestamp = nil
			}
		}
		families[f.GetName()] = f
	}
	return families
}

func readText(t *testing.T, from io.Reader) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(from)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

func readMessages(t *testing.T, from io.Reader) map[string]*dto.MetricFamily {
	t.Helper()
	decoder := expfmt.NewDecoder(from, expfmt.NewFormat(expfmt.TypeProtoDelim))
	families := map[string]*dto.MetricFamily{}
	for {
		var f dto.MetricFamily
		switch err := decoder.Decode(&f); {
		case errors.Is(err, io.EOF):
			return families
		case err != nil:
			t.Fatal(err)
		}
		families[f.GetName()] = &f
	}
}

// An attachment that has counted everything there is has as many series as docs/metrics.md
// says.
func TestSeriesAreBounded(t *testing.T) {
	t.Parallel()
	all, some := web(), bpf.Count{Packets: 1, Bytes: 60}
	g := all.Guard
	g.Hits, all.Rules = nil, nil
	for _, d := range []bpf.Direction{bpf.Ingress, bpf.Egress} {
		for v := range bpf.Verdicts() {
			g.Counters.Verdicts[d][v] = some
		}
		for class := range bpf.Classes() {
			for family := range bpf.Families() {
				g.Counters.Allowed[d][class][family] = some
			}
		}
		for i := range policy.RulesMax {
			all.Rules = append(all.Rules, attachment.Rule{Direction: d.String(), Rule: strconv.Itoa(i), Action: "deny"})
			g.Hits = append(g.Hits, some)
		}
	}
	g.Samples = bpf.Samples{Limited: 1, RingFull: 1}
	g.Restored = map[string]uint64{"removed": 1, "preceded": 1}
	count := func(a inspect.Attachment) int {
		return testutil.CollectAndCount(NewCollector(source{a}, "node1")) - 3 // of the node
	}
	most := count(all)
	g.Hits, all.Rules = nil, nil
	want := fmt.Sprintf("at most %d series, and %d more with as many rules as there can be", count(all), most-count(all))
	text, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.Join(strings.Fields(string(text)), " "), want) {
		t.Errorf("docs/metrics.md does not say %q", want)
	}
}

// sortLabels brings the labels of each series into the order of names.
func sortLabels(f *dto.MetricFamily) {
	for _, m := range f.Metric {
		pairs := map[string]*dto.LabelPair{}
		var names []string
		for _, l := range m.Label {
			pairs[l.GetName()] = l
			names = append(names, l.GetName())
		}
		m.Label = m.Label[:0]
		for _, name := range strings.Split(sorted(names), ",") {
			if pairs[name] != nil {
				m.Label = append(m.Label, pairs[name])
			}
		}
	}
}

// OpenMetrics names a counter without its suffix, and has an end.
func TestTextOfOpenMetrics(t *testing.T) {
	t.Parallel()
	text := scrape(t, "application/openmetrics-text; version=1.0.0")
	for _, want := range []string{
		"# TYPE weir_attachment_receive_packets counter\nweir_attachment_receive_packets_total{namespace=\"shop\"", "# TYPE weir_attachments gauge\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Count(text, "# EOF") != 1 || !strings.HasSuffix(text, "# EOF\n") {
		t.Errorf("it ends with %q", text[len(text)-20:])
	}
}

func TestCompression(t *testing.T) {
	t.Parallel()
	handler := New(source{web()}, "node1", "v1")
	tests := map[string]bool{"": false, "gzip": true, "br, gzip;q=0.5": true, "gzip;q=0": false, "gzip; q=0.0": false, "identity": false, "gzip-like": false}
	for accepted, packed := range tests {
		request := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		request.Header.Set("Accept-Encoding", accepted)
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, request)
		var body io.Reader = answer.Body
		if got := answer.Header().Get("Content-Encoding") == "gzip"; got != packed {
			t.Errorf("%q: packed %t, want %t", accepted, got, packed)
		}
		if packed {
			var err error
			if body, err = gzip.NewReader(body); err != nil {
				t.Fatal(err)
			}
		}
		text, err := io.ReadAll(body)
		if err != nil || !bytes.Contains(text, []byte("weir_attachments 1\n")) || !bytes.Contains(text, []byte("go_goroutines ")) {
			t.Errorf("%q: error %v, %s", accepted, err, text)
		}
	}
}
