// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-cni/weir/tests/lan"
)

// Where a node has its things.
const (
	programsDir      = "/opt/kubernetes"
	imagesDir        = "/opt/images"
	pluginsDir       = "/opt/cni/bin"
	networksDir      = "/etc/cni/net.d"
	containerdSocket = "/run/containerd/containerd.sock"
	defaultNetwork   = networksDir + "/10-default.conflist"
)

// StaticPods is the folder of a node's static pods.
const StaticPods = "/etc/kubernetes/manifests"

// Node is a machine of the cluster.
type Node struct {
	// Name is its name in the cluster, and its host name.
	Name string
	// Address is that of its eth0.
	Address string

	tb      testing.TB
	number  int
	of      int
	boots   int
	spec    machineSpec
	logs    []string
	cgroup  string // empty where the machine has its own
	network *network
	host    *lan.Host
	machine machine
	daemons map[string]*process
	control *control
	// reported is when the kubelet has to have reported at the earliest.
	reported time.Time
	// dead are the IDs of containers that a reboot has ended.
	dead map[string]bool
}

// Host is the node's network namespace; another one after a reboot.
func (n *Node) Host() *lan.Host { return n.host }

// Path is where a file of the node's disk is on this machine. What is mounted
// there on the node, such as /run, is not in it.
func (n *Node) Path(path string) string { return filepath.Join(n.spec.Root, path) }

// Run runs a command on the node and returns its standard output; what it wrote
// to the other one is in the error.
func (n *Node) Run(name string, args ...string) (string, error) {
	return n.run(context.Background(), name, args...)
}

func (n *Node) run(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	out, err := n.machine.run(ctx, name, args...)
	if err != nil {
		return out, fmt.Errorf("on %s: %w", n.Name, err)
	}
	return out, nil
}

// MustRun is Run for what has to succeed.
func (n *Node) MustRun(name string, args ...string) string {
	n.tb.Helper()
	out, err := n.Run(name, args...)
	if err != nil {
		n.tb.Fatal(err)
	}
	return out
}

// Reboot ends everything on the node at once, as a loss of power does, and boots
// it again: what was on its disk is still there, its interfaces, /run and
// /sys/fs/bpf are new. It returns when the kubelet runs, which is before the node
// is ready.
func (n *Node) Reboot() {
	n.tb.Helper()
	if err := n.noteContainers(context.Background()); err != nil {
		n.tb.Fatal(err)
	}
	if err := n.halt(); err != nil {
		n.tb.Fatal(err)
	}
	n.host.Remove()
	n.connect()
	n.reported = time.Time{}
	if err := n.boot(context.Background()); err != nil {
		n.tb.Fatal(err)
	}
	if err := n.startKubelet(); err != nil {
		n.tb.Fatal(err)
	}
}

// StopKubelet ends the kubelet. Pods go on.
func (n *Node) StopKubelet() {
	n.tb.Helper()
	if err := n.daemons["kubelet"].stop(); err != nil {
		n.tb.Fatal(err)
	}
}

// StartKubelet starts the kubelet again.
func (n *Node) StartKubelet() {
	n.tb.Helper()
	// The cluster knows whole seconds.
	n.reported = time.Now().Truncate(time.Second).Add(time.Second)
	if err := n.startKubelet(); err != nil {
		n.tb.Fatal(err)
	}
}

// RestartContainerd ends containerd, starts it again and returns when it answers.
// Pods go on.
func (n *Node) RestartContainerd() {
	n.tb.Helper()
	if err := n.daemons["containerd"].stop(); err != nil {
		n.tb.Fatal(err)
	}
	if err := n.startContainerd(context.Background()); err != nil {
		n.tb.Fatal(err)
	}
}

// connect gives the node its network namespace.
func (n *Node) connect() {
	n.tb.Helper()
	n.boots++
	lastingly(n.tb, func() { n.host = n.network.newNode(n.number, n.of, n.boots) })
}

// halt ends all that runs on the node.
func (n *Node) halt() error {
	if n.machine == nil {
		return nil
	}
	n.machine.kill()
	n.machine = nil
	for _, d := range n.daemons {
		<-d.done
	}
	if n.cgroup == "" {
		return nil
	}
	return removeCgroups(n.cgroup)
}

// noteContainers remembers what runs, as the cluster has it: until the kubelet
// reports again, the cluster will have it so.
func (n *Node) noteContainers(ctx context.Context) error {
	pods, err := n.control.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + n.Name})
	if err != nil {
		return err
	}
	for i := range pods.Items {
		for _, s := range pods.Items[i].Status.ContainerStatuses {
			n.dead[s.ContainerID] = true
		}
	}
	return nil
}

// newBootID is a random UUID, as the kernel's is.
func newBootID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // Never fails.
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// boot starts the machine and containerd.
func (n *Node) boot(ctx context.Context) error {
	if err := makeCgroup(n.cgroup); err != nil {
		return err
	}
	n.spec.BootID = newBootID()
	m, err := startNamespaces(n.spec, n.host.Path())
	if err != nil {
		return err
	}
	n.machine = m
	return n.startContainerd(ctx)
}

