// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// follow gives lines to a report of two packages. T stands for the token, ^ for
// the marker. Each look at the clock takes a second.
func follow(lines string) (*report, *[]string) {
	var shown []string
	clock := time.Unix(0, 0)
	r := &report{
		token:    "weir-T",
		outcomes: []*outcome{{path: "m/a"}, {path: "m/b"}},
		show:     func(text string) { shown = append(shown, text) },
		now: func() time.Time {
			clock = clock.Add(time.Second)
			return clock
		},
	}
	w := &lineWriter{each: r.line}
	text := strings.NewReplacer("T ", "weir-T ", "^", marker).Replace(lines)
	_, _ = w.Write([]byte(text))
	w.flush()
	return r, &shown
}

func TestReportFaults(t *testing.T) {
	t.Parallel()
	const pass = "^--- PASS: TestX (0.00s)\n"
	tests := []struct {
		name, lines string
		want        [2]string
		done        bool
	}{
		{"all well", "T start 0\n" + pass + "T exit 0 0\nT start 1\n" + pass + "T exit 1 0\nT done\n", [2]string{"", ""}, true},
		{"panic at boot", "", [2]string{"did not run", "did not run"}, false},
		{"panic in a test", "T start 0\n^=== RUN   TestX\n", [2]string{"did not end", "did not run"}, false},
		{"failed", "T start 0\n^--- FAIL: TestX (0.00s)\nT exit 0 1\n", [2]string{"1 failed", "did not run"}, false},
		{"exit status with all passed", "T start 0\n" + pass + "T exit 0 2\n", [2]string{"exit status 2", "did not run"}, false},
		{"skipped", "T start 0\n" + pass + "^--- SKIP: TestY (0.00s)\nT exit 0 0\n", [2]string{"1 skipped", "did not run"}, false},
		{"subtest skipped", "T start 0\n^--- SKIP: TestX/y (0.00s)\n" + pass + "T exit 0 0\n", [2]string{"1 skipped", "did not run"}, false},
		{"no test", "T start 0\nPASS\nT exit 0 0\n", [2]string{"no test ran", "did not run"}, false},
		{"only subtests", "T start 0\n^--- PASS: TestX/y (0.00s)\nT exit 0 0\n", [2]string{"no test ran", "did not run"}, false},
		{"verdict that a test printed", "T start 0\n--- PASS: TestX (0.00s)\nT exit 0 0\n", [2]string{"no test ran", "did not run"}, false},
		{"exit with another token", "T start 0\n" + pass + "weir-S exit 0 0\n", [2]string{"did not end", "did not run"}, false},
		{"exit in the middle of a line", "T start 0\n" + pass + "x T exit 0 0\n", [2]string{"did not end", "did not run"}, false},
		{"exit of a package that did not start", "T exit 0 0\nT start 0\n" + pass, [2]string{"did not end", "did not run"}, false},
		{"exit without a number", "T start 0\n" + pass + "T exit 0 x\nT exit 0\n", [2]string{"did not end", "did not run"}, false},
		{"no such package", "T start 2\nT start -1\nT start x\nT exit 2 0\n", [2]string{"did not run", "did not run"}, false},
		{"verdict after a line without an end", "T start 0\nhalf a line" + pass + "T exit 0 0\n", [2]string{"", "did not run"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, _ := follow(tt.lines)
			got := [2]string{r.outcomes[0].fault(), r.outcomes[1].fault()}
			if got != tt.want || r.done != tt.done {
				t.Errorf("faults %q, done %v, want %q, %v", got, r.done, tt.want, tt.done)
			}
		})
	}
}

func TestReportShows(t *testing.T) {
	t.Parallel()
	r, shown := follow("T kernel 6.1.0-1\nT start 0\n^=== RUN   TestX\r\n^=== NAME  TestX\n    x_test.go:1: why\n^--- FAIL: TestX (0.00s)\nT exit 0 1\n")
	want := []string{
		"running m/a",
		"--- FAIL: TestX (0.00s)",
		"everything that m/a said:",
		"=== RUN   TestX\n    x_test.go:1: why\n--- FAIL: TestX (0.00s)",
	}
	if diff := cmp.Diff(want, *shown); diff != "" {
		t.Error(diff)
	}
	if r.uname != "6.1.0-1" || r.outcomes[0].elapsed != time.Second {
		t.Errorf("kernel %q, elapsed %v", r.uname, r.outcomes[0].elapsed)
	}
}

func FuzzReport(f *testing.F) {
	f.Add("weir-T start 0\n\x16--- PASS: TestX (0.00s)\nweir-T exit 0 0\nweir-T done")
	f.Add("weir-T start 9\nweir-T exit -1 x\n\x16\x16\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		r, _ := follow(text)
		for _, o := range r.outcomes {
			if o.fault() == "" && !strings.Contains(text, "--- PASS: ") {
				t.Errorf("%s is well without a test that passed", o.path)
			}
		}
	})
}

func TestSummary(t *testing.T) {
	t.Parallel()
	well := &outcome{path: "m/a", started: time.Unix(1, 0), elapsed: 1500 * time.Millisecond, exited: true, passed: 3}
	broken := &outcome{path: "m/long", broken: true}
	var out strings.Builder
	failed := summarize(&out, []result{
		{kernel: "6.1", uname: "6.1.0-1", elapsed: 4 * time.Second, outcomes: []*outcome{well}},
		{kernel: "6.12", outcomes: []*outcome{broken}, err: errors.New("panic")},
	})
	want := `6.1   ok    m/a            1.5s  3 passed
6.1   ok    Linux 6.1.0-1  4.0s
6.12  FAIL  m/long         0.0s  0 passed  did not compile
6.12  FAIL  Linux          0.0s            panic
`
	var lines []string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.TrimRight(line, " \n"))
	}
	if diff := cmp.Diff(want, strings.Join(lines, "\n")+"\n"); diff != "" {
		t.Error(diff)
	}
	if failed != 2 {
		t.Errorf("%d failed, want 2", failed)
	}
}

func TestPrinterPrefixesEachLine(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	(&printer{to: &out}).say("6.1", "one\ntwo\n")
	if got, want := out.String(), "6.1: one\n6.1: two\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
