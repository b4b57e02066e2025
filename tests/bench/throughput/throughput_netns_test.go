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
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv4"

	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/sockopt"
	"github.com/weir-cni/weir/tests/lan"
)

const (
	serverAddress, podAddress = "192.0.2.1", "192.0.2.2"
	turns                     = 15
	turn                      = time.Second
)

// site is a pod on a node, and a server on a cable to it.
type site struct {
	server, node, pod *lan.Host
}

// kinds are the interfaces of pods: how one is made.
func kinds() map[string]func(b *testing.B, s *site) {
	return map[string]func(b *testing.B, s *site){"macvlan": macvlan, "bridge": bridge}
}

func newSite(b *testing.B, kind string) *site {
	b.Helper()
	s := &site{server: lan.NewHost(b), node: lan.NewHost(b), pod: lan.NewHost(b)}
	lan.Join(b, s.node, "eth1", s.server, "eth0")
	s.server.Address("eth0", serverAddress+"/24")
	kinds()[kind](b, s)
	s.pod.Address("net1", podAddress+"/24")
	serve(b, s.server)
	return s
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func macvlan(b *testing.B, s *site) {
	b.Helper()
	ns, err := os.Open(s.pod.Path())
	must(b, err)
	defer ns.Close()
	attrs := netlink.LinkAttrs{Name: "net1", ParentIndex: s.node.Link("eth1").Attrs().Index, Namespace: netlink.NsFd(ns.Fd())}
	must(b, s.node.Netlink().LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}))
	s.pod.Up("net1")
}

func bridge(b *testing.B, s *site) {
	b.Helper()
	must(b, s.node.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
	must(b, s.node.Netlink().LinkSetMaster(s.node.Link("eth1"), s.node.Link("br0")))
	s.node.Up("br0")
	lan.Join(b, s.node, "pod", s.pod, "net1")
	must(b, s.node.Netlink().LinkSetMaster(s.node.Link("pod"), s.node.Link("br0")))
}

// guard attaches the programs with all checks to net1, at the pod's end, as an agent does:
// as links where the kernel has them, and on the master, where there is one.
func guard(b *testing.B, s *site) {
	b.Helper()
	root := fmt.Sprintf("/sys/fs/bpf/weir-bench-throughput-%d", os.Getpid())
	must(b, loader.EnsureFilesystem(root))
	b.Cleanup(func() { _ = os.RemoveAll(root) })
	dir, err := loader.Reserve(root, "net1")
	must(b, err)
	place := loader.Place{Namespace: open(b, s.pod), Interface: "net1"}
	l, err := loader.New()
	must(b, err)
	ring, err := l.OpenRing(open(b, s.node), filepath.Join(root, loader.RingDir))
	must(b, err)
	b.Cleanup(func() { _ = ring.Close() })
	mac := s.pod.Link("net1").Attrs().HardwareAddr
	spec := loader.Spec{
		Dir: dir, Interface: "net1", Ring: ring, Checks: bpf.CheckQuerier<<1 - 1,
		Addresses: loader.Addresses{MAC: mac, Prefixes: []netip.Prefix{
			netip.MustParsePrefix(podAddress + "/32"), netip.PrefixFrom(loader.LinkLocal(mac), 128),
		}},
	}
	g, err := l.Load(spec)
	must(b, err)
	b.Cleanup(func() { _ = g.Close() })
	must(b, l.Attach(place, g, spec))
	must(b, l.Promote(place, g))
	master, has, err := loader.MasterOf(place, open(b, s.node))
	must(b, err)
	if has {
		cookie, err := sockopt.Cookie(place.Namespace)
		must(b, err)
		must(b, ring.Seat(g, master, loader.Pod{Netns: cookie}))
	}
}

func open(b *testing.B, h *lan.Host) *netns.Namespace {
	b.Helper()
	ns, err := netns.Open(h.Path())
	must(b, err)
	b.Cleanup(func() { _ = ns.Close() })
	return ns
}

// BenchmarkThroughput prints medians over turns, and the median of the ratios of a guarded
// turn to the bare one before it, which met the same noise.
func BenchmarkThroughput(b *testing.B) {
	for _, kind := range []string{"macvlan", "bridge"} {
		for _, load := range []struct {
			name, unit string
			run        func(b *testing.B, s *site) float64
		}{
			{"TCP, sent", "Gbit/s", func(b *testing.B, s *site) float64 { return iperf(b, s) }},
			{"TCP, received", "Gbit/s", func(b *testing.B, s *site) float64 { return iperf(b, s, "-R") }},
			{"UDP, 64 bytes, sent", "kpps", datagrams},
		} {
			b.Run(kind+"/"+load.name, func(b *testing.B) {
				bareSite, guardedSite := newSite(b, kind), newSite(b, kind)
				guard(b, guardedSite)
				load.run(b, bareSite)
				load.run(b, guardedSite)
				var bare, guarded, ratios []float64
				for range turns {
					bare = append(bare, load.run(b, bareSite))
					guarded = append(guarded, load.run(b, guardedSite))
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
func iperf(b *testing.B, s *site, flags ...string) float64 {
	b.Helper()
	args := append([]string{"-c", serverAddress, "-J", "-t", fmt.Sprint(turn.Seconds())}, flags...)
	var out []byte
	s.pod.Do(func() (err error) {
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
func datagrams(b *testing.B, s *site) float64 {
	b.Helper()
	const batch, payload, most = 64, 18, 2_000_000
	var sink net.PacketConn
	s.server.Do(func() (err error) {
		sink, err = net.ListenPacket("udp4", serverAddress+":0")
		return err
	})
	defer sink.Close()
	sent, took := 0, time.Duration(0)
	s.pod.Do(func() error {
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
