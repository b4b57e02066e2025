// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	nadfake "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/client/clientset/versioned/fake"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/cni"
)

// The API server of these tests is client-go's fake, which can be made to fail as
// needed. The real one is asked in tests/e2e.
type cluster struct {
	*Store
	core    *fake.Clientset
	nads    *nadfake.Clientset
	objects *dynamicfake.FakeDynamicClient
	all     *metadatafake.FakeMetadataClient
}

func newCluster(t *testing.T, objects ...runtime.Object) *cluster {
	t.Helper()
	c := &cluster{core: fake.NewClientset(objects...), nads: nadfake.NewSimpleClientset()}
	var err error
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c.all = metadatafake.NewSimpleMetadataClient(scheme)
	c.objects = dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
		map[schema.GroupVersionResource]string{ipamClaims(): "IPAMClaimList"})
	c.Store, err = newStore(c.core, c.nads, claimsOf(c.objects, c.all), membersOf(c.all), Options{Node: "node1", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// run has the watches run for the length of a test.
func (c *cluster) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, c.Close()); err != nil {
			t.Error(err)
		}
	})
	await(t, "the watches", c.Synced)
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting for %s", what)
		}
	}
}

// reads counts what was asked of the API server for one object.
func (c *cluster) reads() int {
	n := 0
	for _, action := range append(c.core.Actions(), c.nads.Actions()...) {
		if action.GetVerb() == "get" {
			n++
		}
	}
	return n
}

func podNamed(name, uid string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "pods", Name: name, UID: types.UID(uid), ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "x"}}},
		Spec:       corev1.PodSpec{NodeName: "node1", Containers: []corev1.Container{{Name: "c", Image: "i", Command: []string{"sh"}}}},
	}
}

func TestPod(t *testing.T) {
	t.Parallel()
	static := podNamed("static", "mirror")
	static.Annotations = map[string]string{"kubernetes.io/config.hash": "hash"}
	tests := []struct {
		name, pod, uid string
		live           *corev1.Pod // made behind the watch's back
		want           string      // UID
		reads          int
	}{
		{"known", "web", "1", nil, "1", 0},
		{"known, by name alone", "web", "", nil, "1", 0},
		{"known by its file's UID", "static", "hash", nil, "mirror", 0},
		{"created an instant ago", "new", "2", podNamed("new", "2"), "2", 1},
		{"created anew an instant ago", "web", "3", podNamed("web", "3"), "3", 1},
		{"of no cluster", "nobody", "", nil, "", 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, podNamed("web", "1"), static)
			c.run(t)
			if test.live != nil {
				c.core.PrependReactor("get", "pods", func(k8stesting.Action) (bool, runtime.Object, error) { return true, test.live, nil })
			}
			got, err := c.Pod(t.Context(), attachment.Pod{Namespace: "pods", Name: test.pod, UID: test.uid})
			if test.want == "" {
				if !errors.Is(err, cni.ErrNotFound) {
					t.Errorf("error %v", err)
				}
			} else if err != nil || string(got.UID) != test.want {
				t.Errorf("%v, %v", got, err)
			}
			if c.reads() != test.reads {
				t.Errorf("%d reads, want %d", c.reads(), test.reads)
			}
		})
	}
}

func TestNetwork(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.run(t)
	create := func(name string) {
		object := &nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: "pods", Name: name}}
		if _, err := c.nads.K8sCniCncfIoV1().NetworkAttachmentDefinitions("pods").Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	create("lan")
	await(t, "the watch to know the network", func() bool {
		_, found, _ := c.networkCache.GetStore().GetByKey("pods/lan")
		return found
	})
	if _, err := c.Network(t.Context(), "pods", "lan"); err != nil || c.reads() != 0 {
		t.Errorf("%v, %d reads", err, c.reads())
	}
	if _, err := c.Network(t.Context(), "pods", "none"); !errors.Is(err, cni.ErrNotFound) || c.reads() != 1 {
		t.Errorf("%v, %d reads", err, c.reads())
	}
	c.nads.PrependReactor("get", "*", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewServiceUnavailable("away")
	})
	if _, err := c.Network(t.Context(), "pods", "other"); !errors.Is(err, cni.ErrAway) || errors.Is(err, cni.ErrNotFound) || !strings.Contains(err.Error(), "Kubernetes API") {
		t.Errorf("an API server that is away: %v", err)
	}
}

func TestCachedPodsAreTrimmed(t *testing.T) {
	t.Parallel()
	c := newCluster(t, podNamed("web", "1"))
	c.run(t)
	pod := c.Pods()[0]
	if len(pod.ManagedFields) > 0 || len(pod.Spec.Containers[0].Command) > 0 || pod.Spec.Containers[0].Image != "i" {
		t.Errorf("%+v", pod)
	}
}

func TestOnPod(t *testing.T) {
	t.Parallel()
	c := newCluster(t, podNamed("web", "1"))
	told := make(chan attachment.Pod, 10)
	if err := c.OnPod(func(pod attachment.Pod) { told <- pod }); err != nil {
		t.Fatal(err)
	}
	c.run(t)
	want := attachment.Pod{Namespace: "pods", Name: "web", UID: "1"}
	if got := <-told; got != want {
		t.Errorf("added: %v", got)
	}
	if err := c.core.CoreV1().Pods("pods").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := <-told; got != want {
		t.Errorf("deleted: %v", got)
	}
}

