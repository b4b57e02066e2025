// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/weir-cni/weir/attachment"
)

// An attachment without a guard is seen until it is removed, and has no pins of which
// anything else could go with it.
func TestAttachmentWithoutGuard(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	other := filepath.Join(dir, "other-net1")
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	var locks keyedMutex
	r := newRegistry(nil, &segments{}, nil, dir, locks.lock, slog.New(slog.DiscardHandler))
	a := attachment.Attachment{ID: attachment.ID{ContainerID: "abc", Interface: "net1"}, Network: "pods/fast"}
	r.Publish(a)
	if all := r.Attachments(); len(all) != 1 || all[0].Guard != nil {
		t.Errorf("attachments %v", all)
	}
	if got := r.Published("abc"); len(got) != 1 {
		t.Errorf("of the container: %v", got)
	}
	if err := r.Remove(&a); err != nil {
		t.Fatal(err)
	}
	if all, of := r.Attachments(), r.Published("abc"); len(all) != 0 || len(of) != 0 {
		t.Errorf("after its removal: %v, %v", all, of)
	}
	if _, err := os.Stat(other); err != nil {
		t.Errorf("the pins of another: %v", err)
	}
}
