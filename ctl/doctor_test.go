// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"strings"
	"testing"

	"github.com/weir-cni/weir/doctor"
)

func TestDoctorViews(t *testing.T) {
	t.Parallel()
	one := []doctor.Finding{{Check: "kernel", Status: doctor.OK, Message: "Linux 6.12 has what the programs need"}}
	doubts := []doctor.Finding{one[0], {Check: "tcx", Status: doctor.Warn, Message: "no links", Advice: "use kernel 6.6 or newer"}}
	many := []doctor.Finding{one[0], doubts[1], {Check: "agent", Status: doctor.Fail, Message: "no agent answers", Advice: "start it"},
		{Check: "agent", Status: doctor.Fail, Message: "and never did", Advice: "start it"}}
	tests := []struct {
		golden, output string
		findings       []doctor.Finding
		code           int
	}{
		{"doctor-one.table", "table", one, ExitOK},
		{"doctor-one.json", "json", one, ExitOK},
		{"none.name", "name", one, ExitOK},
		{"doctor-doubts.table", "wide", doubts, ExitPartial},
		{"doctor-many.table", "table", many, ExitFailed},
		{"doctor-many.json", "json", many, ExitFailed},
		{"doctor-many.yaml", "yaml", many, ExitFailed},
		{"doctor-many.name", "name", many, ExitFailed},
	}
	for _, test := range tests {
		var out strings.Builder
		if err := renderFindings(&out, test.findings, test.output); err != nil {
			t.Error(err)
		}
		golden(t, test.golden, out.String())
		if code := exitCode(judge(test.findings)); code != test.code {
			t.Errorf("%s: exit code %d", test.golden, code)
		}
		if err := renderFindings(brokenPipe{}, test.findings, test.output); err == nil {
			t.Errorf("%s: a broken pipe is no error", test.golden)
		}
	}
}

func TestDoctorBadInput(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"kernel"}, {"-o", "xml"}, {"--cni-conf-dir"}} {
		if code, out, stderr := run(append([]string{"doctor"}, args...)...); code != ExitUsage || out != "" || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v: exit code %d, %s%s", args, code, out, stderr)
		}
	}
}

// Where nothing of weir's is, each matter is looked at all the same.
func TestDoctorOnABareNode(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	code, out, stderr := s.run("doctor", "-o", "name", "--cni-conf-dir", t.TempDir(), "--cni-bin-dir", t.TempDir())
	if code != ExitFailed || !strings.Contains(stderr, "not all is well") {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	for _, check := range []string{"bpffs", "configuration", "plugin", "records"} {
		if !strings.Contains(out, check+"\n") {
			t.Errorf("%s is missing in %q", check, out)
		}
	}
}
