// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Ring sends frames that lie in memory which it shares with the kernel (PACKET_TX_RING).
// But for the Ethernet header they are not copied: what is behind it stays the sender's to
// change while the frame is on its way.
type Ring struct {
	tb     testing.TB
	fd     int
	to     unix.SockaddrLinklayer
	memory []byte
	next   int
}

const (
	ringFrame  = 16 << 10 // holds a jumbo frame
	ringFrames = 16
	// Where the data of a slot begins: behind struct tpacket2_hdr, aligned.
	ringData = 32
	// Values of tp_status.
	ringFree, ringSend, ringWrong = 0, 1, 4
)

// Ring opens a ring on an interface of the host.
func (h *Host) Ring(ifname string) *Ring {
	h.tb.Helper()
	r := &Ring{tb: h.tb, fd: -1}
	h.Do(func() error { return r.open(ifname) })
	h.tb.Cleanup(func() { _ = errors.Join(unix.Munmap(r.memory), unix.Close(r.fd)) })
	return r
}

func (r *Ring) open(ifname string) (err error) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return err
	}
	r.to = unix.SockaddrLinklayer{Ifindex: ifi.Index, Halen: 6}
	if r.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	size := unix.TpacketReq{Block_size: ringFrame, Block_nr: ringFrames, Frame_size: ringFrame, Frame_nr: ringFrames}
	err = errors.Join(
		unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2),
		unix.SetsockoptTpacketReq(r.fd, unix.SOL_PACKET, unix.PACKET_TX_RING, &size))
	if err != nil {
		return err
	}
	r.memory, err = unix.Mmap(r.fd, 0, ringFrame*ringFrames, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return err
}

// Send sends a frame and returns the memory in which the kernel has it. One that the host's
// own filters drop is no error; the kernel would send it again with the next. It does not
// wait until the frame has left.
func (r *Ring) Send(frame []byte) []byte {
	r.tb.Helper()
	slot := r.memory[r.next*ringFrame:][:ringFrame]
	status, length := (*uint32)(unsafe.Pointer(&slot[0])), (*uint32)(unsafe.Pointer(&slot[4]))
	for began := time.Now(); atomic.LoadUint32(status) != ringFree; runtime.Gosched() {
		if atomic.LoadUint32(status)&ringWrong != 0 || time.Since(began) > 5*time.Second {
			r.tb.Fatalf("a slot of the ring has status %d", *status)
		}
	}
	copy(slot[ringData:], frame)
	*length = uint32(len(frame))
	atomic.StoreUint32(status, ringSend)
	switch err := unix.Sendto(r.fd, nil, unix.MSG_DONTWAIT, &r.to); {
	case errors.Is(err, unix.ENOBUFS):
		atomic.StoreUint32(status, ringFree)
	case err != nil:
		r.tb.Fatalf("sending from a ring: %v", err)
	default:
		r.next = (r.next + 1) % ringFrames
	}
	return slot[ringData:][:len(frame)]
}

// OffloadHeader tells what a frame leaves to the kernel and its devices: struct
// virtio_net_hdr.
type OffloadHeader struct {
	Flags, GSOType                                  uint8
	HeaderLen, GSOSize, ChecksumStart, ChecksumFrom uint16
}

// Values of OffloadHeader.
const (
	NeedsChecksum = 1 // of Flags
	GSOTCPv4      = 1 // of GSOType
	GSOUDP        = 3 // fragments
	GSOTCPv6      = 4
	GSOUDPSegment = 5
)

// SendOffloaded sends a frame by a packet socket that takes such headers (PACKET_VNET_HDR).
func (h *Host) SendOffloaded(ifname string, header OffloadHeader, frame []byte) {
	h.tb.Helper()
	h.Do(func() error {
		ifi, err := net.InterfaceByName(ifname)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
			return err
		}
		raw := unsafe.Slice((*byte)(unsafe.Pointer(&header)), unsafe.Sizeof(header))
		err = unix.Sendto(fd, append(append([]byte(nil), raw...), frame...), 0, &unix.SockaddrLinklayer{Ifindex: ifi.Index, Halen: 6})
		if errors.Is(err, unix.ENOBUFS) {
			return nil
		}
		return err
	})
}

// Tap is a device whose frames come from a program, in as many parts as that likes.
type Tap struct {
	tb   testing.TB
	file *os.File
}

// Tap makes a tap device of the host, up, that takes frames as a network card's driver does
// which leaves them where they were received (IFF_NAPI_FRAGS).
func (h *Host) Tap(name string) *Tap {
	h.tb.Helper()
	t := &Tap{tb: h.tb}
	h.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		t.file = os.NewFile(uintptr(fd), name)
		request, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_NAPI | unix.IFF_NAPI_FRAGS)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	})
	h.tb.Cleanup(func() { _ = t.file.Close() })
	h.Up(name)
	return t
}

// Send has the device receive a frame, of which only the Ethernet header is linear.
func (t *Tap) Send(frame []byte) {
	t.tb.Helper()
	const header, page = 14, 4096 // a part may not be longer
	parts := append([][]byte{frame[:header]}, slices.Collect(slices.Chunk(frame[header:], page))...)
	if _, err := unix.Writev(int(t.file.Fd()), parts); err != nil {
		t.tb.Fatal(fmt.Errorf("sending from a tap: %w", err))
	}
}
