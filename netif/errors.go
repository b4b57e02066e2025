// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	// ErrNotFound means that an interface does not exist.
	ErrNotFound = errors.New("no such interface")
	// ErrNoDefaultRoute means that no master was named and there is no default
	// route to take it from.
	ErrNoDefaultRoute = errors.New("there is no default route whose device could be the master")
	// ErrMasterBusy means that a master has one user already that allows no other:
	// the kernel gives an interface at most one receive handler, to macvlan, ipvlan,
	// a bridge, a bond or their like.
	ErrMasterBusy = errors.New("in use by another kind of interface")
	// ErrDuplicateAddress means that duplicate address detection (RFC 4862 5.4)
	// found another holder of an IPv6 address.
	ErrDuplicateAddress = errors.New("another host has this address")
)

// IsNotFound says whether err means that an interface does not exist.
func IsNotFound(err error) bool {
	return errors.Is(err, ErrNotFound) || errors.Is(err, unix.ENODEV) || errors.As(err, new(netlink.LinkNotFoundError))
}

// FieldError is a fault in one field of a network's configuration.
type FieldError struct {
	// Field is the key as the configuration spells it, such as "master" or
	// "runtimeConfig.mac".
	Field string
	// Value is what the field holds; nil where that says nothing.
	Value any
	// Err says what is wrong with it.
	Err error
}

// NewFieldError says what is wrong with a field; value may be nil.
func NewFieldError(field string, value any, err error) error {
	return &FieldError{Field: field, Value: value, Err: err}
}

// Error is such as `master "eth9": no such interface`.
func (e *FieldError) Error() string {
	switch v := e.Value.(type) {
	case nil:
		return fmt.Sprintf("%s: %v", e.Field, e.Err)
	case string:
		return fmt.Sprintf("%s %q: %v", e.Field, v, e.Err)
	default:
		return fmt.Sprintf("%s %v: %v", e.Field, v, e.Err)
	}
}

// Unwrap is what is wrong with the field.
func (e *FieldError) Unwrap() error { return e.Err }

// DriftError says where the kernel's state of an interface differs from what
// was made.
type DriftError struct {
	// Interface is the interface's name in the pod.
	Interface string
	// What differs, such as "mode" or "route 192.0.2.0/24".
	What string
	// Got is the kernel's value, such as "vepa" or "missing".
	Got string
	// Want is the value that was made; empty where Got says it all.
	Want string
}

// Error is such as `net1: mode is vepa, want bridge`.
func (e *DriftError) Error() string {
	if e.Want == "" {
		return fmt.Sprintf("%s: %s is %s", e.Interface, e.What, e.Got)
	}
	return fmt.Sprintf("%s: %s is %s, want %s", e.Interface, e.What, e.Got, e.Want)
}

// Decode reads a network's configuration into a struct. A value of the wrong
// type is a FieldError of its field, anything else one of "configuration".
func Decode(config []byte, into any) error {
	err := json.Unmarshal(config, into)
	if err == nil {
		return nil
	}
	field := "configuration"
	var mistyped *json.UnmarshalTypeError
	if errors.As(err, &mistyped) {
		field = cmp.Or(mistyped.Field, field)
		err = fmt.Errorf("is a JSON %s, want %s", mistyped.Value, described(mistyped.Type))
	}
	return &FieldError{Field: field, Err: err}
}

// described is what a Go type is called in JSON.
func described(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.Uint32:
		return "a whole number from 0 to 4294967295"
	case reflect.Struct, reflect.Map:
		return "an object"
	}
	return "a " + t.String()
}
