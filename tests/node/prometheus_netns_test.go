// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"
)

const (
	prometheusAddress  = "127.0.0.1:9090"
	prometheusPatience = 30 * time.Second
	scrapeInterval     = time.Second
)

// prometheus is a real one that scrapes the agent and evaluates the rules, by the
// files that weir ships.
type prometheus struct {
	node   *Node
	client *http.Client
}

// target is one to scrape, as Kubernetes's discovery would show it.
type target struct{ address, nodeName string }

// newPrometheus starts one in the node's namespace.
func (n *Node) newPrometheus(targets ...target) *prometheus {
	n.tb.Helper()
	return n.newPrometheusWith(nil, targets...)
}

func (n *Node) newPrometheusWith(flags []string, targets ...target) *prometheus {
	n.tb.Helper()
	n.writePrometheusConfig(targets)
	output, err := os.Create(n.path("prometheus.log"))
	if err != nil {
		n.tb.Fatal(err)
	}
	cmd := exec.Command("prometheus", append([]string{"--config.file=" + n.path("scrape.yaml"), "--storage.tsdb.path=" + n.path("tsdb"),
		"--web.listen-address=" + prometheusAddress, "--query.lookback-delta=5s"}, flags...)...)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	p, err := launch(n.machine, cmd, nil)
	if err != nil {
		n.tb.Fatalf("starting Prometheus: %v", err)
	}
	n.tb.Cleanup(func() {
		_ = unix.Kill(p.pid, unix.SIGKILL)
		<-p.done
		_ = output.Close()
	})
	server := &prometheus{node: n, client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: n.dialInNode}}}
	server.awaitReady(p)
	return server
}

// writePrometheusConfig writes the scrape configuration that weir ships, with
// targets that are known in the place of Kubernetes's discovery, and shorter intervals.
func (n *Node) writePrometheusConfig(targets []target) {
	n.tb.Helper()
	var config object
	if err := yaml.Unmarshal(shipped(n.tb, "prometheus/scrape.yaml"), &config); err != nil {
		n.tb.Fatal(err)
	}
	config["global"] = object{"scrape_interval": scrapeInterval.String(), "evaluation_interval": scrapeInterval.String()}
	job := config["scrape_configs"].([]any)[0].(object)
	delete(job, "kubernetes_sd_configs")
	var groups []any
	for _, t := range targets {
		groups = append(groups, object{"targets": []any{t.address}, "labels": object{
			"__meta_kubernetes_pod_label_app": "weir", "__meta_kubernetes_pod_container_port_name": "metrics",
			"__meta_kubernetes_pod_node_name": t.nodeName, "cluster": "test",
		}})
	}
	// What is not a port of weir's is not scraped: relabelling drops it.
	groups = append(groups, object{"targets": []any{"127.0.0.1:1"}, "labels": object{"__meta_kubernetes_pod_label_app": "other"}})
	job["static_configs"] = groups
	text, err := yaml.Marshal(config)
	if err != nil {
		n.tb.Fatal(err)
	}
	n.Write("scrape.yaml", string(text), 0o600)
	n.Write("rules.yaml", string(shipped(n.tb, "prometheus/rules.yaml")), 0o600)
}

// shipped is a file of the folder deploy.
func shipped(tb testing.TB, name string) []byte {
	tb.Helper()
	data, err := os.ReadFile("../../deploy/" + name)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func (p *prometheus) awaitReady(process *process) {
	p.node.tb.Helper()
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if resp, err := p.client.Get("http://" + prometheusAddress + "/-/ready"); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		ended := false
		select {
		case <-process.done:
			ended = true
		default:
		}
		if ended || time.Since(began) > prometheusPatience {
			said, _ := os.ReadFile(p.node.path("prometheus.log"))
			p.node.tb.Fatalf("Prometheus does not serve:\n%s", said)
		}
	}
}

