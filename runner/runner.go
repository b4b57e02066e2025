// SPDX-License-Identifier: Apache-2.0

// Package runner executes CNI plugins that are programs on the node, as libcni's
// own way to execute them does, with two differences: what a plugin has started
// and left behind is not waited for, and is killed with it; and a plugin that was
// cut off says so.
package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

const (
	// pipeDelay is how long other processes may hold the output of a plugin open
	// that has ended.
	pipeDelay = time.Second
	// A plugin that is being installed at this moment cannot be executed (ETXTBSY).
	busyRetries = 5
	busyDelay   = time.Second
)

// Runner executes plugins. The zero value is ready.
type Runner struct {
	*invoke.RawExec
	version.PluginDecoder
}

var _ invoke.Exec = (*Runner)(nil)

// ExecPlugin implements invoke.Exec. The error is a *types.Error, with what the
// plugin wrote to its standard error among its details, if the plugin could not be
// started or refused; it wraps the context's if the plugin was cut off.
func (*Runner) ExecPlugin(ctx context.Context, binary string, stdin []byte, environ []string) ([]byte, error) {
	for attempt := 0; ; attempt++ {
		stdout, stderr, err := execute(ctx, binary, stdin, environ)
		switch {
		case err == nil:
			return stdout, nil
		case ctx.Err() != nil:
			return nil, cutOff(ctx, stderr)
		case attempt == busyRetries || !errors.Is(err, syscall.ETXTBSY):
			return nil, refusal(err, stdout, stderr)
		}
		select {
		case <-ctx.Done():
		case <-time.After(busyDelay):
		}
	}
}

func cutOff(ctx context.Context, stderr []byte) error {
	if said := bytes.TrimSpace(stderr); len(said) > 0 {
		return fmt.Errorf("cut off: %w, after it had said: %s", context.Cause(ctx), said)
	}
	return fmt.Errorf("cut off: %w", context.Cause(ctx))
}

func execute(ctx context.Context, binary string, stdin []byte, environ []string) (stdout, stderr []byte, err error) {
	var out, diagnostics bytes.Buffer
	c := exec.CommandContext(ctx, binary)
	c.Env = environ
	c.Stdin = bytes.NewReader(stdin)
	c.Stdout = &out
	c.Stderr = &diagnostics
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = pipeDelay
	err = c.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		// It succeeded, and left a daemon behind that holds its output open.
		err = nil
	}
	return out.Bytes(), diagnostics.Bytes(), err
}

// refusal is the error that the plugin printed, as CNI spec 1.1, section 5 has it,
// or one made of what else it left.
func refusal(err error, stdout, stderr []byte) *types.Error {
	said := strings.TrimSpace(string(stderr))
	var answer types.Error
	if json.Unmarshal(stdout, &answer) == nil && answer.Msg != "" {
		answer.Details = joined(answer.Details, said)
		return &answer
	}
	return types.NewError(types.ErrInternal, err.Error(), joined(strings.TrimSpace(string(stdout)), said))
}

func joined(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}
