// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/weir-cni/weir/api"
)

// seconds is how far apart the readings of these tests are.
const seconds = 2

func instant(s int) time.Time { return time.Date(2026, 1, 2, 3, 4, s, 0, time.UTC) }

// later is an attachment that has counted more since.
func later(a api.AttachmentStatus, receive, transmit api.Traffic, dropped uint64) api.AttachmentStatus {
	a.Receive, a.Transmit = sum(a.Receive, receive), sum(a.Transmit, transmit)
	a.Dropped = append(a.Dropped[:len(a.Dropped):len(a.Dropped)], api.Drop{Direction: "ingress", Reason: "other", Packets: dropped})
	return a
}

// busy are readings of three attachments: two of one pod, one of another with long names.
func busy() (before, after reading) {
	one, two, three := web(), web(), web()
	two.Interface, two.Network = "net2", "default/san"
	three.ContainerID = "f00d"
	three.Pod.Namespace, three.Pod.Name = "a-namespace-of-some-length", "deployment-with-a-long-name-7d9f8c6b5-x2x4z"
	three.Network = "another-namespace/network-of-a-long-name"
	before = reading{instant(0), []api.AttachmentStatus{one, two, three}}
	after = reading{instant(seconds), []api.AttachmentStatus{
		later(one, api.Traffic{Packets: 2000, Bytes: 3000000}, api.Traffic{Packets: 10, Bytes: 600}, 0),
		later(two, api.Traffic{Packets: 1, Bytes: 60}, api.Traffic{}, 3),
		later(three, api.Traffic{Packets: 2, Bytes: 120}, api.Traffic{Packets: 4000000, Bytes: 6000000000}, 0),
	}}
	return before, after
}

