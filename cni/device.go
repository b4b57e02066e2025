// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"errors"
	"fmt"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/bridge"
	"github.com/weir-cni/weir/hostdevice"
	"github.com/weir-cni/weir/ipvlan"
	"github.com/weir-cni/weir/macvlan"
	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
)

// site is where a native interface is made, and for whom.
type site struct {
	host *netns.Namespace
	// pod is nil when it is gone, which only Delete sees.
	pod *netns.Namespace
	// network is the name of the configuration.
	network     string
	containerID string
	// ifname is the interface's name in the pod.
	ifname string
	// saved is what Save returned.
	saved json.RawMessage
}

// made is what Create has made.
type made struct {
	// interfaces are as the result lists them.
	interfaces []*current.Interface
	// pod is the place in interfaces of the pod's own.
	pod int
	// absent is set for a device that is no interface to the kernel.
	absent bool
	// hostEnd is the name of the other end of the pod's interface, which is on the
	// node; empty where there is none.
	hostEnd string
	// master and mode are those of the attachment.
	master, mode string
}

// device is a type of interface that weir makes itself.
type device interface {
	// Validate finds what is wrong with the configuration on this node, touching
	// nothing.
	Validate(s site) error
	// Save is what Delete must know of the node as it was before Create; nil for
	// nothing. It touches nothing.
	Save(s site) (json.RawMessage, error)
	// Create makes the interface in the pod, down and without addresses.
	Create(s site) (*made, error)
	// Complete adds to a result that has its addresses what the type itself knows,
	// touching nothing.
	Complete(result *current.Result) error
	// Configure gives everything its addresses and the state up.
	Configure(s site, m *made, result *current.Result) error
	// IsTagged tells that the pod is to send frames with VLAN tags.
	IsTagged() bool
	// Check compares what is there with the configuration and the result.
	Check(s site, result *current.Result) error
	// Delete takes away what was made, wholly or half, or not at all. The result is
	// nil when ADD did not get there.
	Delete(s site, result *current.Result) error
}

// parser reads a configuration and CNI_ARGS.
type parser func(config []byte, args string) (device, error)

// nativeType is a type that weir makes itself.
type nativeType struct {
	parse parser
	// capabilities are those that it takes whether the network declares them or not.
	capabilities []string
}

// nativeTypes are those of the types that weir makes itself.
func nativeTypes() map[string]nativeType {
	return map[string]nativeType{
		"macvlan": {capabilities: []string{"ips", "mac"}, parse: func(config []byte, args string) (device, error) {
			c, err := macvlan.Parse(config, args)
			if err != nil {
				return nil, err
			}
			return &slave{c, c.Mode}, nil
		}},
		"ipvlan": {capabilities: []string{"ips", "mac"}, parse: func(config []byte, args string) (device, error) {
			c, err := ipvlan.Parse(config, args)
			if err != nil {
				return nil, err
			}
			return &slave{c, c.Mode}, nil
		}},
		"bridge": {capabilities: []string{"ips", "mac"}, parse: func(config []byte, args string) (device, error) {
			c, err := bridge.Parse(config, args)
			if err != nil {
				return nil, err
			}
			return &port{c}, nil
		}},
		"host-device": {capabilities: []string{"ips", "deviceID"}, parse: func(config []byte, _ string) (device, error) {
			c, err := hostdevice.Parse(config)
			if err != nil {
				return nil, err
			}
			return &moved{c}, nil
		}},
	}
}

// slave is an interface that shares a master with others: macvlan or ipvlan.
type slave struct {
	config interface {
		Validate(host, pod *netns.Namespace) error
		Create(host, pod *netns.Namespace, name string) (*current.Interface, error)
		Check(host, pod *netns.Namespace, name string) error
		MasterLink(host, pod *netns.Namespace) (netlink.Link, error)
	}
	mode string
}

func (d *slave) Validate(s site) error { return d.config.Validate(s.host, s.pod) }

func (d *slave) Save(site) (json.RawMessage, error) { return nil, nil }

func (d *slave) Create(s site) (*made, error) {
	master, err := d.config.MasterLink(s.host, s.pod)
	if err != nil {
		return nil, err
	}
	i, err := d.config.Create(s.host, s.pod, s.ifname)
	if err != nil {
		return nil, err
	}
	return &made{interfaces: []*current.Interface{i}, master: master.Attrs().Name, mode: d.mode}, nil
}

func (d *slave) Complete(*current.Result) error { return nil }

func (d *slave) Configure(s site, _ *made, result *current.Result) error {
	return configure(s, result)
}

