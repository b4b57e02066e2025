// SPDX-License-Identifier: Apache-2.0

//go:build netns

package bridge_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weir-cni/weir/bridge"
	"github.com/weir-cni/weir/netif"
)

// TestMain plays iptables when it is executed under that name.
func TestMain(m *testing.M) {
	if name := filepath.Base(os.Args[0]); name == "iptables" || name == "ip6tables" {
		os.Exit(playIPTables(filepath.Join(filepath.Dir(os.Args[0]), name+".rules"), os.Args[1:]))
	}
	os.Exit(m.Run())
}

// playIPTables knows what the package asks of iptables: chains and rules of one
// table, kept in a file as -S lists them.
func playIPTables(file string, args []string) (status int) {
	if args[0] == "--version" {
		fmt.Println("iptables v1.8.9 (played)")
		return 0
	}
	// go-iptables begins or ends every other call with the table and the wait.
	var words []string
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "-t" || args[i] == "--wait" && i+1 < len(args) && !strings.HasPrefix(args[i+1], "-"):
			i++
		case args[i] != "--wait":
			words = append(words, args[i])
		}
	}
	rules := readRules(file)
	chain, rule := words[1], listed(words)
	exists := slices.ContainsFunc(rules, func(r string) bool { return r == "-N "+chain || r == "-P "+chain+" ACCEPT" })
	of := func(r string) bool { return strings.HasPrefix(r, "-A "+chain+" ") }
	at := slices.Index(rules, rule)
	switch words[0] {
	case "-S":
		for _, r := range rules {
			if of(r) || r == "-N "+chain || r == "-P "+chain+" ACCEPT" {
				fmt.Println(r)
			}
		}
	case "-N":
		if exists {
			return 1
		}
		rules = append(rules, "-N "+chain)
	case "-A":
		rules = append(rules, rule)
	case "-C":
		if at < 0 {
			return 1
		}
	case "-D":
		rules = slices.Delete(rules, at, at+1)
	case "-F":
		rules = slices.DeleteFunc(rules, of)
	case "-X":
		rules = slices.DeleteFunc(rules, func(r string) bool { return r == "-N "+chain })
	default:
		return 2
	}
	if !exists && words[0] != "-N" {
		fmt.Fprintln(os.Stderr, "iptables: No chain/target/match by that name.")
		return 1
	}
	if err := os.WriteFile(file, []byte(strings.Join(rules, "\n")), 0o600); err != nil {
		return 4
	}
	return 0
}

func readRules(file string) []string {
	rules := []string{"-P POSTROUTING ACCEPT"}
	f, err := os.Open(file)
	if err != nil {
		return rules
	}
	defer f.Close()
	rules = nil
	for lines := bufio.NewScanner(f); lines.Scan(); {
		rules = append(rules, lines.Text())
	}
	return rules
}

// listed is a rule as -S lists it.
func listed(words []string) string {
	words = slices.Clone(words)
	words[0] = "-A"
	for i, w := range words {
		switch {
		case i > 0 && words[i-1] == "-s" && !strings.Contains(w, "/"):
			length := "/32"
			if strings.Contains(w, ":") {
				length = "/128"
			}
			words[i] += length
		case strings.Contains(w, " "):
			words[i] = `"` + w + `"`
		}
	}
	return strings.Join(words, " ")
}

