// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

func TestNobodyGetsAListOlderThanHisQuestion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const took = 100 * time.Millisecond
		var mu sync.Mutex
		lists := 0
		began := map[*podresources.ListPodResourcesResponse]time.Time{}
		shared := newSharedList(func(context.Context) (*podresources.ListPodResourcesResponse, error) {
			answer := &podresources.ListPodResourcesResponse{}
			mu.Lock()
			lists++
			began[answer] = time.Now()
			mu.Unlock()
			time.Sleep(took)
			return answer, nil
		})
		var wg sync.WaitGroup
		const callers = 100
		for i := range callers {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				asked := time.Now()
				answer, err := shared.get(t.Context())
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil:
					t.Error(err)
				case began[answer].Before(asked):
					t.Errorf("a list of %v before the question", asked.Sub(began[answer]))
				case time.Since(asked) > 2*took+listPause:
					t.Errorf("took %v", time.Since(asked))
				}
			})
		}
		wg.Wait()
		if most := int(time.Second/(took+listPause)) + 2; lists > most {
			t.Errorf("%d lists in a second, want at most %d", lists, most)
		}
		time.Sleep(listPause)
	})
}

func TestAListThatFailsIsAskedForAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		failure := errors.New("no")
		shared := newSharedList(func(context.Context) (*podresources.ListPodResourcesResponse, error) { return nil, failure })
		if _, err := shared.get(t.Context()); !errors.Is(err, failure) {
			t.Error(err)
		}
		shared.ask = func(context.Context) (*podresources.ListPodResourcesResponse, error) {
			return &podresources.ListPodResourcesResponse{}, nil
		}
		if answer, err := shared.get(t.Context()); err != nil || answer == nil {
			t.Error(err)
		}
		time.Sleep(listPause)
	})
}

func TestPatience(t *testing.T) {
	t.Parallel()
	limited := status.Error(codes.ResourceExhausted, "rejected by rate limit")
	for _, c := range []struct {
		name    string
		answers []error
		want    error
	}{
		{"at once", []error{nil}, nil},
		{"limited for a while", []error{limited, limited, limited, nil}, nil},
		{"starting anew", []error{status.Error(codes.Unavailable, "connection refused"), nil}, nil},
		{"for good", []error{limited, errors.ErrUnsupported}, errors.ErrUnsupported},
		{"no permission", []error{status.Error(codes.PermissionDenied, "no")}, status.Error(codes.PermissionDenied, "no")},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				err := patiently(t.Context(), isRestartingOrLimited, func() error { asked++; return c.answers[asked-1] })
				if !errors.Is(err, c.want) || asked != len(c.answers) {
					t.Errorf("%v after %d answers", err, asked)
				}
			})
		})
	}
}

func TestPatienceEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), answerTimeout)
		defer cancel()
		asked := 0
		err := patiently(ctx, isRestartingOrLimited, func() error { asked++; return status.Error(codes.ResourceExhausted, "rejected by rate limit") })
		if !errors.Is(err, context.DeadlineExceeded) || status.Code(err) != codes.ResourceExhausted {
			t.Error(err)
		}
		// Waits double up to half a second: few questions, and yet none far from the last.
		if asked < 15 || asked > 60 {
			t.Errorf("asked %d times in %v", asked, answerTimeout)
		}
	})
}
