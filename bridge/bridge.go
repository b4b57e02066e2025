// SPDX-License-Identifier: Apache-2.0

package bridge

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
)

const (
	kind    = "bridge"
	endKind = "veth"
)

// attempts bounds how often a random name is drawn anew, and a bridge made again
// that went away.
const attempts = 10

var (
	// ErrNotBridge means that the bridge's name is another kind of interface's.
	ErrNotBridge = errors.New("exists already and is not a bridge")
	// ErrNoVLANFiltering means that the kernel's bridges know no VLANs
	// (CONFIG_BRIDGE_VLAN_FILTERING).
	ErrNoVLANFiltering = errors.New("the kernel's bridges have no VLAN filtering")
	// ErrNameTaken means that the pod has an interface of that name.
	ErrNameTaken = errors.New("the pod has an interface of this name already")
)

// Config is a network of type bridge.
type Config struct {
	// Bridge is the name of the bridge, which is made where it is missing. Parse
	// makes "cni0" of none.
	Bridge string
	// Layer3 says that there is an IPAM plugin. Without one, no gateway is
	// configured and nothing is masqueraded, whatever the other fields say.
	Layer3 bool
	// IsGateway gives the pod's gateway addresses to the bridge, or to the
	// interface BRIDGE.VLAN when there is a VLAN.
	IsGateway bool
	// IsDefaultGateway adds a default route as well. Parse sets IsGateway with it.
	IsDefaultGateway bool
	// ForceAddress replaces addresses of the gateway that are in the way. Optional:
	// they are an error.
	ForceAddress bool
	// IPMasq masquerades what the pod's addresses send out of their subnets.
	IPMasq bool
	// IPMasqBackend is BackendNFTables, which Parse makes of none, or
	// BackendIPTables.
	IPMasqBackend string
	// MTU of both ends, and of the bridge where it is made; 68 to 65535. Optional:
	// the kernel's 1500.
	MTU int
	// MAC of the pod's end. Optional: the kernel draws one.
	MAC net.HardwareAddr
	// HairpinMode sends frames back through the port that they came in by.
	HairpinMode bool
	// PromiscMode makes the bridge take frames for any MAC.
	PromiscMode bool
	// VLAN of the port's untagged frames, 1 to 4094. Optional: 0 is none.
	VLAN uint16
	// Trunk are the VLANs of the port's tagged frames, in order. Without VLAN its
	// untagged frames are in VLAN 1.
	Trunk []VLANRange
	// VLANFiltering makes a bridge that tells VLANs apart. One that exists is left
	// as it is.
	VLANFiltering bool
	// PreserveDefaultVLAN leaves a port with a VLAN in the default one too.
	PreserveDefaultVLAN bool
	// MACSpoofCheck asks for frames with other source MACs to be dropped, which is
	// not this package's to do.
	MACSpoofCheck bool
	// EnableDAD leaves duplicate address detection on the pod's end on; it is turned
	// off otherwise.
	EnableDAD bool
	// DisableContainerInterface leaves the pod's end down: it must not be set up.
	DisableContainerInterface bool
	// PortIsolation keeps the port from all others that are isolated as well.
	PortIsolation bool
}

// Validate says why the interface could not be made now, touching nothing.
func (c *Config) Validate(host, _ *netns.Namespace) error {
	if _, err := c.find(host); err != nil && !errors.Is(err, netif.ErrNotFound) {
		return err
	}
	if c.MAC != nil {
		if err := netif.ValidateMAC(c.MAC); err != nil {
			return netif.NewFieldError("mac", c.MAC.String(), err)
		}
	}
	if !c.masquerades() {
		return nil
	}
	if err := c.masquerade(host).validate(); err != nil {
		return netif.NewFieldError("ipMasqBackend", c.IPMasqBackend, err)
	}
	return nil
}

// find finds the bridge: netif.ErrNotFound, or a FieldError when the name is
// something else's.
func (c *Config) find(host *netns.Namespace) (*netlink.Bridge, error) {
	link, err := netif.Find(host, c.Bridge)
	if err != nil {
		return nil, err
	}
	bridge, ok := link.(*netlink.Bridge)
	if !ok {
		return nil, netif.NewFieldError("bridge", c.Bridge, fmt.Errorf("%w: it is of type %s", ErrNotBridge, link.Type()))
	}
	return bridge, nil
}

// Create makes the bridge, if it is missing, and the veth pair: one end in the
// pod under the given name, the other a port of the bridge with its VLANs and
// flags, both down. They are listed as the reference plugin does: bridge, host's
// end, pod's end. The latter's sandbox is the path that the pod was opened by.
//
// On error nothing is left; a bridge that was made meanwhile has gone unless
// another pod came to use it.
func (c *Config) Create(host, pod *netns.Namespace, name string) ([]*current.Interface, error) {
	made, err := c.create(host, pod, name)
	if err != nil {
		return nil, fmt.Errorf("creating veth %s on bridge %s: %w", name, c.Bridge, err)
	}
	return made, nil
}

