// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
)

// undoTimeout bounds the DEL after an ADD whose context has ended already.
const undoTimeout = 10 * time.Second

// executed is a CNI plugin in a file of its own.
type executed struct {
	kind   string
	binary string
	path   []string
	config []byte
	exec   invoke.Exec
}

var _ Plugin = (*executed)(nil)

func findExecuted(kind string, config []byte, path []string, exec invoke.Exec) (*executed, error) {
	// An empty directory would mean the working directory, which nobody asks for on purpose.
	dirs := slices.DeleteFunc(slices.Clone(path), func(dir string) bool { return dir == "" })
	binary, err := exec.FindInPath(kind, dirs)
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
	return &executed{kind: kind, binary: binary, path: dirs, config: bytes.Clone(config), exec: exec}, nil
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
	raw, err := invoke.ExecPluginWithResult(ctx, e.binary, e.stdin(req), e.args("ADD", req), e.exec)
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
	err := invoke.ExecPluginWithoutResult(ctx, e.binary, e.stdin(req), e.args(command, req), e.exec)
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
