// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package devices_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-cni/weir/devices"
	"github.com/weir-cni/weir/tests/cluster"
)

const podOfTwo = `
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 0
  initContainers:
  - {name: sidecar, image: ` + cluster.AlpineImage + `, imagePullPolicy: Never, restartPolicy: Always, command: [sleep, infinity], resources: {limits: {` + vf + `: 1}}}
  containers:
  - {name: main, image: ` + cluster.AlpineImage + `, imagePullPolicy: Never, command: [sleep, infinity], resources: {limits: {` + vf + `: 2}}}
`

func TestE2EKubelet(t *testing.T) {
	c := suite.Cluster(t)
	node := c.Nodes[0]
	dir := c.KubeletDir(node)
	var ids []string
	for i := range 8 {
		ids = append(ids, fmt.Sprintf("0000:01:00.%d", i))
	}
	c.ServeDevices(node, vf, ids...)
	for _, name := range []string{"a", "b"} {
		c.Apply(fmt.Sprintf(podOfTwo, name))
		c.AwaitPod("default", name)
	}
	k := client(t, filepath.Join(dir, "pod-resources/kubelet.sock"))
	withGet := map[string]devices.IDs{}
	var all []string
	for _, name := range []string{"a", "b"} {
		ids, err := k.Devices(t.Context(), "default", name)
		if err != nil {
			t.Fatal(err)
		}
		if len(ids) != 1 || len(ids[vf]) != 3 || !slices.IsSorted(ids[vf]) {
			t.Errorf("%s has %v", name, ids)
		}
		withGet[name] = ids
		all = append(all, ids[vf]...)
	}
	if slices.Sort(all); len(slices.Compact(all)) != 6 {
		t.Errorf("pods share devices: %v", withGet)
	}
	wantUnknown(t, k)
	t.Run("many ask", func(t *testing.T) { wantManyAnswered(t, k, withGet["a"]) })

	setGate(t, node, false)
	t.Run("without Get", func(t *testing.T) {
		for name, want := range withGet {
			awaitDevices(t, c, k, name, want)
		}
		wantUnknown(t, k)
		wantManyAnswered(t, k, withGet["a"])
	})
	setGate(t, node, true)
	awaitDevices(t, c, k, "a", withGet["a"])
}

func wantUnknown(t *testing.T, k *devices.Kubelet) {
	t.Helper()
	if _, err := k.Devices(t.Context(), "default", "gone"); !errors.Is(err, devices.ErrUnknownPod) {
		t.Error(err)
	}
}

func wantManyAnswered(t *testing.T, k *devices.Kubelet, want devices.IDs) {
	t.Helper()
	began := time.Now()
	var wg sync.WaitGroup
	for range 300 {
		wg.Go(func() {
			got, err := k.Devices(t.Context(), "default", "a")
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
	wg.Wait()
	t.Logf("300 callers were answered in %v", time.Since(began))
}

// awaitDevices asks a kubelet that starts, and does not know its pods at once.
func awaitDevices(t *testing.T, c *cluster.Cluster, k *devices.Kubelet, name string, want devices.IDs) {
	t.Helper()
	c.Await("the kubelet knows the devices of "+name, time.Minute, func(ctx context.Context) error {
		got, err := k.Devices(ctx, "default", name)
		if err == nil && cmp.Diff(want, got) != "" {
			err = fmt.Errorf("%v, want %v", got, want)
		}
		return err
	})
}

// setGate starts the kubelet anew, with or without Get.
func setGate(t *testing.T, n *cluster.Node, on bool) {
	t.Helper()
	path := n.Path("/etc/kubernetes/kubelet")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(data, &config); err != nil {
		t.Fatal(err)
	}
	config["featureGates"] = map[string]bool{"KubeletPodResourcesGet": on}
	if data, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	n.StopKubelet()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	n.StartKubelet()
}

func TestE2EClaims(t *testing.T) {
	api := suite.Cluster(t).Client()
	for _, s := range []*resourcev1.ResourceSlice{
		slice(node, 1, device("d0", vf, "0000:02:00.4"), device("d1", "", "")),
		slice("other", 1, device("d0", vf, "elsewhere")),
	} {
		s.Spec.Pool.ResourceSliceCount = 1
		if _, err := api.ResourceV1().ResourceSlices().Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	c := claim("one", result("r", "d0"), result("r", "d1"))
	c.Spec.Devices.Requests = []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{
		DeviceClassName: "vf.example.com", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 2,
	}}}
	made, err := api.ResourceV1().ResourceClaims("default").Create(t.Context(), c, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cluster := devices.Cluster{Client: api}
	if _, err := devices.Claimed(t.Context(), cluster, claiming("one"), node); err == nil {
		t.Error("a claim without allocation is taken")
	}
	made.Status = c.Status
	if _, err := api.ResourceV1().ResourceClaims("default").UpdateStatus(t.Context(), made, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := devices.Claimed(t.Context(), cluster, claiming("one"), node)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(devices.IDs{vf: {"0000:02:00.4"}}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, on := range []string{node, "other", "third"} {
		slices, err := cluster.Slices(t.Context(), driver, on)
		if want := map[string]int{node: 1, "other": 1}[on]; err != nil || len(slices) != want {
			t.Errorf("%s: %d slices, %v", on, len(slices), err)
		}
	}
}
