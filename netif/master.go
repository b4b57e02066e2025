// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/netns"
)

// Master finds the interface that others are to be made on: the named one, or
// the device of the default route, IPv4's first, when name is empty. Errors are
// FieldErrors of "master": ErrNotFound, ErrNoDefaultRoute.
func Master(in *netns.Namespace, name string) (netlink.Link, error) {
	if name == "" {
		return defaultMaster(in)
	}
	link, err := in.Netlink().LinkByName(name)
	if IsNotFound(err) {
		err = ErrNotFound
	}
	if err != nil {
		return nil, &FieldError{Field: "master", Value: name, Err: err}
	}
	return link, nil
}

func defaultMaster(in *netns.Namespace) (netlink.Link, error) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netns.Dump(func() ([]netlink.Route, error) { return in.Netlink().RouteList(nil, family) })
		if err != nil {
			return nil, &FieldError{Field: "master", Err: fmt.Errorf("listing routes: %w", err)}
		}
		if index := defaultDevice(routes); index != 0 {
			return in.Netlink().LinkByIndex(index)
		}
	}
	return nil, &FieldError{Field: "master", Err: ErrNoDefaultRoute}
}

// defaultDevice is the device of the first default route, the preferred one
// because the kernel lists equal destinations by metric; 0 when there is none.
func defaultDevice(routes []netlink.Route) int {
	for _, r := range routes {
		if !isDefault(r.Dst) || r.Type != unix.RTN_UNICAST {
			continue
		}
		for _, hop := range hopsOf(r) {
			if hop.LinkIndex != 0 {
				return hop.LinkIndex
			}
		}
	}
	return 0
}

func isDefault(dst *net.IPNet) bool {
	if dst == nil {
		return true
	}
	ones, _ := dst.Mask.Size()
	return ones == 0
}

// ValidateMaster says why no interface of the given kind, "macvlan" or "ipvlan",
// could be made on master: it is not Ethernet, is the loopback, or is a port of
// another device. What a master carries in other namespaces is not its to see.
// Errors are FieldErrors of "master".
func ValidateMaster(in *netns.Namespace, master netlink.Link, kind string) error {
	attrs := master.Attrs()
	if attrs.Flags&net.FlagLoopback != 0 || attrs.EncapType != "ether" {
		return masterError(master, fmt.Errorf("not an Ethernet interface, which %s needs", kind))
	}
	// A VRF has its members by other means than the receive handler.
	if attrs.MasterIndex == 0 || attrs.Slave != nil && attrs.Slave.SlaveType() == "vrf" {
		return nil
	}
	port := fmt.Sprintf("interface %d", attrs.MasterIndex)
	if upper, err := in.Netlink().LinkByIndex(attrs.MasterIndex); err == nil {
		port = upper.Attrs().Name
	}
	return masterError(master, fmt.Errorf("%w: it is a port of %s and cannot carry %s", ErrMasterBusy, port, kind))
}

// MinMTU is the least MTU of an Ethernet interface in the kernel (ETH_MIN_MTU), and the
// least with which it has IPv4 (RFC 791).
const MinMTU = 68

// ValidateMTU says why an interface on master could not have the MTU: it is below
// MinMTU, or larger than the master's. 0 stands for the master's own.
func ValidateMTU(mtu int, master netlink.Link) error {
	if most := master.Attrs().MTU; mtu != 0 && (mtu < MinMTU || mtu > most) {
		return &FieldError{Field: "mtu", Value: mtu, Err: fmt.Errorf("want 0, or %d to %d, the MTU of master %s", MinMTU, most, master.Attrs().Name)}
	}
	return nil
}

// CreateError says what an error of Create means for an interface of kind, one
// of "macvlan" and "ipvlan", on master.
func CreateError(master netlink.Link, kind, other string, err error) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		return masterError(master, fmt.Errorf("%w: it carries %s or another exclusive user, so it cannot carry %s", ErrMasterBusy, other, kind))
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("the kernel has no %s: %w", kind, err)
	}
	return err
}

// CheckMaster compares the parent of an interface with the master that its
// configuration names; the name may lead to another interface by now. inPod says
// whether in, where the master is, is the pod's namespace.
func CheckMaster(in *netns.Namespace, link netlink.Link, name string, inPod bool) error {
	attrs := link.Attrs()
	got := describeParent(attrs.ParentIndex, attrs.NetNsID < 0)
	master, err := Master(in, name)
	if errors.Is(err, ErrNotFound) {
		return &DriftError{Interface: attrs.Name, What: "master", Got: got, Want: name + ", which is gone"}
	}
	if err != nil {
		return err
	}
	if master.Type() == link.Type() {
		return checkStacked(link, master)
	}
	if want := describeParent(master.Attrs().Index, inPod); got != want {
		return &DriftError{Interface: attrs.Name, What: "master", Got: got, Want: name + ", " + want}
	}
	return nil
}

// checkStacked is for a master of the interface's own type: the kernel makes the
// interface beside it, on the master's master.
func checkStacked(link, master netlink.Link) error {
	got, want := link.Attrs().ParentIndex, master.Attrs().ParentIndex
	if got == want {
		return nil
	}
	return &DriftError{
		Interface: link.Attrs().Name,
		What:      "master",
		Got:       fmt.Sprintf("interface %d", got),
		Want:      fmt.Sprintf("interface %d, that of %s", want, master.Attrs().Name),
	}
}

func describeParent(index int, inPod bool) string {
	if inPod {
		return fmt.Sprintf("interface %d in the pod", index)
	}
	return fmt.Sprintf("interface %d outside the pod", index)
}

func masterError(master netlink.Link, err error) error {
	return &FieldError{Field: "master", Value: master.Attrs().Name, Err: err}
}
