// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/weir-cni/weir/tests/lan"
)

// pinger sends echo requests, numbered from 0, and remembers which were answered.
type pinger struct {
	conn net.PacketConn
	to   net.IP
	sent uint16
	done chan struct{} // closed when nothing is read any more

	mu       sync.Mutex
	answered map[uint16]bool
}

const (
	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129
	pingID                   = 0x7765
	// pingPatience is how long the last answer may take.
	pingPatience = 2 * time.Second
)

func newPinger(from *lan.Host, to string) (*pinger, error) {
	p := &pinger{to: net.ParseIP(to), done: make(chan struct{}), answered: map[uint16]bool{}}
	network, local := "ip4:icmp", "0.0.0.0"
	if p.is6() {
		network, local = "ip6:ipv6-icmp", "::"
	}
	var err error
	from.Do(func() error {
		p.conn, err = net.ListenPacket(network, local)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("opening a socket to ping from: %w", err)
	}
	go p.read()
	return p, nil
}

func (p *pinger) is6() bool { return p.to.To4() == nil }

// send sends the next request.
func (p *pinger) send() error {
	message := make([]byte, 8)
	message[0] = echoRequest4
	if p.is6() {
		message[0] = echoRequest6
	}
	binary.BigEndian.PutUint16(message[4:], pingID)
	binary.BigEndian.PutUint16(message[6:], p.sent)
	// Of an ICMPv6 message the kernel makes the checksum itself.
	binary.BigEndian.PutUint16(message[2:], checksum(message))
	p.sent++
	_, err := p.conn.WriteTo(message, &net.IPAddr{IP: p.to})
	return err
}

// checksum is that of RFC 1071, of an even number of bytes.
func checksum(message []byte) uint16 {
	var sum uint32
	for i := 0; i < len(message); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(message[i:]))
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum>>16 + sum)
}

func (p *pinger) read() {
	defer close(p.done)
	buf := make([]byte, 1500)
	for {
		n, from, err := p.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if sender, ok := from.(*net.IPAddr); ok && sender.IP.Equal(p.to) {
			p.note(buf[:n])
		}
	}
}

func (p *pinger) note(message []byte) {
	reply := byte(echoReply4)
	if p.is6() {
		reply = echoReply6
	}
	if len(message) < 8 || message[0] != reply || binary.BigEndian.Uint16(message[4:]) != pingID {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answered[binary.BigEndian.Uint16(message[6:])] = true
}

// lost are the numbers that were not answered.
func (p *pinger) lost() []uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	var lost []uint16
	for seq := range p.sent {
		if !p.answered[seq] {
			lost = append(lost, seq)
		}
	}
	return lost
}

// close waits for the last answers and returns the numbers that got none.
func (p *pinger) close() ([]uint16, error) {
	for began := time.Now(); time.Since(began) < pingPatience && len(p.lost()) > 0; {
		time.Sleep(time.Millisecond)
	}
	err := p.conn.Close()
	<-p.done
	return slices.Clip(p.lost()), err
}

// ping sends count requests and says how many were answered.
func (n *Node) ping(from *lan.Host, to string, count int) (answered int) {
	n.tb.Helper()
	p, err := newPinger(from, to)
	if err != nil {
		n.tb.Fatal(err)
	}
	for range count {
		// What the sender's own filters refuse is not answered either.
		if err := p.send(); err != nil && !errors.Is(err, os.ErrPermission) {
			n.tb.Logf("pinging %s: %v", to, err)
		}
		time.Sleep(time.Millisecond)
	}
	lost, err := p.close()
	if err != nil {
		n.tb.Fatal(err)
	}
	return count - len(lost)
}

// flood pings the pod of podAddress at an interval until ctx ends; what it returns waits for the end,
// and says how many were sent and which were lost.
func (n *Node) flood(ctx context.Context, from *lan.Host, interval time.Duration) (wait func() (sent int, lost []uint16, err error)) {
	n.tb.Helper()
	p, err := newPinger(from, podAddress)
	if err != nil {
		n.tb.Fatal(err)
	}
	sending := make(chan error, 1)
	go func() { sending <- p.sendUntil(ctx, interval) }()
	return func() (int, []uint16, error) {
		err := <-sending
		lost, closing := p.close()
		return int(p.sent), lost, errors.Join(err, closing)
	}
}

func (p *pinger) sendUntil(ctx context.Context, interval time.Duration) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for p.sent < 1<<16-1 {
		if err := p.send(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
	<-ctx.Done()
	return nil
}
