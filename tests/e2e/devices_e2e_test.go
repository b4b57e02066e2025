// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"github.com/weir-cni/weir/tests/cluster"
)

// dpdk is a plugin that makes no interface, as that of a device which a program in the
// pod drives itself. It keeps what it was given.
const dpdk = `#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}' ;;
ADD) cat >"/var/log/dpdk-$CNI_IFNAME.json" && echo '{"cniVersion":"1.0.0"}' ;;
*) cat >/dev/null ;;
esac
`

// The devices that a device plugin gave a pod are those of its networks, each of one, and
// what is known of them is in the network status.
func TestE2EDevices(t *testing.T) {
	w := installed(t)
	ns := w.namespace("devices")
	n := w.Nodes[0]
	const resource = "example.com/fast"
	w.ServeDevices(n, resource, "0000:01:00.0", "0000:01:00.1", "0000:01:00.2")
	const plugin, infos = "/opt/cni/bin/dpdk", "/var/run/k8s.cni.cncf.io/devinfo/dp"
	n.MustRun("sh", "-c", "cat >"+plugin+" <<'E'\n"+dpdk+"E\nchmod +x "+plugin+"; mkdir -p "+infos)
	t.Cleanup(func() { n.MustRun("rm", "-rf", plugin, infos) })
	for i := range 3 {
		info := fmt.Sprintf(`{"type":"pci","version":"1.1.0","pci":{"pci-address":"0000:01:00.%d"}}`, i)
		n.MustRun("sh", "-c", fmt.Sprintf("echo '%s' >%s/example.com-fast-0000:01:00.%d-device.json", info, infos, i))
	}
	w.apply(object{
		"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
		"metadata": object{"namespace": ns, "name": "fast", "annotations": object{"k8s.v1.cni.cncf.io/resourceName": resource}},
		"spec":     object{"config": `{"cniVersion":"1.0.0","name":"fast","type":"dpdk","capabilities":{"deviceID":true,"CNIDeviceInfoFile":true}}`},
	})
	main := container(cluster.AlpineImage, "sleep", "infinity")
	main["resources"] = object{"limits": object{resource: 2}}
	w.apply(object{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": object{"namespace": ns, "name": "router", "annotations": object{nadv1.NetworkAttachmentAnnot: "fast,fast"}},
		"spec":     object{"nodeName": n.Name, "terminationGracePeriodSeconds": 0, "containers": []object{main}},
	})
	w.AwaitPod(ns, "router")

	var given []string
	for i, ifname := range []string{"net1", "net2"} {
		var got struct {
			DeviceID      string `json:"deviceID"`
			PCIBusID      string `json:"pciBusID"`
			RuntimeConfig struct {
				DeviceID          string `json:"deviceID"`
				CNIDeviceInfoFile string
			} `json:"runtimeConfig"`
		}
		if err := json.Unmarshal([]byte(n.MustRun("cat", "/var/log/dpdk-"+ifname+".json")), &got); err != nil {
			t.Fatal(err)
		}
		id := got.DeviceID
		if id == "" || got.PCIBusID != id || got.RuntimeConfig.DeviceID != id {
			t.Errorf("%s: the plugin was given %+v", ifname, got)
		}
		n.MustRun("test", "-s", got.RuntimeConfig.CNIDeviceInfoFile)
		info := w.status(ns, "router")[i+1].DeviceInfo
		if info == nil || info.Pci == nil || info.Pci.PciAddress != id {
			t.Errorf("%s: device-info %+v, want that of %s", ifname, info, id)
		}
		given = append(given, id)
	}
	if slices.Sort(given); len(slices.Compact(given)) != 2 {
		t.Errorf("both networks have the device %v", given)
	}

	w.MustKubectl("annotate", "--overwrite", "pod", "-n", ns, "router", nadv1.NetworkAttachmentAnnot+"=fast,fast,fast")
	w.awaitEvent(ns, "router", "network "+ns+"/fast (net3)", "the pod was given no device of it that is not another network's already")
	w.remove(ns, "router")
	w.awaitNothingLeft(n)
	if out := n.MustRun("sh", "-c", "ls -A "+infos+"/../cni"); out != "" {
		t.Errorf("left of the pod's devices: %s", out)
	}
}
