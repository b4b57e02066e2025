// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"fmt"
	"strings"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/state"
)

// Event is what the users of a pod are told.
type Event struct {
	Warning bool
	// Reason is one word, for machines; Message is for people.
	Reason, Message string
}

// Reasons of events. The first two, and their messages, are as Multus has them.
const (
	// ReasonAdded is of an interface that the pod has got.
	ReasonAdded = "AddedInterface"
	// ReasonNoNetwork is of a NetworkAttachmentDefinition that is not there.
	ReasonNoNetwork = "NoNetworkFound"
	// ReasonRemoved is of an interface that was taken from a running pod.
	ReasonRemoved = "RemovedInterface"
	// ReasonFailedAdd is of a pod that did not get its networks.
	ReasonFailedAdd = "FailedAddNetworks"
	// ReasonGuardRestored is of a guard that was taken off, or before which something was
	// put, and that is in force again.
	ReasonGuardRestored = "GuardRestored"
	// ReasonGuardRemoved is of a guard that was taken off and could not be put back yet.
	ReasonGuardRemoved = "GuardRemoved"
	// ReasonInterfaceGone is of an interface that was deleted, or moved away, in the pod.
	ReasonInterfaceGone = "InterfaceGone"
	// ReasonGuardChanged is of a guard that follows a change of its network, and
	// ReasonGuardUnchanged of one that cannot.
	ReasonGuardChanged   = "GuardChanged"
	ReasonGuardUnchanged = "GuardUnchanged"
	// ReasonFailedDelete is of a pod whose networks could not all be taken away.
	ReasonFailedDelete = "FailedDeleteNetworks"
)

// missingNetworkError is the error of a network that the store does not have.
type missingNetworkError struct {
	namespace, name string
	err             error
}

func (e *missingNetworkError) Error() string {
	return fmt.Sprintf("network %s/%s: looking the NetworkAttachmentDefinition up: %v", e.namespace, e.name, e.err)
}

func (e *missingNetworkError) Unwrap() error { return e.err }

func (p *Plugin) report(pod attachment.Pod, e Event) {
	if pod.Name != "" && p.Events != nil {
		p.Events.Report(pod, e)
	}
}

// reportAdded tells of an interface. Of a network that made nothing there is nothing
// to tell.
func (p *Plugin) reportAdded(pod attachment.Pod, d *state.Delegate) {
	result, err := storedResult(d)
	if err != nil || madeNothing(result) {
		return
	}
	addresses := make([]string, len(result.IPs))
	for i, ip := range result.IPs {
		addresses[i] = ip.Address.String()
	}
	message := fmt.Sprintf("Add %s [%s]", d.Interface, strings.Join(addresses, " "))
	if d.Network != "" {
		message += " from " + d.Network
	}
	p.report(pod, Event{Reason: ReasonAdded, Message: message})
}

// reportFailedAdd tells why a pod has not got its networks.
func (p *Plugin) reportFailedAdd(pod attachment.Pod, err error) {
	if missing, ok := errors.AsType[*missingNetworkError](err); ok {
		p.report(pod, Event{Warning: true, Reason: ReasonNoNetwork, Message: fmt.Sprintf(
			"cannot find a network-attachment-definition (%s) in namespace (%s): %v", missing.name, missing.namespace, missing.err)})
		return
	}
	p.report(pod, Event{Warning: true, Reason: ReasonFailedAdd, Message: err.Error()})
}
