// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"

	"github.com/weir-cni/weir/tests/lan"
)

// Options say what cluster there shall be.
type Options struct {
	// Nodes is how many there are; none means two.
	Nodes int
	// WeirImage is the name under which the nodes have weir's image, built from the
	// Dockerfile; none means no such image.
	WeirImage string
	// NoNetwork leaves the nodes without a CNI configuration, so that they are not
	// ready before one is installed.
	NoNetwork bool
}

// Cluster is a running cluster. Its methods that fail, fail the test.
type Cluster struct {
	// Nodes are the machines, node1 first.
	Nodes []*Node
	// API is the way from the nodes to the API server.
	API *API
	// Outside is a host on the LANs of eth1 and eth2, by the same names.
	Outside *lan.Host
	// Kubeconfig is the file of an administrator who goes to the API server directly.
	Kubeconfig string

	tb      testing.TB
	dir     string
	builds  builds
	network *network
	control *control
	// images are the archives.
	images []string
}

// Start starts a cluster that is gone when the test ends. Its nodes are
// registered and, unless they are without a network, ready.
func Start(tb testing.TB, o Options) *Cluster {
	tb.Helper()
	run := os.Getenv(runVariable)
	if run == "" {
		tb.Fatal("TestMain has to call (*cluster.Suite).Main")
	}
	if err := checkTools(); err != nil {
		tb.Fatal(err)
	}
	began := time.Now()
	c := &Cluster{tb: tb, dir: tb.TempDir()}
	if o.Nodes == 0 {
		o.Nodes = 2
	}
	ctx := context.Background()
	var err error
	if c.builds, err = build(ctx, c.dir); err != nil {
		tb.Fatal(err)
	}
	if err := os.Mkdir(c.imagesDir(), 0o755); err != nil {
		tb.Fatal(err)
	}
	c.network = newNetwork(tb, o.Nodes)
	c.Outside = c.network.outside
	c.control = &control{dir: filepath.Join(c.dir, "control"), programs: c.builds.kubernetes, netns: c.network.control.Path()}
	for number := 1; number <= o.Nodes; number++ {
		c.Nodes = append(c.Nodes, c.newNode(run, number, o.Nodes))
	}
	tb.Cleanup(c.stop)
	if err := c.start(ctx, o); err != nil {
		c.tb.Log(c.Diagnosis())
		tb.Fatal(err)
	}
	c.API, c.Kubeconfig = c.control.api, c.control.kubeconfigFile()
	if !o.NoNetwork {
		c.AwaitReady()
	}
	tb.Logf("the cluster started within %v", time.Since(began).Round(100*time.Millisecond))
	return c
}

func (c *Cluster) newNode(run string, number, of int) *Node {
	c.tb.Helper()
	name := fmt.Sprintf("node%d", number)
	n := &Node{
		Name: name, Address: nodeAddress(number),
		tb: c.tb, number: number, of: of, network: c.network, control: c.control,
		cgroup: filepath.Join(run, filepath.Base(c.dir), name), daemons: map[string]*process{}, dead: map[string]bool{},
		logs: []string{"containerd", "kubelet"}, spec: c.machineSpec(name, filepath.Join(c.dir, name)),
	}
	n.connect()
	return n
}

// machineSpec is what a machine is made of that has this disk.
func (c *Cluster) machineSpec(name, disk string) machineSpec {
	return machineSpec{
		Name: name, Root: disk,
		ReadOnly: map[string]string{"/usr": "/usr", programsDir: c.builds.kubernetes, imagesDir: c.imagesDir()},
	}
}

