// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/weir-cni/weir/tests/cluster"
)

// TestE2ECluster proves that the cluster is what the other tests take it for,
// with reference plugins alone.
func TestE2ECluster(t *testing.T) {
	c := suite.Cluster(t)
	one := runPod(t, c, c.Nodes[0], "one", nil)
	two := runPod(t, c, c.Nodes[1], "two", nil)
	for _, test := range []struct {
		name  string
		check func(t *testing.T, c *cluster.Cluster)
	}{
		{"pods reach each other", func(_ *testing.T, c *cluster.Cluster) { checkReach(c, one, two) }},
		{"a node is a machine of its own", checkMachine},
		{"nodes and the outside are on a LAN", checkLAN},
		{"pods speak to the API server with the rights they have", checkRights},
		{"the API server can be gone for nodes alone", checkAPI},
		{"weir's image runs", checkImage},
		{"daemons restart beside pods", func(t *testing.T, c *cluster.Cluster) { checkDaemons(t, c, one) }},
		{"a reboot keeps the disk", func(t *testing.T, c *cluster.Cluster) { checkReboot(t, c, one, two) }},
	} {
		t.Run(test.name, func(t *testing.T) { test.check(t, suite.Cluster(t)) })
	}
}

type object = map[string]any

func container(image string, command ...string) object {
	return object{"name": "main", "image": image, "imagePullPolicy": "Never", "command": command}
}

// runPod runs a pod on a node, with more fields of its spec, until the test ends.
func runPod(t *testing.T, c *cluster.Cluster, n *cluster.Node, name string, more object) *corev1.Pod {
	t.Helper()
	spec := object{
		"nodeName": n.Name, "terminationGracePeriodSeconds": 0,
		"containers": []object{container(cluster.AlpineImage, "sleep", "infinity")},
	}
	for key, value := range more {
		spec[key] = value
	}
	manifest, err := json.Marshal(object{"apiVersion": "v1", "kind": "Pod", "metadata": object{"name": name}, "spec": spec})
	if err != nil {
		t.Fatal(err)
	}
	c.Apply(string(manifest))
	t.Cleanup(func() {
		c.MustKubectl("delete", "pod", name, "--wait=false")
		c.AwaitNoPod("default", name)
	})
	if spec["restartPolicy"] == "Never" {
		return c.AwaitEnd("default", name)
	}
	return c.AwaitPod("default", name)
}

func checkReach(c *cluster.Cluster, from, to *corev1.Pod) {
	c.Await("a pod to reach the other node's", 10*time.Second, func(context.Context) error {
		_, err := c.Exec("default", from.Name, "ping", "-c1", "-W1", to.Status.PodIP)
		return err
	})
}

func checkImage(t *testing.T, c *cluster.Cluster) {
	pod := runPod(t, c, c.Nodes[0], "weir", object{
		"containers": []object{container(weirImage, "/usr/bin/weir-agent", "--help")}, "restartPolicy": "Never",
	})
	if phase := pod.Status.Phase; phase != corev1.PodSucceeded {
		t.Errorf("it is %s: %s", phase, c.MustKubectl("logs", "weir"))
	}
}

func checkMachine(t *testing.T, c *cluster.Cluster) {
	n := c.Nodes[0]
	pod := runPod(t, c, n, "machine", object{
		"hostPID": true, "hostNetwork": true,
		"containers": []object{{
			"name": "main", "image": cluster.AlpineImage, "imagePullPolicy": "Never", "command": []string{"sleep", "infinity"},
			"securityContext": object{"privileged": true},
			"volumeMounts": []object{
				{"name": "networks", "mountPath": "/networks"},
				{"name": "run", "mountPath": "/host/run", "mountPropagation": "Bidirectional"},
			},
		}},
		"volumes": []object{
			{"name": "networks", "hostPath": object{"path": "/etc/cni/net.d"}},
			{"name": "run", "hostPath": object{"path": "/run"}},
		},
	})
	script := `set -e
[ "$(cat /proc/1/cmdline | tr '\0' ' ')" = "init " ]
[ "$(readlink /proc/1/ns/net)" = "$(readlink /proc/self/ns/net)" ]
ls /sys/class/net/eth1
mkdir /host/run/mine; mount -t tmpfs mine /host/run/mine
echo hello > /networks/zz-hello`
	if out, err := c.Exec("default", pod.Name, "sh", "-c", script); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out := n.MustRun("cat", "/etc/cni/net.d/zz-hello"); out != "hello\n" {
		t.Errorf("the pod's file is %q on the node", out)
	}
	n.MustRun("rm", "/etc/cni/net.d/zz-hello")
	n.MustRun("umount", "/run/mine")
	if _, err := os.Stat("/etc/cni/net.d/zz-hello"); err == nil {
		t.Error("the pod has written on this machine's disk")
	}
}

