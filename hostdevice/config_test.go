// SPDX-License-Identifier: Apache-2.0

package hostdevice_test

import (
	"errors"
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weir-cni/weir/hostdevice"
	"github.com/weir-cni/weir/netif"
)

func TestParse(t *testing.T) {
	t.Parallel()
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	tests := []struct {
		name, config string
		want         hostdevice.Config
	}{
		{"device", `{"device":"eth7"}`, hostdevice.Config{Device: "eth7"}},
		{"hwaddr", `{"hwaddr":"02:00:00:00:00:01"}`, hostdevice.Config{HWAddr: mac}},
		{"kernelpath", `{"kernelpath":"/sys/devices/pci0000:00/0000:00:1f.6"}`, hostdevice.Config{KernelPath: "/sys/devices/pci0000:00/0000:00:1f.6"}},
		{"pciBusID", `{"pciBusID":"0000:3b:00.1"}`, hostdevice.Config{PCIBusID: "0000:3b:00.1"}},
		{"deviceID for pciBusID", `{"pciBusID":"0000:3b:00.1","runtimeConfig":{"deviceID":"0000:3b:00.2"}}`, hostdevice.Config{PCIBusID: "0000:3b:00.2"}},
		{"deviceID on the auxiliary bus", `{"pciBusID":"0000:3b:00.1","runtimeConfig":{"deviceID":"mlx5_core.sf.4"}}`, hostdevice.Config{Auxiliary: "mlx5_core.sf.4"}},
		{"a MAC", `{"device":"eth7","runtimeConfig":{"mac":"02:00:00:00:00:01"}}`, hostdevice.Config{Device: "eth7", MAC: mac}},
		{"keys of others", `{"device":"eth7","ipam":{"type":"static"},"x":[1]}`, hostdevice.Config{Device: "eth7"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := hostdevice.Parse([]byte(test.config))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, config, field string }{
		{"no JSON", `{`, "configuration"},
		{"no device", `{}`, "device"},
		{"a name that no interface has", `{"device":"a/b"}`, "device"},
		{"a number for a name", `{"device":7}`, "device"},
		{"no MAC", `{"hwaddr":"x"}`, "hwaddr"},
		{"a path elsewhere", `{"kernelpath":"/etc"}`, "kernelpath"},
		{"a path that leads elsewhere", `{"kernelpath":"/sys/devices/../../etc"}`, "kernelpath"},
		{"no PCI address", `{"pciBusID":"../../etc"}`, "pciBusID"},
		{"a group's MAC", `{"device":"eth7","runtimeConfig":{"mac":"01:00:5e:00:00:01"}}`, "runtimeConfig.mac"},
		{"no device ID", `{"device":"eth7","runtimeConfig":{"deviceID":"../x"}}`, "runtimeConfig.deviceID"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := hostdevice.Parse([]byte(test.config))
			var field *netif.FieldError
			if !errors.As(err, &field) || field.Field != test.field {
				t.Errorf("Parse = %+v, %v; want an error of field %s", got, err, test.field)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, config := range []string{`{"device":"eth7"}`, `{"hwaddr":"02:00:00:00:00:01"}`, `{"pciBusID":"0000:3b:00.1"}`, `[`, `null`} {
		f.Add([]byte(config))
	}
	f.Fuzz(func(t *testing.T, config []byte) {
		got, err := hostdevice.Parse(config)
		if err != nil {
			if !errors.As(err, new(*netif.FieldError)) {
				t.Errorf("error without a field: %v", err)
			}
			return
		}
		if got.Device == "" && got.HWAddr == nil && got.KernelPath == "" && got.PCIBusID == "" && got.Auxiliary == "" {
			t.Errorf("accepted %+v", got)
		}
	})
}
