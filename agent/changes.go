// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"sync"
	"time"
)

// gatherFor is how long changes are gathered, which come in bursts.
const gatherFor = 300 * time.Millisecond

// changes are what may have changed, by name, until somebody follows it.
type changes[K comparable] struct {
	wake chan struct{}

	mu    sync.Mutex
	noted map[K]bool
}

func newChanges[K comparable]() *changes[K] {
	return &changes[K]{wake: make(chan struct{}, 1), noted: map[K]bool{}}
}

// note remembers that one may have changed.
func (c *changes[K]) note(name K) {
	c.mu.Lock()
	c.noted[name] = true
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *changes[K]) take() map[K]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	noted := c.noted
	c.noted = map[K]bool{}
	return noted
}

// gather hands over what has changed until ctx ends, a burst at a time.
func (c *changes[K]) gather(ctx context.Context, fn func(context.Context, map[K]bool)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(gatherFor):
		}
		fn(ctx, c.take())
	}
}
