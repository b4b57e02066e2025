// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// control is the control plane: processes in a network namespace of their own.
type control struct {
	dir, programs, netns string
	authority            *authority
	processes            []*process
	// api is what nodes reach; direct is for the tests alone.
	api, direct *API
	client      kubernetes.Interface
}

// Users of the API server that are not nodes.
const (
	adminUser      = "admin"
	controllerUser = "system:kube-controller-manager"
	schedulerUser  = "system:kube-scheduler"
	mastersGroup   = "system:masters"
)

func (c *control) path(name string) string { return filepath.Join(c.dir, name) }

// kubeconfigFile is the configuration of those who speak as the administrator.
func (c *control) kubeconfigFile() string { return c.path(adminUser + ".kubeconfig") }

// start returns when the API server is ready.
func (c *control) start(ctx context.Context) error {
	if err := os.MkdirAll(c.path("etcd"), 0o755); err != nil {
		return err
	}
	// On a disk, etcd would wait for it at every write.
	if err := unix.Mount("tmpfs", c.path("etcd"), "tmpfs", 0, "mode=700"); err != nil {
		return fmt.Errorf("mounting a file system for etcd: %w", err)
	}
	if err := c.openWays(); err != nil {
		return err
	}
	if err := c.writeIdentities(); err != nil {
		return err
	}
	const client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
	if err := c.run("/usr/bin/etcd", "--data-dir="+c.path("etcd/data"), "--logger=zap",
		"--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer,
	); err != nil {
		return err
	}
	if err := c.runServer(client); err != nil {
		return err
	}
	if err := c.awaitServer(ctx); err != nil {
		return err
	}
	return c.runControllers()
}

// openWays makes the two ways to the API server.
func (c *control) openWays() error {
	dial := func() (conn net.Conn, err error) {
		err = ns.WithNetNSPath(c.netns, func(ns.NetNS) error {
			conn, err = net.DialTimeout("tcp", net.JoinHostPort(controlAddress, apiPort), 5*time.Second)
			return err
		})
		return conn, err
	}
	var err error
	c.api, err = newAPI(func() (l net.Listener, err error) {
		err = ns.WithNetNSPath(c.netns, func(ns.NetNS) error {
			l, err = net.Listen("tcp", net.JoinHostPort(serviceAddress, servicePort))
			return err
		})
		return l, err
	}, dial)
	if err != nil {
		return err
	}
	c.direct, err = newAPI(func() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }, dial)
	return err
}

// directURL is where the tests find the API server.
func (c *control) directURL() string { return "https://" + c.direct.listener.Addr().String() }

// writeIdentities makes the keys, certificates and configurations of the control
// plane and of the tests.
func (c *control) writeIdentities() error {
	serving, err := c.authority.issue("kube-apiserver", nil, []string{controlAddress, serviceAddress, "127.0.0.1"},
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
	if err != nil {
		return err
	}
	toKubelets, err := c.authority.issue("kube-apiserver-kubelet-client", []string{mastersGroup}, nil)
	if err != nil {
		return err
	}
	accounts, err := c.authority.issue("service-accounts", nil, nil)
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"ca.crt": c.authority.certificate, "audit-policy": []byte(auditPolicy),
		"server.crt": serving.certificate, "server.key": serving.key,
		"kubelet-client.crt": toKubelets.certificate, "kubelet-client.key": toKubelets.key,
		"accounts.crt": accounts.certificate, "accounts.key": accounts.key,
	}
	server := "https://" + net.JoinHostPort(controlAddress, apiPort)
	for _, user := range []string{controllerUser, schedulerUser} {
		if files[user+".kubeconfig"], err = c.newKubeconfig(server, user); err != nil {
			return err
		}
	}
	if files[adminUser+".kubeconfig"], err = c.newKubeconfig(c.directURL(), adminUser, mastersGroup); err != nil {
		return err
	}
	return writeFiles(c.dir, files)
}

// newKubeconfig is a configuration with an identity of its own.
func (c *control) newKubeconfig(server, user string, groups ...string) ([]byte, error) {
	who, err := c.authority.issue(user, groups, nil)
	if err != nil {
		return nil, err
	}
	if user == adminUser {
		if err := c.connect(server, who); err != nil {
			return nil, err
		}
	}
	return c.authority.kubeconfig(server, who)
}

// connect makes the tests' own client.
func (c *control) connect(server string, who identity) error {
	client, err := kubernetes.NewForConfig(&rest.Config{
		Host: server, QPS: -1, Timeout: time.Minute,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.authority.certificate, CertData: who.certificate, KeyData: who.key},
	})
	c.client = client
	return err
}

func writeFiles(dir string, files map[string][]byte) error {
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// auditPolicy has the API server write down what service accounts ask of it.
const auditPolicy = `{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [
	{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}]}`

func (c *control) auditLog() string { return c.path("audit.log") }

func (c *control) runServer(etcd string) error {
	return c.run(filepath.Join(c.programs, "kube-apiserver"), "--etcd-servers="+etcd,
		"--advertise-address="+controlAddress, "--secure-port="+apiPort,
		"--tls-cert-file="+c.path("server.crt"), "--tls-private-key-file="+c.path("server.key"),
		"--client-ca-file="+c.path("ca.crt"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged",
		"--service-cluster-ip-range="+serviceRange,
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+c.path("accounts.crt"), "--service-account-signing-key-file="+c.path("accounts.key"),
		"--kubelet-client-certificate="+c.path("kubelet-client.crt"), "--kubelet-client-key="+c.path("kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--audit-policy-file="+c.path("audit-policy"), "--audit-log-path="+c.auditLog())
}

func (c *control) runControllers() error {
	return errors.Join(
		c.run(filepath.Join(c.programs, "kube-controller-manager"),
			"--kubeconfig="+c.path(controllerUser+".kubeconfig"), "--leader-elect=false",
			"--use-service-account-credentials", "--root-ca-file="+c.path("ca.crt"),
			"--service-account-private-key-file="+c.path("accounts.key"),
			// Its dozens of controllers share them, and start one by one otherwise.
			"--kube-api-qps=1000", "--kube-api-burst=1000"),
		c.run(filepath.Join(c.programs, "kube-scheduler"),
			"--kubeconfig="+c.path(schedulerUser+".kubeconfig"), "--leader-elect=false"))
}

// run starts a process of the control plane.
func (c *control) run(path string, args ...string) error {
	log, err := os.Create(c.path(filepath.Base(path) + ".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	return ns.WithNetNSPath(c.netns, func(ns.NetNS) error {
		p, err := startProcess(log, path, args...)
		if err == nil {
			c.processes = append(c.processes, p)
		}
		return err
	})
}

func (c *control) awaitServer(ctx context.Context) error {
	return poll(ctx, "the API server", time.Minute, func(ctx context.Context) error {
		for _, p := range c.processes {
			if err := p.running(); err != nil {
				return final{err}
			}
		}
		_, err := c.client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err
	})
}

// stop ends the control plane at once: nothing of it is kept.
func (c *control) stop() error {
	for _, p := range slices.Backward(c.processes) {
		p.kill()
	}
	for _, a := range []*API{c.api, c.direct} {
		if a != nil {
			a.close()
		}
	}
	err := unix.Unmount(c.path("etcd"), unix.MNT_DETACH)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