// path makes the PATH lead to the node's iptables, or to one that plays it where
// there is none.
func path(t *testing.T) {
	t.Helper()
	_, err4 := exec.LookPath("iptables")
	_, err6 := exec.LookPath("ip6tables")
	if err4 == nil && err6 == nil {
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	for _, name := range []string{"iptables", "ip6tables"} {
		if err := os.Symlink(self, filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", folder+":"+os.Getenv("PATH"))
	// Else the race detector, where it is compiled in, sleeps a second at each exit.
	t.Setenv("GORACE", "atexit_sleep_ms=0")
}

// natRules lists the rules of one chain.
func (s *site) natRules(t *testing.T, binary, chain string) (rules []string) {
	t.Helper()
	// The one that plays it must be told where it lies.
	whole, err := exec.LookPath(binary)
	if err != nil {
		t.Fatal(err)
	}
	s.node.Do(func() error {
		out, err := exec.CommandContext(t.Context(), whole, "-t", "nat", "-S", chain).Output()
		for line := range strings.Lines(string(out)) {
			if rule, ok := strings.CutPrefix(strings.TrimSpace(line), "-A "+chain+" "); ok {
				rules = append(rules, rule)
			}
		}
		return err
	})
	return rules
}

// chainOf is the chain that a rule leads to.
func chainOf(rule string) string { return rule[strings.LastIndex(rule, " ")+1:] }

func TestNetnsIPTables(t *testing.T) {
	path(t)
	s := newSite(t)
	const config = `{"isGateway":true,"ipMasq":true,"ipMasqBackend":"iptables",}`
	a := s.attach(t, "a", config, "192.0.2.11/24", "2001:db8::11/64")
	b := s.attach(t, "b", config, "192.0.2.12/24")
	// Once more for the same owner.
	if err := a.config.ConfigureHost(s.host, a.id, a.port(), a.result); err != nil {
		t.Fatal(err)
	}
	four, six := s.natRules(t, "iptables", "POSTROUTING"), s.natRules(t, "ip6tables", "POSTROUTING")
	if len(four) != 2 || len(six) != 1 {
		t.Fatalf("unexpected rules %q, %q", four, six)
	}
	ofA := four[1]
	if want := `-s 192.0.2.11/32 -m comment --comment "weir: network net, interface net1, container a" -j `; !strings.HasPrefix(ofA, want) {
		t.Errorf("unexpected rule %s", ofA)
	}
	same(t, "rules of a", []string{"-s 192.0.2.11/32 -d 192.0.2.0/24 -j RETURN", "! -d 224.0.0.0/4 -j MASQUERADE"}, s.natRules(t, "iptables", chainOf(ofA)))
	same(t, "rules of a for IPv6", []string{"-s 2001:db8::11/128 -d 2001:db8::/64 -j RETURN", "! -d ff00::/8 -j MASQUERADE"}, s.natRules(t, "ip6tables", chainOf(six[0])))
	if chainOf(four[0]) == chainOf(ofA) {
		t.Error("both owners have one chain")
	}

	for range 2 {
		if err := a.config.Delete(s.host, nil, a.id, "net1", nil); err != nil {
			t.Fatal(err)
		}
	}
	same(t, "rules after a's deletion", four[:1], s.natRules(t, "iptables", "POSTROUTING"))
	same(t, "rules for IPv6 after a's deletion", nil, s.natRules(t, "ip6tables", "POSTROUTING"))
	var drift *netif.DriftError
	if err := a.check(s.host); !errors.As(err, &drift) || drift.What != "masquerading of 192.0.2.11" {
		t.Errorf("checking a: %v", err)
	}
	if err := b.check(s.host); err != nil {
		t.Error(err)
	}
	if err := b.delete(s.host); err != nil {
		t.Fatal(err)
	}
	same(t, "rules in the end", nil, s.natRules(t, "iptables", "POSTROUTING"))
}

func TestNetnsIPTablesIsMissing(t *testing.T) {
	s := newSite(t)
	config := parse(t, `{"ipMasq":true,"ipMasqBackend":"iptables","ipam":{"type":"test"}}`)
	t.Setenv("PATH", t.TempDir())
	p := newPod(t, config, "a")
	var field *netif.FieldError
	if err := config.Validate(s.host, p.ns); !errors.As(err, &field) || field.Field != "ipMasqBackend" || !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("Validate: %v", err)
	}
	if err := config.Delete(s.host, p.ns, bridge.Owner{ContainerID: "a"}, "net1", nil); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("Delete, which cannot know what there is: %v", err)
	}
}
