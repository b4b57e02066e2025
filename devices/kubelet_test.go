// SPDX-License-Identifier: Apache-2.0

package devices_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/weir-cni/weir/devices"
)

const vf = "example.com/vf"

// kubelet is a server of the API, whose methods a test may replace. It answers what the
// kubelet of Kubernetes 1.34 does, in its words.
type kubelet struct {
	podresources.UnsafePodResourcesListerServer
	pods []*podresources.PodResources
	// beforeGet and beforeList fail a question, or hold it up.
	beforeGet, beforeList func(context.Context) error
	withoutGet            bool

	gets, lists atomic.Int64
	server      *grpc.Server
}

func (k *kubelet) Get(ctx context.Context, q *podresources.GetPodResourcesRequest) (*podresources.GetPodResourcesResponse, error) {
	k.gets.Add(1)
	if k.beforeGet != nil {
		if err := k.beforeGet(ctx); err != nil {
			return nil, err
		}
	}
	for _, pod := range k.pods {
		if pod.GetName() == q.GetPodName() && pod.GetNamespace() == q.GetPodNamespace() {
			return &podresources.GetPodResourcesResponse{PodResources: pod}, nil
		}
	}
	return nil, fmt.Errorf("pod %s in namespace %s not found", q.GetPodName(), q.GetPodNamespace())
}

func (k *kubelet) List(ctx context.Context, _ *podresources.ListPodResourcesRequest) (*podresources.ListPodResourcesResponse, error) {
	k.lists.Add(1)
	if k.beforeList != nil {
		if err := k.beforeList(ctx); err != nil {
			return nil, err
		}
	}
	return &podresources.ListPodResourcesResponse{PodResources: k.pods}, nil
}

func (k *kubelet) GetAllocatableResources(context.Context, *podresources.AllocatableResourcesRequest) (*podresources.AllocatableResourcesResponse, error) {
	return nil, status.Error(codes.Unimplemented, "not asked for")
}

// serve runs the server on a socket until the test ends.
func (k *kubelet) serve(t *testing.T, socket string) {
	t.Helper()
	k.server = grpc.NewServer(grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error {
		k.gets.Add(1)
		return status.Error(codes.Unimplemented, "unknown method Get for service v1.PodResourcesLister")
	}))
	service := podresources.PodResourcesLister_ServiceDesc
	if k.withoutGet {
		service.Methods = slices.DeleteFunc(slices.Clone(service.Methods), func(m grpc.MethodDesc) bool { return m.MethodName == "Get" })
	}
	k.server.RegisterService(&service, k)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	// One that is killed leaves its socket.
	listener.SetUnlinkOnClose(false)
	go k.server.Serve(listener)
	t.Cleanup(k.server.Stop)
}

// socketOf goes by way of a descriptor: the name of a test's folder can be too long for
// that of a socket.
func socketOf(t *testing.T) string {
	t.Helper()
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return fmt.Sprintf("/proc/self/fd/%d/kubelet.sock", dir.Fd())
}

