// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"io"
	"net"

	"github.com/safchain/ethtool"
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

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
