// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/allocator"
)

// defaultDataDir is the reference plugin's.
const defaultDataDir = "/var/lib/cni/networks"

// hostLocalConfig is the ipam section of host-local. The keys of one range may stand in it; they
// are not an embedded rangeConfig, whose name would be part of the fields that errors name.
type hostLocalConfig struct {
	RangeStart string          `json:"rangeStart"`
	RangeEnd   string          `json:"rangeEnd"`
	Subnet     string          `json:"subnet"`
	Gateway    string          `json:"gateway"`
	Ranges     [][]rangeConfig `json:"ranges"`
	Routes     []routeConfig   `json:"routes"`
	DataDir    string          `json:"dataDir"`
	ResolvConf string          `json:"resolvConf"`
}

func (c *hostLocalConfig) own() rangeConfig {
	return rangeConfig{RangeStart: c.RangeStart, RangeEnd: c.RangeEnd, Subnet: c.Subnet, Gateway: c.Gateway}
}

// hostLocal hands out the addresses of its range sets, one of each, each to one attachment.
type hostLocal struct {
	network    string
	dataDir    string
	resolvConf string
	sets       []rangeSet
	gateways   map[netip.Addr]bool
	routes     []*types.Route
}

var _ Plugin = (*hostLocal)(nil)

func parseHostLocal(config []byte, args string) (*hostLocal, error) {
	var n network[hostLocalConfig]
	if err := decode(config, &n); err != nil {
		return nil, err
	}
	if err := checkPaths(&n); err != nil {
		return nil, err
	}
	sets, err := requestedSets(&n, args)
	if err != nil {
		return nil, err
	}
	routes, err := parseRoutes(n.IPAM.Routes)
	if err != nil {
		return nil, err
	}
	return &hostLocal{
		network: n.Name, dataDir: cmp.Or(n.IPAM.DataDir, defaultDataDir), resolvConf: n.IPAM.ResolvConf,
		sets: sets, gateways: gatewaysOf(sets), routes: routes,
	}, nil
}

// checkPaths looks at what becomes a path: the name of the network is that of a directory, and a
// relative data directory would be one for each working directory.
func checkPaths(n *network[hostLocalConfig]) error {
	if err := utils.ValidateNetworkName(n.Name); err != nil {
		return &FieldError{Field: "name", Value: n.Name, Err: fmt.Errorf("%w: %w", ErrInvalid, err)}
	}
	if dir := n.IPAM.DataDir; dir != "" && !filepath.IsAbs(dir) {
		return &FieldError{Field: "ipam.dataDir", Value: dir, Err: fmt.Errorf("%w: not an absolute path", ErrInvalid)}
	}
	return nil
}

// requestedSets returns the range sets with the requests of all sources, which add up.
func requestedSets(n *network[hostLocalConfig], args string) ([]rangeSet, error) {
	sets, err := rangeSets(n)
	if err != nil {
		return nil, err
	}
	firsts := make([]netip.Addr, len(sets))
	for i, set := range sets {
		firsts[i] = set.spans[0].first
	}
	if err := checkVersion(n.CNIVersion, firsts); err != nil {
		return nil, err
	}
	env, err := decodeArgs(args)
	if err != nil {
		return nil, err
	}
	return sets, request(sets, slices.Concat(
		list("runtimeConfig.ips", n.RuntimeConfig.IPs),
		list("args.cni.ips", n.Args.CNI.IPs),
		split("CNI_ARGS.IP", env.IP),
	))
}

// Add implements Plugin. It reserves one address of each range set, or none at all.
func (h *hostLocal) Add(ctx context.Context, req Request) (*current.Result, error) {
	result := &current.Result{CNIVersion: current.ImplementedSpecVersion, Routes: copyRoutes(h.routes)}
	if h.resolvConf != "" {
		// Not read by Parse: Del must work when the file has gone.
		dns, err := readResolvConf(h.resolvConf)
		if err != nil {
			return nil, &FieldError{Field: "ipam.resolvConf", Value: h.resolvConf, Err: err}
		}
		result.DNS = dns
	}
	err := h.locked(ctx, req, func(r *reservations) (err error) {
		result.IPs, err = h.reserve(r, req)
		return err
	})
	if err != nil {
		return nil, h.failed("reserving", req, err)
	}
	return result, nil
}

