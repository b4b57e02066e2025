// SPDX-License-Identifier: Apache-2.0

// Package hostdevice gives a pod a device of the node: it moves the device into
// the pod's network namespace, and back as it was.
//
// A [Config] comes from Parse, which looks at the text alone; Validate looks at
// the node and touches nothing. Save says what the device is like, for the caller
// to keep before Move; Restore puts it back from wherever a Move that was cut off,
// or the end of the pod's namespace, has left it. A fault in the configuration is a
// netif.FieldError.
package hostdevice
