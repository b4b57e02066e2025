// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/weir-cni/weir/loader"
)

// capabilityBandwidth is enforced by the guard where no plugin of the network
// declares it.
const capabilityBandwidth = "bandwidth"

// bandwidth is the capability of that name (CNI conventions, "Dynamic Plugin
// specific Fields"): rates in bits per second, bursts in bits. Ingress is what the
// pod receives. A rate of 0 is no limit; a burst of 0 is one that suits the rate.
type bandwidth struct {
	IngressRate  uint64 `json:"ingressRate,omitempty"`
	IngressBurst uint64 `json:"ingressBurst,omitempty"`
	EgressRate   uint64 `json:"egressRate,omitempty"`
	EgressBurst  uint64 `json:"egressBurst,omitempty"`
}

func (b bandwidth) ingress() loader.Rate {
	return loader.Rate{BitsPerSecond: b.IngressRate, BurstBits: b.IngressBurst}
}

func (b bandwidth) egress() loader.Rate {
	return loader.Rate{BitsPerSecond: b.EgressRate, BurstBits: b.EgressBurst}
}

func (b bandwidth) validate() error {
	if err := b.ingress().Validate(); err != nil {
		return fmt.Errorf("ingress: %w", err)
	}
	if err := b.egress().Validate(); err != nil {
		return fmt.Errorf("egress: %w", err)
	}
	return nil
}

func (b bandwidth) isLimited() bool { return b != bandwidth{} }

// limitsOf is the bandwidth that the guard is to keep: what the runtime or the pod
// asked for, else that of the network's own key. A network of which a plugin
// declares the capability leaves it to that.
func (j *job) limitsOf() (bandwidth, error) {
	asked, ok := j.stored.RuntimeConfig[capabilityBandwidth]
	if !ok || declares(j.list, capabilityBandwidth) {
		return j.option.Bandwidth, nil
	}
	var b bandwidth
	data, err := json.Marshal(asked)
	if err == nil {
		err = json.Unmarshal(data, &b)
	}
	if err == nil {
		err = b.validate()
	}
	if err != nil {
		return bandwidth{}, invalid("bandwidth: %w", err)
	}
	return b, nil
}

// errNeedsGuard is the error of a bandwidth, or of rules, that nothing can keep.
var errNeedsGuard = errors.New("its bandwidth or its rules need the guard")