func checkLAN(t *testing.T, c *cluster.Cluster) {
	n := c.Nodes[0]
	const address = "192.168.122.77"
	n.MustRun("ip", "address", "add", address+"/24", "dev", "eth1")
	defer n.MustRun("ip", "address", "del", address+"/24", "dev", "eth1")
	if c.Outside.Ping(t.Context(), address, 1) != 1 {
		t.Error("the outside host gets no answer")
	}
	if _, err := n.Run("ping", "-c1", "-W5", cluster.OutsideAddress); err != nil {
		t.Error(err)
	}
}

func checkRights(t *testing.T, c *cluster.Cluster) {
	n := c.Nodes[0]
	pod := runPod(t, c, n, "rights", object{"hostNetwork": true})
	const dir = "/var/run/secrets/kubernetes.io/serviceaccount/"
	out, err := c.Exec("default", pod.Name, "sh", "-c",
		`cat `+dir+`token; echo; echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT; cat `+dir+`ca.crt`)
	if err != nil {
		t.Fatal(err)
	}
	token, rest, _ := strings.Cut(out, "\n")
	server, ca, _ := strings.Cut(rest, "\n")
	if err := os.WriteFile(n.Path("/etc/api-ca.crt"), []byte(ca), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/version": "200", "/api/v1/nodes": "403"} {
		code := n.MustRun("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", "/etc/api-ca.crt",
			"-H", "Authorization: Bearer "+token, "https://"+server+path)
		if code != want {
			t.Errorf("%s is answered with %s rather than %s", path, code, want)
		}
	}
}

func checkAPI(t *testing.T, c *cluster.Cluster) {
	n := c.Nodes[0]
	ask := func() (time.Duration, error) {
		start := time.Now()
		_, err := n.Run("curl", "-s", "-k", "--max-time", "3", "https://10.96.0.1/version")
		return time.Since(start), err
	}
	for name, set := range map[string]func() error{"refuses": c.API.Refuse, "hangs": c.API.Hang} {
		if err := set(); err != nil {
			t.Fatal(err)
		}
		if _, err := ask(); err == nil {
			t.Errorf("a node reaches the API server when it %s", name)
		}
		c.MustKubectl("get", "nodes")
	}
	if err := c.API.Delay(500 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if took, err := ask(); err != nil || took < time.Second {
		t.Errorf("a request is answered after %v, %v", took, err)
	}
	if err := c.API.Pass(); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(); err != nil {
		t.Error(err)
	}
	c.AwaitReady()
}

func checkDaemons(t *testing.T, c *cluster.Cluster, running *corev1.Pod) {
	n := c.Nodes[0]
	n.RestartContainerd()
	n.StopKubelet()
	n.StartKubelet()
	c.AwaitReady(n)
	runPod(t, c, n, "after", nil)
	now := c.AwaitPod("default", running.Name)
	if before, after := containerID(running), containerID(now); before != after {
		t.Errorf("the container %s has become %s", before, after)
	}
}

func containerID(p *corev1.Pod) string { return p.Status.ContainerStatuses[0].ContainerID }

func checkReboot(t *testing.T, c *cluster.Cluster, running, other *corev1.Pod) {
	n := c.Nodes[0]
	kept := []string{"/etc/cni/net.d/zz-kept", "/opt/cni/bin/kept", "/var/lib/kept"}
	lost := []string{"/run/lost", "/sys/fs/bpf/lost"}
	for _, path := range append(append([]string{}, kept...), lost...) {
		n.MustRun("mkdir", path)
	}
	n.MustRun("ip", "address", "add", "192.168.122.78/24", "dev", "eth1")
	n.Reboot()
	for _, path := range kept {
		n.MustRun("rmdir", path)
	}
	for _, path := range lost {
		if out, err := n.Run("ls", "-d", path); err == nil {
			t.Errorf("still there: %s", out)
		}
	}
	if out := n.MustRun("ip", "address", "show", "eth1"); strings.Contains(out, "192.168.122.78") {
		t.Errorf("eth1 is the one from before:\n%s", out)
	}
	c.AwaitReady(n)
	now := c.AwaitPod("default", running.Name)
	if containerID(running) == containerID(now) {
		t.Error("the pod's container has lived on")
	}
	checkReach(c, now, other)
}
