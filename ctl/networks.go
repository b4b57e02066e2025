// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/weir-cni/weir/api"
)

// networkList is the networks that have attachments on a node.
type networkList struct {
	APIVersion string    `json:"apiVersion"`
	Items      []network `json:"items"`
}

// network is one network on a node, with the sums of its attachments there.
type network struct {
	Name        string   `json:"name"`
	Types       []string `json:"types"`
	Masters     []string `json:"masters"`
	Attachments int      `json:"attachments"`
	// Pods are namespace/name; a container of no pod goes by its ID.
	Pods     []string    `json:"pods"`
	Receive  api.Traffic `json:"receive"`
	Transmit api.Traffic `json:"transmit"`
	Dropped  []api.Drop  `json:"dropped"`
}

// networksOf sums attachments up by their network, in the order of names.
func networksOf(attachments []api.AttachmentStatus) []network {
	place := map[string]int{}
	all := []network{}
	for i := range attachments {
		a := &attachments[i]
		at, known := place[a.Network]
		if !known {
			at = len(all)
			place[a.Network] = at
			all = append(all, network{Name: a.Network, Types: []string{}, Masters: []string{}, Pods: []string{}, Dropped: []api.Drop{}})
		}
		all[at].add(a)
	}
	slices.SortFunc(all, func(a, b network) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

func (n *network) add(a *api.AttachmentStatus) {
	n.Attachments++
	n.Types = with(n.Types, a.Type)
	n.Masters = with(n.Masters, a.Master)
	n.Pods = with(n.Pods, podOf(a))
	n.Receive = sum(n.Receive, a.Receive)
	n.Transmit = sum(n.Transmit, a.Transmit)
	for _, d := range a.Dropped {
		n.addDrop(d)
	}
}

func (n *network) addDrop(d api.Drop) {
	same := func(has api.Drop) bool { return has.Direction == d.Direction && has.Reason == d.Reason }
	if i := slices.IndexFunc(n.Dropped, same); i >= 0 {
		n.Dropped[i].Packets += d.Packets
		n.Dropped[i].Bytes += d.Bytes
		return
	}
	n.Dropped = append(n.Dropped, d)
}

// podOf is the pod of an attachment; a container of no pod goes by its ID.
func podOf(a *api.AttachmentStatus) string { return cmp.Or(a.Pod.String(), a.ContainerID) }

// with is a set with one more in it, unless that is empty.
func with(set []string, one string) []string {
	if one == "" || slices.Contains(set, one) {
		return set
	}
	return append(set, one)
}

func sum(a, b api.Traffic) api.Traffic {
	return api.Traffic{Packets: a.Packets + b.Packets, Bytes: a.Bytes + b.Bytes}
}

// networkNames are those by which a network can be asked for, the whole one first.
func networkNames(n *network) []string {
	_, bare, found := strings.Cut(n.Name, "/")
	if !found {
		return []string{n.Name}
	}
	return []string{n.Name, bare}
}

func networksView(items []network) view[network] {
	return view[network]{
		document: &networkList{api.Version, items},
		items:    items,
		columns:  networkColumns(),
		name:     func(n *network) string { return n.Name },
	}
}

func networkColumns() []column[network] {
	markDrops := func(n *network) mark { return markOf(packetsOf(n.Dropped)) }
	return []column[network]{
		{title: "NETWORK", value: func(n *network) string { return n.Name }},
		{title: "TYPE", value: func(n *network) string { return strings.Join(n.Types, ",") }},
		{title: "ATTACHMENTS", value: func(n *network) string { return strconv.Itoa(n.Attachments) }},
		{title: "PODS", value: func(n *network) string { return strconv.Itoa(len(n.Pods)) }},
		{title: "RX", value: func(n *network) string { return traffic(n.Receive) }},
		{title: "TX", value: func(n *network) string { return traffic(n.Transmit) }},
		{title: "DROPS", value: func(n *network) string { return dropsText(n.Dropped) }, mark: markDrops},
		{title: "MASTER", wide: true, value: func(n *network) string { return strings.Join(n.Masters, ",") }},
		{title: "PODNAMES", wide: true, value: func(n *network) string { return strings.Join(n.Pods, ",") }},
	}
}
