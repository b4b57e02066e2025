// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/containernetworking/cni/libcni"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/policy"
	"github.com/weir-cni/weir/segment"
	"github.com/weir-cni/weir/state"
)

// delegate is one network of a sandbox, ready to be carried out. It is made from
// the record alone, so that DEL and CHECK do with it what ADD did.
type delegate interface {
	// validate finds what is wrong before anything is touched.
	validate(ctx context.Context, pod *netns.Namespace) error
	// save puts into the record what del must know of the node as it is before add.
	save(pod *netns.Namespace) error
	// prepare begins what may be done while other networks are attached.
	prepare()
	// add makes the interface and, where the record wants one, its guard.
	add(ctx context.Context, pod *netns.Namespace) (*current.Result, error)
	// check compares what is there with the result of add.
	check(ctx context.Context, pod *netns.Namespace, result *current.Result) error
	// del undoes add, wholly or half done, or not done at all. The namespace is
	// nil when it is gone.
	del(ctx context.Context, pod *netns.Namespace) error
	// shared is what all kinds have.
	shared() *job
}

// job is what the kinds of delegate share.
type job struct {
	plugin *Plugin
	record *state.Record
	stored *state.Delegate
	list   *libcni.NetworkConfigList
	option options
	limits bandwidth // kept by the guard
}

func (j *job) shared() *job { return j }

// options are a network's own wishes to weir: the key "weir" of its configuration.
type options struct {
	// Enforcement is "required" (the default: an attachment without its guard
	// fails) or "bestEffort".
	Enforcement string `json:"enforcement,omitempty"`
	// Bandwidth is kept by the guard. A pod's own wish goes before it.
	Bandwidth bandwidth `json:"bandwidth"`
	// Allow names what pods may send, or receive, that is refused otherwise.
	Allow []string `json:"allow,omitempty"`
	// Sources are prefixes that pods may send from beside their own addresses.
	Sources []netip.Prefix `json:"sources,omitempty"`
	// StormLimit is what pods may send of what a switch copies to every port.
	StormLimit stormLimit `json:"stormLimit"`
	// Isolation is to whom of the network pods may talk.
	Isolation segment.Isolation `json:"isolation"`
	// Segment names what networks of different isolation have in common; the default is
	// the network alone.
	Segment string `json:"segment,omitempty"`
	// Rules are what pods may receive and send. The first that matches decides; what none
	// matches passes.
	Rules policy.List `json:"rules,omitempty"`
}

// stormLimit is in packets a second; 0 is no limit.
type stormLimit struct {
	Broadcast      uint32 `json:"broadcast"`
	Multicast      uint32 `json:"multicast"`
	UnknownUnicast uint32 `json:"unknownUnicast"`
}

// defaultBroadcast is more than any host has to say to all, and little for a network: half
// a megabit a second of ARP.
const defaultBroadcast = 1000

func (s stormLimit) storms() loader.Storms {
	return loader.Storms{Broadcast: s.Broadcast, Multicast: s.Multicast, Unknown: s.UnknownUnicast}
}

// switchable are the checks that a network can do without, by what it then allows.
func switchable() map[string]bpf.Check {
	return map[string]bpf.Check{
		"other-macs":        bpf.CheckMAC,
		"other-addresses":   bpf.CheckIPv4 | bpf.CheckIPv6,
		"arp-proxy":         bpf.CheckARP,
		"nd-proxy":          bpf.CheckNeighbour,
		"vlan":              bpf.CheckVLAN,
		"double-tags":       bpf.CheckDoubleTag,
		"dhcp-server":       bpf.CheckDHCP,
		"router":            bpf.CheckRouter,
		"querier":           bpf.CheckQuerier,
		"source-routing":    bpf.CheckSourceRoute,
		"routing-header":    bpf.CheckRoutingHeader,
		"other-ethertypes":  bpf.CheckEthertype,
		"other-destination": bpf.CheckDestination,
	}
}

// qdiscBypass is the leave for sockets to go round tc, which no check of a packet refuses.
const qdiscBypass = "qdisc-bypass"

// leaves are what a network can allow.
func leaves() []string {
	return slices.Sorted(slices.Values(append(slices.Collect(maps.Keys(switchable())), qdiscBypass)))
}

// checks are those that the network leaves on, of all that there are.
func (o *options) checks() bpf.Check {
	var all bpf.Check
	for name, check := range switchable() {
		if !slices.Contains(o.Allow, name) {
			all |= check
		}
	}
	return all
}

const (
	enforcementRequired   = "required"
	enforcementBestEffort = "bestEffort"
)

// delegateOf makes the i-th delegate of a record.
func (p *Plugin) delegateOf(record *state.Record, i int) (delegate, error) {
	stored := &record.Delegates[i]
	list, err := parseNetwork(stored.Config)
	if err != nil {
		return nil, invalid("%w", err)
	}
	j := job{plugin: p, record: record, stored: stored, list: list}
	if j.option, err = optionsInForce(stored, list); err != nil {
		return nil, err
	}
	if j.limits, err = j.limitsOf(); err != nil {
		return nil, err
	}
	if record.Chained != "" {
		return &chained{job: j}, nil
	}
	if native := j.native(); native != nil {
		return native()
	}
	return &executed{job: j}, nil
}