// Check implements Plugin: the attachment must hold an address of every range set.
func (h *hostLocal) Check(ctx context.Context, req Request) error {
	if h.unused() {
		return h.failed("checking", req, ErrNotReserved)
	}
	err := h.locked(ctx, req, func(r *reservations) error {
		held := r.held(req.ContainerID, req.IfName)
		for _, set := range h.sets {
			if !slices.ContainsFunc(held, func(addr netip.Addr) bool { return set.find(addr) != nil }) {
				return fmt.Errorf("%w of %s", ErrNotReserved, set.field)
			}
		}
		return nil
	})
	if err != nil {
		return h.failed("checking", req, err)
	}
	return nil
}

// Del implements Plugin. It does not look at the ranges, which may have changed since Add.
func (h *hostLocal) Del(ctx context.Context, req Request) error {
	if h.unused() {
		return nil
	}
	err := h.locked(ctx, req, func(r *reservations) error { return r.release(req.ContainerID, req.IfName) })
	if err != nil {
		return h.failed("releasing", req, err)
	}
	return nil
}

// unused reports that the network has no reservations and never had. Opening them would create
// their directory.
func (h *hostLocal) unused() bool {
	_, err := os.Stat(filepath.Join(h.dataDir, h.network))
	return errors.Is(err, fs.ErrNotExist)
}

// locked calls do while it holds the reservations of the network.
func (h *hostLocal) locked(ctx context.Context, req Request, do func(*reservations) error) error {
	// The store takes an empty ID for the owner of every empty file, the lock among them.
	if err := utils.ValidateContainerID(req.ContainerID); err != nil {
		return &FieldError{Field: "CNI_CONTAINERID", Value: req.ContainerID, Err: fmt.Errorf("%w: %w", ErrInvalid, err)}
	}
	if err := utils.ValidateInterfaceName(req.IfName); err != nil {
		return &FieldError{Field: "CNI_IFNAME", Value: req.IfName, Err: fmt.Errorf("%w: %w", ErrInvalid, err)}
	}
	r, err := openReservations(ctx, h.dataDir, h.network)
	if err != nil {
		return err
	}
	return errors.Join(do(r), r.Close())
}

func (h *hostLocal) failed(doing string, req Request, err error) error {
	return fmt.Errorf("%s addresses of network %s for %s of container %s: %w",
		doing, h.network, req.IfName, req.ContainerID, err)
}

func (h *hostLocal) reserve(r *reservations, req Request) ([]*current.IPConfig, error) {
	// Rollback releases by attachment, so it must not meet addresses of an earlier Add.
	if held := r.held(req.ContainerID, req.IfName); len(held) > 0 {
		return nil, fmt.Errorf("the attachment %w: %v", ErrReserved, held)
	}
	ips := make([]*current.IPConfig, len(h.sets))
	for i := range h.sets {
		var err error
		if ips[i], err = h.reserveOne(r, req, i); err != nil {
			return nil, errors.Join(err, r.release(req.ContainerID, req.IfName))
		}
	}
	return ips, nil
}

func (h *hostLocal) reserveOne(r *reservations, req Request, index int) (*current.IPConfig, error) {
	set := &h.sets[index]
	id := strconv.Itoa(index)
	if set.requested != nil {
		return set.take(r, req, id)
	}
	candidates, err := allocator.NewIPAllocator(&set.ranges, r, index).GetIter()
	if err != nil {
		return nil, &FieldError{Field: set.field, Err: err}
	}
	for host, gateway := candidates.Next(); host != nil; host, gateway = candidates.Next() {
		if h.gateways[toAddr(host.IP)] {
			continue
		}
		ok, err := r.Reserve(req.ContainerID, req.IfName, host.IP, id)
		if err != nil {
			return nil, &FieldError{Field: set.field, Value: host.IP.String(), Err: err}
		}
		if ok {
			return &current.IPConfig{Address: *host, Gateway: gateway}, nil
		}
	}
	return nil, &FieldError{Field: set.field, Value: set.String(), Err: ErrExhausted}
}

// take reserves the address that was requested.
func (s *rangeSet) take(r *reservations, req Request, id string) (*current.IPConfig, error) {
	want := s.requested
	ok, err := r.Reserve(req.ContainerID, req.IfName, want.addr.AsSlice(), id)
	if err == nil && !ok {
		err = ErrInUse
	}
	if err != nil {
		return nil, want.bad(err)
	}
	in := s.find(want.addr)
	return &current.IPConfig{
		Address: ipNet(netip.PrefixFrom(want.addr, in.bits)), Gateway: in.gateway.AsSlice(),
	}, nil
}

// String returns the ranges of the set.
func (s *rangeSet) String() string {
	ranges := make([]string, len(s.spans))
	for i, sp := range s.spans {
		ranges[i] = sp.String()
	}
	return strings.Join(ranges, ",")
}
