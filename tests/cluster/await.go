// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// final is an error that waiting does not cure.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// poll calls check until it has no error; what was waited for is in the error.
func poll(ctx context.Context, what string, limit time.Duration, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if errors.As(err, new(final)) {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: not within %v: %w", what, limit, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Await calls check until it has no error. When that takes longer than limit, the
// test fails, with what the cluster and the nodes' logs say.
func (c *Cluster) Await(what string, limit time.Duration, check func(context.Context) error) {
	c.tb.Helper()
	if err := poll(context.Background(), what, limit, check); err != nil {
		c.tb.Log(c.Diagnosis())
		c.tb.Fatal(err)
	}
}

// AwaitReady waits until the nodes are ready, or all of them when none is named.
func (c *Cluster) AwaitReady(nodes ...*Node) {
	c.tb.Helper()
	if len(nodes) == 0 {
		nodes = c.Nodes
	}
	for _, n := range nodes {
		c.Await(n.Name+" to be ready", 2*time.Minute, func(ctx context.Context) error { return c.nodeReady(ctx, n) })
	}
}

func (c *Cluster) nodeReady(ctx context.Context, n *Node) error {
	if err := n.daemons["kubelet"].running(); err != nil {
		return final{err}
	}
	found, err := c.control.client.CoreV1().Nodes().Get(ctx, n.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if found.Status.NodeInfo.BootID != n.spec.BootID {
		return errors.New("its kubelet has not reported since it was booted")
	}
	for _, condition := range found.Status.Conditions {
		if condition.Type != corev1.NodeReady {
			continue
		}
		if condition.Status != corev1.ConditionTrue {
			return errors.New(condition.Message)
		}
		if condition.LastHeartbeatTime.Time.Before(n.reported) {
			return errors.New("its kubelet has not reported since it was started")
		}
		return tainted(found)
	}
	return errors.New("it says nothing of being ready")
}

// tainted is an error when the scheduler would put no pod on the node yet.
func tainted(n *corev1.Node) error {
	for _, t := range n.Spec.Taints {
		return fmt.Errorf("tainted %s", t.Key)
	}
	return nil
}

// AwaitPod waits until a pod is ready and returns it.
func (c *Cluster) AwaitPod(namespace, name string) *corev1.Pod {
	c.tb.Helper()
	var pod *corev1.Pod
	c.Await("pod "+namespace+"/"+name+" to be ready", 2*time.Minute, func(ctx context.Context) (err error) {
		if pod, err = c.control.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		return c.podReady(pod)
	})
	return pod
}

// AwaitPods waits until so many pods with a label are there and all are ready.
func (c *Cluster) AwaitPods(namespace, selector string, count int) []corev1.Pod {
	c.tb.Helper()
	var pods *corev1.PodList
	what := fmt.Sprintf("%d pods %s in %s to be ready", count, selector, namespace)
	c.Await(what, 2*time.Minute, func(ctx context.Context) (err error) {
		pods, err = c.control.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return err
		}
		if len(pods.Items) != count {
			return fmt.Errorf("there are %d", len(pods.Items))
		}
		for i := range pods.Items {
			if err := c.podReady(&pods.Items[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return pods.Items
}

// podReady is an error when the pod is not ready, or only was so before its node was
// rebooted.
func (c *Cluster) podReady(p *corev1.Pod) error {
	if p.DeletionTimestamp != nil {
		return fmt.Errorf("%s is being deleted", p.Name)
	}
	for _, n := range c.Nodes {
		if n.Name != p.Spec.NodeName {
			continue
		}
		for _, s := range p.Status.ContainerStatuses {
			if n.dead[s.ContainerID] {
				return fmt.Errorf("%s is ready as it was before the reboot", p.Name)
			}
		}
	}
	for _, condition := range p.Status.Conditions {
		if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("%s is %s", p.Name, p.Status.Phase)
}

// AwaitEnd waits until the containers of a pod that is not restarted have ended.
func (c *Cluster) AwaitEnd(namespace, name string) *corev1.Pod {
	c.tb.Helper()
	var pod *corev1.Pod
	c.Await("pod "+namespace+"/"+name+" to end", 2*time.Minute, func(ctx context.Context) (err error) {
		pod, err = c.control.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if phase := pod.Status.Phase; phase != corev1.PodSucceeded && phase != corev1.PodFailed {
			return fmt.Errorf("it is %s", phase)
		}
		return nil
	})
	return pod
}

// AwaitNoPod waits until a pod is gone from the cluster: its containers and its
// sandbox are, then.
func (c *Cluster) AwaitNoPod(namespace, name string) {
	c.tb.Helper()
	c.Await("pod "+namespace+"/"+name+" to be gone", 2*time.Minute, func(ctx context.Context) error {
		_, err := c.control.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			return errors.New("it is still there")
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}

// Diagnosis is what the cluster says of itself, for a test that has failed.
func (c *Cluster) Diagnosis() string {
	var all strings.Builder
	for _, args := range [][]string{
		{"get", "nodes,pods", "-A", "-o", "wide"},
		{"get", "events", "-A", "--sort-by=.lastTimestamp"},
		{"describe", "pods", "-A"},
		{"describe", "nodes"},
	} {
		out, err := c.Kubectl(args...)
		fmt.Fprintf(&all, "--- kubectl %s\n%s", strings.Join(args, " "), out)
		if err != nil {
			fmt.Fprintln(&all, err)
		}
	}
	for _, n := range c.Nodes {
		for _, log := range n.logs {
			fmt.Fprintf(&all, "--- %s on %s\n%s", log, n.Name, logTail(n.Path(logFile(log))))
		}
	}
	for _, p := range c.control.processes {
		fmt.Fprintf(&all, "--- %s\n%s", p.name, logTail(c.control.path(p.name+".log")))
	}
	return all.String()
}
