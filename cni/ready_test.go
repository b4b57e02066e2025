// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

func TestAwaitReady(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "ready")
	config := &Config{ReadinessIndicatorFile: file}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := (&Plugin{}).awaitReady(ctx, config)
	if err == nil || Error(err).Code != types.ErrTryAgainLater || !strings.Contains(err.Error(), file) {
		t.Errorf("without the file: %v", err)
	}
	go func() {
		time.Sleep(50 * time.Millisecond)
		_ = os.WriteFile(file, nil, 0o600)
	}()
	if err := (&Plugin{}).awaitReady(t.Context(), config); err != nil {
		t.Errorf("with a file that comes: %v", err)
	}
	if err := (&Plugin{}).awaitReady(t.Context(), &Config{}); err != nil {
		t.Errorf("without the key: %v", err)
	}
}
