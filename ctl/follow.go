// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/drops"
	"github.com/weir-cni/weir/inspect"
)

// agentInterval is how often an agent that went away is looked for.
const agentInterval = time.Second

// dropFollower shows drops as they come, of one agent after the other.
type dropFollower struct {
	socket string
	filter drops.Filter
	last   int
	write  func(...api.DroppedPacket) error
	tell   func(notice string)

	newest time.Time // of the drops that were shown
	shown  time.Time // what an agent remembers of before was shown by then
	missed uint64
}

// run follows until ctx ends. An agent that is not there at first is an error, and one that
// goes is waited for: guards report on, and the next agent has what came meanwhile.
func (f *dropFollower) run(ctx context.Context) error {
	away := false
	for {
		err := inspect.FollowDrops(ctx, f.socket, f.filter, f.last, f.take)
		switch {
		case ctx.Err() != nil:
			return f.end()
		case errors.Is(err, inspect.ErrAgentWent):
			f.tell("the agent went away: waiting for one")
			f.last, f.shown, away = -1, f.newest, true
		case !away || !errors.Is(err, inspect.ErrNoAgent):
			return err
		}
		select {
		case <-ctx.Done():
			return f.end()
		case <-time.After(agentInterval):
		}
	}
}

func (f *dropFollower) take(line api.DropLine) error {
	switch {
	case line.DroppedPacket == nil:
		f.missed += line.Missed
		f.tell(fmt.Sprintf("%d drops were missed: they came faster than they were read", line.Missed))
		return nil
	case !line.Time.After(f.shown):
		return nil
	}
	if line.Time.After(f.newest) {
		f.newest = line.Time
	}
	return f.write(*line.DroppedPacket)
}

func (f *dropFollower) end() error {
	if f.missed > 0 {
		return fmt.Errorf("%w: %d drops were missed", ErrPartial, f.missed)
	}
	return nil
}
