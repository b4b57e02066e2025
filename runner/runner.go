// SPDX-License-Identifier: Apache-2.0

// Package runner executes CNI plugins that are programs on the node, as libcni's
// own way to execute them does, with these differences: what a plugin has started
// and left behind is not waited for, and is killed with it; a plugin that was
// cut off says so; plugins may be bounded in time and number; and they may be executed
// as if the container runtime did it, outside of the container of the agent.
package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sync/semaphore"
)

const (
	// pipeDelay is how long other processes may hold the output of a plugin open
	// that has ended.
	pipeDelay = time.Second
	// A plugin that is being installed at this moment cannot be executed (ETXTBSY).
	busyRetries = 5
	busyDelay   = time.Second
)

// Options say how plugins are executed.
type Options struct {
	// Timeout bounds one execution, which is killed then; 0 for no bound.
	Timeout time.Duration
	// Most bounds the executions at once, the others wait; 0 for no bound. Plugins of
	// some 50 MB each would otherwise fill a node that brings up all its pods.
	Most int
	// Process is the directory in /proc of a process, such as /proc/1, in whose mount
	// namespace plugins are executed, outside of the cgroups of this one; empty for
	// children like any other.
	Process string
}

// Runner executes plugins. The zero value is ready, and bounds nothing.
type Runner struct {
	*invoke.RawExec
	version.PluginDecoder
	timeout time.Duration
	slots   *semaphore.Weighted
	outside *outside
	// Executions under way, and those that wait for a slot.
	running, waiting atomic.Int32
}

var _ invoke.Exec = (*Runner)(nil)

// New makes a Runner. The error says what keeps plugins from being executed as the
// options want it.
func New(o Options) (*Runner, error) {
	r := &Runner{timeout: o.Timeout}
	if o.Most > 0 {
		r.slots = semaphore.NewWeighted(int64(o.Most))
	}
	if o.Process == "" {
		return r, nil
	}
	r.outside = &outside{process: o.Process}
	if err := r.outside.do(func(*syscall.SysProcAttr) error { return nil }); err != nil {
		return nil, fmt.Errorf("executing plugins beside process %s: %w", o.Process, err)
	}
	return r, nil
}

// FindInPath implements invoke.Exec: it looks where the plugins are executed.
func (r *Runner) FindInPath(plugin string, paths []string) (path string, err error) {
	err = r.within(func(*syscall.SysProcAttr) error {
		path, err = invoke.FindInPath(plugin, paths)
		return err
	})
	return path, err
}

// within calls fn where plugins are executed, with what a child must be started with.
func (r *Runner) within(fn func(*syscall.SysProcAttr) error) error {
	if r.outside == nil {
		return fn(&syscall.SysProcAttr{})
	}
	return r.outside.do(fn)
}

// ExecPlugin implements invoke.Exec. The error is a *types.Error, with what the
// plugin wrote to its standard error among its details, if the plugin could not be
// started or refused; it wraps the context's if the plugin was cut off.
func (r *Runner) ExecPlugin(ctx context.Context, binary string, stdin []byte, environ []string) ([]byte, error) {
	release, err := r.takeSlot(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	if r.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.timeout)
		defer cancel()
	}
	for attempt := 0; ; attempt++ {
		stdout, stderr, err := r.execute(ctx, binary, stdin, environ)
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

// takeSlot waits until there are few enough executions for one more.
func (r *Runner) takeSlot(ctx context.Context) (release func(), err error) {
	if r.slots == nil {
		r.running.Add(1)
		return func() { r.running.Add(-1) }, nil
	}
	r.waiting.Add(1)
	err = r.slots.Acquire(ctx, 1)
	r.waiting.Add(-1)
	if err != nil {
		return nil, fmt.Errorf("waiting for other plugins to end: %w", err)
	}
	r.running.Add(1)
	return func() {
		r.running.Add(-1)
		r.slots.Release(1)
	}, nil
}

// Running is the number of plugins that run at this moment.
func (r *Runner) Running() int { return int(r.running.Load()) }

// Waiting is the number of plugins that wait for others to end.
func (r *Runner) Waiting() int { return int(r.waiting.Load()) }

func cutOff(ctx context.Context, stderr []byte) error {
	if said := bytes.TrimSpace(stderr); len(said) > 0 {
		return fmt.Errorf("cut off: %w, after it had said: %s", context.Cause(ctx), said)
	}
	return fmt.Errorf("cut off: %w", context.Cause(ctx))
}

func (r *Runner) execute(ctx context.Context, binary string, stdin []byte, environ []string) (stdout, stderr []byte, err error) {
	var out, diagnostics bytes.Buffer
	c := exec.CommandContext(ctx, binary)
	c.Env = environ
	c.Stdin = bytes.NewReader(stdin)
	c.Stdout = &out
	c.Stderr = &diagnostics
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = pipeDelay
	err = r.within(func(attributes *syscall.SysProcAttr) error {
		attributes.Setpgid = true
		c.SysProcAttr = attributes
		return c.Start()
	})
	if err == nil {
		err = c.Wait()
	}
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
