// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/cni"
	"github.com/weir-cni/weir/manifests"
	"github.com/weir-cni/weir/metrics"
	"github.com/weir-cni/weir/state"
)

func TestKeyedMutexSerialisesOneKeyAndNoOther(t *testing.T) {
	t.Parallel()
	var locks keyedMutex
	var inside, together atomic.Int32
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() {
			defer locks.lock("a")()
			together.Store(max(together.Load(), inside.Add(1)))
			time.Sleep(time.Microsecond)
			inside.Add(-1)
		})
	}
	unlock := locks.lock("b") // does not wait for a
	group.Wait()
	unlock()
	if got := together.Load(); got != 1 {
		t.Errorf("%d at once under one key", got)
	}
	if len(locks.locks) != 0 {
		t.Errorf("%d locks are kept for nobody", len(locks.locks))
	}
}

func TestOneAgentToAStateDirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	first, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockDir(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a second agent: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := lockDir(dir)
	if err != nil {
		t.Fatalf("after the first has gone: %v", err)
	}
	_ = second.Close()
}

func TestListenTakesOverTheSocketOfADeadAgent(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "run", "weir.sock")
	first, err := listenSocket(path)
	if err != nil {
		t.Fatal(err)
	}
	first.(*rootListener).SetUnlinkOnClose(false)
	_ = first.Close()
	second, err := listenSocket(path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// newAgent is an agent that knows no pod and no network and can reach no kernel.
func newAgent(tb testing.TB) *agent {
	tb.Helper()
	dir, log := tb.TempDir(), slog.New(slog.DiscardHandler)
	records, err := state.Open(filepath.Join(dir, "records"))
	if err != nil {
		tb.Fatal(err)
	}
	store, err := manifests.Open(dir, filepath.Join(dir, "status"), log)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = store.Close() })
	a := &agent{log: log, operations: metrics.NewOperations(), tracer: noop.Tracer{}, options: Options{LogLevel: &slog.LevelVar{}}}
	if a.segments, err = newSegments(nil, store, log); err != nil {
		tb.Fatal(err)
	}
	a.registry = newRegistry(nil, a.segments, nil, dir, a.locks.lock, log)
	a.plugin = &cni.Plugin{Networks: store, Guards: a.registry, Records: records, Log: log}
	return a
}

func TestRequestsThatAreNotRight(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, body string
		status     int
		code       uint
	}{
		{"not JSON", "{", http.StatusBadRequest, 0},
		{"another shape", `{"command":7}`, http.StatusBadRequest, 0},
		{"too large", `{"args":"` + strings.Repeat("x", requestMax) + `"}`, http.StatusBadRequest, 0},
		{"no command", `{}`, http.StatusOK, types.ErrInvalidEnvironmentVariables},
		{"unknown command", `{"command":"UPDATE"}`, http.StatusOK, types.ErrInvalidEnvironmentVariables},
		{"ADD of nothing", `{"command":"ADD"}`, http.StatusOK, types.ErrInvalidEnvironmentVariables},
		{"DEL of a path", `{"command":"DEL","containerID":"../x","ifname":"eth0"}`, http.StatusOK, types.ErrInvalidEnvironmentVariables},
		{"CHECK of a bad interface", `{"command":"CHECK","containerID":"a","ifname":"a/b"}`, http.StatusOK, types.ErrInvalidEnvironmentVariables},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			answer := httptest.NewRecorder()
			newAgent(t).handleCNI(answer, httptest.NewRequest(http.MethodPost, api.CNIPath, strings.NewReader(test.body)))
			if answer.Code != test.status {
				t.Fatalf("status %d: %s", answer.Code, answer.Body)
			}
			if test.status != http.StatusOK {
				return
			}
			var response api.CNIResponse
			if err := json.Unmarshal(answer.Body.Bytes(), &response); err != nil || response.Error == nil || response.Error.Code != test.code {
				t.Errorf("answer %s, %v", answer.Body, err)
			}
		})
	}
}

func FuzzHandleCNI(f *testing.F) {
	f.Add(`{"command":"ADD","containerID":"a","ifname":"eth0","netns":"/x","config":{}}`)
	f.Add(`{"command":"DEL"}`)
	f.Add(`{"command":"GC","config":{"cni.dev/valid-attachments":[{"containerID":"a"}]}}`)
	f.Add(`{"command":"STATUS","config":{"clusterNetwork":"x","delegates":[{}]}}`)
	a := newAgent(f)
	f.Fuzz(func(_ *testing.T, body string) {
		if strings.Contains(body, "/proc") {
			return // the agent without a kernel has no namespace to compare with
		}
		a.handleCNI(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, api.CNIPath, strings.NewReader(body)))
	})
}

func TestAnswer(t *testing.T) {
	t.Parallel()
	failed, err := answer(nil, errors.New("no"))
	if err != nil || failed.Error == nil || failed.Error.Code != cni.CodeFailed || failed.Error.Msg != "no" {
		t.Errorf("an error: %+v, %v", failed, err)
	}
	done, err := answer(nil, nil)
	if err != nil || done.Error != nil || done.Result != nil {
		t.Errorf("nothing: %+v, %v", done, err)
	}
	added, err := answer(&current.Result{CNIVersion: "1.1.0"}, nil)
	if err != nil || !strings.Contains(string(added.Result), "1.1.0") {
		t.Errorf("a result: %+v, %v", added, err)
	}
}

// A server that is told to stop lets the request under way end.
func TestServeEndsWithItsRequests(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		cancel()
		time.Sleep(50 * time.Millisecond)
		_, _ = io.WriteString(w, "whole")
	})
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, listener, handler) }()
	resp, err := http.Get("http://" + listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "whole" {
		t.Errorf("%q, %v", body, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
