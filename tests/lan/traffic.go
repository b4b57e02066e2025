// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"errors"
	"io"
	"net"
	"time"

	"github.com/safchain/ethtool"
	"golang.org/x/sys/unix"
)

// Offload turns offloads of an interface on or off, by ethtool's names, such as
// tx-tcp-segmentation or rx-gro.
func (h *Host) Offload(ifname string, features map[string]bool) {
	h.tb.Helper()
	h.Do(func() error {
		tool, err := ethtool.NewEthtool()
		if err != nil {
			return err
		}
		defer tool.Close()
		return tool.Change(ifname, features)
	})
}

// SendTCP sends size bytes from the host to a listener at addr on the other, and
// returns when all have arrived and the connection is closed.
func (h *Host) SendTCP(to *Host, addr string, size int64) {
	h.tb.Helper()
	var listener net.Listener
	to.Do(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(addr, "0"))
		return err
	})
	defer listener.Close()
	received := make(chan int64, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			received <- 0
			return
		}
		defer conn.Close()
		n, _ := io.Copy(io.Discard, conn)
		received <- n
	}()
	h.Do(func() error {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			return err
		}
		_, err = io.CopyN(conn, zeros{}, size)
		_ = conn.Close()
		return err
	})
	if n := <-received; n != size {
		h.tb.Errorf("%d of %d bytes arrived", n, size)
	}
}

// Datagrams are what SendUDP sends.
type Datagrams struct {
	// Size is that of each write, and Count how many there are.
	Size, Count int
	// Segment has the kernel make datagrams of that size out of each write (UDP_SEGMENT); 0
	// for none.
	Segment int
	// Coalesce has the receiver take many datagrams as one (UDP_GRO).
	Coalesce bool
}

// SendUDP sends datagrams from the host to a socket at addr on the other, waits until all
// have arrived and tells whether they have: a queue on the way may have been full.
func (h *Host) SendUDP(to *Host, addr string, d Datagrams) (arrived bool) {
	h.tb.Helper()
	var receiver *net.UDPConn
	to.Do(func() (err error) {
		receiver, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(addr)})
		if err == nil {
			err = setOptions(receiver, map[[2]int]int{{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE}: 256 << 20, {unix.SOL_UDP, unix.UDP_GRO}: toInt(d.Coalesce)})
		}
		return err
	})
	defer func() { _ = receiver.Close() }()
	received := make(chan int, 1)
	go func() { received <- receive(receiver, d.Size*d.Count) }()
	h.Do(func() error {
		conn, err := net.DialUDP("udp", nil, receiver.LocalAddr().(*net.UDPAddr))
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		if err := setOptions(conn, map[[2]int]int{{unix.SOL_UDP, unix.UDP_SEGMENT}: d.Segment}); err != nil {
			return err
		}
		for range d.Count {
			if _, err := conn.Write(make([]byte, d.Size)); err != nil {
				return err
			}
		}
		return nil
	})
	return <-received == d.Size*d.Count
}

// receive reads so many bytes, and is content with fewer when no more come.
func receive(conn *net.UDPConn, size int) (received int) {
	const patience = 5 * time.Second
	buf := make([]byte, 1<<16)
	for received < size {
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		n, err := conn.Read(buf)
		if err != nil {
			return received
		}
		received += n
	}
	return received
}

func toInt(set bool) int {
	if set {
		return 1
	}
	return 0
}

// setOptions sets options of a socket, by level and name.
func setOptions(conn *net.UDPConn, options map[[2]int]int) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failures error
	err = raw.Control(func(fd uintptr) {
		for option, value := range options {
			failures = errors.Join(failures, unix.SetsockoptInt(int(fd), option[0], option[1], value))
		}
	})
	return errors.Join(err, failures)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
