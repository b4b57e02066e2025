// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// marker precedes what the testing package itself says, under
// -test.v=test2json; a test's own output does not have it.
const marker = "\x16"

// printer writes lines from several goroutines, each with who said it.
type printer struct {
	mu sync.Mutex
	to io.Writer
}

func (p *printer) say(who, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for line := range strings.Lines(text) {
		fmt.Fprintf(p.to, "%s: %s\n", who, strings.TrimRight(line, "\n"))
	}
}

// outcome is what became of one package on one kernel.
type outcome struct {
	path    string
	broken  bool // it did not compile
	started time.Time
	elapsed time.Duration
	exited  bool
	status  int
	// Subtests are not counted here, but a subtest that is skipped is.
	passed, failed, skipped int
	output                  []string
}

// fault is empty if all is well.
func (o *outcome) fault() string {
	switch {
	case o.broken:
		return "did not compile"
	case o.started.IsZero():
		return "did not run"
	case !o.exited:
		return "did not end"
	case o.failed > 0:
		return fmt.Sprintf("%d failed", o.failed)
	case o.status != 0:
		return fmt.Sprintf("exit status %d", o.status)
	case o.skipped > 0:
		return fmt.Sprintf("%d skipped", o.skipped)
	case o.passed == 0:
		return "no test ran"
	}
	return ""
}

// record adds a verdict of the testing package, like "--- PASS: TestX (0.00s)".
func (o *outcome) record(text string) {
	verdict, test, ok := strings.Cut(strings.TrimSpace(text), ": ")
	if !ok {
		return
	}
	sub := strings.Contains(test, "/")
	switch {
	case verdict == "--- SKIP":
		o.skipped++
	case verdict == "--- PASS" && !sub:
		o.passed++
	case verdict == "--- FAIL" && !sub:
		o.failed++
	}
}

// report follows the serial line of one VM. The first process of the VM speaks
// in lines that begin with the token, which changes with every boot.
type report struct {
	token    string
	outcomes []*outcome
	current  *outcome
	done     bool
	uname    string
	now      func() time.Time
	// show gets what to print at once; all of a test's output if verbose.
	show    func(string)
	verbose bool
}

func (r *report) line(text string) {
	if rest, ok := strings.CutPrefix(text, r.token+" "); ok {
		r.control(strings.Fields(rest))
		return
	}
	said, verdict, marked := strings.Cut(text, marker)
	if !marked {
		r.print(text, r.verbose)
		return
	}
	if said != "" {
		r.print(said, r.verbose)
	}
	if trivial(verdict) {
		return
	}
	if r.current != nil {
		r.current.record(verdict)
	}
	r.print(verdict, r.verbose || strings.HasPrefix(verdict, "--- "))
}

// trivial is what only a program wants to know.
func trivial(verdict string) bool {
	word, _, _ := strings.Cut(strings.TrimPrefix(verdict, "=== "), " ")
	return word == "NAME" || word == "PAUSE" || word == "CONT"
}

func (r *report) print(text string, now bool) {
	if r.current != nil {
		r.current.output = append(r.current.output, text)
	}
	if now && text != "" {
		r.show(text)
	}
}

// control ignores what it cannot read: then the package or the VM did not end.
func (r *report) control(words []string) {
	switch {
	case len(words) == 2 && words[0] == "kernel":
		r.uname = words[1]
	case len(words) == 1 && words[0] == "done":
		r.done = true
	case len(words) == 2 && words[0] == "start":
		if r.current = r.outcome(words[1]); r.current != nil {
			r.current.started = r.now()
			r.show("running " + r.current.path)
		}
	case len(words) == 3 && words[0] == "exit":
		r.exit(r.outcome(words[1]), words[2])
	}
}

func (r *report) outcome(number string) *outcome {
	n, err := strconv.Atoi(number)
	if err != nil || n < 0 || n >= len(r.outcomes) {
		return nil
	}
	return r.outcomes[n]
}

func (r *report) exit(o *outcome, status string) {
	code, err := strconv.Atoi(status)
	if err != nil || o == nil || o != r.current {
		return
	}
	o.status, o.exited, o.elapsed = code, true, r.now().Sub(o.started)
	r.current = nil
	if o.fault() != "" && !r.verbose {
		r.show("everything that " + o.path + " said:")
		r.show(strings.Join(o.output, "\n"))
	}
}

// result is a report that is complete.
type result struct {
	kernel   string
	uname    string
	elapsed  time.Duration
	outcomes []*outcome
	// err is what went wrong with the VM rather than with a test.
	err error
}

// failed counts what was not well.
func (r result) failed() int {
	n := 0
	if r.err != nil {
		n++
	}
	for _, o := range r.outcomes {
		if o.fault() != "" {
			n++
		}
	}
	return n
}

// summarize prints a row for each kernel and package and returns how many are
// not well.
func summarize(to io.Writer, results []result) int {
	failed := 0
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for _, r := range results {
		failed += r.failed()
		for _, o := range r.outcomes {
			fmt.Fprintf(w, "%s\t%s\t%s\t%.1fs\t%d passed\t%s\n",
				r.kernel, verdict(o.fault() == ""), o.path, o.elapsed.Seconds(), o.passed, o.fault())
		}
		fmt.Fprintf(w, "%s\t%s\tLinux %s\t%.1fs\t\t%s\n", r.kernel, verdict(r.failed() == 0), r.uname, r.elapsed.Seconds(), errorText(r.err))
	}
	if err := w.Flush(); err != nil {
		failed++
	}
	return failed
}

func verdict(ok bool) string {
	if ok {
		return "ok"
	}
	return "FAIL"
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
