// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"context"
	"errors"
	"net"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

var pingSummary = regexp.MustCompile(`(\d+) (?:packets )?received`)

func repliesIn(output string) int {
	m := pingSummary.FindStringSubmatch(output)
	if m == nil {
		return 0
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

// Send puts raw frames, each with its Ethernet header, on an interface of the
// host through an ordinary AF_PACKET socket. A frame that the host's own filters
// drop (the kernel answers ENOBUFS) is no error.
func (h *Host) Send(ifname string, frames ...[]byte) {
	h.tb.Helper()
	h.Do(func() error {
		return withSocket(ifname, func(send func([]byte) error) error {
			for _, f := range frames {
				if err := send(f); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// Flood sends the frames over and over, as fast as it can, until ctx ends, and
// says how often it has sent them all.
func (h *Host) Flood(ctx context.Context, ifname string, frames ...[]byte) (rounds uint64) {
	h.tb.Helper()
	h.Do(func() error {
		return withSocket(ifname, func(send func([]byte) error) error {
			for ; ctx.Err() == nil; rounds++ {
				for _, f := range frames {
					if err := send(f); err != nil {
						return err
					}
				}
			}
			return nil
		})
	})
	return rounds
}

func withSocket(ifname string, fn func(send func([]byte) error) error) error {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return err
	}
	conn, err := packet.Listen(ifi, packet.Raw, 0, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	return fn(func(frame []byte) error {
		_, err := conn.WriteTo(frame, &packet.Addr{HardwareAddr: ifi.HardwareAddr})
		if errors.Is(err, unix.ENOBUFS) {
			return nil
		}
		return err
	})
}

// Frame builds a frame from its layers, lengths and checksums filled in.
func Frame(tb testing.TB, ls ...gopacket.SerializableLayer) []byte {
	tb.Helper()
	var network gopacket.NetworkLayer
	for _, l := range ls {
		switch l := l.(type) {
		case *layers.IPv4:
			network = l
		case *layers.IPv6:
			network = l
		case *layers.UDP:
			_ = l.SetNetworkLayerForChecksum(network)
		case *layers.TCP:
			_ = l.SetNetworkLayerForChecksum(network)
		case *layers.ICMPv6:
			_ = l.SetNetworkLayerForChecksum(network)
		}
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		tb.Fatalf("building a frame: %v", err)
	}
	return buf.Bytes()
}

// Capture holds the frames that an interface received and sent since it began,
// each as the wire would carry it when offloads are off.
type Capture struct {
	mu     sync.Mutex
	frames []Captured
	done   chan struct{}
	conn   *packet.Conn
	tb     testing.TB
	stop   sync.Once
}

// Captured is one frame of a capture.
type Captured struct {
	// Outgoing is set when the interface sent the frame rather than received it.
	Outgoing bool
	// Data is the frame, its Ethernet header included.
	Data []byte
}

// Capture begins to record on an interface of the host, promiscuously.
func (h *Host) Capture(ifname string) *Capture {
	h.tb.Helper()
	c := &Capture{done: make(chan struct{}), tb: h.tb}
	err := h.ns.Do(func(ns.NetNS) error {
		ifi, err := net.InterfaceByName(ifname)
		if err != nil {
			return err
		}
		c.conn, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, nil)
		return err
	})
	if err != nil {
		h.tb.Fatalf("capturing on %s: %v", ifname, err)
	}
	c.grow()
	go c.read()
	h.tb.Cleanup(func() { c.Stop() })
	return c
}

// grow asks for a receive buffer that holds a burst of a test's size.
func (c *Capture) grow() {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 256<<20)
	})
}

// read records until Stop sets a deadline, and then what the socket still holds.
func (c *Capture) read() {
	defer close(c.done)
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 1<<17)
	for raw.Read(func(fd uintptr) bool { return c.receive(fd, buf) }) == nil {
	}
	_ = raw.Control(func(fd uintptr) {
		for c.receive(fd, buf) {
		}
	})
}

// receive records one frame; false when none waits.
func (c *Capture) receive(fd uintptr, buf []byte) bool {
	n, from, err := unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
	if err != nil {
		return false
	}
	ll, _ := from.(*unix.SockaddrLinklayer)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frames = append(c.frames, Captured{
		Outgoing: ll != nil && ll.Pkttype == unix.PACKET_OUTGOING,
		Data:     append([]byte(nil), buf[:n]...),
	})
	return true
}

// Frames is what was recorded so far.
func (c *Capture) Frames() []Captured {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Captured(nil), c.frames...)
}

// Stop ends the capture and returns it whole; one that has lost frames fails the
// test. It may be called twice.
func (c *Capture) Stop() []Captured {
	c.tb.Helper()
	c.stop.Do(func() {
		_ = c.conn.SetReadDeadline(time.Now())
		<-c.done
		stats, err := c.conn.Stats()
		if err == nil && stats.Drops > 0 {
			c.tb.Errorf("the capture has lost %d frames", stats.Drops)
		}
		_ = c.conn.Close()
	})
	return c.Frames()
}
