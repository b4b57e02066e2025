// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/state"
)

// attachedFor are the delegates of a sandbox that was made for an annotation.
func attachedFor(t *testing.T, annotation string) []state.Delegate {
	t.Helper()
	selections, err := ParseSelections(annotation, "pods")
	if err != nil {
		t.Fatal(err)
	}
	delegates := []state.Delegate{{Interface: "eth0", Network: "d", Default: true, Result: json.RawMessage(`{}`)}}
	for i := range selections {
		d := state.Delegate{Interface: selections[i].InterfaceRequest, Network: selections[i].network(), Result: json.RawMessage(`{}`)}
		if d.Selection, err = json.Marshal(selections[i]); err != nil {
			t.Fatal(err)
		}
		nameInterface(&d, i+1, "eth0")
		delegates = append(delegates, d)
	}
	return delegates
}

func TestChangesOf(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, was, is, removed, added string }{
		{"nothing", "lan,san@data0", "lan,san@data0", "", ""},
		{"another order", "lan,san@data0", "san@data0,lan", "", ""},
		{"another form", "lan,san@data0", `[{"name":"lan"},{"name":"san","namespace":"pods","interface":"data0"}]`, "", ""},
		{"one more", "lan", "lan,san", "", "pods/san"},
		{"one less", "lan,san", "san", "net1", ""},
		{"all", "", "lan,san", "", "pods/lan pods/san"},
		{"none", "lan,san", "", "net1 net2", ""},
		{"the same twice", "lan,lan", "lan,lan", "", ""},
		{"the same once more", "lan,lan", "lan,lan,lan", "", "pods/lan"},
		{"the same once less", "lan,lan", "lan", "net2", ""},
		{"another address", `[{"name":"lan","ips":["192.0.2.1"]}]`, `[{"name":"lan","ips":["192.0.2.2"]}]`, "net1", "pods/lan"},
		{"another interface", "lan@a", "lan@b", "a", "pods/lan"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			wanted, err := ParseSelections(test.is, "pods")
			if err != nil {
				t.Fatal(err)
			}
			c := changesOf(attachedFor(t, test.was), wanted)
			var added []string
			for i := range c.added {
				added = append(added, c.added[i].network())
			}
			if diff := cmp.Diff(test.removed+"; "+test.added, strings.Join(c.removed, " ")+"; "+strings.Join(added, " ")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A network whose ADD was cut off by the agent's death is taken away and made anew.
func TestChangesOfUnfinished(t *testing.T) {
	t.Parallel()
	delegates := attachedFor(t, "lan")
	delegates[1].Result = nil
	wanted, err := ParseSelections("lan", "pods")
	if err != nil {
		t.Fatal(err)
	}
	if c := changesOf(delegates, wanted); len(c.removed) != 1 || len(c.added) != 1 {
		t.Errorf("%+v", c)
	}
}

func TestPlanAdded(t *testing.T) {
	t.Parallel()
	store := &cluster{networks: map[string]string{"pods/lan": `{"type":"x"}`, "pods/san": `{"type":"x"}`}}
	tests := []struct{ name, was, is, want, says string }{
		{"the next number", "lan", "lan,san", "net2", ""},
		{"the number of one that goes", "lan,san", "san,lan@x,san", "x net1", ""},
		{"a number that is free", "lan@net3,lan", "lan@net3,lan,san,san", "net1 net4", ""},
		{"a name that another has", "lan@a", "lan@a,san@a", "", "interface a"},
		{"a network that is not there", "lan", "lan,nowhere", "", "pods/nowhere"},
		{"the default route", "lan", `[{"name":"lan"},{"name":"san","default-route":[]}]`, "", "default-route"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			wanted, err := ParseSelections(test.is, "pods")
			if err != nil {
				t.Fatal(err)
			}
			record := &state.Record{Pod: attachment.Pod{Namespace: "pods", Name: "web"}, Delegates: attachedFor(t, test.was)}
			c := changesOf(record.Delegates, wanted)
			added, err := (&Plugin{Networks: store}).planAdded(t.Context(), &Config{}, record, &corev1.Pod{}, c)
			err = errors.Join(c.checkDefaultRoute(), err)
			if test.says != "" {
				if err == nil || !strings.Contains(err.Error(), test.says) {
					t.Errorf("error %v", err)
				}
				return
			}
			var names []string
			for _, d := range added {
				names = append(names, d.Interface)
			}
			if diff := cmp.Diff(test.want, strings.Join(names, " ")); diff != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestIsPublished(t *testing.T) {
	t.Parallel()
	status := []NetworkStatus{{Name: "a", Interface: "eth0"}}
	tests := []struct {
		name, annotation string
		want             bool
	}{
		{"the same", `[{"name":"a","interface":"eth0","dns":{}}]`, true},
		{"laid out otherwise", "[ {\"interface\": \"eth0\",\n \"name\": \"a\"} ]", true},
		{"another", `[{"name":"b","interface":"eth0","dns":{}}]`, false},
		{"none", "", false},
		{"not JSON", "{", false},
	}
	for _, test := range tests {
		pod := &corev1.Pod{}
		pod.Annotations = map[string]string{nadv1.NetworkStatusAnnot: test.annotation}
		if got := isPublished(pod, status); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}

// told collects events.
type told []string

func (e *told) Report(pod attachment.Pod, event Event) {
	*e = append(*e, fmt.Sprintf("%s %v %s: %s", pod.Name, event.Warning, event.Reason, event.Message))
}

func TestReportAdded(t *testing.T) {
	t.Parallel()
	const result = `{"cniVersion":"1.0.0","interfaces":[{"name":"net1"}],"ips":[{"address":"192.0.2.1/24"},{"address":"2001:db8::1/64"}]}`
	tests := []struct {
		name string
		d    state.Delegate
		want string
	}{
		{"as Multus has it", state.Delegate{Interface: "net1", Network: "pods/lan", Result: json.RawMessage(result)},
			"web false AddedInterface: Add net1 [192.0.2.1/24 2001:db8::1/64] from pods/lan"},
		{"no addresses", state.Delegate{Interface: "net1", Network: "pods/lan", Result: json.RawMessage(`{"cniVersion":"1.0.0","interfaces":[{"name":"net1"}]}`)},
			"web false AddedInterface: Add net1 [] from pods/lan"},
		{"no name", state.Delegate{Interface: "net1", Result: json.RawMessage(result)}, "web false AddedInterface: Add net1 [192.0.2.1/24 2001:db8::1/64]"},
		{"nothing made", state.Delegate{Interface: "net1", Network: "pods/lan", Result: json.RawMessage(`{"cniVersion":"1.0.0"}`)}, ""},
	}
	for _, test := range tests {
		var events told
		(&Plugin{Events: &events}).reportAdded(attachment.Pod{Namespace: "pods", Name: "web"}, &test.d)
		if got := strings.Join(events, "; "); got != test.want {
			t.Errorf("%s: %q", test.name, got)
		}
	}
}

func TestReportFailedAdd(t *testing.T) {
	t.Parallel()
	var events told
	p := &Plugin{Events: &events}
	pod := attachment.Pod{Namespace: "pods", Name: "web"}
	p.reportFailedAdd(pod, fmt.Errorf("x: %w", &missingNetworkError{"pods", "lan", ErrNotFound}))
	p.reportFailedAdd(pod, errors.New("network pods/lan (net1): no"))
	p.reportFailedAdd(attachment.Pod{}, errors.New("of no pod"))
	want := told{
		"web true NoNetworkFound: cannot find a network-attachment-definition (lan) in namespace (pods): file does not exist",
		"web true FailedAddNetworks: network pods/lan (net1): no",
	}
	if diff := cmp.Diff(want, events); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
