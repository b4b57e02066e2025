// SPDX-License-Identifier: Apache-2.0

package drops

import (
	"errors"
	"fmt"
	"net/url"
	"slices"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/bpf"
)

// Filter says which drops are asked for; what is empty is any.
type Filter struct {
	Namespace, Pod, Interface, Direction string
	// Reasons are of which a drop has one.
	Reasons []string
}

// Reasons are those for which guards drop, in the order of their numbers.
func Reasons() []string {
	var reasons []string
	for v := range bpf.Verdicts() {
		if v != bpf.Allowed {
			reasons = append(reasons, v.Reason())
		}
	}
	return reasons
}

// Directions are the pod's.
func Directions() []string { return []string{bpf.Ingress.String(), bpf.Egress.String()} }

// ErrFilter is the error of a filter that nothing can match.
var ErrFilter = errors.New("no such drops")

// Validate errs where a filter asks for what there is not. The error is ErrFilter.
func (f *Filter) Validate() error {
	if f.Direction != "" && !slices.Contains(Directions(), f.Direction) {
		return fmt.Errorf("%w: direction %q", ErrFilter, f.Direction)
	}
	for _, reason := range f.Reasons {
		if !slices.Contains(Reasons(), reason) {
			return fmt.Errorf("%w: reason %q", ErrFilter, reason)
		}
	}
	return nil
}

// Matches tells whether a drop is asked for.
func (f *Filter) Matches(d *api.DroppedPacket) bool {
	is := func(want, got string) bool { return want == "" || want == got }
	return is(f.Namespace, d.Pod.Namespace) && is(f.Pod, d.Pod.Name) && is(f.Interface, d.Interface) &&
		is(f.Direction, d.Direction) && (len(f.Reasons) == 0 || slices.Contains(f.Reasons, d.Reason))
}

// Query is the filter as a request has it.
func (f *Filter) Query() url.Values {
	query := url.Values{}
	for key, value := range map[string]string{
		"namespace": f.Namespace, "pod": f.Pod, "interface": f.Interface, "direction": f.Direction,
	} {
		if value != "" {
			query.Set(key, value)
		}
	}
	if len(f.Reasons) > 0 {
		query["reason"] = f.Reasons
	}
	return query
}

// FilterOf reads the filter of a request. The error is ErrFilter.
func FilterOf(query url.Values) (Filter, error) {
	f := Filter{
		Namespace: query.Get("namespace"), Pod: query.Get("pod"), Interface: query.Get("interface"),
		Direction: query.Get("direction"), Reasons: query["reason"],
	}
	return f, f.Validate()
}
