// SPDX-License-Identifier: Apache-2.0

//go:build netns

package bandwidth

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

// duration is that of one measurement.
const duration = 10 * time.Second

const podAddress, lanAddress = "192.0.2.2", "192.0.2.1"

// cable is a pod with bandwidth, on a veth pair to a host outside.
type cable struct {
	pod, outside *lan.Host
	guard        *loader.Guard
}

func newCable(b *testing.B) *cable {
	b.Helper()
	c := &cable{pod: lan.NewHost(b), outside: lan.NewHost(b)}
	lan.Join(b, c.pod, "net1", c.outside, "eth0")
	c.pod.Address("net1", podAddress+"/24")
	c.outside.Address("eth0", lanAddress+"/24")
	c.guard = guardOf(b, c.pod)
	return c
}

func guardOf(b *testing.B, pod *lan.Host) *loader.Guard {
	b.Helper()
	root := fmt.Sprintf("/sys/fs/bpf/weir-bandwidth-%d", os.Getpid())
	if err := loader.EnsureFilesystem(root); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(root) })
	dir, err := loader.Reserve(root, "net1")
	if err != nil {
		b.Fatal(err)
	}
	ns, err := netns.Open(pod.Path())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = ns.Close() })
	l, err := loader.New()
	if err != nil {
		b.Fatal(err)
	}
	mac := pod.Link("net1").Attrs().HardwareAddr
	spec := loader.Spec{
		Dir: dir, Interface: "net1", Checks: bpf.CheckMAC | bpf.CheckIPv4,
		Ingress:   loader.Rate{BitsPerSecond: 1e6},
		Addresses: loader.Addresses{MAC: mac, Prefixes: []netip.Prefix{netip.MustParsePrefix(podAddress + "/32")}},
	}
	guard, err := l.Load(spec)
	if err != nil {
		b.Fatal(err)
	}
	if err := l.Attach(loader.Place{Namespace: ns, Interface: "net1"}, guard, spec); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = guard.Close() })
	return guard
}

func (c *cable) setRate(b *testing.B, d bpf.Direction, bitsPerSecond uint64) {
	b.Helper()
	var rates [2]loader.Rate
	rates[d].BitsPerSecond = bitsPerSecond
	// Lifted first, for the new rate to begin with its burst and no debt.
	for _, r := range [][2]loader.Rate{{}, rates} {
		if err := c.guard.SetRates(r[bpf.Ingress], r[bpf.Egress]); err != nil {
			b.Fatal(err)
		}
	}
}

// figures are what passed in one measurement.
type figures struct {
	wire, goodput, dropped float64 // bits per second
}

func (c *cable) measure(b *testing.B, d bpf.Direction, flows int, control string) figures {
	b.Helper()
	from, to, address := c.outside, c.pod, podAddress
	if d == bpf.Egress {
		from, to, address = c.pod, c.outside, lanAddress
	}
	var received atomic.Int64
	sink := listen(b, to, address, &received)
	before, began := c.counters(b), time.Now()
	var senders sync.WaitGroup
	for range flows {
		senders.Go(func() { send(b, from, sink, control, began.Add(duration)) })
	}
	time.Sleep(time.Until(began.Add(duration)))
	after, took, bytes := c.counters(b), time.Since(began).Seconds(), received.Load()
	senders.Wait()
	return figures{
		wire:    8 * float64(after.Of(d, bpf.Allowed).Bytes-before.Of(d, bpf.Allowed).Bytes) / took,
		goodput: 8 * float64(bytes) / took,
		dropped: 8 * float64(droppedOf(after, d)-droppedOf(before, d)) / took,
	}
}

func (c *cable) counters(b *testing.B) bpf.Counters {
	b.Helper()
	counters, err := c.guard.Counters()
	if err != nil {
		b.Fatal(err)
	}
	return counters
}

func droppedOf(c bpf.Counters, d bpf.Direction) (bytes uint64) {
	for v := range bpf.Verdicts() {
		if v != bpf.Allowed {
			bytes += c.Of(d, v).Bytes
		}
	}
	return bytes
}

// listen takes connections until the benchmark ends and counts what they bring.
func listen(b *testing.B, h *lan.Host, address string, received *atomic.Int64) string {
	b.Helper()
	var listener net.Listener
	h.Do(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(address, "0"))
		return err
	})
	b.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go count(conn, received)
		}
	}()
	return listener.Addr().String()
}

func count(conn net.Conn, received *atomic.Int64) {
	defer conn.Close()
	buf := make([]byte, 1<<18)
	for {
		n, err := conn.Read(buf)
		received.Add(int64(n))
		if err != nil {
			return
		}
	}
}

// send writes to one connection until its deadline, then resets it: what its buffer
// holds would take long at a low rate.
func send(b *testing.B, h *lan.Host, address, control string, deadline time.Time) {
	h.Do(func() error {
		dialer := net.Dialer{Deadline: deadline, Control: func(_, _ string, raw syscall.RawConn) (err error) {
			set := func(fd uintptr) { err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, control) }
			if controlErr := raw.Control(set); controlErr != nil {
				return controlErr
			}
			return err
		}}
		conn, err := dialer.Dial("tcp", address)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.SetWriteDeadline(deadline)
		buf := make([]byte, 1<<18)
		for err == nil {
			_, err = conn.Write(buf)
		}
		if !os.IsTimeout(err) && !errors.Is(err, io.EOF) {
			b.Errorf("sending to %s: %v", address, err)
		}
		return nil
	})
}

// flowsOf is how many connections share the rate. One of BBR is the harder case.
func flowsOf(control string) []int {
	if control == "bbr" {
		return []int{1}
	}
	return []int{1, 8}
}

// BenchmarkBandwidth prints what passes of each rate, and what of it TCP delivers.
// It measures once, whatever it is told.
func BenchmarkBandwidth(b *testing.B) {
	c := newCable(b)
	for _, control := range []string{"cubic", "bbr"} {
		for _, rate := range []uint64{1e6, 10e6, 100e6, 1e9, 10e9} {
			for _, d := range []bpf.Direction{bpf.Ingress, bpf.Egress} {
				for _, flows := range flowsOf(control) {
					c.setRate(b, d, rate)
					f := c.measure(b, d, flows, control)
					of := func(v float64) float64 { return v / float64(rate) * 100 }
					fmt.Printf("%-5s %5.0f Mbit/s %-7s %d flows: wire %6.1f %%, goodput %6.1f %%, dropped %6.1f %%\n",
						control, float64(rate)/1e6, d, flows, of(f.wire), of(f.goodput), of(f.dropped))
					time.Sleep(time.Second) // the last connections
				}
			}
		}
	}
	b.ReportMetric(0, "ns/op")
}
