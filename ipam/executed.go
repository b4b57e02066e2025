// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

const (
	// undoTimeout bounds the DEL after an ADD whose context has ended already.
	undoTimeout = 10 * time.Second
	// pipeDelay is how long other processes may hold the output of a plugin open that has ended.
	pipeDelay = time.Second
	// A plugin that is being installed at this moment cannot be executed (ETXTBSY).
	busyRetries = 5
	busyDelay   = time.Second
)

// executed is a CNI plugin in a file of its own.
type executed struct {
	kind   string
	binary string
	path   []string
	config []byte
}

var _ Plugin = (*executed)(nil)

func findExecuted(kind string, config []byte, path []string) (*executed, error) {
	// An empty directory would mean the working directory, which nobody asks for on purpose.
	dirs := slices.DeleteFunc(slices.Clone(path), func(dir string) bool { return dir == "" })
	binary, err := invoke.FindInPath(kind, dirs)
	if err != nil {
		return nil, &FieldError{
			Field: "ipam.type", Value: kind,
			Err: fmt.Errorf("%w in %s", ErrPluginNotFound, cmp.Or(strings.Join(dirs, ", "), "no directory at all")),
		}
	}
	// os/exec would look for a name without a slash in $PATH.
	if binary, err = filepath.Abs(binary); err != nil {
		return nil, &FieldError{Field: "ipam.type", Value: kind, Err: err}
	}
	return &executed{kind: kind, binary: binary, path: dirs, config: bytes.Clone(config)}, nil
}

// Add implements Plugin. A plugin that refuses has to have undone its own work; one that was cut
// off, or whose answer is of no use, is called with DEL.
func (e *executed) Add(ctx context.Context, req Request) (*current.Result, error) {
	result, err := e.add(ctx, req)
	if err == nil {
		return result, nil
	}
	err = e.failed("ADD", req, err)
	if _, refused := errors.AsType[*types.Error](err); refused {
		return nil, err
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	return nil, errors.Join(err, e.Del(undo, req))
}

func (e *executed) add(ctx context.Context, req Request) (*current.Result, error) {
	raw, err := invoke.ExecPluginWithResult(ctx, e.binary, e.stdin(req), e.args("ADD", req), &runner{})
	if err != nil {
		return nil, err
	}
	result, err := convert("result", raw)
	if err != nil {
		return nil, err
	}
	return result, usable(result)
}

// Check implements Plugin.
func (e *executed) Check(ctx context.Context, req Request) error { return e.run(ctx, "CHECK", req) }

// Del implements Plugin.
func (e *executed) Del(ctx context.Context, req Request) error { return e.run(ctx, "DEL", req) }

func (e *executed) run(ctx context.Context, command string, req Request) error {
	err := invoke.ExecPluginWithoutResult(ctx, e.binary, e.stdin(req), e.args(command, req), &runner{})
	if err != nil {
		return e.failed(command, req, err)
	}
	return nil
}

func (e *executed) failed(command string, req Request, err error) error {
	return fmt.Errorf("executing IPAM plugin %s, %s of %s: %w", e.kind, command, req.IfName, err)
}

func (e *executed) stdin(req Request) []byte {
	if len(req.Config) > 0 {
		return req.Config
	}
	return e.config
}

func (e *executed) args(command string, req Request) *invoke.Args {
	path := req.Path
	if len(path) == 0 {
		path = e.path
	}
	return &invoke.Args{
		Command: command, ContainerID: req.ContainerID, NetNS: req.Netns, IfName: req.IfName,
		PluginArgsStr: req.Args, Path: strings.Join(path, string(filepath.ListSeparator)),
	}
}

// runner executes plugins as invoke.RawExec does, with two differences: it does not wait for
// grandchildren that hold the plugin's output open, and when the context ends it says so.
type runner struct {
	*invoke.RawExec
	version.PluginDecoder
}

var _ invoke.Exec = (*runner)(nil)

// ExecPlugin implements invoke.Exec. The error is a *types.Error if the plugin could not be started
// or refused, and wraps the context's if it was cut off.
func (*runner) ExecPlugin(ctx context.Context, binary string, stdin []byte, environ []string) ([]byte, error) {
	for attempt := 0; ; attempt++ {
		stdout, stderr, err := execute(ctx, binary, stdin, environ)
		switch {
		case err == nil:
			return stdout, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("cut off: %w", context.Cause(ctx))
		case attempt == busyRetries || !errors.Is(err, syscall.ETXTBSY):
			return nil, refusal(err, stdout, stderr)
		}
		select {
		case <-ctx.Done():
		case <-time.After(busyDelay):
		}
	}
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

// refusal is the error that the plugin printed, as CNI spec 1.1, section 5 has it, or one made of
// what else it left.
func refusal(err error, stdout, stderr []byte) *types.Error {
	var answer types.Error
	if json.Unmarshal(stdout, &answer) == nil && answer.Msg != "" {
		return &answer
	}
	return types.NewError(types.ErrInternal, err.Error(), strings.TrimSpace(string(stdout)+string(stderr)))
}
