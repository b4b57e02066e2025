// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/netns"
)

const (
	// dadTimeout bounds the wait for duplicate address detection, which takes a
	// random second at most and then one more (RFC 4862 5.4.2, RFC 4861 10).
	dadTimeout = 5 * time.Second
	// dadInterval is how often it is looked at.
	dadInterval = 20 * time.Millisecond
)

// minMTUOfIPv6 is the least MTU with which an interface has IPv6 (RFC 8200, section 5).
const minMTUOfIPv6 = 1280

// Configure gives an interface of the pod, which is down, what a CNI result
// says of it: its addresses, then the state up, then the routes. Coming up, the
// interface announces its addresses, by gratuitous ARP and, each once duplicate
// address detection is through with it, by unsolicited neighbour advertisement.
//
// When the result has an IPv6 gateway, Configure waits up to five seconds for
// that detection to end, and fails for an address that another host has
// (ErrDuplicateAddress). A route without gateway gets that of the first address
// of its family which has one.
func Configure(pod *netns.Namespace, name string, result *current.Result) error {
	link, err := find(pod, name)
	if err != nil {
		return err
	}
	ips, err := assignedTo(name, result)
	if err != nil {
		return err
	}
	if mtu := link.Attrs().MTU; hasIPv6(ips) && mtu < minMTUOfIPv6 {
		return fmt.Errorf("an IPv6 address needs an MTU of %d or more, and %s has %d", minMTUOfIPv6, name, mtu)
	}
	if err := announce(pod, name, hasIPv6(ips)); err != nil {
		return err
	}
	for _, ip := range ips {
		if err := pod.Netlink().AddrAdd(link, &netlink.Addr{IPNet: &ip.Address}); err != nil {
			return fmt.Errorf("adding the address %s: %w", &ip.Address, err)
		}
	}
	if err := pod.Netlink().LinkSetUp(link); err != nil {
		return fmt.Errorf("setting %s up, MAC %s: %w", name, link.Attrs().HardwareAddr, err)
	}
	gateways := gatewaysOf(ips)
	if gateways.ipv6 != nil {
		if err := settle(pod, link, dadTimeout); err != nil {
			return err
		}
	}
	return addRoutes(pod, routesOf(result, link.Attrs().Index, gateways))
}

// assignedTo lists a result's addresses, all of which must be the interface's
// own or nobody's; the latter are left out.
func assignedTo(name string, result *current.Result) ([]*current.IPConfig, error) {
	var ips []*current.IPConfig
	for _, ip := range result.IPs {
		if ip.Interface == nil {
			continue
		}
		i := *ip.Interface
		if i < 0 || i >= len(result.Interfaces) || result.Interfaces[i].Name != name {
			return nil, fmt.Errorf("address %s is of interface %d of the result, which is not %s", &ip.Address, i, name)
		}
		ips = append(ips, ip)
	}
	return ips, nil
}

func hasIPv6(ips []*current.IPConfig) bool {
	for _, ip := range ips {
		if ip.Address.IP.To4() == nil {
			return true
		}
	}
	return false
}

// announce makes the kernel announce the interface's addresses when it comes
// up, and enables IPv6 where an address needs it. Only these settings are out of
// reach for a netlink socket of the pod.
func announce(pod *netns.Namespace, name string, ipv6 bool) error {
	return pod.Do(func() error {
		for _, key := range []string{"ipv4/conf/" + name + "/arp_notify", "ipv6/conf/" + name + "/ndisc_notify"} {
			// A kernel without IPv6 has nothing to announce by it.
			if err := setSysctl(key, "1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if !ipv6 {
			return nil
		}
		return errors.Join(
			setSysctl("ipv6/conf/lo/disable_ipv6", "0"),
			setSysctl("ipv6/conf/"+name+"/disable_ipv6", "0"),
			// Else IPv6 addresses go when the interface does down, and stay gone.
			setSysctl("ipv6/conf/"+name+"/keep_addr_on_down", "1"),
		)
	})
}

// setSysctl sets a value below net of the thread's network namespace. One that
// is right already is not written: /proc/sys may be read-only.
func setSysctl(key, value string) error {
	path := filepath.Join("/proc/sys/net", key)
	if held, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(held)) == value {
		return nil
	}
	err := os.WriteFile(path, []byte(value), 0)
	if errors.Is(err, unix.EROFS) {
		err = os.WriteFile(filepath.Join(firstProcessRoot, path), []byte(value), 0)
	}
	if err != nil {
		return fmt.Errorf("setting net/%s to %s: %w", key, value, err)
	}
	return nil
}

// firstProcessRoot is the root of the node's first process, to an agent in a container
// with the node's processes: the container's own /proc/sys is read-only, and which
// network namespace a value is of goes by the thread that opens it, not by the mount.
const firstProcessRoot = "/proc/1/root"

// settle waits until no IPv6 address of the link is tentative. A link that is
// not up by then never could detect anything; that is no error.
func settle(pod *netns.Namespace, link netlink.Link, timeout time.Duration) error {
	for deadline := time.Now().Add(timeout); ; time.Sleep(dadInterval) {
		tentative, err := tentativeOf(pod, link)
		if err != nil || tentative == nil {
			return err
		}
		if time.Now().Before(deadline) {
			continue
		}
		now, err := find(pod, link.Attrs().Name)
		if err != nil || now.Attrs().OperState != netlink.OperUp {
			return err
		}
		return fmt.Errorf("duplicate address detection of %s did not end within %s", tentative.IPNet, timeout)
	}
}

// tentativeOf is the first IPv6 address whose duplicate address detection goes
// on; nil when there is none.
func tentativeOf(pod *netns.Namespace, link netlink.Link) (*netlink.Addr, error) {
	held, err := addressesOf(pod, link, netlink.FAMILY_V6)
	if err != nil {
		return nil, err
	}
	var tentative *netlink.Addr
	for i, a := range held {
		if a.Flags&unix.IFA_F_DADFAILED != 0 {
			return nil, fmt.Errorf("address %s: %w", a.IPNet, ErrDuplicateAddress)
		}
		if a.Flags&unix.IFA_F_TENTATIVE != 0 {
			tentative = &held[i]
		}
	}
	return tentative, nil
}
