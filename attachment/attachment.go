// SPDX-License-Identifier: Apache-2.0

// Package attachment is the one thing that everything in weir is about: an
// interface that joins a container to a network.
package attachment

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"
)

// ID names an attachment, as the CNI specification does: by container and
// interface (CNI_CONTAINERID, CNI_IFNAME).
type ID struct {
	ContainerID string `json:"containerID"`
	Interface   string `json:"interface"`
}

// String is containerID/interface.
func (id ID) String() string { return id.ContainerID + "/" + id.Interface }

// containerID is the rule of the CNI specification 1.1.0, "Parameters".
var containerID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`)

// ErrInvalid is the error of a container ID that CNI does not allow.
var ErrInvalid = errors.New("invalid")

// containerIDMax leaves room for the names of files that are made of the ID.
const containerIDMax = 200

// ValidateContainerID checks a container ID by the CNI specification, and for a
// length of at most 200 bytes. The error is ErrInvalid.
func ValidateContainerID(id string) error {
	if len(id) > containerIDMax || !containerID.MatchString(id) {
		return fmt.Errorf("container ID %q: %w", id, ErrInvalid)
	}
	return nil
}

// Lengths in the names of pins.
const (
	shortID     = 12
	pinNameMax  = 255 // NAME_MAX
	hashedBytes = 16
)

// PinName is the name of the directory of the attachment's pins: the first 12
// characters of the container ID, a hyphen, the interface. bpffs allows no dot in
// a name: it is written %2E. Two attachments may share it.
func (id ID) PinName() string {
	return escape(id.ContainerID[:min(shortID, len(id.ContainerID))]) + "-" + escape(id.Interface)
}

// LongPinName is the name for an attachment whose PinName another has: with the
// whole container ID, or, when that is too long for a file name, a hash of it. A
// hyphen within either part is written %2D, so that no two attachments share it,
// nor is it the PinName of another.
func (id ID) LongPinName() string {
	ifname := "-" + escapeHyphens(id.Interface)
	if name := escapeHyphens(id.ContainerID) + ifname; len(name) <= pinNameMax {
		return name
	}
	hash := sha256.Sum256([]byte(id.ContainerID))
	// No container ID has an equals sign, so none is taken for a hash.
	return "sha256=" + hex.EncodeToString(hash[:hashedBytes]) + ifname
}

func escape(name string) string {
	return strings.NewReplacer("%", "%25", ".", "%2E").Replace(name)
}

func escapeHyphens(name string) string {
	return strings.ReplaceAll(escape(name), "-", "%2D")
}

// Pod is the pod of a container; its fields are empty for a container of none.
type Pod struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// String is namespace/name, or empty for no pod.
func (p Pod) String() string {
	if p.Name == "" {
		return ""
	}
	return p.Namespace + "/" + p.Name
}

// Rule is what names a rule of the network: its direction, its name or number, and allow or
// deny.
type Rule struct {
	Direction string `json:"direction"`
	Rule      string `json:"rule"`
	Action    string `json:"action"`
}

// Attachment is what weir knows of an interface that it guards.
type Attachment struct {
	ID
	Pod Pod `json:"pod"`
	// Network is the name in network-status: namespace/name.
	Network string `json:"network"`
	// Type is the kernel's kind of interface: macvlan, ipvlan, veth.
	Type string `json:"type,omitempty"`
	// Master and Mode are those of a macvlan or ipvlan.
	Master string `json:"master,omitempty"`
	Mode   string `json:"mode,omitempty"`
	MAC    string `json:"mac,omitempty"`
	MTU    int    `json:"mtu,omitempty"`
	// Addresses come with the prefix length of their network.
	Addresses []netip.Prefix `json:"addresses"`
	// Isolation is to whom of its network the pod may talk: isolated, promiscuous or
	// community:name; empty for all.
	Isolation string `json:"isolation,omitempty"`
	// Netns is the path of the pod's network namespace.
	Netns string `json:"netns,omitempty"`
	// HostInterface is the node's end of the pod's interface, where the programs
	// sit; empty where they sit on the pod's own.
	HostInterface string `json:"hostInterface,omitempty"`
	// Index is the number of the interface where the programs sit, in its namespace; 0
	// where it is not known.
	Index int `json:"index,omitempty"`
	// Rules are those that the guard keeps, all of ingress before those of egress.
	Rules []Rule `json:"rules,omitempty"`
	// PinDir is the name of the directory of pins; empty when not guarded.
	PinDir  string    `json:"pinDir,omitempty"`
	Created time.Time `json:"created"`
}