func TestRates(t *testing.T) {
	t.Parallel()
	a := web()
	quiet := rate{Pod: "shop/web", Interface: "net1", Network: "shop/lan", Attachments: 1}
	grown := quiet
	grown.ReceiveBits, grown.ReceivePackets, grown.Drops = 4000, 5, 2
	whole := quiet
	whole.ReceiveBits, whole.ReceivePackets = 4*999, 6
	whole.TransmitBits, whole.TransmitPackets, whole.Drops = 4*1500000, 1.5, 2
	again := a
	again.Created = instant(1)
	less := a
	less.Receive = api.Traffic{}
	tests := []struct {
		name          string
		before, after []api.AttachmentStatus
		want          []rate
	}{
		{"nothing", nil, nil, []rate{}},
		{"no traffic", []api.AttachmentStatus{a}, []api.AttachmentStatus{a}, []rate{quiet}},
		{"traffic", []api.AttachmentStatus{a}, []api.AttachmentStatus{later(a, api.Traffic{Packets: 10, Bytes: 1000}, api.Traffic{}, 4)}, []rate{grown}},
		{"a new one", nil, []api.AttachmentStatus{a}, []rate{whole}},
		{"one made again under its name", []api.AttachmentStatus{a}, []api.AttachmentStatus{again}, []rate{whole}},
		{"one that is gone", []api.AttachmentStatus{a}, nil, []rate{}},
		{"counters that went back", []api.AttachmentStatus{a}, []api.AttachmentStatus{less}, []rate{quiet}},
	}
	for _, test := range tests {
		got := ratesBetween(reading{instant(0), test.before}, reading{instant(seconds), test.after})
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
	if got := ratesBetween(reading{instant(1), nil}, reading{instant(1), []api.AttachmentStatus{a}}); got[0].ReceiveBits != 0 {
		t.Errorf("in no time: %+v", got)
	}
}

// Sums lose nothing, and whatever is sorted is still there.
func TestSumsAndOrder(t *testing.T) {
	t.Parallel()
	before, after := busy()
	all := ratesBetween(before, after)
	for _, by := range groupings {
		sums := sumUp(all, by)
		var attachments int
		var bits, packets, drops float64
		for _, r := range sums {
			attachments += r.Attachments
			bits += r.ReceiveBits + r.TransmitBits
			packets += r.packets()
			drops += r.Drops
		}
		if attachments != 3 || bits != 4*(3000000+600+60+120+6000000000) || packets != (2000+10+1+2+4000000)/2.0 || drops != 1.5 {
			t.Errorf("by %s: %d attachments, %v bits, %v packets, %v drops", by, attachments, bits, packets, drops)
		}
	}
	first := map[string]string{"rx": "shop/web/net1", "tx": "a-namespace", "pps": "a-namespace", "drops": "shop/web/net2", "name": "a-namespace"}
	for _, key := range sortKeys {
		sortRates(all, key)
		if name := nameOfRate(&all[0]); !strings.HasPrefix(name, first[key]) || len(all) != 3 {
			t.Errorf("by %s %s is first", key, name)
		}
	}
}

func TestTopViews(t *testing.T) {
	t.Parallel()
	before, after := busy()
	quiet := reading{instant(seconds), after.attachments[:1]}
	tests := []struct {
		golden   string
		o        topOptions
		from, to reading
		height   int // of a terminal; 0 for a pipe
	}{
		{golden: "top-none.table", o: topOptions{by: byAttachment, output: "table"}, from: reading{at: instant(0)}, to: reading{at: instant(seconds)}},
		{golden: "top-none.json", o: topOptions{by: byPod, output: "json"}, from: reading{at: instant(0)}, to: reading{at: instant(seconds)}},
		{golden: "top-one.table", o: topOptions{by: byAttachment, output: "table"}, from: before, to: quiet},
		{golden: "top-one.json", o: topOptions{by: byAttachment, output: "json"}, from: before, to: quiet},
		{golden: "top-many.table", o: topOptions{by: byAttachment, sort: "rx", output: "table"}, from: before, to: after},
		{golden: "top-many.table", o: topOptions{by: byAttachment, sort: "rx", output: "wide"}, from: before, to: after},
		{golden: "top-networks.table", o: topOptions{by: byNetwork, sort: "tx", output: "table"}, from: before, to: after},
		{golden: "top-pods.table", o: topOptions{by: byPod, sort: "drops", output: "table"}, from: before, to: after},
		{golden: "top-pods.yaml", o: topOptions{by: byPod, sort: "name", output: "yaml"}, from: before, to: after},
		{golden: "top-many.name", o: topOptions{by: byAttachment, sort: "name", output: "name"}, from: before, to: after},
		{golden: "top-networks.name", o: topOptions{by: byNetwork, sort: "name", output: "name"}, from: before, to: after},
		{golden: "top-live-none", o: topOptions{by: byAttachment, sort: "rx"}, from: reading{at: instant(0)}, to: reading{at: instant(seconds)}, height: 24},
		{golden: "top-live-waiting", o: topOptions{by: byAttachment, sort: "rx"}, to: before, height: 24},
		{golden: "top-live-many", o: topOptions{by: byAttachment, sort: "rx"}, from: before, to: after, height: 24},
		{golden: "top-live-low", o: topOptions{by: byAttachment, sort: "rx"}, from: before, to: after, height: 5},
		{golden: "top-live-pods", o: topOptions{by: byPod, sort: "drops"}, from: before, to: after, height: 24},
	}
	for _, test := range tests {
		test.o.every = seconds * time.Second
		var out strings.Builder
		if test.height == 0 {
			if err := test.o.list(&out, test.from, test.to, true); err != nil {
				t.Error(err)
			}
			if err := test.o.list(brokenPipe{}, test.from, test.to, true); err == nil {
				t.Errorf("%s: a broken pipe is no error", test.golden)
			}
		} else {
			l := live{topOptions: &test.o, before: test.from, after: test.to}
			for _, line := range l.screen(80, test.height) {
				fmt.Fprintln(&out, strings.TrimRight(line, " "))
			}
		}
		golden(t, test.golden, out.String())
	}
}

// Whatever the names and numbers, a screen fits a terminal of 40 columns and more.
func TestScreenFits(t *testing.T) {
	t.Parallel()
	name := rapid.StringMatching(`[a-z0-9é-]{1,63}`)
	rapid.Check(t, func(t *rapid.T) {
		attachments := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) api.AttachmentStatus {
			a := web()
			a.ContainerID, a.Interface = name.Draw(t, "container"), name.Draw(t, "interface")[:1]
			a.Pod.Namespace, a.Pod.Name, a.Network = name.Draw(t, "namespace"), name.Draw(t, "pod"), name.Draw(t, "network")
			a.Receive.Bytes = rapid.Uint64().Draw(t, "bytes")
			return a
		}), 0, 30).Draw(t, "attachments")
		o := topOptions{by: rapid.SampledFrom(groupings).Draw(t, "by"), sort: rapid.SampledFrom(sortKeys).Draw(t, "sort"), every: time.Second}
		width, height := rapid.IntRange(52, 300).Draw(t, "width"), rapid.IntRange(2, 60).Draw(t, "height")
		l := live{topOptions: &o, before: reading{at: instant(0)}, after: reading{instant(seconds), attachments}}
		lines := l.screen(width, height)
		if len(lines) > height {
			t.Errorf("%d lines on %d", len(lines), height)
		}
		for _, line := range lines {
			if utf8.RuneCountInString(line) > width {
				t.Errorf("%d characters on %d: %q", utf8.RuneCountInString(line), width, line)
			}
		}
	})
}

