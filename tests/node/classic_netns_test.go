// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"encoding/binary"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// addClassicFilter adds a filter of classic BPF to egress, in the guard's priority, that
// matches all packets and ends the chain.
func addClassicFilter(index int) error {
	const (
		classID      = 3 // TCA_BPF_CLASSID
		opsLen       = 4 // TCA_BPF_OPS_LEN
		ops          = 5 // TCA_BPF_OPS
		handle       = 77
		priority     = 1
		returnAll    = 0x06 // BPF_RET | BPF_K
		wholePacket  = 0xffffffff
		instructions = 1
	)
	req := nl.NewNetlinkRequest(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(&nl.TcMsg{
		Family: nl.FAMILY_ALL, Ifindex: int32(index), Handle: handle, Parent: netlink.HANDLE_MIN_EGRESS,
		Info: netlink.MakeHandle(priority, nl.Swap16(unix.ETH_P_ALL)),
	})
	req.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated("bpf")))
	options := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	code := make([]byte, 8)
	binary.NativeEndian.PutUint16(code, returnAll)
	binary.NativeEndian.PutUint32(code[4:], wholePacket)
	options.AddRtAttr(opsLen, nl.Uint16Attr(instructions))
	options.AddRtAttr(ops, code)
	options.AddRtAttr(classID, nl.Uint32Attr(1))
	req.AddData(options)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
