// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"fmt"
	"time"
)

// Status is how a matter stands.
type Status string

// The statuses. What is doubtful works, and is not as it should be.
const (
	OK   Status = "ok"
	Warn Status = "warn"
	Fail Status = "fail"
)

// Finding is one matter that was looked at.
type Finding struct {
	// Check names the matter.
	Check  string `json:"check"`
	Status Status `json:"status"`
	// Message is what was found.
	Message string `json:"message"`
	// Advice is what to do; empty where all is well.
	Advice string `json:"advice,omitempty"`
}

// Options say where weir's things are on the node.
type Options struct {
	Socket, StateDir, BPFDir, ConfDir, BinDir string
	// Version is that of the tool that asks.
	Version string
}

// askTimeout bounds each question to the agent and each command that is executed.
const askTimeout = 10 * time.Second

// Examine looks at everything, and errs in no case: what cannot be looked at is a finding.
func Examine(ctx context.Context, o Options) []Finding {
	e := &exam{Options: o}
	e.rights()
	e.kernel()
	e.filesystem()
	e.agent(ctx)
	e.configuration(ctx)
	e.plugin(ctx)
	e.records()
	e.guards()
	e.bpftool(ctx)
	return e.findings
}

// exam is an examination under way.
type exam struct {
	Options
	findings []Finding
	// answers is set when the agent does.
	answers bool
}

func (e *exam) ok(check, format string, args ...any) {
	e.findings = append(e.findings, Finding{check, OK, fmt.Sprintf(format, args...), ""})
}

func (e *exam) warn(check, advice, format string, args ...any) {
	e.findings = append(e.findings, Finding{check, Warn, fmt.Sprintf(format, args...), advice})
}

func (e *exam) fail(check, advice, format string, args ...any) {
	e.findings = append(e.findings, Finding{check, Fail, fmt.Sprintf(format, args...), advice})
}

// Worst is the worst status of some findings.
func Worst(findings []Finding) Status {
	worst := OK
	for _, f := range findings {
		if f.Status == Fail {
			return Fail
		}
		if f.Status == Warn {
			worst = Warn
		}
	}
	return worst
}
