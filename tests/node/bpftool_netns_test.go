// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// commandBlock is a block of commands of a document in Markdown.
var commandBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")

// walk is docs/bpftool.md on a node that has a pod with rules, and what each of its blocks has
// to print, in their order.
type walk struct {
	*Node
	pod *Pod
}

// expected are patterns, all of which a block's output matches; a block that only sets a
// variable prints nothing.
func (w *walk) expected() [][]string {
	dir := regexp.QuoteMeta(w.bpfDir + "/" + w.pod.ID[:12] + "-net1")
	whose := regexp.QuoteMeta(w.namespace + "/" + w.pod.Name)
	links := []string{`prog \d+`}
	filters := []string{}
	if w.hook() == "clsact" {
		links, filters = nil, []string{"weir_egress"}
	}
	return [][]string{
		nil,
		{w.pod.ID[:12] + "-net1"},
		{`sched_cls  name weir_egress`, `pod = "` + whose + `"`, `interface = "net1"`, `network = "` + regexp.QuoteMeta(w.namespace) + `/lan"`,
			`container = "` + w.pod.ID + `"`, `build = "[0-9a-f]{12}"`, `settings = "[0-9a-f]{12}"`, `rules = "[0-9a-f]{12}"`},
		{`^\d+\n$`},
		{`name weir_egress`, `map_ids [0-9,]+`, `pod = "` + whose + `"`},
		{dir + `/counters \d+ percpu_array weir_counters`, dir + `/facts \d+ array weir_facts`, dir + `/control \d+ array weir_control`,
			dir + `/hits \d+ percpu_array weir_hits`, dir + `/samples \d+ percpu_array weir_samples`, dir + `/drops \d+ ringbuf weir_drops`},
		{`"spoofed_ipv4": \{\s+"packets": 3,`, `"ingress_allowed"`, `"unicast"`},
		{`\{"egress spoofed_ipv4":3\}`, `\{"ingress allowed":\d+\}`},
		{dir + `/counters 3\n`},
		{`\{"sampled":3,"limited":0,"ring_full":0\}`},
		{`(\{"egress spoofed_ipv4":3\}\n){3}`},
		{`\{"rule":0,"packets":\d+\}`, fmt.Sprintf(`\{"rule":%d,"packets":`, rulesOfBoth-1)},
		{`"protocol": 17`, `"value": \d+`},
		{`\{"mac":\[.*\],"ipv4":1,"ipv6":2\}`},
		links,
		filters,
	}
}

// rulesOfBoth are those of theRules, in each of their directions.
const rulesOfBoth = 8

// The document says what bpftool says of a real node, command by command.
func TestNodesBpftool(t *testing.T) {
	text, err := os.ReadFile("../../docs/bpftool.md")
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	w := &walk{n, newRuled(t, n).pod}
	for _, s := range spoofsOf(t, w.pod.Link("net1").Attrs().HardwareAddr) {
		if s.reason == "spoofed_ipv4" {
			w.pod.Send("net1", s.frame, s.frame, s.frame)
		}
	}
	n.Kill() // it goes without an agent
	blocks := commandBlock.FindAllStringSubmatch(string(text), -1)
	expected := w.expected()
	if len(blocks) != len(expected) {
		t.Fatalf("the document has %d blocks of commands, and %d are known", len(blocks), len(expected))
	}
	for i, commands := range blocks {
		out := w.run(t, commands[1])
		for _, want := range expected[i] {
			if !regexp.MustCompile("(?m)" + want).MatchString(out) {
				t.Errorf("%s\nprints no %s, but\n%s", commands[1], want, out)
			}
		}
	}
}

// run runs commands of the document with the names that they have on this node.
func (w *walk) run(t *testing.T, commands string) string {
	t.Helper()
	here := strings.NewReplacer("/sys/fs/bpf/weir", w.bpfDir, "0123456789ab", w.pod.ID[:12], "shop/web", w.namespace+"/"+w.pod.Name,
		"/run/netns/NAME", w.pod.Path())
	cmd := exec.Command("bash", "-c", "DIR="+w.bpfDir+"\n"+here.Replace(commands))
	var complaints strings.Builder
	cmd.Stderr = &complaints
	var out []byte
	var err error
	w.machine.Do(func() error {
		out, err = cmd.Output()
		return nil
	})
	if complaints.Len() > 0 {
		t.Errorf("%s\nfails: %v: %s", commands, err, complaints.String())
	}
	return string(out)
}
