// SPDX-License-Identifier: Apache-2.0

package bpf

//go:generate go tool bpf2go -tags linux -target bpfel -type weir_verdict -type weir_class -type weir_family -type weir_member_kind -type weir_owner_kind -type weir_drop weir weir.c
//go:generate go tool bpf2go -tags linux -target bpfel sockets sockets.c
//go:generate go tool bpf2go -tags linux -target bpfel master master.c
//go:generate go tool stringer -type weirWeirVerdict -trimprefix weirWeirVerdictWEIR_ -output verdict_string.go
//go:generate go tool stringer -type weirWeirClass -trimprefix weirWeirClassWEIR_ -output class_string.go
//go:generate go tool stringer -type weirWeirFamily -trimprefix weirWeirFamilyWEIR_ -output family_string.go

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// Names of the objects as the kernel knows them: bpftool prints them, and
// CollectionSpec holds them under these keys.
const (
	IngressProgram = "weir_ingress"
	EgressProgram  = "weir_egress"
	CountersMap    = "weir_counters"
	FactsMap       = "weir_facts"
	ControlMap     = "weir_control"
	RateMap        = "weir_rate"
	StormMap       = "weir_storm"
	HeardMap       = "weir_heard"
	MembersMap     = "weir_members"
	PeersMap       = "weir_peers"
	ServicesMap    = "weir_services"
	HitsMap        = "weir_hits"
	DropsMap       = "weir_drops"
	SamplesMap     = "weir_samples"
)

// RuleFunction is the name of the function that looks for the rule of a packet, which
// without rules is not called.
const RuleFunction = "weir_rule_of"

// PrefixesMax is the number of source prefixes of each address family that one
// attachment may have (WEIR_PREFIXES_MAX).
const PrefixesMax = len(Facts{}.Prefixes4)

// FactsSlots is the number of entries of the facts map (WEIR_SLOTS).
const FactsSlots = 4

// CollectionSpec is the programs and maps of one attachment as compiled, but for what this
// kernel is too old for. It is parsed anew at each call; a caller that loads often keeps it
// and loads copies.
func CollectionSpec() (*ebpf.CollectionSpec, error) {
	spec, err := loadWeir()
	if err != nil {
		return nil, fmt.Errorf("reading the embedded programs: %w", err)
	}
	if !takesCompareAndSwap() {
		withoutCompareAndSwap(spec)
	}
	if !hasCoarseClock() {
		withoutCoarseClock(spec)
	}
	return spec, nil
}

// GuardedMap is the name of the map that SocketsSpec has.
const GuardedMap = "weir_guarded"

// SocketsSpec is the program of the node that denies sockets what goes round tc, and its
// map.
func SocketsSpec() (*ebpf.CollectionSpec, error) {
	spec, err := loadSockets()
	if err != nil {
		return nil, fmt.Errorf("reading the embedded program of sockets: %w", err)
	}
	return spec, nil
}

// Build tells the compiled programs from those of any other build: twelve hexadecimal
// digits of their SHA-256.
func Build() string {
	sum := sha256.Sum256(_WeirBytes)
	return hex.EncodeToString(sum[:])[:12]
}

// Facts is the value of the facts map: what the programs know of their
// attachment. Addresses and masks are in network byte order.
type Facts = weirWeirFacts

// Control is the value of the control map: which slot of the facts is in use, and
// what ingress returns for a packet that it allows.
type Control = weirWeirControl

// Rate is a value of the rate map, whose keys are the directions: the bandwidth of
// one direction, and how much of it is spent. Times are in ticks of the monotonic
// clock, TicksPerSecond of them.
type Rate = weirWeirRate

// Drop is one drop as the ring holds it. Packet is what was captured from the Ethernet
// header on, and zeros; the tag of VlanProto and VlanTci is not in it.
type Drop = weirWeirDrop

// NoRule is the rule of a drop that no rule asked for (WEIR_NO_RULE).
const NoRule = 0xffff

// Samples is a value of the samples map, one a CPU: what became of the drops. Sampled
// are in the ring, Limited were too many at a time, RingFull found no room.
type Samples = weirWeirSamples

// TicksPerSecond is the unit of the times in Rate (WEIR_TICKS_PER_S).
const TicksPerSecond = 16e9

// StormTicks is the programs' constant weir_storm_ticks: what a packet of each storm takes
// at its limit, in units of 1/TicksPerSecond; 0 for no limit.
type StormTicks struct {
	Broadcast, Multicast, Unknown uint64
}

// MembersMax is the number of entries of the members map (WEIR_MEMBERS_MAX).
const MembersMax = 65536

