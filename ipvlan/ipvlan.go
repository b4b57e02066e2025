// SPDX-License-Identifier: Apache-2.0

package ipvlan

import (
	"errors"
	"fmt"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
)

const kind = "ipvlan"

// Config is a network of type ipvlan.
type Config struct {
	// Master is the interface to make others on. Optional: the default route's.
	Master string
	// Mode is l2, which Parse makes of none, l3 or l3s.
	Mode string
	// MTU of the interface, at most the master's. Optional: the master's.
	MTU int
	// LinkInContainer looks for the master in the pod instead of on the host.
	LinkInContainer bool
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

// Validate says why the interface could not be made now, touching nothing.
func (c *Config) Validate(host, pod *netns.Namespace) error {
	master, err := c.MasterLink(host, pod)
	if err != nil {
		return err
	}
	if err := netif.ValidateMTU(c.MTU, master); err != nil {
		return err
	}
	in := c.from(host, pod)
	if err := netif.ValidateMaster(in, master, kind); err != nil {
		return err
	}
	if err := c.probe(in, master); err != nil {
		return fmt.Errorf("asking for an ipvlan on %s: %w", master.Attrs().Name, netif.CreateError(master, kind, "macvlan", err))
	}
	return nil
}

// probe is the error that making an interface would meet. It asks for one by a
// name that the kernel refuses (EINVAL) only in registering it, after it has
// looked for another user of the master (ipvlan_link_new) and before it has
// changed anything.
func (c *Config) probe(in *netns.Namespace, master netlink.Link) error {
	link := c.link(master)
	link.Name = "weir/probe"
	if err := in.Netlink().LinkAdd(link); !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

func (c *Config) link(master netlink.Link) *netlink.IPVlan {
	attrs := netlink.NewLinkAttrs()
	attrs.ParentIndex = master.Attrs().Index
	attrs.MTU = c.MTU
	return &netlink.IPVlan{LinkAttrs: attrs, Mode: modes[c.Mode]}
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
		err = netif.CreateError(master, kind, "macvlan", err)
		return nil, fmt.Errorf("creating ipvlan %s on %s: %w", name, master.Attrs().Name, err)
	}
	attrs := made.Attrs()
	return &current.Interface{Name: name, Mac: attrs.HardwareAddr.String(), Mtu: attrs.MTU, Sandbox: pod.Path()}, nil
}

// Check compares the interface with the configuration: its type, its mode, its
// master, and the MTU if the configuration gives one. Differences are
// netif.DriftErrors.
func (c *Config) Check(host, pod *netns.Namespace, name string) error {
	found, err := netif.FindKind(pod, name, kind)
	if err != nil {
		return err
	}
	link, ok := found.(*netlink.IPVlan)
	if !ok {
		return fmt.Errorf("%s: unexpected %T", name, found)
	}
	errs := []error{netif.CheckMTU(link, c.MTU)}
	if got := nameOf(link.Mode); got != c.Mode {
		errs = append(errs, &netif.DriftError{Interface: name, What: "mode", Got: got, Want: c.Mode})
	}
	// The default route may have moved on; the interface stays where it was made.
	if c.Master != "" {
		errs = append(errs, netif.CheckMaster(c.from(host, pod), link, c.Master, c.LinkInContainer))
	}
	return errors.Join(errs...)
}
