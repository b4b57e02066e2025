// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/loader"
	"github.com/weir-cni/weir/netns"
	"github.com/weir-cni/weir/state"
)

const (
	// unfinishedFor is how old the record of a request under way can be: kubelet gives up
	// after some four minutes.
	unfinishedFor = 10 * time.Minute
	// settle is given to requests under way before pins are taken for leftovers.
	settle = 300 * time.Millisecond
)

// records looks at what the agent has written down.
func (e *exam) records() {
	dir := filepath.Join(e.StateDir, state.RecordsDir)
	if _, err := os.Stat(dir); err != nil {
		e.fail("records", "start an agent, which makes it, or name another state with --state-dir", "%v", err)
		return
	}
	records, err := state.Read(dir)
	if err != nil {
		e.fail("records", "its pod has to be deleted; move the file away when its pod is gone", "%v", err)
	} else {
		e.ok("records", "those of %d sandboxes in %s can be read", len(records), dir)
	}
	e.sandboxes(records)
	e.leftovers(dir)
}

// sandboxes looks for records that should be gone.
func (e *exam) sandboxes(records []*state.Record) {
	quiet := true
	for _, r := range records {
		unfinished := r.Phase != state.Ready && time.Since(r.Created) > unfinishedFor
		switch {
		case r.Phase == state.Deleting && unfinished:
			e.warn("sandboxes", "the agent's log says what is in the way; the next DEL or agent tries again",
				"that of %s could not be taken away", nameOf(r))
		case unfinished:
			e.warn("sandboxes", "restart the agent, which undoes it", "the ADD of %s was cut off", nameOf(r))
		case isGone(r.Netns):
			e.warn("sandboxes", "the runtime has to call DEL or GC for it: delete the pod, or crictl rmp",
				"the namespace of %s is gone, and no DEL has come: %s", nameOf(r), r.Netns)
		default:
			continue
		}
		quiet = false
	}
	if quiet {
		e.ok("sandboxes", "none is left from before")
	}
}

func nameOf(r *state.Record) string {
	if r.Pod.Name == "" {
		return "container " + r.ContainerID
	}
	return r.Pod.String()
}

func isGone(path string) bool {
	if path == "" {
		return false
	}
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// leftovers looks for pins of which no record speaks, twice: an ADD has pins for a moment
// before its record does.
func (e *exam) leftovers(recordsDir string) {
	strays := e.strays(recordsDir)
	if len(strays) > 0 {
		time.Sleep(settle)
		again := e.strays(recordsDir)
		maps.DeleteFunc(strays, func(path string, _ bool) bool { return !again[path] })
	}
	for _, path := range slices.Sorted(maps.Keys(strays)) {
		e.warn("leftovers", "when no pod is behind it any more: rm -r "+path, "no record speaks of the pins in %s%s", path, ownerOf(path))
	}
	if len(strays) == 0 {
		e.ok("leftovers", "every pin is of an attachment")
	}
}

func ownerOf(path string) string {
	m, err := loader.ReadMetadata(path)
	if err != nil || m.Interface == "" {
		return ""
	}
	return fmt.Sprintf(", made for %s of %s", m.Interface, m.Pod)
}

func (e *exam) strays(recordsDir string) map[string]bool {
	strays := map[string]bool{}
	entries, err := os.ReadDir(e.BPFDir)
	if err != nil {
		return strays // told of by filesystem
	}
	for _, entry := range entries {
		if entry.IsDir() && entry.Name() != loader.RingDir {
			strays[filepath.Join(e.BPFDir, entry.Name())] = true
		}
	}
	records, _ := state.Read(recordsDir) // told of by records
	for _, a := range attachmentsIn(records) {
		delete(strays, filepath.Join(e.BPFDir, a.PinDir))
	}
	return strays
}

func attachmentsIn(records []*state.Record) []*attachment.Attachment {
	var all []*attachment.Attachment
	for _, r := range records {
		for _, d := range r.Delegates {
			if d.Attachment != nil {
				all = append(all, d.Attachment)
			}
		}
	}
	return all
}

// guards looks whether each is where its record says.
func (e *exam) guards() {
	records, _ := state.Read(filepath.Join(e.StateDir, state.RecordsDir)) // told of by records
	host, err := netns.Current()
	if err != nil {
		e.fail("guards", "run this as root", "%v", err)
		return
	}
	defer host.Close()
	in, bare := 0, 0
	for _, r := range records {
		if r.Phase != state.Ready || isGone(r.Netns) {
			continue
		}
		for _, a := range attachmentsIn([]*state.Record{r}) {
			switch {
			case a.PinDir == "":
				bare++
			case e.inPlace(host, a):
				in++
			}
		}
	}
	e.ok("guards", "%d are in place, %d attachments have none by the wish of their networks", in, bare)
}

func (e *exam) inPlace(host *netns.Namespace, a *attachment.Attachment) bool {
	if err := e.checkGuard(host, a); err != nil {
		e.fail("guards", "a running agent puts it back within seconds, see its log; else delete the pod",
			"that of %s of %s: %v", a.Interface, a.Pod, err)
		return false
	}
	return true
}

func (e *exam) checkGuard(host *netns.Namespace, a *attachment.Attachment) error {
	guard, err := loader.Open(filepath.Join(e.BPFDir, a.PinDir))
	if err != nil {
		return err
	}
	defer guard.Close()
	place := loader.Place{Namespace: host, Interface: a.HostInterface, Opposite: true}
	if a.HostInterface == "" {
		pod, err := netns.Open(a.Netns)
		if err != nil {
			return err
		}
		defer pod.Close()
		place = loader.Place{Namespace: pod, Interface: a.Interface}
	}
	return guard.Check(place)
}
