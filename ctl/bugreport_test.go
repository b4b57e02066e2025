// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weir-cni/weir/bugreport"
	"github.com/weir-cni/weir/state"
)

func (s *site) bugreport(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return s.run(append([]string{"bugreport", "--cni-conf-dir", s.bpf, "--cni-bin-dir", s.bpf}, args...)...)
}

func TestBugreport(t *testing.T) {
	t.Parallel()
	s := newSite(t, web())
	s.save(t, recordFor(web(), state.Ready))
	file := filepath.Join(t.TempDir(), "report.tar.gz")
	code, out, stderr := s.bugreport(t, file)
	// The agent of these tests has no metrics.
	if code != ExitPartial && code != ExitOK || !strings.Contains(out, "records/c0ffee.json") || !strings.Contains(out, "IN "+file) {
		t.Errorf("exit code %d, %s%s", code, out, stderr)
	}
	before := isArchive(t, file)
	if code, out, stderr := s.bugreport(t, file); code != ExitFailed || out != "" || !strings.Contains(stderr, "file exists") {
		t.Errorf("a second one: exit code %d, %s%s", code, out, stderr)
	}
	if !bytes.Equal(before, isArchive(t, file)) {
		t.Error("it was overwritten")
	}
	_, stdout, listing := s.bugreport(t, "-", "-o", "name")
	if _, err := gzip.NewReader(strings.NewReader(stdout)); err != nil || !strings.HasPrefix(listing, "versions.txt\n") {
		t.Errorf("to the standard output: %v, %s", err, listing)
	}
	_, out, _ = s.bugreport(t, filepath.Join(t.TempDir(), "json"), "-o", "json")
	var list reportList
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.Items) < 7 || filepath.Base(list.File) != "json" {
		t.Errorf("%v: %s", err, out)
	}
}

// isArchive is what is in a file that root alone may read.
func isArchive(t *testing.T, path string) []byte {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gzip.NewReader(bytes.NewReader(data)); err != nil {
		t.Error(err)
	}
	return data
}

func TestBugreportFailures(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"a", "b"}, ExitUsage, "at most 1"},
		{[]string{"-o", "xml", "a"}, ExitUsage, "table, wide, json, yaml, name"},
		{[]string{"/none/report.tar.gz"}, ExitFailed, "no such file"},
		{[]string{t.TempDir()}, ExitFailed, "exists"},
		{[]string{"/dev/full"}, ExitFailed, "exists"},
	} {
		if code, _, stderr := newSite(t).bugreport(t, test.args...); code != test.code || !strings.Contains(stderr, test.says) {
			t.Errorf("%v: exit code %d, %s", test.args, code, stderr)
		}
	}
	s := newSite(t)
	var stderr bytes.Buffer
	if code := Run([]string{"weirctl", "bugreport", "-", "--socket", s.socket}, "test", brokenPipe{}, &stderr); code != ExitFailed || !strings.Contains(stderr.String(), "broken pipe") {
		t.Errorf("exit code %d, %s", code, &stderr)
	}
}

func TestBugreportViews(t *testing.T) {
	t.Parallel()
	one := []bugreport.Part{{Name: "versions.txt", What: "versions", Size: 268}}
	many := []bugreport.Part{one[0], {Name: "metrics.txt", What: "metrics", Missing: "no agent answers"}}
	for _, test := range []struct {
		golden, output string
		parts          []bugreport.Part
		code           int
	}{
		{"bugreport-one.table", "table", one, ExitOK},
		{"bugreport-many.table", "wide", many, ExitPartial},
		{"bugreport-many.json", "json", many, ExitPartial},
		{"bugreport-many.yaml", "yaml", many, ExitPartial},
		{"bugreport-many.name", "name", many, ExitPartial},
	} {
		var out strings.Builder
		o := doctorOptions{output: test.output}
		if code := exitCode(o.tellParts(&out, "report.tar.gz", test.parts, nil)); code != test.code {
			t.Errorf("%s: exit code %d", test.golden, code)
		}
		golden(t, test.golden, out.String())
	}
	o := doctorOptions{output: "table"}
	if code := exitCode(o.tellParts(brokenPipe{}, "", nil, fs.ErrExist)); code != ExitFailed {
		t.Errorf("exit code %d", code)
	}
}
