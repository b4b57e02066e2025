// SPDX-License-Identifier: Apache-2.0

//go:build netns

package throughput

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv4"

	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

const (
	serverAddress, bareAddress, guardedAddress = "192.0.2.1", "192.0.2.2", "192.0.2.3"
	turns                                      = 15
	turn                                       = time.Second
)

// site is a server on a cable to a node, and two pods on it, one of them guarded.
type site struct {
	server, bare, guarded *lan.Host
}

// kinds are the interfaces of pods: how one is made, given the node and the pod.
func kinds() map[string]func(b *testing.B, node, pod *lan.Host, name string) {
	return map[string]func(b *testing.B, node, pod *lan.Host, name string){"macvlan": macvlan, "bridge": bridge}
}

func newSite(b *testing.B, kind string) *site {
	b.Helper()
	s := &site{server: lan.NewHost(b), bare: lan.NewHost(b), guarded: lan.NewHost(b)}
	node := lan.NewHost(b)
	lan.Join(b, node, "eth1", s.server, "eth0")
	s.server.Address("eth0", serverAddress+"/24")
	if kind == "bridge" {
		must(b, node.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
		must(b, node.Netlink().LinkSetMaster(node.Link("eth1"), node.Link("br0")))
		node.Up("br0")
	}
	kinds()[kind](b, node, s.bare, "bare")
	kinds()[kind](b, node, s.guarded, "guarded")
	s.bare.Address("net1", bareAddress+"/24")
	s.guarded.Address("net1", guardedAddress+"/24")
	guard(b, s.guarded)
	return s
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func macvlan(b *testing.B, node, pod *lan.Host, _ string) {
	b.Helper()
	ns, err := os.Open(pod.Path())
	must(b, err)
	defer ns.Close()
	attrs := netlink.LinkAttrs{Name: "net1", ParentIndex: node.Link("eth1").Attrs().Index, Namespace: netlink.NsFd(ns.Fd())}
	must(b, node.Netlink().LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}))
	pod.Up("net1")
}

func bridge(b *testing.B, node, pod *lan.Host, name string) {
	b.Helper()
	lan.Join(b, node, name, pod, "net1")
	must(b, node.Netlink().LinkSetMaster(node.Link(name), node.Link("br0")))
}

// guard attaches the programs with all checks to net1, at the pod's end.
func guard(b *testing.B, pod *lan.Host) {
	b.Helper()
	root := fmt.Sprintf("/sys/fs/bpf/weir-bench-throughput-%d", os.Getpid())
	must(b, loader.EnsureFilesystem(root))
	b.Cleanup(func() { _ = os.RemoveAll(root) })
	dir, err := loader.Reserve(root, "net1")
	must(b, err)
	ns, err := netns.Open(pod.Path())
	must(b, err)
	b.Cleanup(func() { _ = ns.Close() })
	l, err := loader.New()
	must(b, err)
	mac := pod.Link("net1").Attrs().HardwareAddr
	spec := loader.Spec{
		Dir: dir, Interface: "net1", Checks: bpf.CheckDestination<<1 - 1,
		Addresses: loader.Addresses{MAC: mac, Prefixes: []netip.Prefix{
			netip.MustParsePrefix(guardedAddress + "/32"), netip.PrefixFrom(loader.LinkLocal(mac), 128),
		}},
	}
	g, err := l.Load(spec)
	must(b, err)
	must(b, l.Attach(loader.Place{Namespace: ns, Interface: "net1"}, g, spec))
	b.Cleanup(func() { _ = g.Close() })
}

// BenchmarkThroughput prints medians over turns, and the median of the ratios of a guarded
// turn to the bare one before it, which met the same noise.
func BenchmarkThroughput(b *testing.B) {
	for _, kind := range []string{"macvlan", "bridge"} {
		for _, load := range []struct {
			name, unit string
			run        func(b *testing.B, s *site, from *lan.Host) float64
		}{
			{"TCP, sent", "Gbit/s", func(b *testing.B, s *site, from *lan.Host) float64 { return iperf(b, s, from) }},
			{"TCP, received", "Gbit/s", func(b *testing.B, s *site, from *lan.Host) float64 { return iperf(b, s, from, "-R") }},
			{"UDP, 64 bytes, sent", "kpps", datagrams},
		} {
			b.Run(kind+"/"+load.name, func(b *testing.B) {
				s := newSite(b, kind)
				serve(b, s.server)
				load.run(b, s, s.bare)
				load.run(b, s, s.guarded)
				var bare, guarded, ratios []float64
				for range turns {
					bare = append(bare, load.run(b, s, s.bare))
					guarded = append(guarded, load.run(b, s, s.guarded))
					ratios = append(ratios, 100*guarded[len(guarded)-1]/bare[len(bare)-1])
				}
				fmt.Printf("| %s | %s | %.2f | %.2f %s | %.1f%% |\n", kind, load.name, median(bare), median(guarded), load.unit, median(ratios))
				b.ReportMetric(median(ratios), "%ofbare")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func serve(b *testing.B, server *lan.Host) {
	b.Helper()
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "iperf3", "-s", "-B", serverAddress)
	server.Do(cmd.Start)
	b.Cleanup(func() {
		stop()
		_ = cmd.Wait()
	})
	time.Sleep(300 * time.Millisecond)
}

// iperf is one turn of TCP, in Gbit/s as the receiver has it.
func iperf(b *testing.B, _ *site, from *lan.Host, flags ...string) float64 {
	b.Helper()
	args := append([]string{"-c", serverAddress, "-J", "-t", fmt.Sprint(turn.Seconds())}, flags...)
	var out []byte
	from.Do(func() (err error) {
		out, err = exec.Command("iperf3", args...).Output()
		return err
	})
	var report struct {
		End struct {
			Received struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	must(b, json.Unmarshal(out, &report))
	return report.End.Received.BitsPerSecond / 1e9
}

// datagrams is one turn of frames of 64 bytes, FCS included, sent many at a time to a port
// that nobody reads, in thousands a second.
func datagrams(b *testing.B, s *site, from *lan.Host) float64 {
	b.Helper()
	const batch, payload, most = 64, 18, 2_000_000
	var sink net.PacketConn
	s.server.Do(func() (err error) {
		sink, err = net.ListenPacket("udp4", serverAddress+":0")
		return err
	})
	defer sink.Close()
	sent, took := 0, time.Duration(0)
	from.Do(func() error {
		conn, err := net.ListenPacket("udp4", ":0")
		if err != nil {
			return err
		}
		defer conn.Close()
		messages := make([]ipv4.Message, batch)
		for i := range messages {
			messages[i] = ipv4.Message{Buffers: [][]byte{make([]byte, payload)}, Addr: sink.LocalAddr()}
		}
		many := ipv4.NewPacketConn(conn)
		began := time.Now()
		for sent < most && time.Since(began) < turn {
			n, err := many.WriteBatch(messages, 0)
			if err != nil {
				return err
			}
			sent += n
		}
		took = time.Since(began)
		return nil
	})
	return float64(sent) / took.Seconds() / 1000
}
