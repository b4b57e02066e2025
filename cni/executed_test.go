// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/runner"
	"github.com/weir-cni/weir/state"
)

// script installs a plugin of type x that is a shell script.
func script(t *testing.T, binDir, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(binDir, "x"), []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
}

// delegateWith makes the only delegate of a sandbox whose plugins are in binDir.
func delegateWith(t *testing.T, binDir string, stored state.Delegate) *executed {
	t.Helper()
	p := &Plugin{CacheDir: t.TempDir(), Exec: &runner.Runner{}, Log: slog.New(slog.DiscardHandler)}
	record := &state.Record{
		ContainerID: "c", Netns: "/n", Args: podArgsText, Path: []string{binDir}, Delegates: []state.Delegate{stored},
	}
	d, err := p.delegateOf(record, 0)
	if err != nil {
		t.Fatal(err)
	}
	run, ok := d.(*executed)
	if !ok {
		t.Fatalf("%T is not executed", d)
	}
	return run
}

func TestExecutedAdd(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, script string
		code         uint // 0: it succeeds
		says         string
	}{
		{"a result", `echo '{"cniVersion":"1.0.0","ips":[{"address":"192.0.2.8/24"}]}'`, 0, ""},
		{"a refusal", `echo '{"code":7,"msg":"bad master","details":"eth7"}'; exit 1`, 7, "bad master; eth7"},
		{"a code of its own", `echo '{"code":123,"msg":"full"}'; exit 1`, 123, "full"},
		{"a death without a word", "exit 1", types.ErrInternal, "exit status 1"},
		{"a death with a word", "echo oops >&2; exit 2", types.ErrInternal, "oops"},
		{"garbage and a failure", "echo garbage; exit 1", types.ErrInternal, "garbage"},
		{"garbage and success", "echo garbage", CodeFailed, "unmarshal"},
		{"no result", "true", CodeFailed, "unmarshal"},
		{"a version that nobody knows", `echo '{"cniVersion":"9.9.9"}'`, CodeFailed, "9.9.9"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			binDir := t.TempDir()
			script(t, binDir, test.script)
			d := delegateWith(t, binDir, state.Delegate{
				Interface: "eth0", Default: true, Config: json.RawMessage(`{"cniVersion":"1.0.0","name":"d","type":"x"}`),
			})
			result, err := d.add(t.Context(), nil)
			if test.code == 0 {
				if err != nil || len(result.IPs) != 1 {
					t.Errorf("%+v, %v", result, err)
				}
				return
			}
			if err == nil {
				t.Fatalf("%+v and no error", result)
			}
			if got := Error(err); got.Code != test.code || !strings.Contains(got.Msg, test.says) {
				t.Errorf("%+v, want code %d and %q", got, test.code, test.says)
			}
		})
	}
}

// A plugin that is cut off is to be tried again, whatever was asked of it.
func TestExecutedIsCutOff(t *testing.T) {
	t.Parallel()
	binDir := t.TempDir()
	script(t, binDir, "exec sleep 60")
	d := delegateWith(t, binDir, state.Delegate{
		Interface: "eth0", Default: true, Config: json.RawMessage(`{"cniVersion":"1.0.0","name":"d","type":"x"}`),
	})
	calls := map[string]func(context.Context) error{
		"add": func(ctx context.Context) error { _, err := d.add(ctx, nil); return err },
		"del": func(ctx context.Context) error { return d.del(ctx, nil) },
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			err := call(ctx)
			if !errors.Is(err, context.DeadlineExceeded) || Error(err).Code != types.ErrTryAgainLater {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestExecutedNeedsItsPlugins(t *testing.T) {
	t.Parallel()
	binDir := t.TempDir()
	script(t, binDir, "true")
	tests := []struct{ name, config, says string }{
		{"there", `{"name":"d","type":"x"}`, ""},
		{"missing", `{"name":"d","type":"y"}`, `"y"`},
		{"the second is missing", `{"name":"d","plugins":[{"type":"x"},{"type":"y"}]}`, `"y"`},
		{"a path", `{"name":"d","type":"../x"}`, "../x"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := delegateWith(t, binDir, state.Delegate{Config: json.RawMessage(test.config)}).validate(t.Context(), nil)
			switch {
			case test.says == "" && err != nil:
				t.Error(err)
			case test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says) || Error(err).Code != types.ErrInvalidNetworkConfig):
				t.Errorf("error %v", err)
			}
		})
	}
}

