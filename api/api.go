// SPDX-License-Identifier: Apache-2.0

// Package api is what the agent and its clients say to each other on the agent's
// unix socket: HTTP with JSON bodies. It holds types alone, so that the plugin,
// which must stay small, can use it.
package api

import (
	"encoding/json"
	"log/slog"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/weir-cni/weir/attachment"
)

// Paths of the agent's API.
const (
	// CNIPath takes a CNIRequest by POST and answers a CNIResponse.
	CNIPath = "/v1/cni"
	// AttachmentsPath answers an AttachmentList.
	AttachmentsPath = "/v1/attachments"
	// DropsPath answers a DropList; with follow=true, DropLines as they come.
	DropsPath = "/v1/drops"
	// LogLevelPath answers the agent's LogLevel, and takes another by PUT.
	LogLevelPath = "/v1/log-level"
	// VersionPath answers the agent's VersionInfo.
	VersionPath = "/v1/version"
	// MetricsPath answers what the Prometheus endpoint does.
	MetricsPath = "/v1/metrics"
	// HealthPath answers 200 while the agent serves.
	HealthPath = "/healthz"
	// ReadyPath answers 200 when the agent knows what its cluster has, too.
	ReadyPath = "/readyz"
)

// Host is the name by which the plugin and weirctl call the agent on its socket. What comes
// under another is taken for a browser's.
const Host = "weir"

// Where an agent is found unless it was told otherwise.
const (
	DefaultSocket   = "/run/weir/weir.sock"
	DefaultStateDir = "/var/lib/weir"
	DefaultBPFDir   = "/sys/fs/bpf/weir"
)

// Version is the version of the documents that tools read.
const Version = "weir/v1"

// CNIRequest is one call of the plugin: what the runtime gave it in its
// environment and on its standard input.
type CNIRequest struct {
	Command     string          `json:"command"`
	ContainerID string          `json:"containerID,omitempty"`
	Netns       string          `json:"netns,omitempty"`
	IfName      string          `json:"ifname,omitempty"`
	Args        string          `json:"args,omitempty"`
	Path        string          `json:"path,omitempty"`
	Config      json.RawMessage `json:"config"`
}

// CNIResponse is what the plugin prints: a result of the newest version for ADD,
// nothing for other commands, or an error.
type CNIResponse struct {
	Result json.RawMessage `json:"result,omitempty"`
	Error  *types.Error    `json:"error,omitempty"`
}

// LogLevel is the level from which on the agent logs: DEBUG, INFO, WARN or ERROR.
type LogLevel struct {
	Level slog.Level `json:"level"`
}

// VersionInfo is of which version an agent is.
type VersionInfo struct {
	Version string `json:"version"`
}

// AttachmentList is the attachments of a node.
type AttachmentList struct {
	APIVersion string             `json:"apiVersion"`
	Items      []AttachmentStatus `json:"items"`
}

// AttachmentStatus is an attachment and its counters.
type AttachmentStatus struct {
	attachment.Attachment
	// Hook is where the programs sit: tcx or clsact; empty when not guarded.
	Hook string `json:"hook,omitempty"`
	// Receive and Transmit count what was allowed. Directions are the pod's.
	Receive  Traffic `json:"receive"`
	Transmit Traffic `json:"transmit"`
	// Allowed has Receive and Transmit by class and protocol, those that there were.
	Allowed []Share `json:"allowed"`
	// Dropped holds a reason only once it has dropped something.
	Dropped []Drop `json:"dropped"`
	// Rules has what each rule of the network has decided, in their order, first those of
	// ingress.
	Rules []Rule `json:"rules,omitempty"`
	// Samples is what became of the drops beside being counted.
	Samples Samples `json:"samples"`
}

// Samples counts drops by whether they were passed on with the packet's beginning.
type Samples struct {
	// Sampled were passed on. Limited were too many at a time, and RingFull found no room.
	Sampled  uint64 `json:"sampled"`
	Limited  uint64 `json:"limited"`
	RingFull uint64 `json:"ringFull"`
}

// Lost is how many were not passed on.
func (s Samples) Lost() uint64 { return s.Limited + s.RingFull }

// DropList is drops that the agent remembers, the oldest first.
type DropList struct {
	APIVersion string          `json:"apiVersion"`
	Items      []DroppedPacket `json:"items"`
}

// DropLine is one line that a client gets who follows drops: a drop or, in its place, how
// many the client was too slow for.
type DropLine struct {
	*DroppedPacket
	Missed uint64 `json:"missed,omitempty"`
}

// DroppedPacket is one packet that a guard dropped.
type DroppedPacket struct {
	Time time.Time `json:"time"`
	attachment.ID
	Pod     attachment.Pod `json:"pod"`
	Network string         `json:"network"`
	// Direction is the pod's.
	Direction string `json:"direction"`
	Reason    string `json:"reason"`
	// Rule is the one that denied the packet, by its name or number.
	Rule string `json:"rule,omitempty"`
	// Length is the packet's in bytes, of a GSO packet that of all its segments. Neither
	// it nor Packet has the tag of VLAN.
	Length uint32   `json:"length"`
	VLAN   *VLANTag `json:"vlan,omitempty"`
	// Packet is the beginning, from the Ethernet header on; null for browsers.
	Packet []byte `json:"packet"`
	// Description is what the packet is, in a line. The agent leaves it to clients who get
	// the packet.
	Description string `json:"description,omitempty"`
}

// VLANTag is a tag that the kernel holds beside the packet.
type VLANTag struct {
	// Protocol is the tag's ethertype, as 0x8100.
	Protocol string `json:"protocol"`
	// TCI is the priority in 3 bits, a bit for what may be dropped first, and the VLAN in 12.
	TCI uint16 `json:"tci"`
}

// Rule is a rule of the network and the packets that it has allowed or denied.
type Rule struct {
	attachment.Rule
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Share is what was allowed in one direction of one class (unicast, multicast or
// broadcast) and protocol (tcp, udp, icmp, sctp, arp or other).
type Share struct {
	Direction string `json:"direction"`
	Class     string `json:"class"`
	Protocol  string `json:"protocol"`
	Packets   uint64 `json:"packets"`
	Bytes     uint64 `json:"bytes"`
}

// Traffic is packets and bytes as the wire carries them.
type Traffic struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Drop is what was dropped in one direction for one reason.
type Drop struct {
	Direction string `json:"direction"`
	Reason    string `json:"reason"`
	Packets   uint64 `json:"packets"`
	Bytes     uint64 `json:"bytes"`
}
