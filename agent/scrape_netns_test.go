// SPDX-License-Identifier: Apache-2.0

//go:build netns

package agent

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/metrics"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

// crowd is a registry with many guards. All of them are pinned, and the last is on an
// interface: a filter takes the place of the one before.
type crowd struct {
	*registry
	b     *testing.B
	place loader.Place
	mac   []byte
	made  int
}

func newCrowd(b *testing.B) *crowd {
	b.Helper()
	pod, outside := lan.NewHost(b), lan.NewHost(b)
	lan.Join(b, pod, "net1", outside, "eth0")
	ns, err := netns.Open(pod.Path())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = ns.Close() })
	dir := fmt.Sprintf("/sys/fs/bpf/weir-bench-scrape-%d", os.Getpid())
	if err := loader.EnsureFilesystem(dir); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	loads, err := loader.New()
	if err != nil {
		b.Fatal(err)
	}
	r := newRegistry(loads, nil, ns, dir, func(string) func() { return func() {} }, slog.New(slog.DiscardHandler))
	c := &crowd{registry: r, b: b, place: loader.Place{Namespace: ns, Interface: "net1"}, mac: pod.Link("net1").Attrs().HardwareAddr}
	b.Cleanup(func() {
		for _, guard := range r.guards {
			_ = guard.Close()
		}
	})
	return c
}

// add loads, pins and attaches one guard, as an ADD does.
func (c *crowd) add() {
	c.b.Helper()
	id := attachment.ID{ContainerID: fmt.Sprintf("%064d", c.made), Interface: "net1"}
	pod := attachment.Pod{Namespace: "crowd", Name: fmt.Sprintf("web-%06d", c.made)}
	c.made++
	address := netip.AddrFrom4([4]byte{10, 9, byte(c.made >> 8), byte(c.made)})
	dir, err := loader.Reserve(c.bpfDir, id.LongPinName())
	if err != nil {
		c.b.Fatal(err)
	}
	spec := loader.Spec{
		Dir: dir, Interface: "net1", Pod: pod.String(), Network: "crowd/lan", ContainerID: id.ContainerID, Checks: bpf.CheckMAC | bpf.CheckIPv4,
		Addresses: loader.Addresses{MAC: c.mac, Prefixes: []netip.Prefix{netip.PrefixFrom(address, 32)}},
	}
	guard, err := c.loader.Load(spec)
	if err != nil {
		c.b.Fatal(err)
	}
	if err := c.loader.Attach(c.place, guard, spec); err != nil {
		c.b.Fatal(err)
	}
	c.fill(dir)
	// Stands for the link that a promotion makes: an interface has no more than 64.
	if err := os.Mkdir(filepath.Join(dir, "link_egress"), 0o700); err != nil {
		c.b.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.guards[id] = guard
	c.published[id] = attachment.Attachment{
		ID: id, Pod: pod, Network: "crowd/lan", Type: "macvlan", Master: "eth1", Mode: "bridge", MAC: "02:00:00:00:00:01", MTU: 1500,
		Addresses: []netip.Prefix{netip.PrefixFrom(address, 16)}, PinDir: filepath.Base(dir), Created: time.Now(),
	}
}

// fill counts what an ordinary pod has: some families in both directions, and drops of two
// reasons.
func (c *crowd) fill(dir string) {
	c.b.Helper()
	counters, err := ebpf.LoadPinnedMap(filepath.Join(dir, "counters"), nil)
	if err != nil {
		c.b.Fatal(err)
	}
	defer counters.Close()
	one := bpf.Counters{}
	for d := range one.Verdicts {
		for v := range 3 {
			one.Verdicts[d][v] = bpf.Count{Packets: 1e6, Bytes: 1e9}
		}
		for family := range 4 {
			one.Allowed[d][bpf.Unicast][family] = bpf.Count{Packets: 1e6, Bytes: 1e9}
		}
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		c.b.Fatal(err)
	}
	if err := counters.Put(uint32(0), slices.Repeat([]bpf.Counters{one}, cpus)); err != nil {
		c.b.Fatal(err)
	}
}

// cpu is what this process has taken of the processors.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkScrape measures a scrape as Prometheus makes it, and what a guard takes to be made
// at rest and while one scrape follows the other.
func BenchmarkScrape(b *testing.B) {
	c := newCrowd(b)
	handler := metrics.New(c.registry, "node", "bench")
	for _, n := range []int{10, 100, 1000} {
		for c.made < n {
			c.add()
		}
		for name, format := range formats() {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				began := cpu(b)
				size := 0
				for b.Loop() {
					size = scrapeOnce(b, handler, format)
				}
				b.ReportMetric(float64((cpu(b)-began).Microseconds())/1000/float64(b.N), "cpu-ms/op")
				b.ReportMetric(float64(size), "bytes")
			})
		}
	}
	c.measureAdds(handler)
}

// formats are what Prometheus asks for, without native histograms and with them.
func formats() map[string]string {
	return map[string]string{
		"openmetrics": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
		"protobuf":    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
	}
}

func scrapeOnce(b *testing.B, handler http.Handler, format string) int {
	b.Helper()
	request := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	request.Header.Set("Accept", format)
	request.Header.Set("Accept-Encoding", "gzip")
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, request)
	if answer.Code != http.StatusOK {
		b.Fatalf("status %d: %s", answer.Code, answer.Body)
	}
	return answer.Body.Len()
}

// measureAdds prints medians of making a guard beside a thousand others: at rest, beside a
// goroutine that only computes, and beside one that scrapes without a pause. What the last
// takes more than the second is what a scrape keeps an ADD waiting by.
func (c *crowd) measureAdds(handler http.Handler) {
	c.b.Helper()
	const rounds = 31
	others, sum := c.made, 0
	beside := []func(){nil, func() {
		for i := range 1 << 20 {
			sum += i * i
		}
	}, func() { scrapeOnce(c.b, handler, formats()["openmetrics"]) }}
	took := make([][]time.Duration, len(beside))
	for range rounds {
		for i, do := range beside {
			end := repeat(do)
			began := time.Now()
			c.add()
			took[i] = append(took[i], time.Since(began))
			end()
		}
	}
	for i, what := range []string{"at rest", "beside a goroutine that computes", "beside one scrape after the other"} {
		slices.Sort(took[i])
		fmt.Printf("a guard beside %d others, %s: %.1f ms (median of %d)\n", others, what, float64(took[i][rounds/2].Microseconds())/1000, rounds)
	}
}

// repeat does something over and over, until end has returned.
func repeat(do func()) (end func()) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for do != nil {
			select {
			case <-stop:
				return
			default:
				do()
			}
		}
	}()
	return func() {
		close(stop)
		<-stopped
	}
}