func client(t *testing.T, socket string) *devices.Kubelet {
	t.Helper()
	k, err := devices.NewKubelet(socket, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

func pod(name string, containers ...[]*podresources.ContainerDevices) *podresources.PodResources {
	p := &podresources.PodResources{Namespace: "default", Name: name}
	for i, given := range containers {
		p.Containers = append(p.Containers, &podresources.ContainerResources{Name: fmt.Sprint("c", i), Devices: given})
	}
	return p
}

func given(resource string, ids ...string) *podresources.ContainerDevices {
	return &podresources.ContainerDevices{ResourceName: resource, DeviceIds: ids}
}

func vfPod(name string, ids ...string) *podresources.PodResources {
	return pod(name, []*podresources.ContainerDevices{given(vf, ids...)})
}

func webPods() []*podresources.PodResources {
	other := vfPod("web", "0000:09:00.0")
	other.Namespace = "other"
	return []*podresources.PodResources{other, vfPod("webb", "0000:09:00.1"), vfPod("web", "0000:01:00.4")}
}

func wantDevices(t *testing.T, k *devices.Kubelet, want devices.IDs) {
	t.Helper()
	got, err := k.Devices(t.Context(), "default", "web")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

var errDisabled = errors.New("PodResources API Get method disabled")

func TestDevices(t *testing.T) {
	t.Parallel()
	numa := pod("web",
		[]*podresources.ContainerDevices{given(vf, "0000:02:00.1"), given(vf, "0000:01:00.4"), given(vf, "0000:01:00.4")},
		[]*podresources.ContainerDevices{given("example.com/gpu", "gpu1", "gpu0"), given(vf, "0000:01:00.2")},
	)
	for _, c := range []struct {
		name string
		pods []*podresources.PodResources
		want devices.IDs
	}{
		{"of the right pod", webPods(), devices.IDs{vf: {"0000:01:00.4"}}},
		{"none", []*podresources.PodResources{pod("web")}, devices.IDs{}},
		{"none in its containers", []*podresources.PodResources{pod("web", nil, nil)}, devices.IDs{}},
		{
			"of all containers, sorted, each once", []*podresources.PodResources{numa},
			devices.IDs{vf: {"0000:01:00.2", "0000:01:00.4", "0000:02:00.1"}, "example.com/gpu": {"gpu0", "gpu1"}},
		},
		{"without names", []*podresources.PodResources{pod("web", []*podresources.ContainerDevices{given("", "a"), given(vf, "", "b")})}, devices.IDs{vf: {"b"}}},
	} {
		for _, without := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/without Get %t", c.name, without), func(t *testing.T) {
				t.Parallel()
				socket := socketOf(t)
				server := &kubelet{pods: c.pods, withoutGet: without}
				server.serve(t, socket)
				wantDevices(t, client(t, socket), c.want)
				if lists := server.lists.Load(); (lists > 0) != without {
					t.Errorf("%d lists", lists)
				}
			})
		}
	}
}

func TestOrderDoesNotDependOnTheAnswer(t *testing.T) {
	t.Parallel()
	ids := []string{"0000:01:00.2", "0000:01:00.4", "0000:02:00.1", "0000:0a:00.0", "0000:11:01.7"}
	socket := socketOf(t)
	server := &kubelet{pods: webPods()}
	server.beforeGet = func(context.Context) error {
		shuffled := slices.Clone(ids)
		rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		server.pods = []*podresources.PodResources{vfPod("web", shuffled...)}
		return nil
	}
	server.serve(t, socket)
	k := client(t, socket)
	for range 50 {
		wantDevices(t, k, devices.IDs{vf: ids})
	}
}

func TestGetIsNotAskedForAgainWhereItIsMissing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		server *kubelet
		gets   int64
	}{
		{"no such method", &kubelet{withoutGet: true}, 1},
		{"feature gate off", &kubelet{beforeGet: func(context.Context) error { return errDisabled }}, 1},
		{"another error without a code", &kubelet{beforeGet: func(context.Context) error { return errors.New("what?") }}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			socket := socketOf(t)
			c.server.pods = webPods()
			c.server.serve(t, socket)
			k := client(t, socket)
			for range 3 {
				wantDevices(t, k, devices.IDs{vf: {"0000:01:00.4"}})
			}
			if gets, lists := c.server.gets.Load(), c.server.lists.Load(); gets != c.gets || lists != 3 {
				t.Errorf("%d Gets and %d Lists, want %d and 3", gets, lists, c.gets)
			}
		})
	}
}

func TestUnknownPod(t *testing.T) {
	t.Parallel()
	for _, without := range []bool{false, true} {
		socket := socketOf(t)
		server := &kubelet{pods: webPods(), withoutGet: without}
		server.serve(t, socket)
		_, err := client(t, socket).Devices(t.Context(), "default", "gone")
		if !errors.Is(err, devices.ErrUnknownPod) || errors.Is(err, devices.ErrNoKubelet) {
			t.Errorf("without Get %t: %v", without, err)
		}
	}
}

