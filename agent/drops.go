// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/drops"
	"github.com/weir-cni/weir/loader"
)

// dropsNumber is what the drops of an attachment bear.
func dropsNumber(id attachment.ID) uint64 { return loader.AttachmentID(id.ContainerID, id.Interface) }

// knowDrops tells whose drops those of an attachment are.
func (r *registry) knowDrops(a *attachment.Attachment) { r.journal.Know(dropsNumber(a.ID), *a) }

// expectDrops is knowDrops while nothing is known of an attachment but what its guard is
// made of.
func (r *registry) expectDrops(id attachment.ID, spec loader.Spec) {
	namespace, name, _ := strings.Cut(spec.Pod, "/")
	r.knowDrops(&attachment.Attachment{ID: id, Pod: attachment.Pod{Namespace: namespace, Name: name}, Network: spec.Network})
}

// readDrops has the ring buffer read that a guard reports to. Without it the guard does all else.
func (r *registry) readDrops(id attachment.ID, guard *loader.Guard) {
	buffer, err := guard.DropBuffer()
	if err == nil {
		err = r.rings.Hold(dropsNumber(id), buffer)
	}
	if err != nil {
		r.log.Error("drops of an attachment are counted and not read", "container_id", id.ContainerID, "netif", id.Interface, "err", err)
	}
}

func (r *registry) forgetDrops(id attachment.ID) {
	r.rings.Release(dropsNumber(id))
	r.journal.Forget(dropsNumber(id))
}

// dropsUntil answers what drops there were, and goes on to answer what comes until the peer
// goes or ctx ends.
func (a *agent) dropsUntil(ctx context.Context) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		wanted, err := dropsWanted(r.URL.Query())
		switch {
		case err != nil:
			http.Error(w, err.Error(), http.StatusBadRequest)
		case wanted.follow:
			a.followDrops(ctx, w, r, wanted)
		default:
			a.reply(w, api.DropList{APIVersion: api.Version, Items: a.registry.journal.Kept(wanted.Filter, wanted.last)})
		}
	}
}

// pageDropsMax is how many of the last drops the page shows.
const pageDropsMax = 100

// handlePageDrops answers the last drops without the packets themselves: whoever sees the
// page need not see what pods say to each other.
func (a *agent) handlePageDrops(w http.ResponseWriter, _ *http.Request) {
	last := a.registry.journal.Kept(drops.Filter{}, pageDropsMax)
	drops.Summarize(last)
	a.reply(w, api.DropList{APIVersion: api.Version, Items: last})
}

// wantedDrops is what a request asks for.
type wantedDrops struct {
	drops.Filter
	last   int
	follow bool
}

func dropsWanted(query url.Values) (w wantedDrops, err error) {
	if w.Filter, err = drops.FilterOf(query); err != nil {
		return w, err
	}
	if text := query.Get("follow"); text != "" {
		if w.follow, err = strconv.ParseBool(text); err != nil {
			return w, fmt.Errorf("reading follow: %w", err)
		}
	}
	w.last = -1
	if text := query.Get("last"); text != "" {
		if w.last, err = strconv.Atoi(text); err != nil {
			return w, fmt.Errorf("reading last: %w", err)
		}
	}
	return w, nil
}

// followDrops writes lines. A peer that does not read holds up nobody but itself, and a
// write to it ends with ctx.
func (a *agent) followDrops(ctx context.Context, w http.ResponseWriter, r *http.Request, wanted wantedDrops) {
	kept, follower := a.registry.journal.Follow(wanted.Filter, wanted.last)
	defer follower.Close()
	w.Header().Set("Content-Type", "application/x-ndjson")
	lines := &dropLines{encoder: json.NewEncoder(w), controller: http.NewResponseController(w)}
	defer context.AfterFunc(ctx, lines.giveUp)()
	for i := range kept {
		lines.write(api.DropLine{DroppedPacket: &kept[i]})
	}
	lines.flush()
	for lines.err == nil {
		select {
		case <-ctx.Done():
			return
		case <-r.Context().Done():
			return
		case d := <-follower.Drops():
			lines.write(api.DropLine{DroppedPacket: &d})
			lines.finish(follower)
		}
	}
	a.log.Debug("the peer went away that followed drops", "err", lines.err)
}

// dropLines writes lines until it cannot.
type dropLines struct {
	encoder    *json.Encoder
	controller *http.ResponseController
	err        error
}

func (l *dropLines) write(line api.DropLine) {
	if l.err == nil {
		l.err = l.encoder.Encode(line)
	}
}

// finish tells what was missed, and flushes where nothing else waits.
func (l *dropLines) finish(f *drops.Follower) {
	if missed := f.Missed(); missed > 0 {
		l.write(api.DropLine{Missed: missed})
	}
	if len(f.Drops()) == 0 {
		l.flush()
	}
}

func (l *dropLines) flush() {
	if l.err == nil {
		l.err = l.controller.Flush()
	}
}

// giveUp ends a write that is under way. A connection that cannot is closed with the server.
func (l *dropLines) giveUp() { _ = l.controller.SetWriteDeadline(time.Now()) }
