// SPDX-License-Identifier: Apache-2.0

package segment

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
)

// Role is what a network lets its attachments talk to.
type Role string

// The roles. One of none and a promiscuous one talk to all.
const (
	None        Role = "none"
	Promiscuous Role = "promiscuous"
	// Isolated talks to promiscuous ones and to hosts that are no members.
	Isolated Role = "isolated"
	// Community talks to those of the same name besides.
	Community Role = "community"
)

// Isolation is a role, with the name of the community where it is that of one. In JSON it
// is the role as a string, or {"community": name}. The zero value is None.
type Isolation struct {
	role Role
	name string
}

// Of is the isolation of a role that needs no name.
func Of(role Role) Isolation { return Isolation{role: role} }

// OfCommunity is that of a member of a community.
func OfCommunity(name string) Isolation { return Isolation{Community, name} }

// Role is the role.
func (i Isolation) Role() Role {
	if i.role == "" {
		return None
	}
	return i.role
}

// Restricted tells that there may be members to which one of this isolation may not talk.
func (i Isolation) Restricted() bool { return i.role == Isolated || i.role == Community }

// MayTalkTo tells whether members of two isolations may talk to each other.
func (i Isolation) MayTalkTo(other Isolation) bool {
	return !i.Restricted() || !other.Restricted() || i.role == Community && i == other
}

// CommunityNumber is what programs know the community by: the same on every node, and 0
// for none. Two names have the same with a probability of 1 in 2^64.
func (i Isolation) CommunityNumber() uint64 {
	if i.role != Community {
		return 0
	}
	sum := sha256.Sum256([]byte(i.name))
	return binary.BigEndian.Uint64(sum[:])
}

// String is the role, or community:name.
func (i Isolation) String() string {
	if i.role == Community {
		return "community:" + i.name
	}
	return string(i.Role())
}

// ErrInvalid is the error of an isolation or a name that cannot be.
var ErrInvalid = errors.New("invalid")

var names = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$`)

// ValidateName checks the name of a segment or of a community. The error is ErrInvalid.
func ValidateName(name string) error {
	if !names.MatchString(name) {
		return fmt.Errorf("%.80q: %w: want 1 to 63 letters, digits, '-', '_' and '.', the first and the last a letter or digit",
			name, ErrInvalid)
	}
	return nil
}

// MarshalJSON writes what UnmarshalJSON reads.
func (i Isolation) MarshalJSON() ([]byte, error) {
	if i.role == Community {
		return json.Marshal(map[string]string{"community": i.name})
	}
	return json.Marshal(i.Role())
}

// UnmarshalJSON reads a role or {"community": name}. The error is ErrInvalid.
func (i *Isolation) UnmarshalJSON(data []byte) error {
	var role Role
	if json.Unmarshal(data, &role) == nil {
		return i.setRole(role)
	}
	var community struct {
		Community *string `json:"community"`
	}
	if err := json.Unmarshal(data, &community); err != nil || community.Community == nil {
		return fmt.Errorf(`%w: want "none", "isolated", "promiscuous" or {"community": "a name"}`, ErrInvalid)
	}
	if err := ValidateName(*community.Community); err != nil {
		return fmt.Errorf("community %w", err)
	}
	*i = OfCommunity(*community.Community)
	return nil
}

func (i *Isolation) setRole(role Role) error {
	switch role {
	case None, Promiscuous, Isolated:
		*i = Of(role)
		return nil
	case Community:
		return fmt.Errorf(`%w: a community has a name: {"community": "red"}`, ErrInvalid)
	}
	return fmt.Errorf("%.80q: %w: want none, isolated, promiscuous or a community", role, ErrInvalid)
}

// Place is where the attachments of a network stand.
type Place struct {
	// Segment is that of which they are members.
	Segment   string
	Isolation Isolation
	// SharedMAC is set where the attachments of a node share one, so that they are known by
	// their addresses alone.
	SharedMAC bool
}
