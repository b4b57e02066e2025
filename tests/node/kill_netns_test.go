// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/weir-cni/weir/api"
)

const (
	killRounds = 30
	// killWithin is somewhat longer than an ADD and a DEL take.
	killWithin = 120 * time.Millisecond
	// floodEvery is the time between two pings to the long-lived pod.
	floodEvery = 2 * time.Millisecond
)

// seed is that of WEIR_SEED, else one of its own.
func seed(t *testing.T) uint64 {
	t.Helper()
	s := rand.Uint64()
	if text := os.Getenv("WEIR_SEED"); text != "" {
		var err error
		if s, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("WEIR_SEED=%d", s)
	return s
}

// The agent is killed at random instants while pods come and go. No packet of a
// pod that stays is lost, its counters never go back, every other pod is found
// whole or not at all by the next agent, and after the last DEL nothing is left.
func TestNetnsKill(t *testing.T) {
	n := newNode(t)
	random := rand.New(rand.NewPCG(seed(t), 0))
	n.Network("lan", static())
	n.Network("second", macvlan(object{"ipam": n.hostLocal("10.99.0.0/16")}))
	warmUp(n)
	idle := n.idle()
	stays := n.Pod("stays", selection)
	n.mustAdd(stays)
	n.awaitHook(stays)
	comes := n.Pod("comes", "second,second")

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	flooded := n.flood(ctx, n.outside, floodEvery)
	counted := n.Attachment(stays, "net1")
	for round := range fewer(killRounds) {
		n.killDuring(t, comes, time.Duration(random.Int64N(int64(killWithin))))
		counted = n.checkForward(t, round, stays, counted)
		n.Start()
		counted = n.checkForward(t, round, stays, counted)
		n.checkWholeOrNot(t, round, comes)
	}
	n.mustCheck(stays)
	stop()
	sent, lost, err := flooded()
	if err != nil || len(lost) > 0 {
		t.Errorf("of %d pings %v were lost; error %v", sent, lost, err)
	}
	if got := n.Attachment(stays, "net1").Receive.Packets; got < uint64(sent) {
		t.Errorf("%d packets were counted of %d pings", got, sent)
	}
	n.mustDel(stays)
	n.mustDel(comes)
	// The last agent is to open what it keeps open.
	n.mustAdd(comes)
	n.mustDel(comes)
	n.mustBe(n.with(n.with(idle, stays), comes))
}

// killDuring adds and deletes a pod over and over, and kills the agent after a
// time.
func (n *Node) killDuring(t *testing.T, p *Pod, after time.Duration) {
	t.Helper()
	var stop atomic.Bool
	failed := make(chan *types.Error, 1)
	go func() { failed <- n.addAndDelete(p, &stop) }()
	time.Sleep(after)
	stop.Store(true)
	n.Kill()
	if failure := <-failed; failure != nil && failure.Code != types.ErrTryAgainLater {
		t.Errorf("before the agent was killed: %v", failure)
	}
}

// addAndDelete ends with the first failure, or when it is told to.
func (n *Node) addAndDelete(p *Pod, stop *atomic.Bool) *types.Error {
	for {
		for _, command := range []string{"DEL", "ADD"} {
			if stop.Load() {
				return nil
			}
			if _, failure := n.Call(n.of(command, p)); failure != nil {
				return failure
			}
		}
	}
}

// checkForward reads the counters, from the agent or from its pins, and fails
// where one went back.
func (n *Node) checkForward(t *testing.T, round int, p *Pod, before api.AttachmentStatus) api.AttachmentStatus {
	t.Helper()
	now := n.Attachment(p, "net1")
	was, is := numbers(before), numbers(now)
	for name, value := range was {
		if is[name] < value {
			t.Errorf("round %d: %s went back from %d to %d", round, name, value, is[name])
		}
	}
	return now
}

// checkWholeOrNot compares what a new agent says of a pod with what the pod has.
func (n *Node) checkWholeOrNot(t *testing.T, round int, p *Pod) {
	t.Helper()
	all, err := n.Attachments()
	if err != nil {
		t.Fatal(err)
	}
	known := 0
	for _, a := range all {
		if a.Pod.Name == p.Name {
			known++
		}
	}
	links := len(interfacesOf(t, p))
	switch {
	case known == 0 && links == 0:
	case known == 2 && links == 3:
		n.mustCheck(p)
	default:
		t.Errorf("round %d: the agent knows %d attachments, the pod has the interfaces %v", round, known, interfacesOf(t, p))
	}
}
