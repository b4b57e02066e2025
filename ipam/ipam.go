// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"

	"github.com/containernetworking/cni/pkg/invoke"
	current "github.com/containernetworking/cni/pkg/types/100"
)

// The types that run in process. A file of that name in a plugin directory is never executed.
const (
	typeStatic    = "static"
	typeHostLocal = "host-local"
)

// Request is one CNI operation on one attachment.
type Request struct {
	// ContainerID, Netns and IfName are CNI_CONTAINERID, CNI_NETNS and CNI_IFNAME. Netns may be
	// empty for Del.
	ContainerID, Netns, IfName string
	// Args is CNI_ARGS as the runtime gave it.
	Args string
	// Path holds the plugin directories that an executed plugin gets as CNI_PATH.
	Path []string
	// Config is the network configuration exactly as a delegate gets it on stdin, with
	// runtimeConfig, args and, for Check and Del, prevResult. Check of static reads prevResult
	// from it, executed plugins get it; all else is as Parse saw it.
	Config []byte
}

// Plugin is the address management of one network configuration, validated by Parse.
type Plugin interface {
	// Add reserves and returns the addresses, routes and DNS settings of an attachment. The
	// result has at least one address and no interfaces.
	Add(ctx context.Context, req Request) (*current.Result, error)
	// Check returns an error if the attachment no longer holds what Add gave it.
	Check(ctx context.Context, req Request) error
	// Del releases what the attachment holds. That it holds nothing is no error.
	Del(ctx context.Context, req Request) error
}

// Parse returns the address management that a network configuration asks for, or nil if it asks
// for none: without an ipam section, or with one of an empty type (CNI spec 1.1, section 2). args
// is CNI_ARGS; path holds the directories in which an executed plugin is looked for, and exec is what
// finds and executes it. Nothing is changed or executed. The error is a *FieldError.
func Parse(config []byte, path []string, args string, exec invoke.Exec) (Plugin, error) {
	var head struct {
		IPAM struct {
			Type string `json:"type"`
		} `json:"ipam"`
	}
	if err := decode(config, &head); err != nil {
		return nil, err
	}
	switch head.IPAM.Type {
	case "":
		return nil, nil //nolint:nilnil // No address management is a valid answer.
	case typeStatic:
		return plugin(parseStatic(config, args))
	case typeHostLocal:
		return plugin(parseHostLocal(config, args))
	default:
		return plugin(findExecuted(head.IPAM.Type, config, path, exec))
	}
}

// plugin keeps a nil pointer from becoming a Plugin that is not nil.
func plugin[T Plugin](p T, err error) (Plugin, error) {
	if err != nil {
		return nil, err
	}
	return p, nil
}
