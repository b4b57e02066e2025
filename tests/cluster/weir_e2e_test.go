// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package cluster

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestE2ECopiedInto(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		dockerfile string
		want       []copied
	}{
		"one stage": {
			dockerfile: "FROM scratch\nCOPY build/a build/b /usr/bin/\nENTRYPOINT [\"/usr/bin/a\"]\n",
			want:       []copied{{"", "build/a"}, {"", "build/b"}},
		},
		"only the last stage": {
			dockerfile: "FROM golang:1 AS build\nCOPY . .\nRUN go build\nFROM scratch\nCOPY --from=build --chmod=0755 /out/a /usr/bin/\n",
			want:       []copied{{"build", "/out/a"}},
		},
		"a long line": {
			dockerfile: "from scratch\ncopy --from=build /out/a \\\n  /out/b \\\n  /usr/bin/\n",
			want:       []copied{{"build", "/out/a"}, {"build", "/out/b"}},
		},
		"nothing": {dockerfile: "FROM scratch\n# COPY a b\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(c.want, copiedInto(c.dockerfile), cmp.AllowUnexported(copied{})); diff != "" {
				t.Errorf("unexpected sources (-want +got):\n%s", diff)
			}
		})
	}
}
