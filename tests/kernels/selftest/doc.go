// SPDX-License-Identifier: Apache-2.0

// Package selftest holds tests of the VM in which the other packages' tests
// run: that it is the kernel that was asked for, with the file systems, link
// types and classifiers that those tests count on. There is nothing to import.
package selftest