func configure(s site, result *current.Result) error {
	if err := netif.Configure(s.pod, s.ifname, result); err != nil {
		return fmt.Errorf("configuring %s: %w", s.ifname, err)
	}
	return nil
}

func (d *slave) IsTagged() bool { return false }

func (d *slave) Check(s site, result *current.Result) error {
	return errors.Join(d.config.Check(s.host, s.pod, s.ifname), netif.Check(s.pod, s.ifname, result))
}

func (d *slave) Delete(s site, _ *current.Result) error { return deleteFrom(s) }

func deleteFrom(s site) error {
	if s.pod == nil {
		return nil
	}
	if err := netif.Delete(s.pod, s.ifname); err != nil {
		return fmt.Errorf("deleting %s: %w", s.ifname, err)
	}
	return nil
}

// port is a veth pair with one end in the pod and the other on a bridge.
type port struct {
	*bridge.Config
}

// Places in what bridge.Config.Create returns.
const (
	portHostEnd = 1
	portPodEnd  = 2
)

func (d *port) owner(s site) bridge.Owner {
	return bridge.Owner{Network: s.network, ContainerID: s.containerID, Interface: s.ifname}
}

func (d *port) Validate(s site) error { return d.Config.Validate(s.host, s.pod) }

func (d *port) Save(site) (json.RawMessage, error) { return nil, nil }

func (d *port) Create(s site) (*made, error) {
	interfaces, err := d.Config.Create(s.host, s.pod, s.ifname)
	if err != nil {
		return nil, err
	}
	return &made{interfaces: interfaces, pod: portPodEnd, hostEnd: interfaces[portHostEnd].Name, master: d.Bridge}, nil
}

func (d *port) Configure(s site, m *made, result *current.Result) error {
	if err := d.ConfigureHost(s.host, d.owner(s), m.hostEnd, result); err != nil {
		return fmt.Errorf("configuring bridge %s: %w", d.Bridge, err)
	}
	if d.DisableContainerInterface {
		return nil
	}
	if err := configure(s, result); err != nil {
		return err
	}
	return d.Settle(s.host, m.hostEnd)
}

func (d *port) IsTagged() bool { return len(d.Trunk) > 0 }

func (d *port) Check(s site, result *current.Result) error {
	err := d.Config.Check(s.host, s.pod, s.ifname, result)
	if d.DisableContainerInterface {
		return err
	}
	return errors.Join(err, netif.Check(s.pod, s.ifname, result))
}

func (d *port) Delete(s site, result *current.Result) error {
	return d.Config.Delete(s.host, s.pod, d.owner(s), s.ifname, result)
}

// moved is a device of the node's that the pod has for itself.
type moved struct {
	*hostdevice.Config
}

// was reads what Save said; nil for a device without an interface.
func (d *moved) was(s site) (*hostdevice.Saved, error) {
	if len(s.saved) == 0 {
		return nil, nil //nolint:nilnil // There is nothing to put back.
	}
	var saved *hostdevice.Saved
	if err := json.Unmarshal(s.saved, &saved); err != nil {
		return nil, fmt.Errorf("reading what the device was like: %w", err)
	}
	return saved, nil
}

func (d *moved) Validate(s site) error { return d.Config.Validate(s.host) }

func (d *moved) Save(s site) (json.RawMessage, error) {
	saved, err := d.Config.Save(s.host)
	if err != nil {
		return nil, err
	}
	return json.Marshal(saved)
}

func (d *moved) Create(s site) (*made, error) {
	saved, err := d.was(s)
	if err != nil {
		return nil, err
	}
	if saved == nil {
		return &made{interfaces: []*current.Interface{{Name: s.ifname}}, absent: true}, nil
	}
	i, err := d.Move(s.host, s.pod, s.ifname, saved)
	if err != nil {
		return nil, err
	}
	return &made{interfaces: []*current.Interface{i}, master: saved.Name}, nil
}

func (d *moved) Complete(*current.Result) error { return nil }

func (d *moved) Configure(s site, m *made, result *current.Result) error {
	if m.absent {
		return nil
	}
	return configure(s, result)
}

func (d *moved) IsTagged() bool { return false }

func (d *moved) Check(s site, result *current.Result) error {
	saved, err := d.was(s)
	if err != nil || saved == nil {
		return err
	}
	return errors.Join(hostdevice.Check(s.pod, s.ifname, saved), netif.Check(s.pod, s.ifname, result))
}

func (d *moved) Delete(s site, _ *current.Result) error {
	saved, err := d.was(s)
	if err != nil {
		return err
	}
	return hostdevice.Restore(s.host, s.pod, s.ifname, saved)
}
