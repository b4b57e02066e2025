// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/netns"
)

// Find looks an interface up by name; the error is ErrNotFound when it is not
// there.
func Find(in *netns.Namespace, name string) (netlink.Link, error) {
	return find(in, name)
}

// SetSysctl sets a value below net in a network namespace, such as
// "ipv4/ip_forward" to "1"; a dot in an interface's name needs no care. A value
// that is right already is not written. The error is fs.ErrNotExist for a setting
// that the kernel does not have.
func SetSysctl(in *netns.Namespace, key, value string) error {
	return in.Do(func() error { return setSysctl(key, value) })
}
