// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

const (
	// readyPatience is how long an ADD waits for the default network to be ready.
	readyPatience = 45 * time.Second
	readyStep     = 200 * time.Millisecond
)

// isReady tells whether the default network is ready (NPWG specification 6.1): its
// plugin has written the file by which it says so, where the configuration names one.
func isReady(config *Config) error {
	if config.ReadinessIndicatorFile == "" {
		return nil
	}
	if _, err := os.Stat(config.ReadinessIndicatorFile); err != nil {
		return fmt.Errorf("the default network is not ready: readinessindicatorfile: %w", err)
	}
	return nil
}

// awaitReady waits until the default network is ready.
func (p *Plugin) awaitReady(ctx context.Context, config *Config) error {
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	for {
		err := isReady(config)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return newError(types.ErrTryAgainLater, err)
		case <-time.After(readyStep):
		}
	}
}
