// SPDX-License-Identifier: Apache-2.0

//go:build netns

package loader

import (
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weir-cni/weir/bpf"
)

// While the kernel measures programs, a guard tells how often each of its own has run.
func TestNetnsRuns(t *testing.T) {
	b := newBench(t)
	measuring, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		t.Fatal(err)
	}
	defer measuring.Close()
	before, err := b.guard.Runs()
	if err != nil {
		t.Fatal(err)
	}
	b.ping(t)
	after, err := b.guard.Runs()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []bpf.Direction{bpf.Ingress, bpf.Egress} {
		if after[d].Count < before[d].Count+3 || after[d].Time <= before[d].Time {
			t.Errorf("%s: %+v, and before three pings %+v", d, after[d], before[d])
		}
	}
}

func TestNetnsHookOfAGuardIsRemembered(t *testing.T) {
	b := newBench(t)
	if got := b.guard.Hook(); got != Clsact {
		t.Errorf("before promotion %s", got)
	}
	b.promote(t)
	want := HookOf(b.spec.Dir)
	for range 2 {
		if got := b.guard.Hook(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
