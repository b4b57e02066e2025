// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"fmt"
	"strings"
)

// notThere is the error of a name that nothing bears, with the one that may be meant.
func notThere(kind, name string, known []string) error {
	if similar := closest(name, known); similar != "" {
		return fmt.Errorf("no %s %q on this node: did you mean %s?", kind, name, similar)
	}
	return fmt.Errorf("no %s %q on this node", kind, name)
}

// leastBeginning is how much of a name says which is meant, in bytes.
const leastBeginning = 3

// closest is the name that a mistyped one, or a beginning, may be meant for; empty for
// none. A name that was given without its namespace is compared with names without theirs.
func closest(name string, known []string) string {
	best, least := "", len(name)/3+1
	for _, k := range known {
		whole := k
		if !strings.Contains(name, "/") {
			k = k[strings.LastIndex(k, "/")+1:]
		}
		d := distance(name, k)
		if len(name) >= leastBeginning && strings.HasPrefix(k, name) && strings.Count(k, "/") == strings.Count(name, "/") {
			d = 1
		}
		if d <= least && (best == "" || d < least) {
			best, least = whole, d
		}
	}
	return best
}

// distance is the number of letters to insert, delete or replace that makes one word of
// another (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
