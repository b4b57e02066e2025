// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
)

// CodeFailed is the CNI error code of a request that failed for a reason to which
// the specification gives no code of its own (it leaves those from 100 to plugins).
const CodeFailed uint = 100

// codedError is an error with the code that the runtime shall see.
type codedError struct {
	code uint
	err  error
}

func newError(code uint, err error) error { return &codedError{code, err} }

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

// Error turns an error into what the CNI specification has a plugin print. The
// code is that of a delegate where one has failed, else the outermost of weir's own.
// It is never 0, which libcni gives a delegate that died without a word.
func Error(err error) *types.Error {
	var coded *codedError
	var delegated *types.Error
	switch {
	case errors.As(err, &delegated) && delegated.Code != 0:
		// Its details are in its text.
		return types.NewError(delegated.Code, err.Error(), "")
	case errors.As(err, &coded):
		return types.NewError(coded.code, err.Error(), "")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, ErrAway):
		return types.NewError(types.ErrTryAgainLater, err.Error(), "")
	default:
		return types.NewError(CodeFailed, err.Error(), "")
	}
}

// invalid marks an error of a network's configuration, where that has no better
// code already.
func invalid(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	if errors.As(err, new(*codedError)) {
		return err
	}
	return newError(types.ErrInvalidNetworkConfig, err)
}
