// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"reflect"
	"strings"
	"testing"
)

func TestCountersLayoutIsThatOfTheKernel(t *testing.T) {
	t.Parallel()
	if got, want := binary.Size(Counters{}), int(reflect.TypeFor[weirWeirCounters]().Size()); got != want {
		t.Errorf("Counters has %d bytes, the map's value %d", got, want)
	}
}

// The counters are named after the verdicts, so bpftool's names and the metrics'
// reasons are the same words.
func TestCountersAreNamedAfterVerdicts(t *testing.T) {
	t.Parallel()
	fields := reflect.TypeFor[weirWeirCounters]().Field(1).Type
	for v := range Verdicts() {
		field := fields.Field(int(v) + 1).Name
		if want := strings.ReplaceAll(v.Reason(), "_", ""); strings.ToLower(field) != want {
			t.Errorf("counter %d is %s, want one for %s", v, field, v.Reason())
		}
	}
}

// The rest of a name is that of the member in C.
func TestClassesAndFamiliesAreNamed(t *testing.T) {
	t.Parallel()
	ofClass := reflect.TypeFor[weirWeirCounters]().Field(3).Type
	for class := range Classes() {
		field := ofClass.Field(int(class) + 1)
		if strings.ToLower(field.Name) != class.Name() {
			t.Errorf("class %d is %s, want %s", class, field.Name, class.Name())
		}
		for family := range Families() {
			if name := field.Type.Field(int(family) + 1).Name; strings.ToLower(name) != family.Name() {
				t.Errorf("family %d is %s, want %s", family, name, family.Name())
			}
		}
	}
}

func TestSumsByClassAndFamily(t *testing.T) {
	t.Parallel()
	var c Counters
	c.Allowed[Ingress][Unicast][0] = Count{Packets: 1, Bytes: 60}
	c.Allowed[Ingress][Unicast][1] = Count{Packets: 2, Bytes: 120}
	c.Allowed[Ingress][Broadcast][1] = Count{Packets: 4, Bytes: 240}
	c.Allowed[Egress][Unicast][1] = Count{Packets: 8, Bytes: 480}
	if got, want := c.OfClass(Ingress, Unicast), (Count{3, 180}); got != want {
		t.Errorf("unicast: %v, want %v", got, want)
	}
	if got, want := c.OfFamily(Ingress, 1), (Count{6, 360}); got != want {
		t.Errorf("%s: %v, want %v", Family(1), got, want)
	}
}

func TestCollectionSpec(t *testing.T) {
	t.Parallel()
	spec, err := CollectionSpec()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{IngressProgram, EgressProgram} {
		if spec.Programs[name] == nil {
			t.Errorf("no program %s", name)
		}
	}
	for _, name := range []string{CountersMap, FactsMap, ControlMap, RateMap, DropsMap, SamplesMap} {
		if spec.Maps[name] == nil {
			t.Errorf("no map %s", name)
		}
		if len(name) > 15 {
			t.Errorf("the kernel cuts the name %s to 15 bytes", name)
		}
	}
	if got := spec.Maps[FactsMap].MaxEntries; got != FactsSlots {
		t.Errorf("the facts have %d slots, FactsSlots says %d", got, FactsSlots)
	}
	if got := spec.Maps[MembersMap].MaxEntries; got != MembersMax {
		t.Errorf("the members have %d entries, MembersMax says %d", got, MembersMax)
	}
}

func TestSumAddsUpEveryCPU(t *testing.T) {
	t.Parallel()
	var a, b Counters
	a.Verdicts[Ingress][Allowed] = Count{Packets: 1, Bytes: 60}
	b.Verdicts[Ingress][Allowed] = Count{Packets: 2, Bytes: 120}
	b.Verdicts[Egress][weirWeirVerdictWEIR_SPOOFED_MAC] = Count{Packets: 3, Bytes: 180}
	a.Allowed[Egress][Multicast][0] = Count{Packets: 5, Bytes: 300}
	b.Allowed[Egress][Multicast][0] = Count{Packets: 6, Bytes: 360}
	sum := Sum([]Counters{a, b})
	if got, want := sum.Allowed[Egress][Multicast][0], (Count{11, 660}); got != want {
		t.Errorf("egress multicast: %v, want %v", got, want)
	}
	if got, want := sum.Of(Ingress, Allowed), (Count{3, 180}); got != want {
		t.Errorf("ingress allowed: %v, want %v", got, want)
	}
	if got, want := sum.Of(Egress, weirWeirVerdictWEIR_SPOOFED_MAC), (Count{3, 180}); got != want {
		t.Errorf("egress spoofed_mac: %v, want %v", got, want)
	}
}
