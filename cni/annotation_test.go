// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"pgregory.net/rapid"
)

func TestParseSelections(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, annotation string
		want             []Selection
	}{
		{"nothing", "", nil},
		{"blanks", "  \n", nil},
		{"an empty list", "[]", []Selection{}},
		{"a name", "lan", []Selection{{Namespace: "pods", Name: "lan"}}},
		{"names with everything", " lan , shop/san@net7 ", []Selection{
			{Namespace: "pods", Name: "lan"},
			{Namespace: "shop", Name: "san", InterfaceRequest: "net7"},
		}},
		{"a name with a dot", "lan.v2", []Selection{{Namespace: "pods", Name: "lan.v2"}}},
		{"JSON with blanks", "\n [ { \"name\" : \"lan\" } , {\"name\":\"san\"} ] ", []Selection{
			{Namespace: "pods", Name: "lan"}, {Namespace: "pods", Name: "san"},
		}},
		{"the interface under its old name", `[{"name":"lan","interfaceRequest":"net7"}]`, []Selection{
			{Namespace: "pods", Name: "lan", InterfaceRequest: "net7", InterfaceAlias: "net7"},
		}},
		{"twice the same", "lan,lan", []Selection{{Namespace: "pods", Name: "lan"}, {Namespace: "pods", Name: "lan"}}},
		{"JSON", `[{"name":"lan"},{"name":"san","namespace":"shop","interface":"net7","ips":["192.0.2.1","2001:db8::1/64"],` +
			`"mac":"02:00:00:00:00:01","unknown":1}]`, []Selection{
			{Namespace: "pods", Name: "lan"},
			{
				Namespace: "shop", Name: "san", InterfaceRequest: "net7", MacRequest: "02:00:00:00:00:01",
				IPRequest: []string{"192.0.2.1", "2001:db8::1/64"},
			},
		}},
		{"every other key", `[{"name":"lan","infiniband-guid":"c2:11:22:33:44:55:66:77",` +
			`"portMappings":[{"hostPort":80,"containerPort":8080,"protocol":"tcp","hostIP":"192.0.2.1"}],` +
			`"bandwidth":{"ingressRate":1,"ingressBurst":1},"cni-args":{"k":"v"},"default-route":["192.0.2.254"],"ipam-claim-reference":"claim"}]`,
			[]Selection{{
				Namespace: "pods", Name: "lan", InfinibandGUIDRequest: "c2:11:22:33:44:55:66:77",
				PortMappingsRequest: []*nadv1.PortMapEntry{{HostPort: 80, ContainerPort: 8080, Protocol: "tcp", HostIP: "192.0.2.1"}},
				BandwidthRequest:    &nadv1.BandwidthEntry{IngressRate: 1, IngressBurst: 1},
				CNIArgs:             &map[string]any{"k": "v"},
				GatewayRequest:      []net.IP{net.ParseIP("192.0.2.254")},
				IPAMClaimReference:  "claim",
			}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseSelections(test.annotation, "pods")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Each error names the element and the key that is wrong.
func TestParseSelectionsRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, annotation string
		element          int // 0: the annotation as a whole
		key, says        string
	}{
		{"not JSON", `[{"name":"lan"`, 0, "", "not a JSON list"},
		{"an object", `{"name":"lan"}`, 0, "", "not a JSON list"},
		{"a list of names", `["lan"]`, 1, "", "not a JSON object"},
		{"null", `[null]`, 1, "", "not a JSON object"},
		{"text after the list", `[{"name":"a"}] x`, 0, "", "not a JSON list"},
		{"a string", `"lan"`, 0, "", "not a JSON list"},
		{"a number for a name", `[{"name":"a"},{"name":7}]`, 2, "name", "number"},
		{"a number for a namespace", `[{"name":"a","namespace":7}]`, 1, "namespace", "number"},
		{"a number for an interface", `[{"name":"a","interface":7}]`, 1, "interface", "number"},
		{"one address for a list", `[{"name":"a","ips":"192.0.2.1"}]`, 1, "ips", "string"},
		{"a number for a MAC", `[{"name":"a","mac":7}]`, 1, "mac", "number"},
		{"a number for a GUID", `[{"name":"a","infiniband-guid":7}]`, 1, "infiniband-guid", "number"},
		{"one mapping for a list", `[{"name":"a","portMappings":{}}]`, 1, "portMappings", "object"},
		{"text for a port", `[{"name":"a","portMappings":[{"hostPort":"80"}]}]`, 1, "portMappings.hostPort", "string"},
		{"a number for bandwidth", `[{"name":"a","bandwidth":7}]`, 1, "bandwidth", "number"},
		{"text for a rate", `[{"name":"a","bandwidth":{"ingressRate":"1M"}}]`, 1, "bandwidth.ingressRate", "string"},
		{"a list for cni-args", `[{"name":"a","cni-args":[]}]`, 1, "cni-args", "array"},
		{"one gateway for a list", `[{"name":"a","default-route":"192.0.2.1"}]`, 1, "default-route", "string"},
		{"a gateway that is no address", `[{"name":"a","default-route":["x"]}]`, 1, "default-route", "x"},
		{"a number for a claim", `[{"name":"a","ipam-claim-reference":7}]`, 1, "ipam-claim-reference", "number"},
		{"no name", `[{"namespace":"shop"}]`, 1, "name", `""`},
		{"a name of capitals", `[{"name":"LAN"}]`, 1, "name", "LAN"},
		{"a path for a name", `[{"name":"../x"}]`, 1, "name", "../x"},
		{"a bad namespace", `[{"name":"a","namespace":"x.y"}]`, 1, "namespace", "x.y"},
		{"a long interface", `[{"name":"a","interface":"abcdefghijklmnop"}]`, 1, "interface", "abcdefghijklmnop"},
		{"an interface with a slash", `[{"name":"a","interface":"a/b"}]`, 1, "interface", "a/b"},
		{"no address", `[{"name":"a","ips":["192.0.2.1","x"]}]`, 1, "ips", `"x"`},
		{"a zone", `[{"name":"a","ips":["fe80::1%eth0"]}]`, 1, "ips", "fe80::1%eth0"},
		{"a bad prefix length", `[{"name":"a","ips":["192.0.2.1/33"]}]`, 1, "ips", "192.0.2.1/33"},
		{"no MAC", `[{"name":"a","mac":"x"}]`, 1, "mac", `"x"`},
		{"a MAC of 8 bytes", `[{"name":"a","mac":"02:00:00:00:00:00:00:01"}]`, 1, "mac", "not an Ethernet"},
		{"a multicast MAC", `[{"name":"a","mac":"01:00:5e:00:00:01"}]`, 1, "mac", "multicast"},
		{"a zero MAC", `[{"name":"a","mac":"00:00:00:00:00:00"}]`, 1, "mac", "zero"},
		{"a GUID of 6 bytes", `[{"name":"a","infiniband-guid":"02:00:00:00:00:01"}]`, 1, "infiniband-guid", "8 bytes"},
		{"a port of 0", `[{"name":"a","portMappings":[{"hostPort":0,"containerPort":1}]}]`, 1, "portMappings", "hostPort 0"},
		{"a port too high", `[{"name":"a","portMappings":[{"hostPort":1,"containerPort":65536}]}]`, 1, "portMappings", "65536"},
		{"a protocol", `[{"name":"a","portMappings":[{"hostPort":1,"containerPort":1,"protocol":"icmp"}]}]`, 1, "portMappings", "icmp"},
		{"a host address", `[{"name":"a","portMappings":[{"hostPort":1,"containerPort":1,"hostIP":"x"}]}]`, 1, "portMappings", `hostIP "x"`},
		{"a null mapping", `[{"name":"a","portMappings":[null]}]`, 1, "portMappings", "null"},
		{"a burst without a rate", `[{"name":"a","bandwidth":{"egressBurst":1}}]`, 1, "bandwidth", "egressRate"},
		{"an ingress burst without a rate", `[{"name":"a","bandwidth":{"ingressBurst":1}}]`, 1, "bandwidth", "ingressRate"},
		{"a negative rate", `[{"name":"a","bandwidth":{"ingressRate":-1}}]`, 1, "bandwidth", "negative"},
		{"a claim and addresses", `[{"name":"a","ipam-claim-reference":"c","ips":["192.0.2.1"]}]`, 1, "ipam-claim-reference", "ips"},
		{"a trailing comma", "lan,", 2, "name", `""`},
		{"an empty interface", "lan@", 1, "interface", "empty"},
		{"an empty namespace", "/lan", 1, "namespace", "empty"},
		{"two interfaces", "lan@a@b/c", 1, "interface", "a@b/c"},
		{"three parts", "a/b/c", 1, "name", "b/c"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseSelections(test.annotation, "pods")
			if err == nil || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), nadv1.NetworkAttachmentAnnot) {
				t.Fatalf("error %v, want one that says %s", err, test.says)
			}
			selection, ok := errors.AsType[*SelectionError](err)
			if !ok {
				if test.element != 0 {
					t.Errorf("error %v names no element", err)
				}
				return
			}
			if element := fmt.Sprintf("element %d", test.element); !strings.Contains(err.Error(), element) || !strings.Contains(err.Error(), test.key) {
				t.Errorf("%q does not say %s and %q", err, element, test.key)
			}
			if selection.Element != test.element || selection.Key != test.key {
				t.Errorf("element %d, key %q; want %d, %q", selection.Element, selection.Key, test.element, test.key)
			}
		})
	}
}