// aboutNetwork says which network an error is about and, where a pod has it, on
// which interface.
func aboutNetwork(d *state.Delegate, err error) error {
	if d.Interface == "" {
		return fmt.Errorf("network %s: %w", d.Network, err)
	}
	return fmt.Errorf("network %s (%s): %w", d.Network, d.Interface, err)
}

func optionsOf(list *libcni.NetworkConfigList) (options, error) {
	var config struct {
		Weir options `json:"weir"`
	}
	config.Weir.StormLimit.Broadcast = defaultBroadcast
	for _, data := range [][]byte{list.Bytes, list.Plugins[0].Bytes} {
		if err := json.Unmarshal(data, &config); err != nil {
			return options{}, invalid("weir: %w", err)
		}
	}
	if err := config.Weir.Bandwidth.validate(); err != nil {
		return options{}, invalid("weir.bandwidth: %w", err)
	}
	if err := config.Weir.StormLimit.storms().Validate(); err != nil {
		return options{}, invalid("weir.stormLimit: %w", err)
	}
	if err := validateSources(config.Weir.Sources); err != nil {
		return options{}, invalid("weir.sources: %w", err)
	}
	if err := config.Weir.validateIsolation(); err != nil {
		return options{}, invalid("weir.segment: %w", err)
	}
	for _, name := range config.Weir.Allow {
		if !slices.Contains(leaves(), name) {
			return options{}, invalid("weir.allow: %q is none of %q", name, leaves())
		}
	}
	switch config.Weir.Enforcement {
	case "":
		config.Weir.Enforcement = enforcementRequired
	case enforcementRequired, enforcementBestEffort:
	default:
		return options{}, invalid("weir.enforcement: %q is neither %q nor %q",
			config.Weir.Enforcement, enforcementRequired, enforcementBestEffort)
	}
	return config.Weir, nil
}

// sourcesMax leaves room for the addresses of the attachment itself.
const sourcesMax = 8

func validateSources(sources []netip.Prefix) error {
	if len(sources) > sourcesMax {
		return fmt.Errorf("%d prefixes, want %d at most", len(sources), sourcesMax)
	}
	for _, p := range sources {
		addr := p.Addr()
		switch {
		case addr.Is4In6():
			return fmt.Errorf("%s is an IPv4 address in IPv6's form", p)
		case p != p.Masked():
			return fmt.Errorf("%s has host bits: want %s", p, p.Masked())
		case addr.IsMulticast(), addr.IsLoopback():
			return fmt.Errorf("%s is no source", p)
		}
	}
	return nil
}

func (j *job) id() attachment.ID {
	return attachment.ID{ContainerID: j.record.ContainerID, Interface: j.stored.Interface}
}

// step is one of those that make up a delegate's part in a request.
type step struct {
	name string
	do   func() error
}

// run does one step of a request, and tells how long it took.
func (j *job) run(ctx context.Context, command string, s step) error {
	began := time.Now()
	err := traced(ctx, s.name, func(context.Context) error { return s.do() }, networkAttributes(j.stored)...)
	took := time.Since(began)
	j.plugin.Log.Debug("step", "command", command, "step", s.name, "pod", j.record.Pod.String(), "network", j.stored.Network,
		"netif", j.stored.Interface, "took", took)
	if j.plugin.Meter != nil {
		j.plugin.Meter.Step(command, s.name, took)
	}
	return err
}

// runUntilError does steps in order, up to the first that fails.
func (j *job) runUntilError(ctx context.Context, command string, steps ...step) error {
	for _, s := range steps {
		if err := j.run(ctx, command, s); err != nil {
			return err
		}
	}
	return nil
}

// runAll does every step, whatever becomes of those before it.
func (j *job) runAll(ctx context.Context, command string, steps ...step) error {
	var errs []error
	for _, s := range steps {
		errs = append(errs, j.run(ctx, command, s))
	}
	return errors.Join(errs...)
}

// The commands whose steps are told.
const (
	commandAdd   = "ADD"
	commandDel   = "DEL"
	commandCheck = "CHECK"
)

// runtime is what libcni is told of the request.
func (j *job) runtime() *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID:    j.record.ContainerID,
		NetNS:          j.record.Netns,
		IfName:         j.stored.Interface,
		Args:           j.args(),
		CapabilityArgs: j.stored.RuntimeConfig,
	}
}

// args is the CNI_ARGS of the delegate as one string: the runtime's, then the
// pod's wishes.
func (j *job) args() [][2]string {
	return append(cniArgs(j.record.Args), j.stored.Args...)
}

// storedResult is the result of a delegate's ADD; nil when it did not get there.
func storedResult(d *state.Delegate) (*current.Result, error) {
	if len(d.Result) == 0 {
		return nil, nil
	}
	result, err := current.NewResult(d.Result)
	if err != nil {
		return nil, fmt.Errorf("reading the recorded result: %w", err)
	}
	return current.NewResultFromResult(result)
}