// start starts the control plane, makes the images and boots the nodes, all at
// the same time, and then the kubelets.
func (c *Cluster) start(ctx context.Context, o Options) error {
	var err error
	if c.control.authority, err = newAuthority(); err != nil {
		return err
	}
	first, within := errgroup.WithContext(ctx)
	first.Go(func() error { return c.control.start(within) })
	first.Go(func() (err error) {
		c.images, err = c.makeImages(within, o.WeirImage)
		return err
	})
	for _, n := range c.Nodes {
		first.Go(func() error {
			if err := n.install(c.builds.plugins, !o.NoNetwork); err != nil {
				return err
			}
			return n.boot(within)
		})
	}
	if err := first.Wait(); err != nil {
		return err
	}
	var then errgroup.Group
	for _, n := range c.Nodes {
		then.Go(n.startKubelet)
		then.Go(func() error { return n.importImages(ctx, c.images) })
	}
	return then.Wait()
}

// makeImages returns the archives.
func (c *Cluster) makeImages(ctx context.Context, weir string) ([]string, error) {
	dir := c.imagesDir()
	pause, alpine := filepath.Join(dir, "pause.tar"), filepath.Join(dir, "alpine.tar")
	if err := writeBusyboxImage(pause, pauseImage, "/bin/sleep", "infinity"); err != nil {
		return nil, fmt.Errorf("making the image of pause: %w", err)
	}
	if err := writeBusyboxImage(alpine, AlpineImage, "/bin/sh"); err != nil {
		return nil, fmt.Errorf("making the image of busybox: %w", err)
	}
	if weir == "" {
		return []string{pause, alpine}, nil
	}
	ours := filepath.Join(dir, "weir.tar")
	return []string{pause, alpine, ours}, c.makeWeirImage(ctx, ours, weir)
}

// imagesDir is the folder of the archives, which the nodes see.
func (c *Cluster) imagesDir() string { return filepath.Join(c.dir, "images") }

// stop ends the cluster.
func (c *Cluster) stop() {
	c.tb.Helper()
	for _, n := range c.Nodes {
		if err := n.halt(); err != nil {
			c.tb.Errorf("halting %s: %v", n.Name, err)
		}
	}
	if err := c.control.stop(); err != nil {
		c.tb.Errorf("stopping the control plane: %v", err)
	}
	if err := removeCgroups(filepath.Dir(c.Nodes[0].cgroup)); err != nil {
		c.tb.Errorf("%v", err)
	}
}

// Client speaks to the API server directly, as an administrator.
func (c *Cluster) Client() kubernetes.Interface { return c.control.client }

// AuditLog is the file in which the API server writes what service accounts ask of it,
// an audit.k8s.io/v1 Event a line.
func (c *Cluster) AuditLog() string { return c.control.auditLog() }

// Kubectl runs kubectl as an administrator and returns its standard output; what
// it wrote to the other one is in the error.
func (c *Cluster) Kubectl(args ...string) (string, error) { return capture(c.kubectl(args...)) }

func (c *Cluster) kubectl(args ...string) *exec.Cmd {
	args = append([]string{"--kubeconfig=" + c.control.kubeconfigFile(), "--request-timeout=1m"}, args...)
	cmd := exec.Command(filepath.Join(c.builds.kubernetes, "kubectl"), args...)
	// Nothing is kept of what the server offers: another cluster differs.
	cmd.Env = append(os.Environ(), "HOME="+c.dir, "KUBECTL_KUBERC=false")
	return cmd
}

// MustKubectl is Kubectl for what has to succeed.
func (c *Cluster) MustKubectl(args ...string) string {
	c.tb.Helper()
	out, err := c.Kubectl(args...)
	if err != nil {
		c.tb.Fatal(err)
	}
	return out
}

// Apply applies manifests.
func (c *Cluster) Apply(yaml string) {
	c.tb.Helper()
	cmd := c.kubectl("apply", "-f", "-")
	cmd.Stdin = strings.NewReader(yaml)
	if _, err := capture(cmd); err != nil {
		c.tb.Fatal(err)
	}
}

// Exec runs a command in the first container of a pod and returns its standard
// output.
func (c *Cluster) Exec(namespace, pod string, command ...string) (string, error) {
	return c.Kubectl(append([]string{"exec", "-n", namespace, pod, "--"}, command...)...)
}
