// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
)

// Cluster reads claims and slices from the API server, anew each time: they are
// written moments before they are needed, and watching them would be dear on a node
// whose pods claim none.
type Cluster struct {
	Client kubernetes.Interface
}

var _ ClaimReader = Cluster{}

// Claim reads a ResourceClaim.
func (c Cluster) Claim(ctx context.Context, namespace, name string) (*resourcev1.ResourceClaim, error) {
	return c.Client.ResourceV1().ResourceClaims(namespace).Get(ctx, name, metav1.GetOptions{})
}

// Slices lists the ResourceSlices of a driver and a node; the API server selects them.
func (c Cluster) Slices(ctx context.Context, driver, node string) ([]resourcev1.ResourceSlice, error) {
	list, err := c.Client.ResourceV1().ResourceSlices().List(ctx, metav1.ListOptions{
		FieldSelector: fields.SelectorFromSet(fields.Set{
			resourcev1.ResourceSliceSelectorDriver:   driver,
			resourcev1.ResourceSliceSelectorNodeName: node,
		}).String(),
	})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}
