// SPDX-License-Identifier: Apache-2.0

package bridge

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
)

// pair is a veth pair of which one end is a port of the bridge.
type pair struct {
	bridge *netlink.Bridge
	// in and name say where the other end is.
	in   *netns.Namespace
	name string
	mtu  int
	// mac of the other end; nil lets the kernel draw it.
	mac               net.HardwareAddr
	hairpin, isolated bool
	vlans             membership
}

// create makes the pair, both ends down, and leaves nothing on error. The error
// is ErrNameTaken when the other end's name is.
func (p *pair) create(host *netns.Namespace) (port, end netlink.Link, err error) {
	name, err := p.add(host)
	if err != nil {
		return nil, nil, err
	}
	if port, err = netif.Find(host, name); err != nil {
		return nil, nil, err
	}
	if err = p.configure(host, port); err == nil {
		end, err = netif.Find(p.in, p.name)
	}
	if err != nil {
		return nil, nil, errors.Join(err, removeLink(host, port))
	}
	return port, end, nil
}

// add makes the pair under a random name that the host does not have yet. The
// port's end is the one that the request is about: its name must be free where the
// request is made, on older kernels, and only a random one is sure to be.
func (p *pair) add(host *netns.Namespace) (string, error) {
	for range attempts {
		name, err := randomName()
		if err != nil {
			return "", err
		}
		err = host.Netlink().LinkAdd(p.link(name))
		if err == nil {
			return name, nil
		}
		if !errors.Is(err, unix.EEXIST) {
			return "", err
		}
		if _, err := netif.Find(p.in, p.name); err == nil {
			return "", ErrNameTaken
		}
	}
	return "", errors.New("no free name for the host's end")
}

func (p *pair) link(name string) *netlink.Veth {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, p.mtu
	link := netlink.NewVeth(attrs)
	link.PeerName = p.name
	link.PeerNamespace = netlink.NsFd(p.in.Fd())
	link.PeerHardwareAddr = p.mac
	return link
}

// randomName is a name as the reference plugin makes them, which others know to
// leave alone.
func randomName() (string, error) {
	entropy := make([]byte, 4)
	if _, err := rand.Read(entropy); err != nil {
		return "", err
	}
	return fmt.Sprintf("veth%x", entropy), nil
}

func (p *pair) configure(host *netns.Namespace, port netlink.Link) error {
	h := host.Netlink()
	if err := ignoreAdvertisements(host, port); err != nil {
		return err
	}
	if err := h.LinkSetMaster(port, p.bridge); err != nil {
		return fmt.Errorf("making %s a port: %w", port.Attrs().Name, err)
	}
	if p.hairpin {
		if err := h.LinkSetHairpin(port, true); err != nil {
			return fmt.Errorf("setting the hairpin mode of %s: %w", port.Attrs().Name, err)
		}
	}
	if p.isolated {
		if err := h.LinkSetIsolated(port, true); err != nil {
			return fmt.Errorf("isolating %s: %w", port.Attrs().Name, err)
		}
	}
	if err := p.vlans.apply(host, port); err != nil {
		return fmt.Errorf("port %s: %w", port.Attrs().Name, err)
	}
	return nil
}
