// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package cluster

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// devicePlugin is a device plugin of the devices in ids, half of which are of two NUMA
// nodes.
type devicePlugin struct {
	deviceplugin.UnimplementedDevicePluginServer
	ids []string
}

// ServeDevices gives a node devices of a resource, by a device plugin that runs until the
// current test ends. It returns when the kubelet has told of them.
func (c *Cluster) ServeDevices(n *Node, resource string, ids ...string) {
	c.tb.Helper()
	kubelet := c.KubeletDir(n)
	name := filepath.Base(resource) + ".sock"
	listener, err := net.Listen("unix", filepath.Join(kubelet, "device-plugins", name))
	if err != nil {
		c.tb.Fatal(err)
	}
	server := grpc.NewServer()
	deviceplugin.RegisterDevicePluginServer(server, &devicePlugin{ids: ids})
	go func() { _ = server.Serve(listener) }() // Stop ends it
	c.tb.Cleanup(server.Stop)
	conn, err := grpc.NewClient("unix:"+filepath.Join(kubelet, "device-plugins/kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		c.tb.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	c.Await("the kubelet takes the device plugin", time.Minute, func(ctx context.Context) error {
		_, err := deviceplugin.NewRegistrationClient(conn).Register(ctx,
			&deviceplugin.RegisterRequest{Version: deviceplugin.Version, Endpoint: name, ResourceName: resource})
		return err
	})
	c.Await("the node has the devices", time.Minute, func(ctx context.Context) error {
		n, err := c.Client().CoreV1().Nodes().Get(ctx, n.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if have := n.Status.Allocatable[corev1.ResourceName(resource)]; have.Value() != int64(len(ids)) {
			return fmt.Errorf("it has %v", have)
		}
		return nil
	})
}

// KubeletDir is the node's /var/lib/kubelet by a name that is short enough for a socket.
func (c *Cluster) KubeletDir(n *Node) string {
	c.tb.Helper()
	link := filepath.Join(c.tb.TempDir(), "k")
	if err := os.Symlink(n.Path("/var/lib/kubelet"), link); err != nil {
		c.tb.Fatal(err)
	}
	return link
}

// GetDevicePluginOptions implements the API of device plugins.
func (p *devicePlugin) GetDevicePluginOptions(context.Context, *deviceplugin.Empty) (*deviceplugin.DevicePluginOptions, error) {
	return &deviceplugin.DevicePluginOptions{}, nil
}

// ListAndWatch implements the API of device plugins.
func (p *devicePlugin) ListAndWatch(_ *deviceplugin.Empty, stream grpc.ServerStreamingServer[deviceplugin.ListAndWatchResponse]) error {
	answer := &deviceplugin.ListAndWatchResponse{}
	for i, id := range p.ids {
		d := &deviceplugin.Device{ID: id, Health: deviceplugin.Healthy}
		if i%2 == 0 {
			d.Topology = &deviceplugin.TopologyInfo{Nodes: []*deviceplugin.NUMANode{{ID: 0}, {ID: 1}}}
		}
		answer.Devices = append(answer.Devices, d)
	}
	if err := stream.Send(answer); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// Allocate implements the API of device plugins.
func (p *devicePlugin) Allocate(_ context.Context, q *deviceplugin.AllocateRequest) (*deviceplugin.AllocateResponse, error) {
	answer := &deviceplugin.AllocateResponse{}
	for range q.GetContainerRequests() {
		answer.ContainerResponses = append(answer.ContainerResponses, &deviceplugin.ContainerAllocateResponse{})
	}
	return answer, nil
}
