// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/weir-cni/weir/api"
)

// attachmentNames are those by which an attachment can be asked for, the whole one first.
func attachmentNames(a *api.AttachmentStatus) []string {
	if a.Pod.Name == "" {
		return []string{a.ContainerID + "/" + a.Interface, a.ContainerID}
	}
	return []string{a.Pod.String() + "/" + a.Interface, a.Pod.String(), a.Pod.Name}
}

func attachmentsView(items []api.AttachmentStatus) view[api.AttachmentStatus] {
	return view[api.AttachmentStatus]{
		document: &api.AttachmentList{APIVersion: api.Version, Items: items},
		items:    items,
		columns:  attachmentColumns(),
		name:     func(a *api.AttachmentStatus) string { return attachmentNames(a)[0] },
	}
}

func attachmentColumns() []column[api.AttachmentStatus] {
	type status = api.AttachmentStatus
	markDrops := func(a *status) mark { return markOf(packetsOf(a.Dropped)) }
	return []column[status]{
		{title: "NAMESPACE", value: func(a *status) string { return a.Pod.Namespace }},
		{title: "POD", value: func(a *status) string { return a.Pod.Name }},
		{title: "IF", value: func(a *status) string { return a.Interface }},
		{title: "NETWORK", value: func(a *status) string { return a.Network }},
		{title: "TYPE", value: func(a *status) string { return a.Type }},
		{title: "IP", value: addresses},
		{title: "RX", value: func(a *status) string { return traffic(a.Receive) }},
		{title: "TX", value: func(a *status) string { return traffic(a.Transmit) }},
		{title: "DROPS", value: func(a *status) string { return dropsText(a.Dropped) }, mark: markDrops},
		{title: "AGE", value: func(a *status) string { return age(a.Created) }},
		{title: "MASTER", wide: true, value: func(a *status) string { return a.Master }},
		{title: "MODE", wide: true, value: func(a *status) string { return a.Mode }},
		{title: "MAC", wide: true, value: func(a *status) string { return a.MAC }},
		{title: "MTU", wide: true, value: func(a *status) string { return strconv.Itoa(a.MTU) }},
		{title: "HOOK", wide: true, value: func(a *status) string { return a.Hook }},
		{title: "CONTAINER", wide: true, value: func(a *status) string { return a.ContainerID }},
	}
}

func markOf(drops uint64) mark {
	if drops > 0 {
		return bad
	}
	return plain
}

func age(created time.Time) string { return duration.HumanDuration(time.Since(created)) }

func addresses(a *api.AttachmentStatus) string {
	var text []string
	for _, p := range a.Addresses {
		text = append(text, p.Addr().String())
	}
	return strings.Join(text, ",")
}

func traffic(t api.Traffic) string {
	return fmt.Sprintf("%d/%s", t.Packets, humanBytes(t.Bytes))
}

// drops is the number of packets dropped, and the reason where there is but one.
func dropsText(dropped []api.Drop) string {
	if len(dropped) == 1 {
		return fmt.Sprintf("%d %s", dropped[0].Packets, dropped[0].Reason)
	}
	return strconv.FormatUint(packetsOf(dropped), 10)
}

func packetsOf(dropped []api.Drop) uint64 {
	var packets uint64
	for _, d := range dropped {
		packets += d.Packets
	}
	return packets
}

func humanBytes(n uint64) string {
	const unit = 1000
	if n < unit {
		return fmt.Sprintf("%dB", n)
	}
	value, prefixes := float64(n), "kMGTPE"
	place := -1
	// What would be rounded up to 1000.0 is 1.0 of the next.
	for value >= unit-0.05 && place < len(prefixes)-1 {
		value /= unit
		place++
	}
	return fmt.Sprintf("%.1f%cB", value, prefixes[place])
}
