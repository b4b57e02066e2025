// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/netns"
)

// Reclaim gives an interface of the pod the name that it had, by its index. Another one that
// bears the name gets a random one, or is deleted where the name is bound to it in some
// other way. An interface that is gone is no error.
func Reclaim(pod *netns.Namespace, index int, name string) error {
	link, err := pod.Netlink().LinkByIndex(index)
	if IsNotFound(err) || err == nil && link.Attrs().Name == name {
		return nil
	}
	if err == nil {
		err = reclaim(pod, link, name)
	}
	if err != nil {
		return fmt.Errorf("giving interface %d the name %s back: %w", index, name, err)
	}
	return nil
}

func reclaim(pod *netns.Namespace, link netlink.Link, name string) error {
	occupant, err := pod.Netlink().LinkByName(name)
	switch {
	case IsNotFound(err):
		return renameDown(pod, link, name)
	case err != nil:
		return err
	}
	if err := renameDown(pod, occupant, randomName()); err != nil {
		return err
	}
	err = renameDown(pod, link, name)
	if err == nil {
		return nil
	}
	// The name is an alternative one of the occupant's.
	return errors.Join(pod.Netlink().LinkDel(occupant), renameDown(pod, link, name))
}

// renameDown renames an interface as every kernel allows: while it is down.
func renameDown(pod *netns.Namespace, link netlink.Link, name string) error {
	if err := pod.Netlink().LinkSetDown(link); err != nil {
		return err
	}
	return pod.Netlink().LinkSetName(link, name)
}

// randomName is one that nobody in the pod can have taken before.
func randomName() string { return fmt.Sprintf("weir%08x", rand.Uint32()) }
