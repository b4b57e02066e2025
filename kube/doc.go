// SPDX-License-Identifier: Apache-2.0

// Package kube is the store of pods and networks for an agent in a Kubernetes
// cluster: the pods of its node and all NetworkAttachmentDefinitions are watched;
// what the watches do not have yet is read at once. It patches the pods'
// network-status and writes their events.
package kube
