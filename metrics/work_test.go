// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestWorkIsCountedByItsResult(t *testing.T) {
	t.Parallel()
	w := NewWork()
	w.Begin(Promote)(nil)
	w.Begin(Promote)(errors.New("gone"))
	w.Begin(Replace)(nil)
	const want = `
# HELP weir_agent_work_total What the agent did of its own accord, by what that is and whether it came to an error.
# TYPE weir_agent_work_total counter
weir_agent_work_total{result="error",work="promote"} 1
weir_agent_work_total{result="success",work="adopt"} 0
weir_agent_work_total{result="success",work="discard"} 0
weir_agent_work_total{result="success",work="follow_network"} 0
weir_agent_work_total{result="success",work="follow_pod"} 0
weir_agent_work_total{result="success",work="promote"} 1
weir_agent_work_total{result="success",work="replace"} 1
`
	if err := testutil.CollectAndCompare(w, strings.NewReader(want), "weir_agent_work_total"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.CollectAndLint(w); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// What is no verb of the API has no series: its labels are bounded.
func TestRequestsOfTheAPIAreBounded(t *testing.T) {
	t.Parallel()
	r := NewRequests()
	r.Done("GET", "200", time.Millisecond)
	r.Done("GET", "error", time.Millisecond)
	r.Done("EVIL", "200", time.Millisecond)
	const want = `
# HELP weir_kubernetes_requests_total Requests to the Kubernetes API, by verb and by the code of the answer, error for none.
# TYPE weir_kubernetes_requests_total counter
weir_kubernetes_requests_total{code="200",verb="GET"} 1
weir_kubernetes_requests_total{code="error",verb="GET"} 1
`
	if err := testutil.CollectAndCompare(r, strings.NewReader(want), "weir_kubernetes_requests_total"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.CollectAndLint(r); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}