// Both forms of the annotation mean the same.
func TestBothFormsMeanTheSame(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		label := rapid.StringMatching(`[a-z]([a-z0-9-]{0,8}[a-z0-9])?`)
		var names []string
		list := []map[string]string{}
		for range rapid.IntRange(1, 4).Draw(t, "networks") {
			element := map[string]string{"name": label.Draw(t, "name")}
			text := element["name"]
			if rapid.Bool().Draw(t, "qualified") {
				element["namespace"] = label.Draw(t, "namespace")
				text = element["namespace"] + "/" + text
			}
			if rapid.Bool().Draw(t, "named") {
				element["interface"] = label.Draw(t, "interface")
				text += "@" + element["interface"]
			}
			names, list = append(names, text), append(list, element)
		}
		asJSON, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		fromNames, err1 := ParseSelections(strings.Join(names, ", "), "pods")
		fromJSON, err2 := ParseSelections(string(asJSON), "pods")
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if diff := cmp.Diff(fromNames, fromJSON); diff != "" {
			t.Errorf("(-names +JSON):\n%s", diff)
		}
	})
}

func FuzzParseSelections(f *testing.F) {
	f.Add(`[{"name":"example-nad","namespace":"example-multus","ips":["192.168.122.188/24"]}]`)
	f.Add("a/b@c, d")
	f.Add(`[{"name":"a","default-route":["192.0.2.1"],"cni-args":{"k":[1]},"bandwidth":{"egressRate":1}}]`)
	f.Add(`[{"name":"a","portMappings":[{"hostPort":1,"containerPort":1,"hostIP":"::1"}],"infiniband-guid":"c2:11:22:33:44:55:66:77"}]`)
	f.Add("null")
	f.Fuzz(func(t *testing.T, annotation string) {
		selections, err := ParseSelections(annotation, "pods")
		if err != nil || len(selections) == 0 {
			return
		}
		for i := range selections {
			if _, err := checkSelection(&selections[i]); err != nil {
				t.Errorf("%q was taken: %v", annotation, err)
			}
		}
		// What was taken means the same when it is written out in full, in
		// another namespace too. An annotation is UTF-8: the API server takes no
		// other.
		if !utf8.ValidString(annotation) {
			return
		}
		data, err := json.Marshal(selections)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseSelections(string(data), "elsewhere")
		if err != nil {
			t.Fatalf("%q was taken, %s was not: %v", annotation, data, err)
		}
		if diff := cmp.Diff(selections, again, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%q (-first +again):\n%s", annotation, diff)
		}
	})
}
