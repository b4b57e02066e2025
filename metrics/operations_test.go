// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
)

func TestOperationsAreCountedByCode(t *testing.T) {
	t.Parallel()
	o := NewOperations()
	o.Done("ADD", 0, time.Millisecond)
	o.Done("ADD", 7, time.Millisecond)
	o.Done("ADD", 7, time.Millisecond)
	o.Done("DEL", 100, time.Millisecond)
	o.Done("DEL", 4711, time.Millisecond)
	o.Done("EVIL", 0, time.Millisecond)
	const want = `
# HELP weir_cni_operations_total Requests of the container runtime, by CNI command and the code of their error, 0 for none.
# TYPE weir_cni_operations_total counter
weir_cni_operations_total{code="0",command="ADD"} 1
weir_cni_operations_total{code="0",command="CHECK"} 0
weir_cni_operations_total{code="0",command="DEL"} 0
weir_cni_operations_total{code="0",command="GC"} 0
weir_cni_operations_total{code="0",command="STATUS"} 0
weir_cni_operations_total{code="7",command="ADD"} 2
weir_cni_operations_total{code="100",command="DEL"} 1
weir_cni_operations_total{code="other",command="DEL"} 1
`
	if err := testutil.CollectAndCompare(o, strings.NewReader(want), "weir_cni_operations_total"); err != nil {
		t.Error(err)
	}
}

func TestOperationsHaveClassicAndNativeBuckets(t *testing.T) {
	t.Parallel()
	o := NewOperations()
	o.Step("ADD", "create", 3*time.Millisecond)
	metric := make(chan prometheus.Metric, 1)
	o.steps.Collect(metric)
	var written dto.Metric
	if err := (<-metric).Write(&written); err != nil {
		t.Fatal(err)
	}
	h := written.GetHistogram()
	if h.GetSampleCount() != 1 || len(h.GetBucket()) != len(operationBuckets) || len(h.GetPositiveSpan()) == 0 {
		t.Errorf("%v", h)
	}
	for _, b := range h.GetBucket() {
		if want := b.GetUpperBound() >= 0.003; (b.GetCumulativeCount() == 1) != want {
			t.Errorf("bucket %g has %d", b.GetUpperBound(), b.GetCumulativeCount())
		}
	}
}

func TestOperationsFollowTheConventions(t *testing.T) {
	t.Parallel()
	o := NewOperations()
	o.Step("ADD", "create", time.Millisecond)
	running := func() int { return 2 }
	for _, c := range append(Plugins(running, running), o) {
		if problems, err := testutil.CollectAndLint(c); err != nil || len(problems) > 0 {
			t.Errorf("%v, %v", problems, err)
		}
	}
	if got := testutil.ToFloat64(Plugins(running, running)[0]); got != 2 {
		t.Errorf("%g run, want 2", got)
	}
}
