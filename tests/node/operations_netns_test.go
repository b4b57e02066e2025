// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// What the runtime asked for is in the metrics, with how long each step took.
func TestNetnsOperationsAreMeasured(t *testing.T) {
	n := newNode(t)
	n.Network("lan", listOf("1.0.0", lanObject()))
	p := n.Pod("web", "lan")
	n.mustAdd(p)
	n.mustCheck(p)
	if _, refused := n.Add(p); refused == nil {
		t.Fatal("a second ADD was taken")
	}
	n.mustDel(p)
	got := n.operations(t)
	for series, want := range map[string]uint64{
		"weir_cni_operations_total command=ADD code=0":    1,
		"weir_cni_operations_total command=ADD code=4":    1,
		"weir_cni_operations_total command=CHECK code=0":  1,
		"weir_cni_operations_total command=DEL code=0":    1,
		"weir_cni_operations_total command=GC code=0":     0,
		"weir_cni_operation_duration_seconds command=ADD": 2,
		// The default network is executed, or made in process, too.
		"weir_cni_step_duration_seconds command=ADD step=configure":   got["weir_cni_step_duration_seconds command=ADD step=create"],
		"weir_cni_step_duration_seconds command=CHECK step=interface": got["weir_cni_step_duration_seconds command=ADD step=create"],
		"weir_cni_step_duration_seconds command=DEL step=delete":      got["weir_cni_step_duration_seconds command=ADD step=create"],
	} {
		if got[series] != want {
			t.Errorf("%s: %d, want %d", series, got[series], want)
		}
	}
	if got["weir_cni_step_duration_seconds command=ADD step=create"] == 0 {
		t.Error("no interface was made")
	}
}

// operations are the numbers of requests and steps, by metric, command, code and step.
func (n *Node) operations(t *testing.T) map[string]uint64 {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(n.scrape()))
	if err != nil {
		t.Fatal(err)
	}
	numbers := map[string]uint64{}
	for name, family := range families {
		if !strings.HasPrefix(name, "weir_cni_") {
			continue
		}
		for _, metric := range family.Metric {
			labels, series := labelsOf(metric), name
			for _, label := range []string{"command", "code", "step"} {
				if labels[label] != "" {
					series += " " + label + "=" + labels[label]
				}
			}
			numbers[series] = uint64(metric.Counter.GetValue()) + metric.Histogram.GetSampleCount()
		}
	}
	return numbers
}

// The agent logs more, and less again, without being started anew.
func TestNetnsLogLevelAtRunTime(t *testing.T) {
	n := newNode(t)
	n.Network("lan", listOf("1.0.0", lanObject()))
	p := n.Pod("web", "lan")
	for _, test := range []struct {
		level string
		steps bool
	}{{"debug", true}, {"info", false}} {
		if out, err := exec.Command(n.bin.ctl, "log-level", "--socket", n.socket(), test.level).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		before := len(n.readLog())
		n.mustAdd(p)
		n.mustDel(p)
		if logged := bytes.Contains(n.readLog()[before:], []byte("msg=step")); logged != test.steps {
			t.Errorf("at level %s steps are logged: %v", test.level, logged)
		}
	}
}
