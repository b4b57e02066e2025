// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package cluster

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-cni/weir/tests/kernels/guest"
)

const (
	// vmKernel has built in what it takes to have the root on virtiofs.
	vmKernel   = "6.12"
	modulesDir = "/opt/modules"
	bootDir    = "/etc/boot"
	virtiofsd  = "/usr/lib/qemu/virtiofsd"
	// commandLimit is what a command on a VM may take at most.
	commandLimit = 2 * time.Minute
)

//go:embed boot.sh
var bootScript []byte

// vmModules are what containers, the reference plugins and weir need.
func vmModules() []guest.Module {
	return []guest.Module{
		{Name: "virtio_net"},
		{Name: "af_packet", Optional: true},
		{Name: "overlay"},
		{Name: "veth"},
		{Name: "bridge"},
		{Name: "macvlan"},
		{Name: "ipvlan"},
		{Name: "sch_ingress"},
		{Name: "cls_bpf"},
		{Name: "nf_conntrack"},
		{Name: "nf_tables"},
	}
}

// AddVM adds a node until the current test ends: a VM in QEMU with a Debian kernel, which
// has what this machine's may lack, such as ipvlan. The node is ready when it returns.
// It has eth0, eth1 and eth2 like the others and no way to the pods of other nodes. It
// cannot be rebooted, its daemons cannot be restarted, and it has no [Node.Host].
func (c *Cluster) AddVM() *Node {
	c.tb.Helper()
	began := time.Now()
	n, err := c.newVM(context.Background())
	if err != nil {
		c.tb.Fatalf("making a VM: %v", err)
	}
	c.Nodes = append(c.Nodes, n)
	c.tb.Cleanup(func() { c.removeVM(n) })
	if err := c.bootVM(context.Background(), n); err != nil {
		c.tb.Log(c.Diagnosis())
		c.tb.Fatalf("starting %s: %v", n.Name, err)
	}
	c.AwaitReady(n)
	c.tb.Logf("%s started within %v", n.Name, time.Since(began).Round(100*time.Millisecond))
	return n
}

// newVM makes the node's disk.
func (c *Cluster) newVM(ctx context.Context) (*Node, error) {
	for file, pkg := range map[string]string{"/usr/bin/" + guest.QEMU: "qemu-system-x86", virtiofsd: "qemu-system-common"} {
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("%s is missing (Debian package %s)", file, pkg)
		}
	}
	kernel, err := fetchKernel(ctx, c.tb)
	if err != nil {
		return nil, err
	}
	number := len(c.Nodes) + 1
	name := fmt.Sprintf("node%d", number)
	disk, err := os.MkdirTemp(c.dir, name+"-")
	if err != nil {
		return nil, err
	}
	n := &Node{
		Name: name, Address: nodeAddress(number),
		tb: c.tb, number: number, network: c.network, control: c.control,
		daemons: map[string]*process{}, dead: map[string]bool{}, logs: []string{"console", "containerd", "kubelet"},
		spec: c.machineSpec(name, disk),
	}
	n.spec.ReadOnly[modulesDir] = kernel.Modules
	if err := n.install(c.builds.plugins, true); err != nil {
		return nil, err
	}
	if err := installKernel(kernel, n); err != nil {
		return nil, fmt.Errorf("installing the kernel of %s: %w", name, err)
	}
	return n, nil
}

func fetchKernel(ctx context.Context, tb testing.TB) (guest.Kernel, error) {
	release, err := guest.ReleaseOf(vmKernel)
	if err != nil {
		return guest.Kernel{}, err
	}
	cache, err := guest.Cache()
	if err != nil {
		return guest.Kernel{}, fmt.Errorf("finding the cache of kernels: %w", err)
	}
	return guest.Fetch(ctx, release, cache, func(text string) { tb.Log(text) })
}

// installKernel puts on the node's disk what boots it.
func installKernel(kernel guest.Kernel, n *Node) error {
	order, err := kernel.Order(vmModules())
	if err != nil {
		return err
	}
	var list bytes.Buffer
	for _, m := range order {
		file, err := filepath.Rel(kernel.Modules, m.File)
		if err != nil {
			return err
		}
		fmt.Fprintln(&list, file, m.Options)
	}
	if err := writeFiles(n.Path(bootDir), map[string][]byte{"modules": list.Bytes(), "init": bootScript}); err != nil {
		return err
	}
	if err := os.Chmod(n.Path(bootDir+"/init"), 0o755); err != nil {
		return err
	}
	return os.Symlink(kernel.Image, n.Path(bootDir+"/kernel"))
}

