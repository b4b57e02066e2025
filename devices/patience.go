// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The first and the longest wait before a question is asked again.
const firstWait, longestWait = 10 * time.Millisecond, 500 * time.Millisecond

// patiently repeats a question while its error is one that will pass, ever more slowly, until ctx
// ends. The error then is both that of ctx and the last that was answered.
func patiently(ctx context.Context, willPass func(error) bool, ask func() error) error {
	var refusal error
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		err := ask()
		if err == nil {
			return nil
		}
		if end := endOf(ctx, err); end != nil {
			return fmt.Errorf("%w: %w", end, cmp.Or(refusal, err))
		}
		if !willPass(err) {
			return err
		}
		refusal = err
		select {
		case <-ctx.Done():
		case <-time.After(wait/2 + rand.N(wait)):
		}
	}
}

// endOf is the error of ctx if it is over. The server, which knows the deadline too, may
// say so a moment before.
func endOf(ctx context.Context, err error) error {
	if status.Code(err) == codes.DeadlineExceeded {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

// isRestarting tells the error of a kubelet that starts anew or has died.
func isRestarting(err error) bool { return status.Code(err) == codes.Unavailable }

// isLimited tells the error of a kubelet that is asked too often. Its code is also
// that of an answer that is too long, which no repetition makes shorter.
func isLimited(err error) bool {
	return status.Code(err) == codes.ResourceExhausted && !strings.Contains(err.Error(), "larger than max")
}

func isRestartingOrLimited(err error) bool { return isRestarting(err) || isLimited(err) }
