// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// complete is what a shell would be given, without descriptions and the directive.
func (s *site) complete(t *testing.T, args ...string) []string {
	t.Helper()
	line := []string{"__complete", args[0], "--socket", s.socket, "--state-dir", s.state, "--bpf-dir", s.bpf}
	code, out, _ := run(append(line, args[1:]...)...)
	if code != ExitOK {
		t.Errorf("%q: exit code %d", args, code)
	}
	var names []string
	for line := range strings.Lines(out) {
		if name, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t"); !strings.HasPrefix(name, ":") {
			names = append(names, name)
		}
	}
	return names
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	second := web()
	second.Interface, second.Network = "net2", "default/san"
	tests := []struct {
		args []string
		want []string
	}{
		{[]string{"get", ""}, []string{"attachments", "networks"}},
		{[]string{"get", "attachments", ""}, []string{"beef", "shop/web"}},
		{[]string{"get", "attachments", "shop/web", ""}, []string{"beef"}},
		{[]string{"get", "attachments", "-n", "shop", "w"}, []string{"web"}},
		{[]string{"get", "networks", ""}, []string{"default/san", "shop/lan"}},
		{[]string{"get", "net", "s"}, []string{"shop/lan"}},
		{[]string{"get", "networks", "-n", "default", ""}, []string{"default/san"}},
		{[]string{"get", "-n", ""}, []string{"default", "shop"}},
		{[]string{"get", "-o", ""}, outputs},
		{[]string{"describe", "sh"}, []string{"shop/web"}},
		{[]string{"describe", "x"}, nil},
		{[]string{"top", "--by", ""}, groupings},
		{[]string{"top", "-s", ""}, sortKeys},
		{[]string{"top", "-n", "s"}, []string{"shop"}},
	}
	s := newSite(t, web(), second, other())
	for _, test := range tests {
		if got := s.complete(t, test.args...); !slices.Equal(got, test.want) {
			t.Errorf("%q: %q, want %q", test.args, got, test.want)
		}
	}
}

// Without an agent the names are those of the records, and without those there are none.
func TestCompletionWithoutAnAgent(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.socket = filepath.Join(s.state, "none.sock")
	if got := s.complete(t, "describe", ""); len(got) != 0 {
		t.Errorf("of nothing: %q", got)
	}
	s.save(t, recordFor(web(), "ready"))
	if got := s.complete(t, "describe", ""); !slices.Equal(got, []string{"shop/web"}) {
		t.Errorf("%q", got)
	}
}