func TestTwoPodsOfOneNameAreNotGuessedBetween(t *testing.T) {
	t.Parallel()
	socket := socketOf(t)
	server := &kubelet{pods: []*podresources.PodResources{vfPod("web", "a"), vfPod("web", "b")}, withoutGet: true}
	server.serve(t, socket)
	if ids, err := client(t, socket).Devices(t.Context(), "default", "web"); err == nil || !strings.Contains(err.Error(), "two pods") {
		t.Errorf("%v, %v", ids, err)
	}
}

func TestNoSocket(t *testing.T) {
	t.Parallel()
	socket := socketOf(t)
	k := client(t, socket)
	for range 3 {
		began := time.Now()
		_, err := k.Devices(t.Context(), "default", "web")
		if !errors.Is(err, devices.ErrNoKubelet) || errors.Is(err, devices.ErrUnknownPod) {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("took %v", took)
		}
	}
	server := &kubelet{pods: webPods()}
	server.serve(t, socket)
	wantDevices(t, k, devices.IDs{vf: {"0000:01:00.4"}})
}

// bucket limits the rate as the kubelet does: 100 a second, 10 at once.
type bucket struct {
	mu     sync.Mutex
	tokens float64
	last   time.Time
}

func (b *bucket) take(context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.tokens = min(10, b.tokens+100*now.Sub(b.last).Seconds())
	b.last = now
	if b.tokens < 1 {
		return status.Error(codes.ResourceExhausted, "rejected by rate limit")
	}
	b.tokens--
	return nil
}

func TestManyAskALimitedKubelet(t *testing.T) {
	t.Parallel()
	const callers = 200
	for _, without := range []bool{false, true} {
		t.Run(fmt.Sprintf("without Get %t", without), func(t *testing.T) {
			t.Parallel()
			limit := &bucket{}
			server := &kubelet{withoutGet: without, beforeGet: limit.take, beforeList: limit.take}
			for i := range callers {
				server.pods = append(server.pods, vfPod(fmt.Sprint("web", i), fmt.Sprint("vf", i)))
			}
			socket := socketOf(t)
			server.serve(t, socket)
			k := client(t, socket)
			began := time.Now()
			var wg sync.WaitGroup
			for i := range callers {
				wg.Go(func() {
					got, err := k.Devices(t.Context(), "default", fmt.Sprint("web", i))
					if diff := cmp.Diff(devices.IDs{vf: {fmt.Sprint("vf", i)}}, got); err != nil || diff != "" {
						t.Errorf("web%d: %v\n%s", i, err, diff)
					}
				})
			}
			wg.Wait()
			t.Logf("%d callers: %d Gets, %d Lists, %v", callers, server.gets.Load(), server.lists.Load(), time.Since(began))
			if gets, lists := server.gets.Load(), server.lists.Load(); gets > callers || lists > 50 {
				t.Errorf("%d Gets and %d Lists for %d callers", gets, lists, callers)
			}
		})
	}
}

func limited(context.Context) error {
	return status.Error(codes.ResourceExhausted, "rejected by rate limit")
}

