// SPDX-License-Identifier: Apache-2.0

//go:build netns

package node

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// cnitoolScript runs cnitool's commands one after the other with a cache of their own: it
// keeps its cache where the node's runtimes keep theirs.
const cnitoolScript = `set -e
mkdir -p /var/lib
mount -t tmpfs tmpfs /var/lib
for command in "$@"; do
	echo "== $command"
	"$CNITOOL" "$command" weir "$POD_NETNS"
done
`

// cnitool runs commands of the real tool, each of which has to succeed, and returns
// what each printed.
func (n *Node) cnitool(p *Pod, conflist, ifname string, commands ...string) (map[string]string, error) {
	n.tb.Helper()
	n.Write("weir.conflist", conflist, 0o600)
	cmd := exec.Command("unshare", append([]string{"-m", "sh", "-c", cnitoolScript, "sh"}, commands...)...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "CNITOOL=" + referencePlugins(n.tb) + "/cnitool", "POD_NETNS=" + p.Path(),
		"CNI_PATH=" + filepath.Dir(n.bin.weir), "NETCONFPATH=" + n.dir, "CNI_IFNAME=" + ifname,
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=" + n.namespace + ";K8S_POD_NAME=" + p.Name,
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	said := map[string]string{}
	for part := range strings.SplitSeq(string(out), "== ") {
		if command, text, ok := strings.Cut(part, "\n"); ok {
			said[command] = text
		}
	}
	return said, nil
}

// The plainest of runtimes attaches a pod to networks of every type, in every
// version.
func TestNetnsCnitool(t *testing.T) {
	n := newNode(t)
	n.reference("other-bridge", "bridge")
	n.reference("host-local", "host-local")
	networks := map[string]string{
		"macvlan":     macvlan(object{"ipam": n.hostLocal("10.99.0.0/16")}),
		"bridge":      n.bridged("10.98.0.0/16"),
		"host-device": config(object{"type": "host-device", "device": "dev0"}, nil),
		"executed":    config(object{"type": "other-bridge", "bridge": "br1", "ipam": n.hostLocal("10.97.0.0/16")}, nil),
		"list":        listOf("1.0.0", lanObject(), n.playing()),
	}
	commands := map[string][]string{
		"0.3.0": {"add", "del"}, "0.3.1": {"add", "del"}, "0.4.0": {"add", "check", "del", "del"},
		"1.0.0": {"add", "check", "del", "del"}, "1.1.0": {"status", "add", "check", "del", "add", "gc", "del"}, // to cnitool nothing is valid
	}
	if !hasGo() {
		commands = map[string][]string{"1.1.0": commands["1.1.0"]} // all is slow
	}
	for version, all := range commands {
		for kind, network := range networks {
			t.Run(kind+" "+version, func(t *testing.T) {
				n.within(t)
				if kind == "host-device" {
					withDevice(n)
					defer n.clear()
				}
				n.Network("net", network)
				pod := n.Pod(n.unique("web"), "net")
				defer pod.Remove()
				entry := withFields(n.config(), object{"type": "weir"})
				delete(entry, "name")
				delete(entry, "cniVersion")
				said, err := n.cnitool(pod, toJSON(t, object{"cniVersion": version, "name": "weir", "plugins": []any{entry}}), "eth0", all...)
				if err != nil {
					t.Fatal(err)
				}
				var result struct {
					Version string `json:"cniVersion"`
				}
				if err := json.Unmarshal([]byte(said["add"]), &result); err != nil || result.Version != version {
					t.Errorf("the result is of version %q: %v", result.Version, err)
				}
				if got := interfacesOf(t, pod); len(got) != 0 {
					t.Errorf("after DEL the pod has %v", got)
				}
			})
		}
	}
}