// get asks the API and reads the data of its answer.
func (p *prometheus) get(path string, query url.Values, data any) {
	p.node.tb.Helper()
	resp, err := p.client.Get("http://" + prometheusAddress + "/api/v1/" + path + "?" + query.Encode())
	if err != nil {
		p.node.tb.Fatalf("asking Prometheus: %v", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		p.node.tb.Fatalf("asking Prometheus for %v: %s: %s: %v", query, resp.Status, text, err)
	}
	answer := struct{ Data any }{data}
	if err := json.Unmarshal(text, &answer); err != nil {
		p.node.tb.Fatalf("reading Prometheus's answer %s: %v", text, err)
	}
}

func stamp(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }

// at is the result of an expression at a time.
func (p *prometheus) at(expr string, when time.Time) model.Vector {
	p.node.tb.Helper()
	var data struct{ Result model.Vector }
	p.get("query", url.Values{"query": {expr}, "time": {stamp(when)}}, &data)
	return data.Result
}

// over is the result of an expression over time.
func (p *prometheus) over(expr string, begin, end time.Time) model.Matrix {
	p.node.tb.Helper()
	var data struct{ Result model.Matrix }
	p.get("query_range", url.Values{"query": {expr}, "start": {stamp(begin)}, "end": {stamp(end)}, "step": {"1"}}, &data)
	return data.Result
}

// recorded is one of the rules, as Prometheus has it.
type recorded struct {
	Name, Query, Health, LastError, State string
}

func (p *prometheus) rules() []recorded {
	p.node.tb.Helper()
	var data struct{ Groups []struct{ Rules []recorded } }
	p.get("rules", nil, &data)
	var all []recorded
	for _, g := range data.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// values are the numbers of a result by the values of its labels, in the order of
// the labels' names, without those in drop.
func values(result model.Vector, drop ...string) map[string]float64 {
	all := map[string]float64{}
	for _, s := range result {
		var names []string
		for name := range s.Metric {
			if name != model.MetricNameLabel && !slices.Contains(drop, string(name)) {
				names = append(names, string(name))
			}
		}
		slices.Sort(names)
		for i, name := range names {
			names[i] = string(s.Metric[model.LabelName(name)])
		}
		all[strings.Join(names, " ")] = float64(s.Value)
	}
	return all
}

// last are the values that a result over time ends with.
func last(matrix model.Matrix) model.Vector {
	var result model.Vector
	for _, s := range matrix {
		result = append(result, &model.Sample{Metric: s.Metric, Value: s.Values[len(s.Values)-1].Value})
	}
	return result
}

// serveInNode serves HTTP at an address of the node.
func (n *Node) serveInNode(address string, handler http.Handler) {
	n.tb.Helper()
	var listener net.Listener
	n.machine.Do(func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Second}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	n.tb.Cleanup(func() {
		_ = server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			n.tb.Errorf("serving at %s: %v", address, err)
		}
	})
}

// board is a dashboard as Grafana reads it, as far as its queries go.
type board struct {
	UID    string
	Panels []boardPanel
}

type boardPanel struct {
	Type, Title string
	GridPos     struct{ X, Y, W, H int }
	Targets     []struct {
		RefID, Expr, LegendFormat string
		Instant                   bool
	}
	FieldConfig struct {
		Defaults  struct{ Unit string }
		Overrides json.RawMessage
	}
}

func boardOf(tb testing.TB, name string) board {
	tb.Helper()
	var b board
	if err := json.Unmarshal(shipped(tb, "grafana/"+name+".json"), &b); err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
	return b
}

// filled is an expression with what Grafana would put in the place of variables, and
// of the interval of a rate.
func filled(expr string, variables map[string]string, interval string) string {
	pairs := []string{"$__rate_interval", interval, "$__range", "5m"}
	for name, value := range variables {
		pairs = append(pairs, `"$`+name+`"`, fmt.Sprintf("%q", value))
	}
	return strings.NewReplacer(pairs...).Replace(expr)
}