func TestHumanRate(t *testing.T) {
	t.Parallel()
	tests := map[float64]string{
		0: "0", 0.04: "0.0", 0.5: "0.5", 9.94: "9.9", 9.95: "10", 999: "999", 999.6: "1.0k", 1500: "1.5k", 999_960: "1.0M", 12_000_000_000: "12.0G", 1e30: "1000000000000.0E",
	}
	for n, want := range tests {
		if got := humanRate(n); got != want {
			t.Errorf("%v: %s, want %s", n, got, want)
		}
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	l := live{topOptions: &topOptions{by: byAttachment, sort: "rx"}}
	for _, step := range []struct {
		key      byte
		goesOn   bool
		by, sort string
	}{
		{'d', true, byAttachment, "drops"}, {'b', true, byNetwork, "drops"}, {'b', true, byPod, "drops"}, {'b', true, byAttachment, "drops"},
		{'t', true, byAttachment, "tx"}, {'p', true, byAttachment, "pps"}, {'n', true, byAttachment, "name"}, {'r', true, byAttachment, "rx"},
		{'x', true, byAttachment, "rx"}, {27, true, byAttachment, "rx"}, {0xff, true, byAttachment, "rx"},
		{'q', false, byAttachment, "rx"}, {'Q', false, byAttachment, "rx"}, {controlC, false, byAttachment, "rx"}, {controlD, false, byAttachment, "rx"},
	} {
		if goesOn := l.press(step.key); goesOn != step.goesOn || l.by != step.by || l.sort != step.sort {
			t.Errorf("%q: goes on %v, by %s, sorted by %s", step.key, goesOn, l.by, l.sort)
		}
	}
}

// What stands in the way of numbers is told above them, and the last ones stay.
func TestProblems(t *testing.T) {
	t.Parallel()
	before, after := busy()
	l := live{topOptions: &topOptions{by: byAttachment, sort: "rx"}, before: before, after: after}
	for says, t1 := range map[string]taken{
		"no agent answers": {reading: after, notice: "no agent answers: reading the pins"},
		"not read: busy":   {err: errors.New("busy\nvery")},
		"not complete":     {reading: after, err: fmt.Errorf("%w: one", ErrPartial)},
	} {
		l.take(t1)
		if lines := l.screen(80, 24); !strings.Contains(lines[1], says) || !strings.Contains(strings.Join(lines, "\n"), "net1") {
			t.Errorf("%s: %q", says, lines)
		}
	}
}

// In a pipe one list follows the other, from an agent that is there, and one that is gone.
func TestTopLists(t *testing.T) {
	t.Parallel()
	for output, between := range map[string]string{"table": "\n\n2", "json": "}\n{", "yaml": "\n---\n", "name": "net1\nshop"} {
		ctx, cancel := context.WithCancel(t.Context())
		w := &cancelAfter{lists: 3, cancel: cancel}
		cmd := New("weirctl", "test")
		cmd.SetArgs([]string{"top", "-d", "100ms", "-o", output, "--socket", agent(t, web())})
		cmd.SetOut(w)
		if err := cmd.ExecuteContext(ctx); err != nil {
			t.Errorf("%s: %v", output, err)
		}
		if n := strings.Count(w.String(), between); n != 2 {
			t.Errorf("%s: %d seams in %q", output, n, w)
		}
		if code := Run([]string{"weirctl", "top", "-d", "100ms", "-o", output, "--socket", agent(t, web())}, "test", brokenPipe{}, io.Discard); code != ExitFailed {
			t.Errorf("%s: exit code %d without a reader", output, code)
		}
	}
	s := newSite(t)
	s.socket = filepath.Join(s.state, "none.sock")
	s.save(t, recordFor(web(), "ready"))
	code, out, stderr := s.run("top", "--once", "-d", "100ms")
	if code != ExitPartial || !strings.Contains(out, "shop/web") || strings.Count(stderr, "no agent answers") != 1 {
		t.Errorf("without an agent: exit code %d, %s%s", code, out, stderr)
	}
}

func TestTopFailures(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"web"}, ExitUsage, "web"},
		{[]string{"--by", "node"}, ExitUsage, "attachment, network, pod"},
		{[]string{"-s", "cpu"}, ExitUsage, "rx, tx, pps, drops, name"},
		{[]string{"-d", "1ms"}, ExitUsage, "100ms at least"},
		{[]string{"-d", "soon"}, ExitUsage, "soon"},
		{[]string{"-o", "xml"}, ExitUsage, "table, wide, json, yaml, name"},
		{[]string{"-n", "a", "-A"}, ExitUsage, "exclude each other"},
	} {
		if code, out, stderr := run(append([]string{"top"}, test.args...)...); code != test.code || out != "" || !strings.Contains(stderr, test.says) {
			t.Errorf("%v: exit code %d, %s%s", test.args, code, out, stderr)
		}
	}
	var asked atomic.Int32
	socket := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) > 1 {
			http.Error(w, "too busy", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, `{"items":[]}`)
	})
	if code, _, stderr := run("top", "-d", "100ms", "--socket", socket); code != ExitFailed || !strings.Contains(stderr, "too busy") {
		t.Errorf("an agent that fails: exit code %d, %s", code, stderr)
	}
}
