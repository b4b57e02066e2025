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

// pair is a veth pair of which one end is to be a port of a bridge.
type pair struct {
	// in and name say where the other end is.
	in   *netns.Namespace
	name string
	mtu  int
	// mac of the other end; nil lets the kernel draw it.
	mac               net.HardwareAddr
	hairpin, isolated bool
	vlans             membership
	// port and end are what create made.
	port, end netlink.Link
}

// create makes the pair, both ends down, and leaves nothing on error. The error
// is ErrNameTaken when the other end's name is.
func (p *pair) create(host *netns.Namespace) error {
	name, err := p.add(host)
	if err != nil {
		return err
	}
	if p.port, err = netif.Find(host, name); err != nil {
		return err
	}
	if p.end, err = netif.Find(p.in, p.name); err != nil {
		return errors.Join(err, removeLink(host, p.port))
	}
	return nil
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

// connect makes the host's end a port of the bridge, with its flags and VLANs.
func (p *pair) connect(host *netns.Namespace, bridge *netlink.Bridge) error {
	h, name := host.Netlink(), p.port.Attrs().Name
	if err := ignoreAdvertisements(host, p.port); err != nil {
		return err
	}
	if err := h.LinkSetMaster(p.port, bridge); err != nil {
		return fmt.Errorf("making %s a port: %w", name, err)
	}
	if p.hairpin {
		if err := h.LinkSetHairpin(p.port, true); err != nil {
			return fmt.Errorf("setting the hairpin mode of %s: %w", name, err)
		}
	}
	if p.isolated {
		if err := h.LinkSetIsolated(p.port, true); err != nil {
			return fmt.Errorf("isolating %s: %w", name, err)
		}
	}
	if err := p.vlans.apply(host, p.port); err != nil {
		return fmt.Errorf("port %s: %w", name, err)
	}
	return nil
}
