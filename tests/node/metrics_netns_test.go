// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/weir-cni/weir/api"
)

// scrape reads the Prometheus endpoint as text.
func (n *Node) scrape() []byte {
	n.tb.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: n.dialInNode}}
	resp, err := client.Get("http://" + metricsAddress + "/metrics")
	if err != nil {
		n.tb.Fatalf("scraping: %v", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		n.tb.Fatalf("scraping: %s: %s: %v", resp.Status, text, err)
	}
	return text
}

// dialInNode dials from the node's namespace, where the endpoint is.
func (n *Node) dialInNode(_ context.Context, network, address string) (conn net.Conn, err error) {
	n.machine.Do(func() error {
		conn, err = net.Dial(network, address)
		return nil
	})
	return conn, err
}

// numbersOf are the counters of one pod's interface, by name and, for drops,
// direction and reason.
func (n *Node) numbersOf(t *testing.T, text []byte, p *Pod, ifname string) map[string]uint64 {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("parsing the metrics: %v\n%s", err, text)
	}
	numbers := map[string]uint64{}
	for name, family := range families {
		for _, metric := range family.Metric {
			labels := labelsOf(metric)
			if labels["namespace"] != n.namespace || labels["pod"] != p.Name || labels["interface"] != ifname || metric.Counter == nil {
				continue
			}
			numbers[name+labels["direction"]+labels["class"]+labels["protocol"]+labels["reason"]+labels["rule"]+labels["action"]+labels["cause"]] = uint64(metric.Counter.GetValue())
			if labels["network_name"] != n.namespace+"/lan" {
				t.Errorf("%s has network_name %q", name, labels["network_name"])
			}
		}
	}
	return numbers
}

func labelsOf(metric *dto.Metric) map[string]string {
	labels := map[string]string{}
	for _, pair := range metric.Label {
		labels[pair.GetName()] = pair.GetValue()
	}
	return labels
}

// numbers are what weirctl says, by the names that Prometheus has for them.
func numbers(a api.AttachmentStatus) map[string]uint64 {
	const prefix = "weir_attachment_"
	all := map[string]uint64{
		prefix + "receive_packets_total": a.Receive.Packets, prefix + "receive_bytes_total": a.Receive.Bytes,
		prefix + "transmit_packets_total": a.Transmit.Packets, prefix + "transmit_bytes_total": a.Transmit.Bytes,
	}
	for _, s := range a.Allowed {
		all[prefix+"allowed_packets_total"+s.Direction+s.Class+s.Protocol] = s.Packets
		all[prefix+"allowed_bytes_total"+s.Direction+s.Class+s.Protocol] = s.Bytes
	}
	for _, d := range a.Dropped {
		all[prefix+"dropped_packets_total"+d.Direction+d.Reason] = d.Packets
		all[prefix+"dropped_bytes_total"+d.Direction+d.Reason] = d.Bytes
	}
	for cause, n := range map[string]uint64{"limited": a.Samples.Limited, "ring_full": a.Samples.RingFull} {
		if n > 0 {
			all[prefix+"drops_lost_total"+cause] = n
		}
	}
	for _, r := range a.Rules {
		all[prefix+"rule_packets_total"+r.Direction+r.Rule.Rule+r.Action] = r.Packets
		all[prefix+"rule_bytes_total"+r.Direction+r.Rule.Rule+r.Action] = r.Bytes
	}
	return all
}

// checkNumbersAgree compares weirctl with Prometheus, in an instant in which no
// packet passed.
func (n *Node) checkNumbersAgree(t *testing.T, p *Pod) {
	t.Helper()
	for range 50 {
		before := numbers(n.Attachment(p, "net1"))
		text := n.scrape()
		after := numbers(n.Attachment(p, "net1"))
		if !cmp.Equal(before, after) {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		if diff := cmp.Diff(after, n.numbersOf(t, text, p, "net1")); diff != "" {
			t.Errorf("Prometheus differs from weirctl (-weirctl +prometheus):\n%s", diff)
		}
		checkLint(t, text)
		return
	}
	t.Error("packets never cease")
}

// checkLint asks the linter of the Prometheus project. What the Go and process
// collectors export is not ours to name.
func checkLint(t *testing.T, text []byte) {
	t.Helper()
	problems, err := promlint.New(bytes.NewReader(text)).Lint()
	if err != nil {
		t.Fatalf("the metrics: %v", err)
	}
	for _, p := range problems {
		if bytes.HasPrefix([]byte(p.Metric), []byte("weir_")) {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}
