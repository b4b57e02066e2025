// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
)

// behindName is the type of a plugin that stands behind another and notes what it
// is given. It is this test's own program, started under that name.
const behindName = "behind"

// behind is the plugin's configuration.
type behind struct {
	types.PluginConf
	// Notes is the file that takes a line of JSON for each call.
	Notes string `json:"notes"`
	// Fail and Hang name the command that fails, or does not end.
	Fail string `json:"fail,omitempty"`
	Hang string `json:"hang,omitempty"`
	// Remove is a pattern of what ADD removes, Block a directory that ADD puts aside
	// and a file in its place, Unlink has ADD delete the interface.
	Remove string `json:"remove,omitempty"`
	Block  string `json:"block,omitempty"`
	Unlink bool   `json:"unlink,omitempty"`
	// MAC is what the interface gets.
	MAC           string         `json:"newMAC,omitempty"`
	RuntimeConfig map[string]any `json:"runtimeConfig,omitempty"`
}

// note is what a call of the plugin was like.
type note struct {
	Command, IfName string
	Previous        *current.Result
	RuntimeConfig   map[string]any
}

func isPlugin() bool { return filepath.Base(os.Args[0]) == behindName }

func playPlugin() {
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add: playBehind, Del: playBehind, Check: playBehind, GC: playBehind, Status: playBehind,
	}, version.All, behindName)
}

func playBehind(args *skel.CmdArgs) error {
	conf := &behind{}
	if err := json.Unmarshal(args.StdinData, conf); err != nil {
		return err
	}
	if err := version.ParsePrevResult(&conf.PluginConf); err != nil {
		return err
	}
	command := os.Getenv("CNI_COMMAND")
	previous, err := current.NewResultFromResult(orEmpty(conf.PrevResult))
	if err != nil {
		return err
	}
	if err := conf.write(note{command, args.IfName, previous, conf.RuntimeConfig}); err != nil {
		return err
	}
	switch command {
	case conf.Fail:
		fmt.Fprintln(os.Stderr, "a word on standard error")
		return types.NewError(131, "out of luck", "none")
	case conf.Hang:
		// A child that holds the output open is what a shell script leaves.
		child := exec.Command("sleep", "60")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		_ = child.Start()
		time.Sleep(time.Minute)
	case "ADD":
		if err := conf.sabotage(args); err != nil {
			return err
		}
		return conf.add(args, previous)
	}
	return nil
}

func orEmpty(result types.Result) types.Result {
	if result == nil {
		return &current.Result{CNIVersion: current.ImplementedSpecVersion}
	}
	return result
}

func (c *behind) write(n note) error {
	data, err := json.Marshal(n)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(c.Notes, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	_ = f.Close()
	return err
}

func (c *behind) add(args *skel.CmdArgs, previous *current.Result) error {
	if c.MAC != "" {
		mac, err := net.ParseMAC(c.MAC)
		if err != nil {
			return err
		}
		if err := setMAC(args.Netns, args.IfName, mac); err != nil {
			return err
		}
		for _, i := range previous.Interfaces {
			if i.Name == args.IfName {
				i.Mac = c.MAC
			}
		}
	}
	return types.PrintResult(previous, c.CNIVersion)
}

func (c *behind) sabotage(args *skel.CmdArgs) error {
	if c.Remove != "" {
		found, err := filepath.Glob(c.Remove)
		for _, path := range found {
			err = errors.Join(err, os.RemoveAll(path))
		}
		if err != nil || len(found) == 0 {
			return fmt.Errorf("removing %s: %v, %w", c.Remove, found, err)
		}
	}
	if c.Block != "" {
		if err := block(c.Block); err != nil {
			return err
		}
	}
	if !c.Unlink {
		return nil
	}
	return ns.WithNetNSPath(args.Netns, func(ns.NetNS) error {
		link, err := netlink.LinkByName(args.IfName)
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	})
}

// aside is what is put to the name of a blocked directory.
const aside = ".aside"

// block puts a file in the place of a directory.
func block(dir string) error {
	if err := os.Rename(dir, dir+aside); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.WriteFile(dir, nil, 0o600)
}

func unblock(dir string) error {
	if err := os.Remove(dir); err != nil {
		return err
	}
	if err := os.Rename(dir+aside, dir); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

func setMAC(netns, ifname string, mac net.HardwareAddr) error {
	return ns.WithNetNSPath(netns, func(ns.NetNS) error {
		link, err := netlink.LinkByName(ifname)
		if err != nil {
			return err
		}
		return netlink.LinkSetHardwareAddr(link, mac)
	})
}

// playing makes this program the node's plugin of type behind, and returns the
// fields that every configuration of it needs.
func (n *Node) playing() object {
	n.tb.Helper()
	self, err := os.Executable()
	if err != nil {
		n.tb.Fatal(err)
	}
	if err := os.Symlink(self, n.path("bin/"+behindName)); err != nil && !os.IsExist(err) {
		n.tb.Fatal(err)
	}
	return object{"type": behindName, "notes": n.path("notes")}
}

// notes are the calls of the plugin so far, which are forgotten.
func (n *Node) notes() []note {
	n.tb.Helper()
	data, err := os.ReadFile(n.path("notes"))
	if err != nil && !os.IsNotExist(err) {
		n.tb.Fatal(err)
	}
	_ = os.Remove(n.path("notes"))
	var all []note
	for line := range strings.Lines(string(data)) {
		var one note
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			n.tb.Fatal(err)
		}
		all = append(all, one)
	}
	return all
}

func commandsOf(notes []note) string {
	var all []string
	for _, n := range notes {
		all = append(all, n.Command+" "+n.IfName)
	}
	return strings.Join(all, ", ")
}

// withFields is an object with further fields.
func withFields(o object, fields object) object {
	all := object{}
	for _, from := range []object{o, fields} {
		for key, value := range from {
			all[key] = value
		}
	}
	return all
}

// listOf is the configuration of a list.
func listOf(version string, plugins ...object) string {
	data, err := json.Marshal(object{"cniVersion": version, "name": "listed", "plugins": slices.Clone(plugins)})
	if err != nil {
		return err.Error()
	}
	return string(data)
}
