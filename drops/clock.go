// SPDX-License-Identifier: Apache-2.0

package drops

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// wallClock is the time of day of an instant of CLOCK_MONOTONIC, which records bear. The two
// are compared anew each time, since the time of day is set now and then.
func wallClock(monotonic uint64) (time.Time, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return time.Time{}, fmt.Errorf("reading the monotonic clock: %w", err)
	}
	return time.Now().Add(time.Duration(int64(monotonic) - now.Nano())).Round(0), nil
}
