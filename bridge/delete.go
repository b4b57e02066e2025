// SPDX-License-Identifier: Apache-2.0

package bridge

import (
	"errors"
	"fmt"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/netif"
	"github.com/weir-cni/weir/netns"
)

// hostIndex is the place of the host's end in what Create returns.
const hostIndex = 1

// Delete removes an interface: both ends and the owner's masquerade rules. The
// bridge stays, with what other pods may use of it. What is gone already is no
// error. pod is nil when its namespace is gone, result when there is none; with
// neither, the ends are the kernel's to remove.
func (c *Config) Delete(host, pod *netns.Namespace, id Owner, name string, result *current.Result) error {
	var errs []error
	if pod != nil {
		errs = append(errs, netif.Delete(pod, name))
	}
	if result != nil && len(result.Interfaces) > hostIndex {
		errs = append(errs, c.deletePort(host, result.Interfaces[hostIndex]))
	}
	if c.masquerades() {
		errs = append(errs, c.clearMasquerade(host, id))
	}
	return errors.Join(errs...)
}

// deletePort removes the host's end where the pod's namespace outlives its path.
// One that has another MAC is another pod's.
func (c *Config) deletePort(host *netns.Namespace, made *current.Interface) error {
	if made.Sandbox != "" {
		return nil
	}
	link, err := netif.Find(host, made.Name)
	switch {
	case errors.Is(err, netif.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	if _, ok := link.(*netlink.Veth); !ok || link.Attrs().HardwareAddr.String() != made.Mac {
		return nil
	}
	return removeLink(host, link)
}

func (c *Config) masquerades() bool { return c.Layer3 && c.IPMasq }

func (c *Config) setMasquerade(host *netns.Namespace, id Owner, result *current.Result) error {
	sources, err := sourcesOf(result)
	if err != nil {
		return err
	}
	if err := c.masquerade(host).set(id, sources); err != nil {
		return fmt.Errorf("masquerading %s by %s: %w", id.Interface, c.IPMasqBackend, err)
	}
	return nil
}

func (c *Config) clearMasquerade(host *netns.Namespace, id Owner) error {
	if err := c.masquerade(host).clear(id); err != nil {
		return fmt.Errorf("removing the masquerade rules of %s by %s: %w", id.Interface, c.IPMasqBackend, err)
	}
	return nil
}
