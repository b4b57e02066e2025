// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"bytes"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sync/errgroup"
)

// A thousand random steps, eight at a time, each for a pod of its own, with an agent
// that is killed in the middle of half of them: what remains of it all is what was
// there before.
const (
	randomSteps  = 1000
	randomPods   = 8
	randomWithin = 60 * time.Millisecond
)

// member is a pod and what is known of it.
type member struct {
	*Pod
	random *rand.Rand
	// added is set after an ADD, and deleted after a DEL; neither when the agent was
	// killed meanwhile.
	added, deleted bool
}

// randomNetworks writes networks of every kind and returns their names.
func (n *Node) randomNetworks() []string {
	n.tb.Helper()
	n.reference("other-bridge", "bridge")
	n.reference("host-local", "host-local")
	n.Network("slave", macvlan(object{"ipam": n.hostLocal("10.99.0.0/16")}))
	n.Network("port", n.bridged("10.86.0.0/16"))
	n.Network("list", listOf("1.0.0", object{"type": "macvlan", "master": "eth1", "ipam": n.hostLocal("10.98.0.0/16")}, n.playing()))
	n.Network("executed", config(object{
		"type": "other-bridge", "bridge": "br1", "isGateway": true, "ipam": n.hostLocal("10.97.0.0/16"),
	}, nil))
	return []string{"slave", "port", "list", "executed"}
}

func TestNetnsRandomSteps(t *testing.T) {
	n := newNode(t)
	random := rand.New(rand.NewPCG(seed(t), 0))
	networks := n.randomNetworks()
	warm := n.Pod("warmer", strings.Join(networks, ","))
	n.mustAdd(warm) // the bridges stay
	n.mustDel(warm)
	warm.Remove()
	var members []*member
	for range randomPods {
		random.Shuffle(len(networks), func(i, j int) { networks[i], networks[j] = networks[j], networks[i] })
		chosen := networks[:1+random.IntN(3)]
		members = append(members, &member{
			Pod:    n.Pod(n.unique("web"), strings.Join(chosen, ",")),
			random: rand.New(rand.NewPCG(random.Uint64(), 0)),
		})
	}
	before, goroutines := n.idle(), n.goroutines()

	rounds := fewer(fewer(randomSteps)) / randomPods
	for round := range rounds {
		n.oneRound(t, members, round < rounds/2, random)
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	for _, m := range members {
		n.mustDel(m.Pod)
	}
	if got := n.masquerading(); got != 0 {
		t.Errorf("%d pods are masqueraded after all", got)
	}
	n.scrape() // the agent is to open what it keeps open
	n.mustBe(before)
	n.await("the agent's goroutines to end", func() bool { return n.goroutines() <= goroutines })
}

// oneRound takes one step for each pod, all at the same time.
func (n *Node) oneRound(t *testing.T, members []*member, kill bool, random *rand.Rand) {
	t.Helper()
	var steps errgroup.Group
	for _, m := range members {
		steps.Go(func() error {
			if failure := n.oneStep(m, kill); failure != nil {
				t.Errorf("%s: %v", m.Name, failure)
			}
			return nil
		})
	}
	if kill {
		time.Sleep(time.Duration(random.Int64N(int64(randomWithin))))
		n.Kill()
	}
	_ = steps.Wait()
	if kill {
		n.Start()
	}
}

// oneStep is one request that has to succeed, but for the agent's end.
func (n *Node) oneStep(m *member, mayBeKilled bool) *types.Error {
	command := "DEL"
	switch {
	case m.deleted && m.random.IntN(4) > 0:
		command = "ADD"
	case m.added && m.random.IntN(3) == 0:
		command = "CHECK"
	}
	c := n.of(command, m.Pod)
	c.config["prevResult"] = object{"cniVersion": "1.1.0"}
	_, failure := n.Call(c)
	if failure != nil && mayBeKilled && failure.Code == types.ErrTryAgainLater {
		m.added, m.deleted = false, false
		return nil
	}
	if command != "CHECK" {
		m.added, m.deleted = command == "ADD", command == "DEL"
	}
	return failure
}

// goroutines is how many the agent has.
func (n *Node) goroutines() int {
	n.tb.Helper()
	for line := range bytes.Lines(n.scrape()) {
		if value, ok := bytes.CutPrefix(line, []byte("go_goroutines ")); ok {
			count, err := strconv.ParseFloat(string(bytes.TrimSpace(value)), 64)
			if err != nil {
				n.tb.Fatal(err)
			}
			return int(count)
		}
	}
	n.tb.Fatal("the agent does not say how many goroutines it has")
	return 0
}