// MemberKey is a key of the members map: a MAC or an address of a member.
type MemberKey = weirWeirMemberKey

// The kinds of keys. IPv4 addresses are mapped into IPv6.
const (
	MemberMAC     = uint32(weirWeirMemberKindWEIR_MEMBER_MAC)
	MemberAddress = uint32(weirWeirMemberKindWEIR_MEMBER_ADDRESS)
)

// Member is a value of the members map: to whom a member may talk.
type Member = weirWeirMember

// The roles, in Member and in the programs' constant weir_role.
const (
	RoleNone      = uint32(weirWeirRoleWEIR_ROLE_NONE)
	RoleIsolated  = uint32(weirWeirRoleWEIR_ROLE_ISOLATED)
	RoleCommunity = uint32(weirWeirRoleWEIR_ROLE_COMMUNITY)
)

// Peer is a key of the peers map: a prefix of a direction, a version of IP and an address.
type Peer = weirWeirPeer

// Service is a key of the services map: a prefix of a part, a protocol and a port.
type Service = weirWeirService

// What is or'ed to the direction in a Service (WEIR_PART_WHOLE, WEIR_PART_LATER): whether it
// is about packets with ports or about later fragments.
const (
	PartWhole uint8 = 0
	PartLater uint8 = 1 << 1
)

// Check is a set of checks, or'ed; it is the programs' constant weir_checks.
type Check = weirWeirCheck

// The checks.
const (
	// CheckDestination refuses, on ingress, unicast frames for another MAC. All others
	// are of egress.
	CheckDestination Check = weirWeirCheckWEIR_CHECK_DESTINATION

	CheckMAC  Check = weirWeirCheckWEIR_CHECK_MAC
	CheckIPv4 Check = weirWeirCheckWEIR_CHECK_IPV4
	CheckIPv6 Check = weirWeirCheckWEIR_CHECK_IPV6
	CheckVLAN Check = weirWeirCheckWEIR_CHECK_VLAN
	// CheckDHCP refuses what DHCP servers send, CheckRouter what routers send to hosts.
	CheckDHCP   Check = weirWeirCheckWEIR_CHECK_DHCP
	CheckRouter Check = weirWeirCheckWEIR_CHECK_ROUTER
	// CheckQuerier refuses queries of IGMP and MLD, which multicast routers and switches send.
	CheckQuerier Check = weirWeirCheckWEIR_CHECK_QUERIER
	// CheckSourceRoute refuses IPv4 packets that name the way they are to take,
	// CheckRoutingHeader those of IPv6.
	CheckSourceRoute   Check = weirWeirCheckWEIR_CHECK_SOURCE_ROUTE
	CheckRoutingHeader Check = weirWeirCheckWEIR_CHECK_ROUTING_HEADER
	// CheckEthertype refuses other protocols than IPv4, IPv6 and ARP.
	CheckEthertype Check = weirWeirCheckWEIR_CHECK_ETHERTYPE
	// CheckARP and CheckNeighbour hold ARP and neighbour discovery to the addresses
	// that CheckMAC, CheckIPv4 and CheckIPv6 demand.
	CheckARP       Check = weirWeirCheckWEIR_CHECK_ARP
	CheckNeighbour Check = weirWeirCheckWEIR_CHECK_NEIGHBOUR
	// CheckDoubleTag refuses more than one VLAN tag, and those of providers.
	CheckDoubleTag Check = weirWeirCheckWEIR_CHECK_DOUBLE_TAG
)

// Verdict is what became of a packet.
type Verdict = weirWeirVerdict

// Allowed is the verdict of a packet that went its way; every other one names
// why the packet was dropped.
const Allowed Verdict = weirWeirVerdictWEIR_ALLOWED

const verdicts = int(weirWeirVerdictWEIR_VERDICT_MAX)

// Verdicts lists every verdict in the order of its number.
func Verdicts() iter.Seq[Verdict] { return upTo(Verdict(verdicts)) }

func upTo[T ~uint32](end T) iter.Seq[T] {
	return func(yield func(T) bool) {
		for i := range end {
			if !yield(i) {
				return
			}
		}
	}
}

// Reason is the verdict as metrics and tools spell it: spoofed_mac.
func (v Verdict) Reason() string { return strings.ToLower(v.String()) }

// Direction is the pod's: ingress is what it receives.
type Direction int

// The directions, in the order of the counters.
const (
	Ingress Direction = iota
	Egress
)

// String is "ingress" or "egress".
func (d Direction) String() string {
	if d == Ingress {
		return "ingress"
	}
	return "egress"
}

