// SPDX-License-Identifier: Apache-2.0

package devices_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/weir-cni/weir/devices"
)

const (
	node   = "worker"
	driver = "dra.example.com"
)

// device has the two attributes, each only if it is not empty.
func device(name, resource, id string) resourcev1.Device {
	attributes := map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"example.com/model": {StringValue: new("x")}}
	if resource != "" {
		attributes["k8s.cni.cncf.io/resourceName"] = resourcev1.DeviceAttribute{StringValue: &resource}
	}
	if id != "" {
		attributes["k8s.cni.cncf.io/deviceID"] = resourcev1.DeviceAttribute{StringValue: &id}
	}
	return resourcev1.Device{Name: name, Attributes: attributes}
}

func slice(nodeName string, generation int64, all ...resourcev1.Device) *resourcev1.ResourceSlice {
	return &resourcev1.ResourceSlice{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d-%s", nodeName, generation, all[0].Name)},
		Spec: resourcev1.ResourceSliceSpec{
			Driver: driver, Pool: resourcev1.ResourcePool{Name: "pool", Generation: generation}, NodeName: &nodeName, Devices: all,
		},
	}
}

func result(request, device string) resourcev1.DeviceRequestAllocationResult {
	return resourcev1.DeviceRequestAllocationResult{Request: request, Driver: driver, Pool: "pool", Device: device}
}

func claim(name string, results ...resourcev1.DeviceRequestAllocationResult) *resourcev1.ResourceClaim {
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	if results != nil {
		c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: results}}
	}
	return c
}

// claiming is a pod with a claim made of a template for each of the names.
func claiming(names ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
	for _, name := range names {
		p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, corev1.PodResourceClaim{Name: "for-" + name, ResourceClaimTemplateName: new("template")})
		p.Status.ResourceClaimStatuses = append(p.Status.ResourceClaimStatuses, corev1.PodResourceClaimStatus{Name: "for-" + name, ResourceClaimName: &name})
	}
	return p
}

// extended is a pod for whose extended resources the scheduler made the claim ext.
func extended(requests map[string]string) *corev1.Pod {
	p := claiming()
	p.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "ext"}
	for request, resource := range requests {
		p.Status.ExtendedResourceClaimStatus.RequestMappings = append(p.Status.ExtendedResourceClaimStatus.RequestMappings,
			corev1.ContainerExtendedResourceRequest{ContainerName: "c", ResourceName: resource, RequestName: request})
	}
	return p
}

