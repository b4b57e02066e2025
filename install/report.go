// SPDX-License-Identifier: Apache-2.0

package install

import (
	"fmt"
	"log/slog"
	"time"
)

// Reasons of reports.
const (
	// ReasonRestored: somebody removed, renamed or changed weir's entry.
	ReasonRestored = "ConfigurationRestored"
	// ReasonPluginRestored: somebody removed or changed the plugin.
	ReasonPluginRestored = "PluginRestored"
	// ReasonNoDefaultNetwork: there is no default network, or none any more.
	ReasonNoDefaultNetwork = "NoDefaultNetwork"
	// ReasonDefaultNetworkChanged: the entry names another default network than before.
	ReasonDefaultNetworkChanged = "DefaultNetworkChanged"
	// ReasonNotFirst: runtimes read another file before weir's entry.
	ReasonNotFirst = "ConfigurationNotFirst"
	// ReasonFailed: something could not be installed, and is tried again.
	ReasonFailed = "InstallFailed"
)

// reporter passes reports on, those of one reason at most once in a while.
type reporter struct {
	to    func(reason, message string)
	log   *slog.Logger
	every time.Duration
	last  map[string]time.Time
	count map[string]int
	state map[string]string
}

func newReporter(o *Options, every time.Duration) *reporter {
	return &reporter{
		to: o.Report, log: o.Log, every: every,
		last: map[string]time.Time{}, count: map[string]int{}, state: map[string]string{},
	}
}

// happened reports what has happened. What comes too soon is counted with the next.
func (r *reporter) happened(now time.Time, reason, message string) {
	r.count[reason]++
	if !r.isDue(now, reason) {
		return
	}
	if n := r.count[reason]; n > 1 {
		message = fmt.Sprintf("%s (%d times since the last report)", message, n)
	}
	r.count[reason] = 0
	r.pass(now, reason, message)
}

// is reports how things are, once; an empty message is how they should be. What comes
// too soon is left for a later call.
func (r *reporter) is(now time.Time, reason, message string) {
	if r.state[reason] == message {
		return
	}
	if message == "" {
		r.log.Info("over", "reason", reason, "was", r.state[reason])
		delete(r.state, reason)
		return
	}
	if r.isDue(now, reason) {
		r.state[reason] = message
		r.pass(now, reason, message)
	}
}

func (r *reporter) isDue(now time.Time, reason string) bool {
	last, reported := r.last[reason]
	return !reported || now.Sub(last) >= r.every
}

func (r *reporter) pass(now time.Time, reason, message string) {
	r.last[reason] = now
	r.log.Warn("reported", "reason", reason, "message", message)
	if r.to != nil {
		r.to(reason, message)
	}
}

// gate spaces out what would otherwise be done again and again: writing what another
// program takes away each time, or what cannot be written.
type gate struct {
	least, most time.Duration
	delay       time.Duration
	next        time.Time
}

// wait is how long the gate stays shut.
func (g *gate) wait(now time.Time) time.Duration { return max(0, g.next.Sub(now)) }

// pass shuts the gate, for twice as long as the last time unless it has been quiet.
func (g *gate) pass(now time.Time) {
	if now.Sub(g.next) > g.most {
		g.delay = 0
	}
	g.delay = min(max(2*g.delay, g.least), g.most)
	g.next = now.Add(g.delay)
}
