// SPDX-License-Identifier: Apache-2.0

package drops

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/weir-cni/weir/bpf"
)

// ErrRecord is the error of a record that no program of this build writes.
var ErrRecord = errors.New("not a record of a drop")

// recordLen is the length of a record (struct weir_drop in bpf/drop.h).
var recordLen = binary.Size(bpf.Drop{})

// Decode reads a record of a ring. All that is to be relied on of it is checked: the verdict
// and the direction are known, and no more was captured than there is room for. The error
// is ErrRecord.
func Decode(raw []byte) (*bpf.Drop, error) {
	if len(raw) != recordLen {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrRecord, len(raw), recordLen)
	}
	var d bpf.Drop
	if err := binary.Read(bytes.NewReader(raw), binary.NativeEndian, &d); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	switch {
	case d.Captured > uint32(len(d.Packet)) || d.Captured > d.Length:
		return nil, fmt.Errorf("%w: %d of %d bytes captured", ErrRecord, d.Captured, d.Length)
	case d.Direction > uint8(bpf.Egress):
		return nil, fmt.Errorf("%w: direction %d", ErrRecord, d.Direction)
	case !isReason(bpf.Verdict(d.Verdict)):
		return nil, fmt.Errorf("%w: verdict %d", ErrRecord, d.Verdict)
	}
	return &d, nil
}

// isReason tells that a verdict is one that this build knows, and drops.
func isReason(verdict bpf.Verdict) bool {
	for v := range bpf.Verdicts() {
		if v == verdict {
			return v != bpf.Allowed
		}
	}
	return false
}