// The API server's part, the two reads, is client-go's fake: it selects nothing by
// field, so that what is not of the driver and node comes along, and must not be used.
func TestClaimed(t *testing.T) {
	t.Parallel()
	direct := claiming()
	direct.Spec.ResourceClaims = []corev1.PodResourceClaim{
		{Name: "a", ResourceClaimName: new("shared")}, {Name: "b", ResourceClaimName: new("shared")},
	}
	needless := claiming()
	needless.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "a", ResourceClaimTemplateName: new("template")}}
	needless.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "a"}}
	notMade := claiming()
	notMade.Spec.ResourceClaims = needless.Spec.ResourceClaims
	adminResult := result("r", "d0")
	adminResult.AdminAccess = new(true)
	otherPool, otherDriver := result("r", "d0"), result("r", "d0")
	otherPool.Pool, otherDriver.Driver = "other", "other.example.com"
	everywhere := slice("", 1, device("d0", vf, "a"))
	everywhere.Spec.NodeName, everywhere.Spec.AllNodes = nil, new(true)
	number := device("d0", vf, "")
	number.Attributes["k8s.cni.cncf.io/deviceID"] = resourcev1.DeviceAttribute{IntValue: new(int64(7))}

	for _, c := range []struct {
		name    string
		pod     *corev1.Pod
		objects []runtime.Object
		want    devices.IDs
		err     string
	}{
		{"no claim", claiming(), nil, devices.IDs{}, ""},
		{
			"a device", claiming("one"),
			[]runtime.Object{claim("one", result("r", "d0")), slice(node, 1, device("d0", vf, "0000:02:00.4"), device("d1", vf, "0000:02:00.5"))},
			devices.IDs{vf: {"0000:02:00.4"}}, "",
		},
		{
			"several of several claims and slices, sorted", claiming("one", "two"),
			[]runtime.Object{
				claim("one", result("r", "d1"), result("r", "d0")), claim("two", result("r", "d2")),
				slice(node, 1, device("d0", vf, "c"), device("d1", vf, "b")), slice(node, 1, device("d2", vf, "a")),
			},
			devices.IDs{vf: {"a", "b", "c"}}, "",
		},
		{"a claim that the pod names itself, twice", direct, []runtime.Object{claim("shared", result("r", "d0")), slice(node, 1, device("d0", vf, "a"))}, devices.IDs{vf: {"a"}}, ""},
		{"no claim was needed", needless, nil, devices.IDs{}, ""},
		{"no claim of the template yet", notMade, nil, nil, "no ResourceClaim has been made of the template template"},
		{"no such claim", claiming("one"), nil, nil, "ResourceClaim default/one: reading it"},
		{"not allocated", claiming("one"), []runtime.Object{claim("one")}, nil, "no device is allocated"},
		{"allocated nothing", claiming("one"), []runtime.Object{claim("one", []resourcev1.DeviceRequestAllocationResult{}...)}, nil, "no device is allocated"},
		{"no attributes", claiming("one"), []runtime.Object{claim("one", result("r", "d0")), slice(node, 1, device("d0", "", ""))}, devices.IDs{}, ""},
		{"no ID", claiming("one"), []runtime.Object{claim("one", result("r", "d0")), slice(node, 1, device("d0", vf, ""))}, devices.IDs{}, ""},
		{"no resource", claiming("one"), []runtime.Object{claim("one", result("r", "d0")), slice(node, 1, device("d0", "", "a"))}, devices.IDs{}, ""},
		{"ID is a number", claiming("one"), []runtime.Object{claim("one", result("r", "d0")), slice(node, 1, number)}, devices.IDs{}, ""},
		{"no slice", claiming("one"), []runtime.Object{claim("one", result("r", "d0"))}, devices.IDs{}, ""},
		{"no such device", claiming("one"), []runtime.Object{claim("one", result("r", "d0")), slice(node, 1, device("d1", vf, "a"))}, devices.IDs{}, ""},
		{"on another node", claiming("one"), []runtime.Object{claim("one", result("r", "d0")), slice("other", 1, device("d0", vf, "a"))}, devices.IDs{}, ""},
		{"of no node", claiming("one"), []runtime.Object{claim("one", result("r", "d0")), everywhere}, devices.IDs{}, ""},
		{"in another pool", claiming("one"), []runtime.Object{claim("one", otherPool), slice(node, 1, device("d0", vf, "a"))}, devices.IDs{}, ""},
		{"of another driver", claiming("one"), []runtime.Object{claim("one", otherDriver), slice(node, 1, device("d0", vf, "a"))}, devices.IDs{}, ""},
		{"only to look at", claiming("one"), []runtime.Object{claim("one", adminResult), slice(node, 1, device("d0", vf, "a"))}, devices.IDs{}, ""},
		{
			"the pool's last generation counts", claiming("one"),
			[]runtime.Object{claim("one", result("r", "d0")), slice(node, 1, device("d0", vf, "old")), slice(node, 3, device("d0", vf, "new")), slice(node, 2, device("d0", vf, "older"))},
			devices.IDs{vf: {"new"}}, "",
		},
		{
			"extended resource, all that it counts", extended(map[string]string{"r0": vf}),
			[]runtime.Object{claim("ext", result("r0", "d1"), result("r0", "d0"), result("r1", "d2")), slice(node, 1, device("d0", vf, "a"), device("d1", vf, "b"), device("d2", vf, "c"))},
			devices.IDs{vf: {"a", "b"}}, "",
		},
		{
			"extended resources", extended(map[string]string{"r0": vf, "r1": "example.com/rdma"}),
			[]runtime.Object{claim("ext", result("r0", "d0"), result("r1", "d1")), slice(node, 1, device("d0", vf, "a"), device("d1", "example.com/rdma", "b"))},
			devices.IDs{vf: {"a"}, "example.com/rdma": {"b"}}, "",
		},
		{"extended resource that is no network's", extended(map[string]string{"r0": "example.com/gpu"}), []runtime.Object{claim("ext", result("r0", "d0")), slice(node, 1, device("d0", "", ""))}, devices.IDs{}, ""},
		{"extended resource without its name", extended(map[string]string{"r0": vf}), []runtime.Object{claim("ext", result("r0", "d0")), slice(node, 1, device("d0", "", "a"))}, nil, "has no attribute k8s.cni.cncf.io/resourceName"},
		{"extended resource of another name", extended(map[string]string{"r0": vf}), []runtime.Object{claim("ext", result("r0", "d0")), slice(node, 1, device("d0", "example.com/rdma", "a"))}, nil, `has k8s.cni.cncf.io/resourceName "example.com/rdma"`},
		{"extended resource without a result", extended(map[string]string{"r9": vf}), []runtime.Object{claim("ext", result("r0", "d0"))}, nil, "nothing is allocated for request r9"},
		{"extended resource not allocated", extended(map[string]string{"r0": vf}), []runtime.Object{claim("ext")}, nil, "no device is allocated"},
		{"extended resource without a claim", extended(map[string]string{"r0": vf}), nil, nil, "ResourceClaim default/ext: reading it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := devices.Claimed(t.Context(), devices.Cluster{Client: fake.NewClientset(c.objects...)}, c.pod, node)
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestClusterSelectsSlicesOfTheDriverAndTheNode(t *testing.T) {
	t.Parallel()
	client := fake.NewClientset()
	var selectors []string
	client.PrependReactor("list", "resourceslices", func(action clienttesting.Action) (bool, runtime.Object, error) {
		selectors = append(selectors, action.(clienttesting.ListAction).GetListRestrictions().Fields.String())
		return false, nil, nil
	})
	objects := []runtime.Object{claim("one", result("r", "d0"), result("r", "d1")), claim("two", result("r", "d2"))}
	for _, o := range objects {
		if err := client.Tracker().Add(o); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := devices.Claimed(t.Context(), devices.Cluster{Client: client}, claiming("one", "two"), node); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"spec.driver=" + driver + ",spec.nodeName=" + node}, selectors); diff != "" {
		t.Errorf("one list for a driver (-want +got):\n%s", diff)
	}
}

type brokenReader struct{ devices.Cluster }

var errAPI = errors.New("the API server is away")

func (brokenReader) Slices(context.Context, string, string) ([]resourcev1.ResourceSlice, error) {
	return nil, errAPI
}

func TestReadersErrors(t *testing.T) {
	t.Parallel()
	cluster := devices.Cluster{Client: fake.NewClientset(claim("one", result("r", "d0")))}
	if _, err := devices.Claimed(t.Context(), brokenReader{cluster}, claiming("one"), node); !errors.Is(err, errAPI) {
		t.Error(err)
	}
	if _, err := devices.Claimed(t.Context(), cluster, claiming("gone"), node); !apierrors.IsNotFound(err) {
		t.Error(err)
	}
}

func TestNodeAsksKubeletAndClaims(t *testing.T) {
	t.Parallel()
	socket := socketOf(t)
	server := &kubelet{pods: []*podresources.PodResources{vfPod("web", "0000:01:00.4", "0000:03:00.4")}}
	server.serve(t, socket)
	cluster := devices.Cluster{Client: fake.NewClientset(
		claim("one", result("r", "d0"), result("r", "d1"), result("r", "gpu")),
		slice(node, 1, device("d0", vf, "0000:02:00.4"), device("d1", vf, "0000:01:00.4"), device("gpu", "", "")),
	)}
	both := devices.IDs{vf: {"0000:01:00.4", "0000:02:00.4", "0000:03:00.4"}}
	alone := devices.IDs{vf: {"0000:01:00.4", "0000:03:00.4"}}
	for _, c := range []struct {
		name   string
		claims devices.ClaimReader
		pod    *corev1.Pod
		want   devices.IDs
	}{
		{"both, sorted, each once", cluster, claiming("one"), both},
		{"a pod without claims", brokenReader{}, claiming(), alone},
		{"a cluster without claims", nil, claiming("one"), alone},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := &devices.Node{Name: node, Kubelet: client(t, socket), Claims: c.claims}
			got, err := n.Devices(t.Context(), c.pod)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	n := &devices.Node{Name: node, Kubelet: client(t, socket), Claims: cluster}
	if _, err := n.Devices(t.Context(), claiming("gone")); !apierrors.IsNotFound(err) {
		t.Error(err)
	}
	n.Kubelet = client(t, socketOf(t))
	if _, err := n.Devices(t.Context(), claiming("one")); !errors.Is(err, devices.ErrNoKubelet) {
		t.Error(err)
	}
}

func TestTake(t *testing.T) {
	t.Parallel()
	ids := devices.IDs{vf: {"a", "b"}}
	for _, want := range []string{"a", "b", ""} {
		if id, ok := ids.Take(vf); id != want || ok != (want != "") {
			t.Errorf("got %q, %t, want %q", id, ok, want)
		}
	}
	if id, ok := ids.Take("example.com/none"); ok {
		t.Errorf("got %q of a resource without devices", id)
	}
}