// Count is a number of packets and of bytes as the wire carries them: Ethernet
// header and VLAN tag included, FCS not, each segment of a GSO packet by itself.
type Count struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Class is whom a packet is for.
type Class = weirWeirClass

// The classes.
const (
	Unicast   Class = weirWeirClassWEIR_UNICAST
	Multicast Class = weirWeirClassWEIR_MULTICAST
	Broadcast Class = weirWeirClassWEIR_BROADCAST
)

// Family is what protocol a packet is of. ICMP is that of IPv4 and of IPv6; a fragment
// is of its packet's.
type Family = weirWeirFamily

const (
	classes  = int(weirWeirClassWEIR_CLASS_MAX)
	families = int(weirWeirFamilyWEIR_FAMILY_MAX)
)

// Classes lists every class.
func Classes() iter.Seq[Class] { return upTo(Class(classes)) }

// Families lists every family.
func Families() iter.Seq[Family] { return upTo(Family(families)) }

// Name is the class as metrics and tools spell it: unicast.
func (c Class) Name() string { return strings.ToLower(c.String()) }

// Name is the family as metrics and tools spell it: tcp.
func (f Family) Name() string { return strings.ToLower(f.String()) }

// Counters is the value of the counters map on one CPU, or the sum over all.
type Counters struct {
	Verdicts [2][verdicts]Count
	Allowed  [2][classes][families]Count
}

// Of is the count of one direction and verdict.
func (c *Counters) Of(d Direction, v Verdict) Count { return c.Verdicts[d][v] }

// OfClass is what was allowed of a class.
func (c *Counters) OfClass(d Direction, class Class) Count {
	var sum Count
	for _, count := range c.Allowed[d][class] {
		sum.add(count)
	}
	return sum
}

// OfFamily is what was allowed of a family.
func (c *Counters) OfFamily(d Direction, f Family) Count {
	var sum Count
	for class := range c.Allowed[d] {
		sum.add(c.Allowed[d][class][f])
	}
	return sum
}

func (c *Count) add(more Count) {
	c.Packets += more.Packets
	c.Bytes += more.Bytes
}

// Sum adds up the counters of every CPU.
func Sum(perCPU []Counters) Counters {
	var sum Counters
	for i := range perCPU {
		sum.add(&perCPU[i])
	}
	return sum
}

func (c *Counters) add(more *Counters) {
	for d := range more.Verdicts {
		for v := range more.Verdicts[d] {
			c.Verdicts[d][v].add(more.Verdicts[d][v])
		}
		for class := range more.Allowed[d] {
			for family := range more.Allowed[d][class] {
				c.Allowed[d][class][family].add(more.Allowed[d][class][family])
			}
		}
	}
}

// MasterPrograms are the names of the programs that a node puts on masters, and RingMaps
// those of their maps; the first three are those of attachments too.
const (
	LeavingProgram   = "weir_leaving"
	CrossingProgram  = "weir_crossing"
	ToMACProgram     = "weir_to_mac"
	ToAddressProgram = "weir_to_address"
	LocalsMap        = "weir_locals"
	OwnersMap        = "weir_owners"
	RingMap          = "weir_ring"
	SendersMap       = "weir_senders"
	ReceiversMap     = "weir_receivers"
)

// MasterSpec is the programs of masters, and their maps.
func MasterSpec() (*ebpf.CollectionSpec, error) {
	spec, err := loadMaster()
	if err != nil {
		return nil, fmt.Errorf("reading the embedded programs of masters: %w", err)
	}
	return spec, nil
}

// LocalKey is a key of the locals map: what an attachment on a master is known by.
type LocalKey = weirWeirLocalKey

// Local is a value of the locals map.
type Local = weirWeirLocal

// Flags of a Local: of an attachment that sees nothing of what comes in at its master
// (WEIR_LOCAL_LAST), and of one with leave to send past its guard (WEIR_LOCAL_ROUND).
const (
	LocalLast  uint32 = 1 << 0
	LocalRound uint32 = 1 << 1
)

// OwnerKey is a key of the owners map: whose a socket is.
type OwnerKey = weirWeirOwnerKey

// Owner is a value of the owners map.
type Owner = weirWeirOwner

// The kinds of owners.
const (
	OwnerNetns  = weirWeirOwnerKindWEIR_OWNER_NETNS
	OwnerCgroup = weirWeirOwnerKindWEIR_OWNER_CGROUP
)

// Ring is the value of the ring map.
type Ring = weirWeirRing

// CookieHelper is what programs need for the constant weir_has_cookie.
const CookieHelper = asm.FnGetNetnsCookie