// bootVM returns when the kubelet runs and the images are there.
func (c *Cluster) bootVM(ctx context.Context, n *Node) error {
	m, err := startVM(ctx, n)
	if err != nil {
		return err
	}
	n.machine = m
	boot, err := n.run(ctx, "cat", "/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	n.spec.BootID = strings.TrimSpace(boot)
	n.network.plugVM(n.number)
	if _, err := n.run(ctx, "sh", "-ec", n.network.vmScript(n.number)); err != nil {
		return err
	}
	if err := n.startContainerd(ctx); err != nil {
		return err
	}
	var both errgroup.Group
	both.Go(n.startKubelet)
	both.Go(func() error { return n.importImages(ctx, c.images) })
	return both.Wait()
}

// removeVM takes the node out of the cluster.
func (c *Cluster) removeVM(n *Node) {
	c.tb.Helper()
	c.Nodes = slices.DeleteFunc(c.Nodes, func(other *Node) bool { return other == n })
	if err := n.halt(); err != nil {
		c.tb.Errorf("halting %s: %v", n.Name, err)
	}
	ctx := context.Background()
	core := c.control.client.CoreV1()
	if err := core.Nodes().Delete(ctx, n.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		c.tb.Errorf("deleting %s: %v", n.Name, err)
	}
	// Nobody else says of its pods that they have ended.
	c.Await("the pods of "+n.Name+" to be gone", time.Minute, func(ctx context.Context) error {
		all := metav1.ListOptions{FieldSelector: "spec.nodeName=" + n.Name}
		pods, err := core.Pods("").List(ctx, all)
		if err != nil {
			return err
		}
		for i := range pods.Items {
			p := &pods.Items[i]
			err := core.Pods(p.Namespace).Delete(ctx, p.Name, *metav1.NewDeleteOptions(0))
			if err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
		if len(pods.Items) > 0 {
			return fmt.Errorf("there were %d", len(pods.Items))
		}
		return nil
	})
}

// vm is a machine in QEMU, whose disk is a folder of this machine.
type vm struct {
	spec machineSpec
	// disk serves the folder, emulator is the VM.
	disk, emulator *process

	mu      sync.Mutex
	port    net.Conn
	answers *bufio.Reader
	asked   int
}

// startVM returns when the VM takes commands.
func startVM(ctx context.Context, n *Node) (_ *vm, err error) {
	m := &vm{spec: n.spec}
	defer func() {
		if err != nil {
			m.kill()
		}
	}()
	if err := m.spec.mountAll(m.spec.shared()); err != nil {
		return nil, err
	}
	sockets, err := os.MkdirTemp("", "")
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(sockets, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	disk, port := filepath.Join(sockets, "disk"), filepath.Join(sockets, "port")
	// What the VM has read it keeps: nobody else writes there.
	m.disk, err = startProcess(log, virtiofsd, "--socket-path="+disk, "-o", "source="+m.spec.Root,
		"-o", "sandbox=chroot", "-o", "cache=always", "-f")
	if err != nil {
		return nil, err
	}
	if err := awaitSocket(ctx, disk, m.disk); err != nil {
		return nil, explain(err, log)
	}
	err = ns.WithNetNSPath(n.network.fabric.Path(), func(ns.NetNS) (err error) {
		m.emulator, err = startProcess(log, guest.QEMU, m.arguments(n, disk, port)...)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := awaitSocket(ctx, port, m.emulator); err != nil {
		return nil, explain(err, log)
	}
	if m.port, err = net.Dial("unix", port); err != nil {
		return nil, err
	}
	m.answers = bufio.NewReader(m.port)
	if _, err := m.run(ctx, "true"); err != nil {
		return nil, explain(fmt.Errorf("waiting for the VM to take commands: %w", err), log)
	}
	return m, nil
}

// explain adds to an error what the processes have said.
func explain(err error, log *os.File) error {
	return fmt.Errorf("%w: %s", err, logTail(log.Name()))
}

func awaitSocket(ctx context.Context, path string, of *process) error {
	return poll(ctx, of.name, 10*time.Second, func(context.Context) error {
		if err := of.running(); err != nil {
			return final{err}
		}
		_, err := os.Stat(path)
		return err
	})
}

// arguments are QEMU's. An oops ends the VM.
func (m *vm) arguments(n *Node, disk, port string) []string {
	const memory = "2048M"
	all := append(guest.Emulation(),
		"-machine", "q35,memory-backend=memory", "-m", memory,
		// The disk's server reads and writes in it.
		"-object", "memory-backend-memfd,id=memory,share=on,size="+memory,
		"-kernel", n.Path(bootDir+"/kernel"),
		"-append", "console=ttyS0 loglevel=5 oops=panic panic=-1 root=disk rootfstype=virtiofs rw init="+bootDir+"/init",
		"-nodefaults", "-display", "none", "-no-reboot",
		"-serial", "file:"+n.Path(logFile("console")),
		"-chardev", "socket,id=disk,path="+disk, "-device", "vhost-user-fs-pci,chardev=disk,tag=disk",
		"-chardev", "socket,id=port,server=on,wait=off,path="+port,
		"-device", "virtio-serial-pci", "-device", "virtserialport,chardev=port",
	)
	for i, ifname := range interfaces() {
		all = append(all,
			"-netdev", fmt.Sprintf("tap,id=%s,ifname=%s,script=no,downscript=no", ifname, vmPort(n.number, ifname)),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=%s,mac=%s,addr=0x1%d,romfile=", ifname, nodeMAC(n.number, i), i),
		)
	}
	return all
}

func (m *vm) run(ctx context.Context, name string, args ...string) (string, error) {
	limit := commandLimit
	if end, has := ctx.Deadline(); has {
		limit = max(time.Second, min(limit, time.Until(end)))
	}
	words := append([]string{name}, args...)
	status, stdout, stderr, err := m.ask(shellWords(words), limit)
	if err == nil && status != 0 {
		err = fmt.Errorf("exit status %d", status)
	}
	if err != nil {
		return stdout, fmt.Errorf("%s: %w: %s", strings.Join(words, " "), err, strings.TrimSpace(stderr))
	}
	return stdout, nil
}

// shellWords are words as a shell reads them.
func shellWords(words []string) string {
	var all []string
	for _, w := range words {
		all = append(all, "'"+strings.ReplaceAll(w, "'", `'\''`)+"'")
	}
	return strings.Join(all, " ")
}

// ask has the VM's shell execute a script.
func (m *vm) ask(script string, limit time.Duration) (status int, stdout, stderr string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked++
	encoded := base64.StdEncoding.EncodeToString([]byte(script))
	// The VM ends what takes too long; that it does not answer is another matter.
	if err := m.port.SetDeadline(time.Now().Add(limit + 30*time.Second)); err != nil {
		return 0, "", "", err
	}
	if _, err := fmt.Fprintln(m.port, m.asked, int(limit.Seconds()), encoded); err != nil {
		return 0, "", "", err
	}
	for {
		line, err := m.answers.ReadString('\n')
		if err != nil {
			return 0, "", "", fmt.Errorf("the VM does not answer: %w", errors.Join(err, m.emulator.running()))
		}
		number, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		// An earlier one may have been given up.
		if number == strconv.Itoa(m.asked) {
			return parseAnswer(rest)
		}
	}
}

func parseAnswer(line string) (status int, stdout, stderr string, err error) {
	fields := strings.Split(line, " ")
	if len(fields) != 3 {
		return 0, "", "", fmt.Errorf("the VM's answer is %q", line)
	}
	status, statusErr := strconv.Atoi(fields[0])
	out, outErr := base64.StdEncoding.DecodeString(fields[1])
	said, saidErr := base64.StdEncoding.DecodeString(fields[2])
	return status, string(out), string(said), errors.Join(statusErr, outErr, saidErr)
}

// start starts a daemon of the VM; the process is the VM itself, since that is what
// this machine knows to have ended.
func (m *vm) start(log, name string, args ...string) (*process, error) {
	words := append([]string{name}, args...)
	script := fmt.Sprintf("cd / && setsid %s </dev/null >>%s 2>&1 &", shellWords(words), shellWords([]string{log}))
	status, _, stderr, err := m.ask(script, commandLimit)
	if err == nil && status != 0 {
		err = fmt.Errorf("exit status %d: %s", status, stderr)
	}
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", filepath.Base(name), err)
	}
	return m.emulator, nil
}

func (m *vm) kill() {
	if m.port != nil {
		m.port.Close()
	}
	for _, p := range []*process{m.emulator, m.disk} {
		if p != nil {
			p.kill()
		}
	}
	for target := range m.spec.ReadOnly {
		_ = unix.Unmount(filepath.Join(m.spec.Root, target), unix.MNT_DETACH)
	}
}
