// SPDX-License-Identifier: Apache-2.0

//go:build netns

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/cni"
	"github.com/weir-cni/weir/inspect"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/manifests"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/tests/lan"
)

// watchPatience is how long a warden may take that only looks now and then.
const watchPatience = 3 * sweepEvery

// watched is a pod whose guard a warden watches.
type watched struct {
	pod, outside *lan.Host
	registry     *registry
	attachment   attachment.Attachment
	place        loader.Place

	mu     sync.Mutex
	events []cni.Event
}

func newWatched(t *testing.T) *watched {
	t.Helper()
	w := &watched{pod: lan.NewHost(t), outside: lan.NewHost(t)}
	lan.Join(t, w.pod, "net1", w.outside, "eth0")
	host, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = host.Close() })
	dir := fmt.Sprintf("/sys/fs/bpf/weir-test-%d-%s", os.Getpid(), strings.ReplaceAll(t.Name(), "/", "-"))
	if err := loader.EnsureFilesystem(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	loads, err := loader.New()
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	store, err := manifests.Open(t.TempDir(), t.TempDir(), log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	segments, err := newSegments(loads, store, log)
	if err != nil {
		t.Fatal(err)
	}
	var locks keyedMutex
	w.registry = newRegistry(loads, segments, host, dir, locks.lock, log)
	w.registry.report = func(_ attachment.Pod, e cni.Event) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events = append(w.events, e)
	}
	t.Cleanup(func() { _ = w.registry.Close() })
	w.attach(t)
	ctx, stop := context.WithCancel(t.Context())
	var runs sync.WaitGroup
	runs.Go(func() { _ = w.registry.warden.run(ctx) })
	runs.Go(func() { _ = w.registry.promote(ctx) })
	t.Cleanup(func() {
		stop()
		runs.Wait()
	})
	return w
}

func (w *watched) attach(t *testing.T) {
	t.Helper()
	ns, err := netns.Open(w.pod.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	pins, err := loader.Reserve(w.registry.bpfDir, "net1")
	if err != nil {
		t.Fatal(err)
	}
	spec := loader.Spec{Dir: pins, Interface: "net1", Checks: bpf.CheckIPv4, Addresses: loader.Addresses{
		MAC: w.pod.Link("net1").Attrs().HardwareAddr, Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/32")},
	}}
	w.registry.specOf = func(*attachment.Attachment) (loader.Spec, error) { return spec, nil }
	w.place = loader.Place{Namespace: ns, Interface: "net1", Index: w.pod.Link("net1").Attrs().Index}
	w.attachment = attachment.Attachment{
		ID: attachment.ID{ContainerID: "abc", Interface: "net1"}, Pod: attachment.Pod{Namespace: "pods", Name: "web"}, Network: "pods/lan",
		Netns: w.pod.Path(), PinDir: "net1", Index: w.place.Index,
	}
	if _, err := w.registry.Attach(w.place, w.attachment.ID, spec); err != nil {
		t.Fatal(err)
	}
	w.registry.Publish(w.attachment)
}

func (w *watched) guard() *inspect.Guard {
	for _, a := range w.registry.Attachments() {
		return a.Guard
	}
	return &inspect.Guard{}
}

// told is how often the pod was told of something.
func (w *watched) told(reason string) (times int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.Reason == reason && e.Warning && strings.Contains(e.Message, "net1") {
			times++
		}
	}
	return times
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for began := time.Now(); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > watchPatience {
			t.Fatalf("waited %s in vain for %s", watchPatience, what)
		}
	}
}

func (w *watched) promoted() bool { return w.guard().Hook == loader.TCX }

// before attaches a program before the guard's egress that lets all pass, as a pod with
// CAP_BPF can.
func (w *watched) before(t *testing.T) error {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return err
	}
	defer program.Close()
	w.pod.Do(func() error {
		err = link.RawAttachProgram(link.RawAttachProgramOptions{
			Target: w.place.Index, Program: program, Attach: ebpf.AttachTCXEgress, Anchor: link.Head(),
		})
		return nil
	})
	return err
}

// The pod is told, once in a while, of what was done to its guard, and each time is counted.
func TestNetnsWardenRestores(t *testing.T) {
	w := newWatched(t)
	time.Sleep(500 * time.Millisecond) // for the promotion, where there is one
	if w.promoted() {
		for round := range uint64(3) {
			if err := w.before(t); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the guard to be the first", func() bool { return w.guard().Restored[wasPreceded] == round+1 })
		}
	} else {
		for round := range uint64(3) {
			qdisc := &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
				LinkIndex: w.place.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
			}}
			if err := w.pod.Netlink().QdiscDel(qdisc); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the guard to be back", func() bool { return w.guard().Restored[wasRemoved] == round+1 })
		}
	}
	if got := w.told(cni.ReasonGuardRestored); got != 1 {
		t.Errorf("the pod was told %d times: %v", got, w.events)
	}
}

// An interface that somebody deletes is told of once; one that the agent is about to take
// away is not.
func TestNetnsWardenOfAnInterfaceThatGoes(t *testing.T) {
	for _, ours := range []bool{false, true} {
		t.Run(fmt.Sprintf("by the agent %t", ours), func(t *testing.T) {
			w := newWatched(t)
			eventually(t, "the watch", func() bool { return w.posts() == 1 })
			if ours {
				w.registry.Ignore(w.attachment.ID)
				if got := w.posts(); got != 0 {
					t.Errorf("%d namespaces are watched", got)
				}
			}
			if err := w.pod.Netlink().LinkDel(w.pod.Link("net1")); err != nil {
				t.Fatal(err)
			}
			if !ours {
				eventually(t, "the pod to be told", func() bool { return w.told(cni.ReasonInterfaceGone) == 1 && w.guard().Hook == loader.Gone })
			}
			time.Sleep(sweepEvery + 200*time.Millisecond)
			w.mu.Lock()
			defer w.mu.Unlock()
			if want := map[bool]int{false: 1, true: 0}[ours]; len(w.events) != want {
				t.Errorf("events %v", w.events)
			}
		})
	}
}

func (w *watched) posts() int {
	w.registry.warden.mu.Lock()
	defer w.registry.warden.mu.Unlock()
	return len(w.registry.warden.places)
}

// The watch of a namespace that the runtime lets go of ends, and nobody is told.
func TestNetnsWardenLetsGoOfNamespaces(t *testing.T) {
	w := newWatched(t)
	eventually(t, "the watch", func() bool { return w.posts() == 1 })
	w.pod.Remove()
	eventually(t, "the watch to end", func() bool { return w.posts() == 0 })
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.events) != 0 {
		t.Errorf("events %v", w.events)
	}
}
