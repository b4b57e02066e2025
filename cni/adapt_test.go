// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/bpf"
	"github.com/weir-cni/weir/state"
)

// eventsOf takes what the users of pods are told.
type eventsOf struct{ told []Event }

func (e *eventsOf) Report(_ attachment.Pod, event Event) { e.told = append(e.told, event) }

// attached is a sandbox with one guarded attachment to a network.
func attached(t *testing.T, config string) (*node, *attachment.Attachment) {
	t.Helper()
	n := newNode(t)
	a := &attachment.Attachment{
		ID: attachment.ID{ContainerID: "abc", Interface: "net1"}, PinDir: "abc-net1", MAC: "02:00:5e:00:53:01",
		Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.8/24")},
	}
	record := &state.Record{
		ContainerID: "abc", Phase: state.Ready, Pod: attachment.Pod{Namespace: "pods", Name: "web"}, Config: json.RawMessage(`{"name":"weir"}`),
		Delegates: []state.Delegate{{Interface: "net1", Network: "pods/lan", Config: json.RawMessage(config), Attachment: a}},
	}
	if err := n.Records.Save(record); err != nil {
		t.Fatal(err)
	}
	return n, a
}

const plain = `{"cniVersion":"1.0.0","name":"lan","type":"x"}`

func withWeir(options string) string {
	return strings.TrimSuffix(plain, "}") + `,"weir":` + options + `}`
}

// What a network says under the key weir is taken over, but for what is wrong; nothing
// else of it is.
func TestAdapt(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, was, now string
		changed        bool
		event          string // of what is wrong
	}{
		{name: "the same", was: plain, now: plain},
		{name: "gone", was: plain},
		{name: "another key", was: plain, now: strings.Replace(plain, `"x"`, `"y"`, 1)},
		{name: "the default, spelled out", was: plain, now: withWeir(`{"stormLimit":{"broadcast":1000}}`)},
		{name: "leave", was: plain, now: withWeir(`{"allow":["router"]}`), changed: true},
		{name: "leave withdrawn", was: withWeir(`{"allow":["router"]}`), now: plain, changed: true},
		{name: "sources", was: plain, now: withWeir(`{"sources":["198.51.100.0/24"]}`), changed: true},
		{name: "a storm limit", was: plain, now: withWeir(`{"stormLimit":{"broadcast":7}}`), changed: true},
		{name: "bandwidth", was: plain, now: withWeir(`{"bandwidth":{"egressRate":1000000}}`), changed: true},
		{name: "an unknown leave", was: plain, now: withWeir(`{"allow":["all"]}`), event: "weir.allow"},
		{name: "a source that is none", was: plain, now: withWeir(`{"sources":["224.0.0.0/4"]}`), event: "weir.sources"},
		{name: "no bandwidth", was: plain, now: withWeir(`{"bandwidth":{"egressBurst":1}}`), event: "weir.bandwidth"},
		{name: "not JSON", was: plain, now: `{"cniVersion`, event: "spec.config"},
		{name: "another shape", was: plain, now: withWeir(`7`), event: "weir"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			n, a := attached(t, test.was)
			events := &eventsOf{}
			n.Events = events
			n.cluster.networks = map[string]string{}
			if test.now != "" {
				n.cluster.networks["pods/lan"] = test.now
			}
			before, err := n.GuardSpec(a)
			if err != nil {
				t.Fatal(err)
			}
			adapted, err := n.Adapt(t.Context(), "abc", map[string]bool{"pods/lan": true})
			if (err != nil) != (test.event != "") || (len(adapted) == 1) != test.changed {
				t.Fatalf("adapted %v, error %v", adapted, err)
			}
			if test.event != "" && (len(events.told) != 1 || events.told[0].Reason != ReasonGuardUnchanged ||
				!strings.Contains(events.told[0].Message, test.event) || !strings.Contains(err.Error(), "pods/lan (net1)")) {
				t.Errorf("events %v, error %v", events.told, err)
			}
			after, err := n.GuardSpec(a)
			if err != nil {
				t.Fatal(err)
			}
			same := before.Checks == after.Checks && before.Storms == after.Storms && before.Egress == after.Egress &&
				len(before.Sources) == len(after.Sources)
			if same == test.changed {
				t.Errorf("before %+v, after %+v", before, after)
			}
			record, err := n.Records.Load("abc")
			if err != nil || string(record.Delegates[0].Config) != test.was {
				t.Errorf("DEL and CHECK would get %s, error %v", record.Delegates[0].Config, err)
			}
			if again, err := n.Adapt(t.Context(), "abc", map[string]bool{"pods/lan": true}); len(again) > 0 || (err != nil) != (test.event != "") {
				t.Errorf("again: adapted %v, error %v", again, err)
			}
		})
	}
}

// What is in force stays so while the network cannot be asked for, is of no attachment, or
// is another.
func TestAdaptToNothing(t *testing.T) {
	t.Parallel()
	n, a := attached(t, plain)
	n.cluster.networks = map[string]string{"pods/lan": withWeir(`{"allow":["router"]}`), "pods/other": plain}
	for _, key := range []string{"abc", "nobody"} {
		if adapted, err := n.Adapt(t.Context(), key, map[string]bool{"pods/other": true}); err != nil || len(adapted) > 0 {
			t.Errorf("%s: adapted %v, error %v", key, adapted, err)
		}
	}
	if adapted, err := n.Adapt(t.Context(), "abc", map[string]bool{"pods/lan": true}); err != nil || len(adapted) != 1 {
		t.Fatalf("adapted %v, error %v", adapted, err)
	}
	delete(n.cluster.networks, "pods/lan")
	if adapted, err := n.Adapt(context.Background(), "abc", map[string]bool{"pods/lan": true}); err != nil || len(adapted) > 0 {
		t.Errorf("gone: adapted %v, error %v", adapted, err)
	}
	if spec, err := n.GuardSpec(a); err != nil || spec.Checks&bpf.CheckRouter != 0 {
		t.Errorf("spec %+v, error %v", spec, err)
	}
}

// Options of another weir, which this one cannot read, keep nobody from undoing what ADD made.
func TestOptionsOfAnotherWeir(t *testing.T) {
	t.Parallel()
	n, a := attached(t, plain)
	record, err := n.Records.Load("abc")
	if err != nil {
		t.Fatal(err)
	}
	record.Delegates[0].Options = json.RawMessage(withWeir(`{"allow":["from-the-future"]}`))
	if err := n.Records.Save(record); err != nil {
		t.Fatal(err)
	}
	if _, err := n.GuardSpec(a); err != nil {
		t.Error(err)
	}
}
