// SPDX-License-Identifier: Apache-2.0

// Package ctl is weirctl, the operator's tool: its commands and what they print.
package ctl