func TestAKubeletThatIsAlwaysLimitedIsNamed(t *testing.T) {
	t.Parallel()
	socket := socketOf(t)
	(&kubelet{beforeGet: limited, beforeList: limited}).serve(t, socket)
	k := client(t, socket)
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			time.Sleep(time.Duration(i) * 100 * time.Millisecond)
			if _, err := k.Devices(t.Context(), "default", "web"); status.Code(err) != codes.ResourceExhausted {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestTheCallersContextEndsTheQuestion(t *testing.T) {
	t.Parallel()
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for _, c := range []struct {
		name   string
		server *kubelet
	}{
		{"slow Get", &kubelet{beforeGet: hang}},
		{"slow List", &kubelet{withoutGet: true, beforeList: hang}},
		{"always limited", &kubelet{beforeGet: limited, beforeList: limited}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			socket := socketOf(t)
			c.server.serve(t, socket)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			began := time.Now()
			_, err := client(t, socket).Devices(ctx, "default", "web")
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestWhoGivesUpDoesNotTakeTheListFromTheOthers(t *testing.T) {
	t.Parallel()
	began, release := make(chan struct{}), make(chan struct{})
	server := &kubelet{pods: webPods(), withoutGet: true, beforeList: func(context.Context) error {
		close(began)
		<-release
		return nil
	}}
	socket := socketOf(t)
	server.serve(t, socket)
	k := client(t, socket)
	ctx, giveUp := context.WithCancel(t.Context())
	first := make(chan error)
	go func() {
		_, err := k.Devices(ctx, "default", "web")
		first <- err
	}()
	<-began
	giveUp()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	server.beforeList = nil
	close(release)
	wantDevices(t, k, devices.IDs{vf: {"0000:01:00.4"}})
}

func TestLongAnswers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		bytes int
		fits  bool
	}{
		{"15 MiB", 15 << 20, true},
		{"17 MiB", 17 << 20, false},
	} {
		for _, without := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/without Get %t", c.name, without), func(t *testing.T) {
				t.Parallel()
				id := strings.Repeat("x", 1000)
				web := pod("web")
				for range c.bytes / (len(id) + 30) {
					web.Containers = append(web.Containers, &podresources.ContainerResources{Devices: []*podresources.ContainerDevices{given(vf, id)}})
				}
				server := &kubelet{pods: []*podresources.PodResources{web}, withoutGet: without}
				socket := socketOf(t)
				server.serve(t, socket)
				began := time.Now()
				ids, err := client(t, socket).Devices(t.Context(), "default", "web")
				switch {
				case c.fits && (err != nil || len(ids[vf]) != 1):
					t.Errorf("%d devices, %v", len(ids[vf]), err)
				case !c.fits && (err == nil || !strings.Contains(err.Error(), "larger than max")):
					t.Error(err)
				}
				if asked := server.gets.Load() + server.lists.Load(); !without && asked != 1 {
					t.Errorf("asked %d times, %v", asked, time.Since(began))
				}
			})
		}
	}
}

func TestKubeletDiesInTheMiddleAndComesBack(t *testing.T) {
	t.Parallel()
	for _, without := range []bool{false, true} {
		t.Run(fmt.Sprintf("without Get %t", without), func(t *testing.T) {
			t.Parallel()
			began := make(chan struct{})
			hang := func(ctx context.Context) error { close(began); <-ctx.Done(); return ctx.Err() }
			old := &kubelet{withoutGet: without, beforeGet: hang, beforeList: hang}
			socket := socketOf(t)
			old.serve(t, socket)
			k := client(t, socket)
			answer := make(chan error, 1)
			go func() {
				ids, err := k.Devices(t.Context(), "default", "web")
				if err == nil && cmp.Diff(devices.IDs{vf: {"0000:01:00.4"}}, ids) != "" {
					err = fmt.Errorf("%v", ids)
				}
				answer <- err
			}()
			<-began
			// The dead kubelet's socket stays, refusing, until that of the new one is in its place.
			old.server.Stop()
			time.Sleep(200 * time.Millisecond)
			(&kubelet{pods: webPods(), withoutGet: without}).serve(t, socket+".new")
			if err := os.Rename(socket+".new", socket); err != nil {
				t.Fatal(err)
			}
			if err := <-answer; err != nil {
				t.Error(err)
			}
			wantDevices(t, k, devices.IDs{vf: {"0000:01:00.4"}})
		})
	}
}

func TestGarbageOnTheSocket(t *testing.T) {
	t.Parallel()
	socket := socketOf(t)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(conn, "HTTP/1.1 400 Bad Request\r\n\r\n%s", strings.Repeat("\xff", 100))
			conn.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := client(t, socket).Devices(ctx, "default", "web"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	began := make(chan struct{})
	server := &kubelet{beforeGet: func(ctx context.Context) error { close(began); <-ctx.Done(); return ctx.Err() }}
	socket := socketOf(t)
	server.serve(t, socket)
	k := client(t, socket)
	answer := make(chan error)
	go func() {
		_, err := k.Devices(t.Context(), "default", "web")
		answer <- err
	}()
	<-began
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-answer; status.Code(err) != codes.Canceled {
		t.Error(err)
	}
	if _, err := k.Devices(t.Context(), "default", "web"); status.Code(err) != codes.Canceled {
		t.Error(err)
	}
}