// patched is the one patch that the API server got.
func (c *cluster) patches() []k8stesting.PatchAction {
	var all []k8stesting.PatchAction
	for _, action := range c.core.Actions() {
		if patch, ok := action.(k8stesting.PatchAction); ok {
			all = append(all, patch)
		}
	}
	return all
}

func TestSetNetworkStatus(t *testing.T) {
	t.Parallel()
	conflict := apierrors.NewConflict(schema.GroupResource{Resource: "pods"}, "web", errors.New("UID in precondition"))
	notFound := apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, "web")
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "web", errors.New("no"))
	tests := []struct {
		name     string
		answers  []error // of the first attempts
		attempts int
		fails    bool
		notFound bool
	}{
		{"at once", nil, 1, false, false},
		{"after two failures", []error{apierrors.NewServiceUnavailable("away"), apierrors.NewInternalError(errors.New("x"))}, 3, false, false},
		{"of a pod that was made anew", []error{conflict}, 1, true, true},
		{"of a pod that is gone", []error{notFound}, 1, true, true},
		{"without the right", []error{forbidden}, 1, true, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, podNamed("web", "1"))
			var attempt atomic.Int32
			c.core.PrependReactor("patch", "pods", func(k8stesting.Action) (bool, runtime.Object, error) {
				if n := int(attempt.Add(1)); n <= len(test.answers) {
					return true, nil, test.answers[n-1]
				}
				return true, podNamed("web", "1"), nil
			})
			err := c.SetNetworkStatus(t.Context(), attachment.Pod{Namespace: "pods", Name: "web", UID: "1"},
				[]cni.NetworkStatus{{Name: "a", Interface: "eth0", Default: true}, {Name: "pods/lan", Interface: "net1"}})
			if (err != nil) != test.fails || errors.Is(err, cni.ErrNotFound) != test.notFound {
				t.Errorf("error %v", err)
			}
			patches := c.patches()
			if len(patches) != test.attempts {
				t.Fatalf("%d patches, want %d", len(patches), test.attempts)
			}
			if patches[0].GetSubresource() != "status" || patches[0].GetPatchType() != types.MergePatchType {
				t.Errorf("subresource %q, type %s", patches[0].GetSubresource(), patches[0].GetPatchType())
			}
			checkPatch(t, patches[0].GetPatch())
		})
	}
}

func checkPatch(t *testing.T, data []byte) {
	t.Helper()
	var patch struct {
		Metadata struct {
			UID         string
			Annotations map[string]string
		}
	}
	if err := json.Unmarshal(data, &patch); err != nil {
		t.Fatal(err)
	}
	text := patch.Metadata.Annotations[nadv1.NetworkStatusAnnot]
	const want = `[{
    "name": "a",
    "interface": "eth0",
    "default": true,
    "dns": {}
},{
    "name": "pods/lan",
    "interface": "net1",
    "default": false,
    "dns": {}
}]`
	if diff := cmp.Diff(want, text); diff != "" || patch.Metadata.UID != "1" {
		t.Errorf("UID %q (-want +got):\n%s", patch.Metadata.UID, diff)
	}
}

// The watch tells a little later, and a pod that seems to lack its status would be
// patched again.
func TestWhatWasPatchedIsKnown(t *testing.T) {
	t.Parallel()
	web := podNamed("web", "1")
	web.ResourceVersion = "7"
	c := newCluster(t, web)
	c.run(t)
	c.core.PrependReactor("patch", "pods", func(k8stesting.Action) (bool, runtime.Object, error) {
		after := podNamed("web", "1")
		after.ResourceVersion = "8"
		after.Annotations = map[string]string{nadv1.NetworkStatusAnnot: "[]"}
		return true, after, nil
	})
	pod := PodOf(web)
	if err := c.SetNetworkStatus(t.Context(), pod, []cni.NetworkStatus{}); err != nil {
		t.Fatal(err)
	}
	got := c.Known(pod)
	if got == nil || got.Annotations[nadv1.NetworkStatusAnnot] != "[]" {
		t.Errorf("the pod is known as %+v", got)
	}
	if got != nil && got.Spec.Containers[0].Command != nil {
		t.Error("it was kept whole")
	}
}

func TestNoStatusIsNoPatch(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	if err := c.SetNetworkStatus(t.Context(), attachment.Pod{Namespace: "pods", Name: "web"}, nil); err != nil || len(c.core.Actions()) > 0 {
		t.Errorf("%v, %v", err, c.core.Actions())
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.run(t)
	c.Report(attachment.Pod{Namespace: "pods", Name: "web", UID: "1"}, cni.Event{Warning: true, Reason: "Because", Message: "text"})
	await(t, "the event", func() bool { return len(eventsOf(t, c)) == 1 })
	e := eventsOf(t, c)[0]
	if e.Type != corev1.EventTypeWarning || e.Reason != "Because" || e.Message != "text" || e.Source.Component != "weir" || e.Source.Host != "node1" ||
		e.InvolvedObject.Name != "web" || e.InvolvedObject.UID != "1" || e.InvolvedObject.Kind != "Pod" {
		t.Errorf("%+v", e)
	}
}

func eventsOf(t *testing.T, c *cluster) []corev1.Event {
	t.Helper()
	list, err := c.core.CoreV1().Events("pods").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

func TestOpenWithoutCluster(t *testing.T) {
	t.Parallel()
	if _, err := Open(Options{Kubeconfig: "/nonexistent", Node: "n", Log: slog.New(slog.DiscardHandler)}); err == nil ||
		!strings.Contains(err.Error(), "/nonexistent") {
		t.Errorf("error %v", err)
	}
}
