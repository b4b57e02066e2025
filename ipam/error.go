// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"cmp"
	"errors"
	"strconv"
)

// What can be wrong with a field. A FieldError wraps one of them, often with detail.
var (
	// ErrInvalid is a value that cannot be understood or used.
	ErrInvalid = errors.New("is not valid")
	// ErrMissing is a value that must be there.
	ErrMissing = errors.New("is missing")
	// ErrNoAddress is a configuration or a plugin's result without any address.
	ErrNoAddress = errors.New("no address is given")
	// ErrNoPrefix is an address without the length of its prefix.
	ErrNoPrefix = errors.New("has no prefix length")
	// ErrFamily is an address of another family than the one it belongs to.
	ErrFamily = errors.New("is of the wrong address family")
	// ErrDuplicate is an address that is given twice.
	ErrDuplicate = errors.New("is given twice")
	// ErrOverlap is a range that shares addresses with another.
	ErrOverlap = errors.New("overlaps")
	// ErrOutOfRange is a requested address that no range contains.
	ErrOutOfRange = errors.New("is in none of the ranges")
	// ErrGateway is a requested address that is a gateway's.
	ErrGateway = errors.New("is the address of a gateway")
	// ErrExhausted is a range set without a free address.
	ErrExhausted = errors.New("has no free address")
	// ErrInUse is a requested address that another attachment holds.
	ErrInUse = errors.New("is in use")
	// ErrReserved is an Add for an attachment that holds addresses already.
	ErrReserved = errors.New("already holds an address")
	// ErrNotReserved is a Check of an attachment that has lost an address.
	ErrNotReserved = errors.New("holds no address")
	// ErrPluginNotFound is an executed type for which there is no file.
	ErrPluginNotFound = errors.New("no such plugin")
)

// FieldError is an error in one field of a network configuration, of CNI_ARGS or of the result of
// an executed plugin.
type FieldError struct {
	// Field is the path of the field, such as ipam.addresses[0].address, CNI_ARGS.IP or
	// result.ips[1].gateway. Empty for the configuration as a whole.
	Field string
	// Value is what the field holds. Empty if that says nothing.
	Value string
	// Err says what is wrong.
	Err error
}

// Error names the field, its value and what is wrong.
func (e *FieldError) Error() string {
	subject := cmp.Or(e.Field, "network configuration")
	if e.Value != "" {
		subject += " " + strconv.Quote(e.Value)
	}
	return subject + ": " + e.Err.Error()
}

// Unwrap returns Err.
func (e *FieldError) Unwrap() error { return e.Err }
