// SPDX-License-Identifier: Apache-2.0

package runner_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/weir-cni/weir/runner"
)

func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "plugin")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestExecPlugin(t *testing.T) {
	t.Parallel()
	path := script(t, `echo "$GREETING $(cat)"; echo aside >&2`)
	out, err := (&runner.Runner{}).ExecPlugin(t.Context(), path, []byte("config"), []string{"GREETING=hello"})
	if err != nil || string(out) != "hello config\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestRefusal(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, script string
		want         types.Error
	}{
		{"an error", `echo '{"code":7,"msg":"bad master","details":"eth7"}'; exit 1`, types.Error{Code: 7, Msg: "bad master", Details: "eth7"}},
		{"an error, and words", `echo '{"code":7,"msg":"bad master","details":"eth7"}'; echo trouble >&2; exit 1`,
			types.Error{Code: 7, Msg: "bad master", Details: "eth7; trouble"}},
		{"text", `echo out; echo trouble >&2; exit 3`, types.Error{Code: types.ErrInternal, Msg: "exit status 3", Details: "out; trouble"}},
		{"silence", `exit 2`, types.Error{Code: types.ErrInternal, Msg: "exit status 2"}},
		{"JSON that is no error", `echo '{}'; exit 1`, types.Error{Code: types.ErrInternal, Msg: "exit status 1", Details: "{}"}},
		{"a signal", `kill -9 $$`, types.Error{Code: types.ErrInternal, Msg: "signal: killed"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := (&runner.Runner{}).ExecPlugin(t.Context(), script(t, test.script), nil, nil)
			got, ok := errors.AsType[*types.Error](err)
			if !ok {
				t.Fatalf("error %v, want one of CNI", err)
			}
			if diff := cmp.Diff(test.want, *got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What was cut off is gone with all that it has started, and what it had said is
// not lost.
func TestCutOff(t *testing.T) {
	t.Parallel()
	path := script(t, `echo waiting for the lease >&2; sleep 60 & echo $! > "$0.child"; wait`)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err := (&runner.Runner{}).ExecPlugin(ctx, path, nil, []string{"PATH=" + os.Getenv("PATH")})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "waiting for the lease") {
		t.Errorf("error %v", err)
	}
	child, err := os.ReadFile(path + ".child")
	if err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		state, _ := os.ReadFile("/proc/" + strings.TrimSpace(string(child)) + "/stat")
		if len(state) == 0 || strings.Contains(string(state), ") Z ") {
			return
		}
		if time.Since(began) > 10*time.Second {
			t.Fatalf("the child lives: %s", state)
		}
	}
}

// A daemon that a plugin leaves behind is not waited for.
func TestDaemonIsLeftAlone(t *testing.T) {
	t.Parallel()
	path := script(t, `sleep 60 & echo $! > "$0.child"; echo done`)
	out, err := (&runner.Runner{}).ExecPlugin(t.Context(), path, nil, []string{"PATH=" + os.Getenv("PATH")})
	if err != nil || string(out) != "done\n" {
		t.Errorf("%q, %v", out, err)
	}
	child, err := os.ReadFile(path + ".child")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("kill", strings.TrimSpace(string(child))).CombinedOutput(); err != nil {
		t.Errorf("the daemon is gone: %s", out)
	}
}

// A plugin that is being written at this moment is executed when it is there.
func TestBusy(t *testing.T) {
	t.Parallel()
	path := script(t, "echo installed")
	writer, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	installed := time.AfterFunc(200*time.Millisecond, func() { _ = writer.Close() })
	defer installed.Stop()
	out, err := (&runner.Runner{}).ExecPlugin(t.Context(), path, nil, nil)
	if err != nil || string(out) != "installed\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// No more plugins than allowed run at once; one that waits goes with its request.
func TestMost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := script(t, `cd `+dir+`; mkdir busy || echo two >both; sleep 0.05; rmdir busy`)
	r, err := runner.New(runner.Options{Most: 1, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	var group errgroup.Group
	for range 5 {
		group.Go(func() error {
			_, err := r.ExecPlugin(t.Context(), path, nil, []string{"PATH=" + os.Getenv("PATH")})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "both")); err == nil {
		t.Error("two ran at once")
	}
	slow := script(t, "sleep 5")
	go func() { _, _ = r.ExecPlugin(t.Context(), slow, nil, []string{"PATH=" + os.Getenv("PATH")}) }()
	until(t, func() bool { return r.Running() == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	waited := make(chan error, 1)
	go func() { _, err := r.ExecPlugin(ctx, path, nil, nil); waited <- err }()
	until(t, func() bool { return r.Waiting() == 1 })
	if err := <-waited; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if r.Running() != 1 || r.Waiting() != 0 {
		t.Errorf("%d run and %d wait, want 1 and 0", r.Running(), r.Waiting())
	}
}

// A plugin that takes too long is killed, however long its request may take.
func TestTimeout(t *testing.T) {
	t.Parallel()
	r, err := runner.New(runner.Options{Timeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.ExecPlugin(t.Context(), script(t, "exec sleep 60"), nil, []string{"PATH=" + os.Getenv("PATH")}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

// until waits for what must come to be.
func until(t *testing.T, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Error("it did not come to be within 10 s")
			return
		}
	}
}
