// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/netns"
)

// Create makes link, whose attributes are set except for its name and
// namespace, directly in the pod's namespace, and returns it as the kernel made
// it, down. The parent's index is one of namespace from.
//
// The link gets its name by renaming: older kernels, 6.12 among them, want the
// name of a link that is created into another namespace free in the creator's too.
// On error nothing is left.
func Create(from, pod *netns.Namespace, link netlink.Link, name string) (netlink.Link, error) {
	if err := ValidateName(name); err != nil {
		return nil, err
	}
	attrs := link.Attrs()
	attrs.Name = temporaryName(name)
	attrs.Namespace = netlink.NsFd(pod.Fd())
	if err := from.Netlink().LinkAdd(link); err != nil {
		return nil, err
	}
	made, err := rename(pod, attrs.Name, name)
	if err != nil {
		// Whatever bears the name itself was there before.
		return nil, errors.Join(err, remove(pod, attrs.Name))
	}
	return made, nil
}

// rename leaves the link under its former name on error.
func rename(pod *netns.Namespace, from, to string) (netlink.Link, error) {
	link, err := find(pod, from)
	if err != nil {
		return nil, err
	}
	if err := pod.Netlink().LinkSetName(link, to); err != nil {
		return nil, fmt.Errorf("naming it %s: %w", to, err)
	}
	// A rename changes nothing else of what was just read.
	link.Attrs().Name = to
	return link, nil
}

// Delete removes an interface from the pod, and what a Create of it left that
// was cut short. One that is gone already is no error.
func Delete(pod *netns.Namespace, name string) error {
	return errors.Join(remove(pod, name), remove(pod, temporaryName(name)))
}

func remove(pod *netns.Namespace, name string) error {
	link, err := pod.Netlink().LinkByName(name)
	if err == nil {
		err = pod.Netlink().LinkDel(link)
	}
	if err != nil && !IsNotFound(err) {
		return fmt.Errorf("deleting %s: %w", name, err)
	}
	return nil
}

// Addresses lists all addresses that an interface has, each with the length of
// its prefix, the ones that the kernel made itself included.
func Addresses(pod *netns.Namespace, name string) ([]netip.Prefix, error) {
	link, err := find(pod, name)
	if err != nil {
		return nil, err
	}
	held, err := addressesOf(pod, link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	prefixes := make([]netip.Prefix, len(held))
	for i, a := range held {
		prefixes[i] = prefixOf(*a.IPNet)
	}
	return prefixes, nil
}

func addressesOf(in *netns.Namespace, link netlink.Link, family int) ([]netlink.Addr, error) {
	held, err := netns.Dump(func() ([]netlink.Addr, error) { return in.Netlink().AddrList(link, family) })
	if err != nil {
		return nil, fmt.Errorf("listing the addresses of %s: %w", link.Attrs().Name, err)
	}
	return held, nil
}

// find looks an interface up; ErrNotFound when it is not there.
func find(in *netns.Namespace, name string) (netlink.Link, error) {
	link, err := in.Netlink().LinkByName(name)
	switch {
	case IsNotFound(err):
		return nil, fmt.Errorf("%s: %w", name, ErrNotFound)
	case err != nil:
		return nil, fmt.Errorf("looking up %s: %w", name, err)
	}
	return link, nil
}