// install puts on the node's disk what an administrator would: its identity, the
// configurations and the reference plugins.
func (n *Node) install(plugins string, withNetwork bool) error {
	if err := n.spec.makeDisk(); err != nil {
		return fmt.Errorf("making the disk of %s: %w", n.Name, err)
	}
	kubeconfig, err := n.control.newKubeconfig("https://"+serviceAddress+":"+servicePort,
		"system:node:"+n.Name, "system:nodes")
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"/etc/kubernetes/ca.crt":     n.control.authority.certificate,
		"/etc/kubernetes/kubeconfig": kubeconfig,
		"/etc/kubernetes/kubelet":    n.kubeletConfig(),
		"/etc/containerd/config":     []byte(containerdConfig),
	}
	if withNetwork {
		files[defaultNetwork] = n.bridgeNetwork()
	}
	if err := writeFiles(n.spec.Root, files); err != nil {
		return fmt.Errorf("writing the configurations of %s: %w", n.Name, err)
	}
	for _, dir := range []string{pluginsDir, networksDir} {
		if err := os.MkdirAll(n.Path(dir), 0o755); err != nil {
			return err
		}
	}
	return os.CopyFS(n.Path(pluginsDir), os.DirFS(plugins))
}

// containerdConfig differs from the default in the oom score only: lowering it
// takes a right that root lacks on some machines.
const containerdConfig = `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
address = "` + containerdSocket + `"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "` + pauseImage + `"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "` + pluginsDir + `"
conf_dir = "` + networksDir + `"
`

func (n *Node) kubeletConfig() []byte {
	return encode(object{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"authentication": object{
			"anonymous": object{"enabled": false},
			"webhook":   object{"enabled": true},
			"x509":      object{"clientCAFile": "/etc/kubernetes/ca.crt"},
		},
		"authorization":            object{"mode": "Webhook"},
		"cgroupDriver":             "cgroupfs",
		"cgroupRoot":               "/" + n.cgroup,
		"containerRuntimeEndpoint": "unix://" + containerdSocket,
		// The machine's memory and disk are not the node's to judge.
		"enforceNodeAllocatable": []string{},
		"evictionHard": object{
			"memory.available": "1Mi", "nodefs.available": "1Mi", "imagefs.available": "1Mi", "nodefs.inodesFree": "1",
		},
		"imageGCHighThresholdPercent": 100,
		"failSwapOn":                  false,
		"oomScoreAdj":                 0,
		"makeIPTablesUtilChains":      false,
		"resolvConf":                  "",
		"staticPodPath":               StaticPods,
		"fileCheckFrequency":          "1s",
		"volumePluginDir":             "/var/lib/kubelet/plugins/volume",
		// Tests wait for what these delay.
		"nodeStatusUpdateFrequency": "2s",
		"syncFrequency":             "10s",
	})
}

// bridgeNetwork is a default network of reference plugins alone.
func (n *Node) bridgeNetwork() []byte {
	return encode(object{
		"cniVersion": "1.0.0", "name": "default",
		"plugins": []object{{
			"type": "bridge", "bridge": "cni0", "isDefaultGateway": true,
			"ipam": object{"type": "host-local", "ranges": [][]object{{{"subnet": podSubnet(n.number)}}}},
		}},
	})
}

// encode is for what has an encoding.
func encode(o object) []byte {
	data, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	return data
}

// start starts a daemon on the node.
func (n *Node) start(name string, args ...string) error {
	daemon := filepath.Base(name)
	p, err := n.machine.start(logFile(daemon), name, args...)
	if err != nil {
		return fmt.Errorf("on %s: %w", n.Name, err)
	}
	n.daemons[daemon] = p
	return nil
}

// logFile is where a daemon's log is on a node's disk.
func logFile(daemon string) string { return "/var/log/" + daemon + ".log" }

func (n *Node) startContainerd(ctx context.Context) error {
	if err := n.start("/usr/bin/containerd", "--config=/etc/containerd/config"); err != nil {
		return err
	}
	return poll(ctx, "containerd on "+n.Name, time.Minute, func(ctx context.Context) error {
		if err := n.daemons["containerd"].running(); err != nil {
			return final{err}
		}
		_, err := n.run(ctx, "ctr", "version")
		return err
	})
}

func (n *Node) startKubelet() error {
	return n.start(programsDir+"/kubelet", "--config=/etc/kubernetes/kubelet", "--kubeconfig=/etc/kubernetes/kubeconfig",
		"--hostname-override="+n.Name, "--node-ip="+n.Address, "--v=2")
}

// importImages loads the archives of the images' folder into containerd.
func (n *Node) importImages(ctx context.Context, archives []string) error {
	for _, a := range archives {
		if _, err := n.run(ctx, "ctr", "-n", "k8s.io", "images", "import", filepath.Join(imagesDir, filepath.Base(a))); err != nil {
			return fmt.Errorf("importing an image: %w", err)
		}
	}
	return nil
}

// logTail is the end of a log.
func logTail(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error() + "\n"
	}
	return string(tail(data))
}

// tail is the last lines of a text.
func tail(data []byte) []byte {
	const most = 6 << 10
	if len(data) <= most {
		return data
	}
	data = data[len(data)-most:]
	if _, rest, found := bytes.Cut(data, []byte("\n")); found {
		return rest
	}
	return data
}
