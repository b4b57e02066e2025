// SPDX-License-Identifier: Apache-2.0

package macvlan

import (
	"bytes"
	"errors"
	"fmt"
	"net"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
)

const kind = "macvlan"

// ErrNotAlone means that a master carries two macvlans of which one is in
// passthru mode, or would.
var ErrNotAlone = errors.New("passthru must be alone on its master")

// Config is a network of type macvlan.
type Config struct {
	// Master is the interface to make others on. Optional: the default route's.
	Master string
	// Mode is bridge, which Parse makes of none, private, vepa or passthru.
	Mode string
	// MTU of the interface, at most the master's. Optional: the master's.
	MTU int
	// MAC of the interface. Optional: the kernel draws one.
	MAC net.HardwareAddr
	// LinkInContainer looks for the master in the pod instead of on the host.
	LinkInContainer bool
	// BCQueueLen is the length of the queue for broadcast frames. Optional: the
	// kernel's default of 1000.
	BCQueueLen uint32
}

// MasterLink finds the interface that Create would make another on.
func (c *Config) MasterLink(host, pod *netns.Namespace) (netlink.Link, error) {
	return netif.Master(c.from(host, pod), c.Master)
}

func (c *Config) from(host, pod *netns.Namespace) *netns.Namespace {
	if c.LinkInContainer {
		return pod
	}
	return host
}

// Validate says why the interface could not be made now, touching nothing. What
// a master carries in other pods, ipvlan or a macvlan in passthru mode, only the
// attempt shows, because for macvlan the kernel looks no sooner: Create reports
// it, with the same kind of error.
func (c *Config) Validate(host, pod *netns.Namespace) error {
	master, err := c.MasterLink(host, pod)
	if err != nil {
		return err
	}
	if err := netif.ValidateMTU(c.MTU, master); err != nil {
		return err
	}
	if err := c.validateMAC(master); err != nil {
		return err
	}
	return c.validateMaster(c.from(host, pod), master)
}

func (c *Config) validateMAC(master netlink.Link) error {
	if c.MAC == nil {
		return nil
	}
	if err := netif.ValidateMAC(c.MAC); err != nil {
		return netif.NewFieldError("mac", c.MAC.String(), err)
	}
	if own := master.Attrs().HardwareAddr; c.Mode == "passthru" && !bytes.Equal(c.MAC, own) {
		return netif.NewFieldError("mac", c.MAC.String(), fmt.Errorf("in passthru mode it is that of the master, %s", own))
	}
	return nil
}

func (c *Config) validateMaster(in *netns.Namespace, master netlink.Link) error {
	if err := netif.ValidateMaster(in, master, kind); err != nil {
		return err
	}
	if master.Type() == "ipvlan" {
		return netif.NewFieldError("master", master.Attrs().Name, errors.New("is an ipvlan interface, which cannot carry macvlan"))
	}
	if c.Mode == "passthru" {
		return validateAlone(in, master)
	}
	return nil
}

// validateAlone finds the macvlans beside the master, which allow no passthru.
func validateAlone(in *netns.Namespace, master netlink.Link) error {
	links, err := netns.Dump(in.Netlink().LinkList)
	if err != nil {
		return fmt.Errorf("listing interfaces: %w", err)
	}
	for _, l := range links {
		attrs := l.Attrs()
		if (l.Type() == kind || l.Type() == "macvtap") && attrs.NetNsID < 0 && attrs.ParentIndex == master.Attrs().Index {
			return notAlone(master, "carries the "+l.Type()+" "+attrs.Name)
		}
	}
	return nil
}

func (c *Config) link(master netlink.Link) *netlink.Macvlan {
	attrs := netlink.NewLinkAttrs()
	attrs.ParentIndex = master.Attrs().Index
	attrs.MTU = c.MTU
	attrs.HardwareAddr = c.MAC
	return &netlink.Macvlan{LinkAttrs: attrs, Mode: modes[c.Mode], BCQueueLen: c.BCQueueLen}
}

// Create makes the interface in the pod under the given name, down. The result's
// sandbox is the path that the pod was opened by.
func (c *Config) Create(host, pod *netns.Namespace, name string) (*current.Interface, error) {
	master, err := c.MasterLink(host, pod)
	if err != nil {
		return nil, err
	}
	made, err := netif.Create(c.from(host, pod), pod, c.link(master), name)
	if err != nil {
		return nil, fmt.Errorf("creating macvlan %s on %s: %w", name, master.Attrs().Name, c.explain(master, err))
	}
	attrs := made.Attrs()
	return &current.Interface{Name: name, Mac: attrs.HardwareAddr.String(), Mtu: attrs.MTU, Sandbox: pod.Path()}, nil
}

// explain says what the kernel meant; all else that is EINVAL, Validate refused.
func (c *Config) explain(master netlink.Link, err error) error {
	switch {
	case !errors.Is(err, unix.EINVAL):
		return netif.CreateError(master, kind, "ipvlan", err)
	case c.Mode == "passthru":
		return fmt.Errorf("%w: %w", notAlone(master, "carries another macvlan"), err)
	}
	return fmt.Errorf("%w: %w", notAlone(master, "carries a macvlan in passthru mode"), err)
}

func notAlone(master netlink.Link, what string) error {
	return netif.NewFieldError("master", master.Attrs().Name, fmt.Errorf("%s, and %w", what, ErrNotAlone))
}

// Check compares the interface with the configuration: its type, its mode, its
// master, and the MTU and the MAC if the configuration gives them. Differences
// are netif.DriftErrors.
func (c *Config) Check(host, pod *netns.Namespace, name string) error {
	found, err := netif.FindKind(pod, name, kind)
	if err != nil {
		return err
	}
	link, ok := found.(*netlink.Macvlan)
	if !ok {
		return fmt.Errorf("%s: unexpected %T", name, found)
	}
	errs := []error{netif.CheckMTU(link, c.MTU)}
	if got := nameOf(link.Mode); got != c.Mode {
		errs = append(errs, &netif.DriftError{Interface: name, What: "mode", Got: got, Want: c.Mode})
	}
	if c.MAC != nil && !bytes.Equal(link.HardwareAddr, c.MAC) {
		errs = append(errs, &netif.DriftError{Interface: name, What: "MAC", Got: link.HardwareAddr.String(), Want: c.MAC.String()})
	}
	// The default route may have moved on; the interface stays where it was made.
	if c.Master != "" {
		errs = append(errs, netif.CheckMaster(c.from(host, pod), link, c.Master, c.LinkInContainer))
	}
	return errors.Join(errs...)
}
