// SPDX-License-Identifier: Apache-2.0

package drops

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/bpf"
)

// raw is a record as the kernel writes it.
func raw(tb testing.TB, d *bpf.Drop) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := binary.Write(&b, binary.NativeEndian, d); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// verdictOf is the number of a reason.
func verdictOf(tb testing.TB, reason string) uint8 {
	tb.Helper()
	for v := range bpf.Verdicts() {
		if v.Reason() == reason {
			return uint8(v)
		}
	}
	tb.Fatalf("no reason %s", reason)
	return 0
}

func TestDecodeReadsWhatIsWritten(t *testing.T) {
	t.Parallel()
	want := &bpf.Drop{
		Time: 5, Attachment: 7, Length: 1514, Captured: 128, Rule: 3, VlanTci: 0x2007, VlanProto: 0x81, Direction: uint8(bpf.Egress),
		Verdict: verdictOf(t, "rule_denied"), Packet: [128]uint8{1, 127: 2},
	}
	got, err := Decode(raw(t, want))
	if err != nil || *got != *want {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	good := bpf.Drop{Length: 60, Captured: 60, Verdict: verdictOf(t, "malformed")}
	tests := map[string]func(*bpf.Drop){
		"more than there is room for": func(d *bpf.Drop) { d.Length, d.Captured = 1514, 129 },
		"more than the packet":        func(d *bpf.Drop) { d.Captured = 61 },
		"no direction":                func(d *bpf.Drop) { d.Direction = 2 },
		"what was allowed":            func(d *bpf.Drop) { d.Verdict = uint8(bpf.Allowed) },
		"no verdict":                  func(d *bpf.Drop) { d.Verdict = 255 },
	}
	for name, spoil := range tests {
		d := good
		spoil(&d)
		if _, err := Decode(raw(t, &d)); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: %v", name, err)
		}
	}
	whole := raw(t, &good)
	for _, wrong := range [][]byte{nil, whole[:len(whole)-1], append(slices.Clone(whole), 0)} {
		if _, err := Decode(wrong); !errors.Is(err, ErrRecord) {
			t.Errorf("%d bytes: %v", len(wrong), err)
		}
	}
}

// FuzzDecode looks for bytes that are taken for a drop and are none.
func FuzzDecode(f *testing.F) {
	f.Add(raw(f, &bpf.Drop{Length: 60, Captured: 60, Verdict: verdictOf(f, "malformed")}))
	f.Add(raw(f, &bpf.Drop{Length: 60, Captured: 200, Verdict: 200}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Decode(data)
		if err != nil {
			if !errors.Is(err, ErrRecord) {
				t.Error(err)
			}
			return
		}
		if d.Captured > d.Length || int(d.Captured) > len(d.Packet) || !bytes.Equal(raw(t, d), data) {
			t.Errorf("%+v", d)
		}
		dropped := describe(d, time.Now(), &attachment.Attachment{})
		if len(dropped.Packet) != int(d.Captured) || !slices.Contains(Reasons(), dropped.Reason) || !slices.Contains(Directions(), dropped.Direction) {
			t.Errorf("%+v", dropped)
		}
	})
}

func TestWallClock(t *testing.T) {
	t.Parallel()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	got, err := wallClock(uint64(now.Nano()) - uint64(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if d := before.Add(-time.Hour).Sub(got).Abs(); d > 5*time.Second {
		t.Errorf("%s away", d)
	}
}
