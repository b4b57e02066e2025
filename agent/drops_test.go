// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/drops"
	"github.com/weir-cni/weir/inspect"
	"github.com/weir-cni/weir/loader"
)

// dropping is an agent that serves on a socket, and knows one attachment.
type dropping struct {
	*agent
	id     attachment.ID
	socket string
	stop   func() error
}

func newDropping(t *testing.T) *dropping {
	t.Helper()
	d := &dropping{agent: newAgent(t), id: attachment.ID{ContainerID: "c0ffee", Interface: "net1"}, socket: filepath.Join(t.TempDir(), "weir.sock")}
	d.registry.expectDrops(d.id, loader.Spec{Pod: "shop/web", Network: "shop/lan"})
	listener, err := net.Listen("unix", d.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+api.DropsPath, d.dropsUntil(ctx))
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, listener, mux) }()
	d.stop = func() error {
		cancel()
		return <-ended
	}
	t.Cleanup(cancel)
	return d
}

// drop has the attachment drop, with a number for a length.
func (d *dropping) drop(n int) {
	d.registry.journal.Take(&bpf.Drop{
		Attachment: dropsNumber(d.id), Length: uint32(n), Captured: uint32(min(n, 128)), Verdict: 1, Direction: uint8(bpf.Egress), Rule: bpf.NoRule,
	}, time.Now())
}

func TestDropsThatAreKept(t *testing.T) {
	t.Parallel()
	d := newDropping(t)
	d.drop(60)
	d.drop(61)
	list, err := inspect.Drops(t.Context(), d.socket, drops.Filter{Pod: "web"}, -1)
	if err != nil || len(list.Items) != 2 || list.APIVersion != api.Version {
		t.Fatalf("%+v, %v", list, err)
	}
	if got := list.Items[0]; got.Pod.String() != "shop/web" || got.ID != d.id || got.Network != "shop/lan" || got.Length != 60 || len(got.Packet) != 60 {
		t.Errorf("%+v", got)
	}
	for _, test := range []struct {
		filter drops.Filter
		last   int
		want   int
	}{{drops.Filter{}, 1, 1}, {drops.Filter{}, 0, 0}, {drops.Filter{Namespace: "default"}, -1, 0}} {
		list, err := inspect.Drops(t.Context(), d.socket, test.filter, test.last)
		if err != nil || list.Items == nil || len(list.Items) != test.want {
			t.Errorf("%+v: %+v, %v", test, list, err)
		}
	}
	d.registry.forgetDrops(d.id)
	if list, err := inspect.Drops(t.Context(), d.socket, drops.Filter{}, -1); err != nil || len(list.Items) != 2 {
		t.Errorf("of a pod that is gone: %+v, %v", list, err)
	}
}

func TestDropsOfWrongRequests(t *testing.T) {
	t.Parallel()
	for _, query := range []string{"direction=up", "reason=x", "follow=perhaps", "last=all"} {
		answer := httptest.NewRecorder()
		newAgent(t).dropsUntil(t.Context())(answer, httptest.NewRequest(http.MethodGet, api.DropsPath+"?"+query, nil))
		if answer.Code != http.StatusBadRequest || answer.Body.Len() < 10 {
			t.Errorf("%s: %d %s", query, answer.Code, answer.Body)
		}
	}
}

func TestDropsAsTheyCome(t *testing.T) {
	t.Parallel()
	d := newDropping(t)
	d.drop(59)
	d.drop(60)
	const last = 63
	next := uint32(60)
	err := inspect.FollowDrops(t.Context(), d.socket, drops.Filter{}, 1, func(line api.DropLine) error {
		if line.DroppedPacket == nil || line.Length != next {
			return fmt.Errorf("%+v, want a drop of %d bytes", line, next)
		}
		if next++; next > last {
			return errEnough
		}
		d.drop(int(next))
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Error(err)
	}
	if err := d.stop(); err != nil {
		t.Error(err)
	}
}

var errEnough = errors.New("enough")

// A client that does not read keeps the agent from nothing, learns how many it has missed
// when it reads again, and does not keep the agent from ending.
func TestSlowClientMissesDrops(t *testing.T) {
	t.Parallel()
	d := newDropping(t)
	conn, err := net.Dial("unix", d.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "GET %s?follow=true&last=0 HTTP/1.1\r\nHost: weir\r\n\r\n", api.DropsPath); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%+v, %v", answer, err)
	}
	defer answer.Body.Close()
	// More than the buffers of a socket hold.
	const sent = 20_000
	began := time.Now()
	for range sent {
		d.drop(1514)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("taking drops took %s", took)
	}
	lines := json.NewDecoder(answer.Body)
	got, missed := 0, uint64(0)
	for got+int(missed) < sent {
		var line api.DropLine
		if err := lines.Decode(&line); err != nil {
			t.Fatalf("after %d drops and %d missed: %v", got, missed, err)
		}
		if line.DroppedPacket != nil {
			got++
		}
		missed += line.Missed
	}
	if got == 0 || missed == 0 || got+int(missed) != sent {
		t.Errorf("%d drops came and %d were missed of %d", got, missed, sent)
	}
	for range sent {
		d.drop(1514)
	}
	began = time.Now()
	if err := d.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took >= stopTimeout {
		t.Errorf("ending took %s", took)
	}
}

func TestFollowersLearnThatTheAgentEnds(t *testing.T) {
	t.Parallel()
	d := newDropping(t)
	d.drop(60)
	err := inspect.FollowDrops(t.Context(), d.socket, drops.Filter{}, -1, func(api.DropLine) error {
		go func() { _ = d.stop() }()
		return nil
	})
	if !errors.Is(err, inspect.ErrAgentWent) {
		t.Error(err)
	}
	if err := inspect.FollowDrops(t.Context(), d.socket, drops.Filter{}, -1, nil); !errors.Is(err, inspect.ErrNoAgent) {
		t.Errorf("without an agent: %v", err)
	}
	other := newDropping(t)
	if _, err := inspect.Drops(t.Context(), other.socket, drops.Filter{Direction: "up"}, -1); err == nil || !strings.Contains(err.Error(), "up") {
		t.Errorf("a wrong filter: %v", err)
	}
}

// Browsers get a line for each of the last drops and nothing of what the pods sent, whatever
// they ask for.
func TestBrowsersGetNoPackets(t *testing.T) {
	t.Parallel()
	d := newDropping(t)
	for n := range 60 {
		d.drop(n + 1)
	}
	handler, err := d.pageForBrowsers()
	if err != nil {
		t.Fatal(err)
	}
	for _, query := range []string{"", "?follow=true", "?last=1"} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost"+api.DropsPath+query, nil))
		var got api.DropList
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatalf("%s: %v", w.Body, err)
		}
		if len(got.Items) != 60 {
			t.Errorf("%q: %d drops, want 60", query, len(got.Items))
		}
		for i := range got.Items {
			if d := &got.Items[i]; d.Packet != nil || d.Description == "" || int(d.Length) != i+1 {
				t.Errorf("%q: %+v", query, d)
			}
		}
	}
}