// The plugin sees what the runtime and the pod asked for, and of the capabilities
// those that its network declares.
func TestExecutedGetsWhatWasAskedFor(t *testing.T) {
	t.Parallel()
	binDir, seen := t.TempDir(), t.TempDir()
	script(t, binDir, `echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS" >> '`+seen+`/env'
cat > '`+seen+`/stdin'
echo '{"cniVersion":"1.0.0"}'`)
	d := delegateWith(t, binDir, state.Delegate{
		Interface:     "net1",
		Config:        json.RawMessage(`{"cniVersion":"1.0.0","name":"d","type":"x","capabilities":{"mac":true,"ips":false}}`),
		Args:          [][2]string{{"MAC", "02:00:00:00:00:01"}},
		RuntimeConfig: map[string]any{"mac": "02:00:00:00:00:01", "ips": []string{"192.0.2.1"}},
	})
	if _, err := d.add(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	var config struct{ RuntimeConfig map[string]any }
	data, err := os.ReadFile(filepath.Join(seen, "stdin"))
	if err := errors.Join(err, json.Unmarshal(data, &config)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"mac": "02:00:00:00:00:01"}, config.RuntimeConfig); diff != "" {
		t.Errorf("runtimeConfig (-want +got):\n%s", diff)
	}
	if err := d.del(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	env, err := os.ReadFile(filepath.Join(seen, "env"))
	if err != nil {
		t.Fatal(err)
	}
	args := podArgsText + ";MAC=02:00:00:00:00:01"
	// The namespace is gone at DEL.
	want := "ADD c /n net1 " + args + "\nDEL c  net1 " + args + "\n"
	if diff := cmp.Diff(want, string(env)); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

func TestPredates(t *testing.T) {
	t.Parallel()
	tests := []struct {
		version       string
		check, status bool
	}{
		{"0.3.1", true, true}, {"0.4.0", false, true}, {"1.0.0", false, true}, {"1.1.0", false, false},
	}
	for _, test := range tests {
		list, err := parseNetwork([]byte(`{"cniVersion":"` + test.version + `","name":"a","type":"x"}`))
		if err != nil {
			t.Fatal(err)
		}
		if predatesCheck(list) != test.check || predatesStatus(list) != test.status {
			t.Errorf("%s: before CHECK %v, before STATUS %v", test.version, predatesCheck(list), predatesStatus(list))
		}
	}
}

func TestWithoutGuard(t *testing.T) {
	t.Parallel()
	lacking := errors.New("the kernel lacks BPF")
	tests := []struct {
		name, enforcement string
		removing          error
		refused           error
		pinDir            string
	}{
		{"required", enforcementRequired, nil, lacking, "pins"},
		{"best effort", enforcementBestEffort, nil, nil, ""},
		{"best effort, and pins that stay", enforcementBestEffort, errStuck, errStuck, "pins"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			guards := &guards{failing: test.removing}
			j := &job{
				plugin: &Plugin{Guards: guards, Log: slog.New(slog.DiscardHandler)},
				record: &state.Record{},
				stored: &state.Delegate{Interface: "net1", Attachment: &attachment.Attachment{PinDir: "pins"}},
				option: options{Enforcement: test.enforcement},
			}
			if err := j.withoutGuard(lacking); !errors.Is(err, test.refused) {
				t.Errorf("error %v, want %v", err, test.refused)
			}
			if j.stored.Attachment.PinDir != test.pinDir {
				t.Errorf("pins %q, want %q", j.stored.Attachment.PinDir, test.pinDir)
			}
		})
	}
}
