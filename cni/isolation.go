// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/libcni"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"github.com/weir-cni/weir/segment"
)

// errIsolation is the error of an isolation that nothing can keep.
var errIsolation = errors.New("its isolation cannot be kept")

var errSegmentAlone = errors.New("a segment is of members: want isolation isolated, promiscuous or a community too")

// validateIsolation finds what is wrong with the keys isolation and segment.
func (o *options) validateIsolation() error {
	if o.Segment == "" {
		return nil
	}
	if o.Isolation.Role() == segment.None {
		return errSegmentAlone
	}
	return segment.ValidateName(o.Segment)
}

// placeIn is where the attachments of a network stand. Its segment is the network itself
// unless it names another; no name of one has the slash of a network's.
func (o *options) placeIn(network string, list *libcni.NetworkConfigList) segment.Place {
	return segment.Place{
		Segment:   cmp.Or(o.Segment, network),
		Isolation: o.Isolation,
		SharedMAC: list.Plugins[0].Network.Type == typeIPVLAN,
	}
}

// typeIPVLAN is the plugin whose interfaces have the MAC of their master.
const typeIPVLAN = "ipvlan"

// PlaceOf is where the attachments of a network stand by its own configuration. One whose
// configuration is a file of the nodes has none here.
func PlaceOf(object *nadv1.NetworkAttachmentDefinition) (segment.Place, error) {
	data, err := ownConfig(object)
	if err != nil {
		return segment.Place{}, err
	}
	list, err := parseNetwork(data)
	if err != nil {
		return segment.Place{}, err
	}
	option, err := optionsOf(list)
	if err != nil {
		return segment.Place{}, err
	}
	return option.placeIn(object.Namespace+"/"+object.Name, list), nil
}

func (j *job) place() segment.Place { return j.option.placeIn(j.stored.Network, j.list) }

// join makes the attachment known to the others of its segment. Of the addresses that its
// result will have none need be known yet.
func (j *job) join(mac net.HardwareAddr, sources []netip.Prefix) error {
	place := j.place()
	if !place.Isolation.Restricted() {
		return nil
	}
	member := segment.Member{MAC: mac}
	for _, p := range sources {
		member.Addresses = append(member.Addresses, p.Addr())
	}
	if err := j.plugin.Guards.Join(j.id(), place, member); err != nil {
		return fmt.Errorf("telling the members of segment %s: %w", place.Segment, err)
	}
	return nil
}

// needsGuard is why the attachment cannot do without its programs; nil when it can.
func (j *job) needsGuard() error {
	switch {
	case j.limits.isLimited(), len(j.option.Rules) > 0:
		return errNeedsGuard
	case j.option.Isolation.Restricted():
		return errIsolation
	}
	return nil
}

// Attached is an interface of a pod as its network status has it.
type Attached struct {
	// Network is its network: namespace/name.
	Network string
	segment.Member
}

// AttachedOf reads the annotation k8s.v1.cni.cncf.io/network-status. What in it is not an
// address is passed over; so is the default network, which has no members.
func AttachedOf(annotation string) []Attached {
	var status []NetworkStatus
	if json.Unmarshal([]byte(annotation), &status) != nil {
		return nil
	}
	return AttachedIn(status)
}

// AttachedIn is what AttachedOf reads, of a status that is not an annotation yet.
func AttachedIn(status []NetworkStatus) []Attached {
	var all []Attached
	for i := range status {
		s := &status[i]
		if s.Default {
			continue
		}
		a := Attached{Network: s.Name}
		a.MAC, _ = net.ParseMAC(s.Mac)
		for _, text := range s.IPs {
			if ip, err := netip.ParseAddr(text); err == nil {
				a.Addresses = append(a.Addresses, ip)
			}
		}
		all = append(all, a)
	}
	return slices.Clip(all)
}