// create makes the pair before the bridge, which little can go wrong with then.
func (c *Config) create(host, pod *netns.Namespace, name string) ([]*current.Interface, error) {
	if err := netif.ValidateName(name); err != nil {
		return nil, err
	}
	p := pair{in: pod, name: name, mtu: c.MTU, mac: c.MAC, hairpin: c.HairpinMode, isolated: c.PortIsolation, vlans: c.membership()}
	if err := p.create(host); err != nil {
		return nil, err
	}
	bridge, err := c.connect(host, &p)
	if err != nil {
		return nil, errors.Join(err, removeLink(host, p.port))
	}
	if err := c.prepareEnd(pod, name); err != nil {
		return nil, errors.Join(err, removeLink(host, p.port), bridge.undo(host))
	}
	made := []*current.Interface{describe(bridge.link), describe(p.port), describe(p.end)}
	made[podIndex].Sandbox = pod.Path()
	return made, nil
}

// ensured is a bridge that was found or made.
type ensured struct {
	link  *netlink.Bridge
	isNew bool
}

// undo removes a bridge that was made and has no port.
func (e *ensured) undo(host *netns.Namespace) error {
	if !e.isNew {
		return nil
	}
	return removeUnused(host, e.link)
}

// connect makes the host's end a port. Whoever made the bridge may have failed,
// and removed it while this was about to use it: then it is made again.
func (c *Config) connect(host *netns.Namespace, p *pair) (*ensured, error) {
	var err error
	for range attempts {
		var bridge *ensured
		if bridge, err = c.ensure(host); err == nil {
			err = p.connect(host, bridge.link)
		}
		if err == nil {
			// Its MTU may be another now that it has a port.
			bridge.link, err = c.find(host)
			return bridge, err
		}
		if bridge != nil && bridge.isNew {
			return nil, errors.Join(err, removeLink(host, p.port), bridge.undo(host))
		}
		if !c.gone(host, bridge, err) {
			break
		}
	}
	return nil, err
}

// gone says whether an error is one of a bridge that has gone meanwhile.
func (c *Config) gone(host *netns.Namespace, bridge *ensured, err error) bool {
	if bridge == nil {
		return errors.Is(err, netif.ErrNotFound)
	}
	now, err := c.find(host)
	return errors.Is(err, netif.ErrNotFound) || err == nil && now.Index != bridge.link.Index
}

// ensure finds the bridge or makes it; netif.ErrNotFound means that it came and
// went.
func (c *Config) ensure(host *netns.Namespace) (*ensured, error) {
	bridge, err := c.find(host)
	if err == nil {
		return &ensured{link: bridge}, nil
	}
	if !errors.Is(err, netif.ErrNotFound) {
		return nil, err
	}
	link, err := c.newBridge()
	if err != nil {
		return nil, err
	}
	err = host.Netlink().LinkAdd(link)
	isNew := err == nil
	switch {
	case errors.Is(err, unix.EOPNOTSUPP) && c.VLANFiltering:
		return nil, fmt.Errorf("making the bridge: %w: %w", ErrNoVLANFiltering, err)
	case err != nil && !errors.Is(err, unix.EEXIST):
		return nil, fmt.Errorf("making the bridge: %w", err)
	}
	bridge, err = c.find(host)
	if err == nil && isNew {
		err = ignoreAdvertisements(host, bridge)
	}
	if err != nil && isNew {
		return nil, errors.Join(err, removeUnused(host, link))
	}
	if err != nil {
		return nil, err
	}
	return &ensured{bridge, isNew}, nil
}

// newBridge has a MAC of its own from the start. One that the kernel draws gives
// way to the lowest of the ports' as they come and go.
func (c *Config) newBridge() (*netlink.Bridge, error) {
	mac := make(net.HardwareAddr, 6)
	if _, err := rand.Read(mac); err != nil {
		return nil, err
	}
	mac[0] = mac[0]&^1 | 2
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = c.Bridge, c.MTU, mac
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	if c.VLANFiltering {
		bridge.VlanFiltering = &c.VLANFiltering
	}
	return bridge, nil
}

// ignoreAdvertisements keeps routers on the bridge from giving the host routes
// and addresses.
func ignoreAdvertisements(host *netns.Namespace, link netlink.Link) error {
	return setIPv6(host, link.Attrs().Name, "accept_ra", "0")
}

// setIPv6 sets an interface's setting, which a kernel without IPv6 does not have.
func setIPv6(in *netns.Namespace, name, key, value string) error {
	err := netif.SetSysctl(in, "ipv6/conf/"+name+"/"+key, value)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// removeUnused removes the bridge unless it has a port.
func removeUnused(host *netns.Namespace, bridge netlink.Link) error {
	links, err := netns.Dump(host.Netlink().LinkList)
	if err != nil {
		return fmt.Errorf("listing interfaces: %w", err)
	}
	for _, l := range links {
		if l.Attrs().MasterIndex == bridge.Attrs().Index {
			return nil
		}
	}
	return removeLink(host, bridge)
}

func removeLink(host *netns.Namespace, link netlink.Link) error {
	if err := host.Netlink().LinkDel(link); err != nil && !netif.IsNotFound(err) {
		return fmt.Errorf("deleting %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// prepareEnd turns duplicate address detection off or on before the end has an
// address.
func (c *Config) prepareEnd(pod *netns.Namespace, name string) error {
	switch {
	case !c.Layer3:
		return nil
	case !c.EnableDAD:
		return setIPv6(pod, name, "accept_dad", "0")
	}
	return errors.Join(setIPv6(pod, name, "enhanced_dad", "1"), setIPv6(pod, name, "accept_dad", "1"))
}

func describe(link netlink.Link) *current.Interface {
	attrs := link.Attrs()
	return &current.Interface{Name: attrs.Name, Mac: attrs.HardwareAddr.String(), Mtu: attrs.MTU}
}
