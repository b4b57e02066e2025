// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"

	"github.com/weir-cni/weir/api"
	"github.com/weir-cni/weir/attachment"
	"github.com/weir-cni/weir/drops"
)

// someDrops are of each kind that is shown in a way of its own.
func someDrops(t *testing.T) []api.DroppedPacket {
	t.Helper()
	bytesOf := func(text string) []byte {
		data, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	at := func(ms int) time.Time { return time.Date(2026, 1, 2, 3, 4, 5, ms*int(time.Millisecond), time.UTC) }
	const macs = "ffffffffffff 020000000001"
	const udp = "4500001c000040004011 0000 0a000005 0a000001 1092003500080000"
	return []api.DroppedPacket{
		{Time: at(7), ID: web().ID, Pod: web().Pod, Network: web().Network, Direction: "egress", Reason: "spoofed_ipv4", Length: 1514, Packet: bytesOf(macs + "0800" + udp)},
		{Time: at(20), ID: web().ID, Pod: web().Pod, Network: web().Network, Direction: "ingress", Reason: "rule_denied", Rule: "db", Length: 42, Packet: bytesOf(macs + "0800" + udp)},
		{Time: at(300), ID: other().ID, Network: other().Network, Direction: "egress", Reason: "spoofed_mac", Length: 60, Packet: bytesOf(macs + "88cc 0207")},
		{Time: at(999), ID: web().ID, Pod: web().Pod, Network: web().Network, Direction: "egress", Reason: "vlan_tagged", Length: 42, VLAN: &api.VLANTag{Protocol: "0x8100", TCI: 0x2007}, Packet: bytesOf(macs + "0800" + udp)},
		{Time: at(999), ID: attachment.ID{}, Direction: "egress", Reason: "malformed", Length: 14, Packet: []byte{}},
	}
}

// dropper is an agent that has drops, and notes what it is asked.
type dropper struct {
	socket string
	asked  chan string
}

func newDropper(t *testing.T, all []api.DroppedPacket, items ...api.AttachmentStatus) *dropper {
	t.Helper()
	d := &dropper{asked: make(chan string, 10)}
	d.socket = serve(t, func(w http.ResponseWriter, r *http.Request) {
		d.asked <- r.URL.RequestURI()
		encoder := json.NewEncoder(w)
		switch {
		case r.URL.Path == api.AttachmentsPath:
			_ = encoder.Encode(&api.AttachmentList{APIVersion: api.Version, Items: append([]api.AttachmentStatus{}, items...)})
		case r.URL.Query().Get("follow") == "true":
			for i := range all {
				_ = encoder.Encode(api.DropLine{DroppedPacket: &all[i]})
			}
			_ = encoder.Encode(api.DropLine{Missed: 5})
		default:
			_ = encoder.Encode(api.DropList{APIVersion: api.Version, Items: append([]api.DroppedPacket{}, all...)})
		}
	})
	return d
}

func TestDrops(t *testing.T) {
	t.Parallel()
	for _, output := range outputs {
		for name, all := range map[string][]api.DroppedPacket{"none": nil, "one": someDrops(t)[:1], "many": someDrops(t)} {
			code, out, stderr := run("drops", "-o", output, "--socket", newDropper(t, all).socket)
			if code != ExitOK || stderr != "" {
				t.Errorf("exit code %d: %s", code, stderr)
			}
			golden(t, "drops-"+name+"."+output, out)
		}
	}
}

func TestDropsAsksForWhatTheFlagsSay(t *testing.T) {
	t.Parallel()
	tests := []struct {
		args []string
		want string
	}{
		{nil, "follow=false&last=-1"},
		{[]string{"--last", "7"}, "follow=false&last=7"},
		{[]string{"--pod", "web", "-n", "shop"}, "follow=false&last=-1&namespace=shop&pod=web"},
		{[]string{"--pod", "shop/web", "--interface", "net1"}, "follow=false&interface=net1&last=-1&namespace=shop&pod=web"},
		{[]string{"--direction", "egress", "--reason", "isolated,malformed", "--reason", "rule_denied"}, "direction=egress&follow=false&last=-1&reason=isolated&reason=malformed&reason=rule_denied"},
		{[]string{"-f"}, "follow=true&last=0"},
		{[]string{"-f", "--last", "3"}, "follow=true&last=3"},
	}
	for _, test := range tests {
		d := newDropper(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		cmd := New("weirctl", "test")
		cmd.SetArgs(append([]string{"drops", "--socket", d.socket}, test.args...))
		cmd.SetOut(io.Discard)
		cmd.SetErr(writerFunc(func(data []byte) (int, error) { // the agent went away
			cancel()
			return len(data), nil
		}))
		if err := cmd.ExecuteContext(ctx); err != nil && !errors.Is(err, ErrPartial) {
			t.Errorf("%q: %v", test.args, err)
		}
		cancel()
		if got := <-d.asked; got != api.DropsPath+"?"+test.want {
			t.Errorf("%q asks for %s, want %s", test.args, got, test.want)
		}
	}
}

func TestDropsTellsWhatWasCountedOnly(t *testing.T) {
	t.Parallel()
	flooded, others := web(), other()
	flooded.Samples = api.Samples{Sampled: 100, Limited: 400, RingFull: 12}
	others.Samples = api.Samples{Limited: 1}
	const says = "weirctl: shop/web/net1: 412 drops were counted only: 400 too many at a time, 12 not read in time\n"
	d := newDropper(t, nil, flooded, others)
	if code, _, stderr := run("drops", "--pod", "shop/web", "--socket", d.socket); code != ExitOK || stderr != says {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if _, _, stderr := run("drops", "--socket", d.socket); !strings.HasPrefix(stderr, says) || strings.Count(stderr, "\n") != 2 {
		t.Errorf("of all: %s", stderr)
	}
}

// Whoever follows is shown each drop once, whatever becomes of the connection, is told what
// was missed, and goes on until he interrupts.
func TestDropsAsTheyCome(t *testing.T) {
	t.Parallel()
	all := someDrops(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var asked []string
	socket := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Query().Get("last"))
		encoder := json.NewEncoder(w)
		if len(asked) == 1 {
			_ = errors.Join(encoder.Encode(api.DropLine{DroppedPacket: &all[0]}), encoder.Encode(api.DropLine{DroppedPacket: &all[1]}))
			return
		}
		for i := range 4 {
			_ = encoder.Encode(api.DropLine{DroppedPacket: &all[i]})
		}
		_ = errors.Join(encoder.Encode(api.DropLine{Missed: 5}), http.NewResponseController(w).Flush())
		<-ctx.Done()
	})
	var out, stderr strings.Builder
	cmd := New("weirctl", "test")
	cmd.SetArgs([]string{"drops", "-f", "--socket", socket})
	cmd.SetOut(&out)
	cmd.SetErr(writerFunc(func(data []byte) (int, error) {
		if bytes.Contains(data, []byte("5 drops were missed")) {
			cancel()
		}
		return stderr.Write(data)
	}))
	if err := cmd.ExecuteContext(ctx); !errors.Is(err, ErrPartial) {
		t.Errorf("%v, want ErrPartial", err)
	}
	if strings.Count(out.String(), "\n") != 5 || !strings.HasPrefix(out.String(), "TIME") || !slices.Equal(asked, []string{"0", "-1"}) {
		t.Errorf("asked for the last %q:\n%s", asked, &out)
	}
	if strings.Count(stderr.String(), "the agent went away") != 1 {
		t.Error(&stderr)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(data []byte) (int, error) { return f(data) }

func TestDropsAsPcap(t *testing.T) {
	t.Parallel()
	d := newDropper(t, someDrops(t))
	code, out, stderr := run("drops", "-o", "pcap", "--socket", d.socket)
	if code != ExitOK || stderr != "" {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	checkPcap(t, strings.NewReader(out))

	file := filepath.Join(t.TempDir(), "drops.pcap")
	if code, out, stderr := run("drops", "-w", file, "--socket", d.socket); code != ExitOK || out != "" {
		t.Fatalf("exit code %d: %s%s", code, out, stderr)
	}
	data, err := os.ReadFile(file)
	if err != nil || string(data) != out {
		t.Errorf("the file has %d bytes, the output %d: %v", len(data), len(out), err)
	}
	if code, _, stderr := run("drops", "-w", file, "--socket", d.socket); code != ExitFailed || !strings.Contains(stderr, "exists") {
		t.Errorf("a file that is there: exit code %d: %s", code, stderr)
	}
	if again, err := os.ReadFile(file); err != nil || !bytes.Equal(again, data) {
		t.Errorf("it is changed: %v", err)
	}
}

func checkPcap(t *testing.T, r io.Reader) {
	t.Helper()
	reader, err := pcapgo.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range someDrops(t) {
		data, info, err := reader.ReadPacketData()
		if err != nil {
			t.Fatal(err)
		}
		packet, length := want.Packet, int(want.Length)
		if want.VLAN != nil {
			packet = slices.Concat(packet[:12], []byte{0x81, 0, 0x20, 7}, packet[12:])
			length += 4
		}
		if !bytes.Equal(data, packet) || info.Length != length || !info.Timestamp.Equal(want.Time) {
			t.Errorf("%x of %d bytes at %s, want %x of %d", data, info.Length, info.Timestamp, packet, length)
		}
	}
	if _, _, err := reader.ReadPacketData(); !errors.Is(err, io.EOF) {
		t.Errorf("there is more: %v", err)
	}
}

func TestDropsWithoutAnAgent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "drops.pcap")
	for _, args := range [][]string{nil, {"-f"}, {"-o", "json"}, {"-w", file}} {
		code, _, stderr := run(append([]string{"drops", "--socket", filepath.Join(dir, "none.sock")}, args...)...)
		if code != ExitFailed || !strings.Contains(stderr, "drops are known to the agent alone: no agent answers") {
			t.Errorf("%q: exit code %d: %s", args, code, stderr)
		}
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("an empty capture is left")
	}
}

func TestDropsOfAWrongCommandLine(t *testing.T) {
	t.Parallel()
	tests := []struct {
		args []string
		says string
	}{
		{[]string{"web"}, "unknown command"},
		{[]string{"--direction", "up"}, "ingress, egress"},
		{[]string{"--reason", "spoofed_ip4"}, "did you mean spoofed_ipv4?"},
		{[]string{"--reason", "xxxxxxxxxxxxxxxxxxxxxx"}, "want one of malformed"},
		{[]string{"-o", "xml"}, "want one of table, wide, json, yaml, name, pcap"},
		{[]string{"-o", "json", "-w", "x"}, "--write writes pcap"},
		{[]string{"--pod", "shop/web", "-n", "default"}, "is not in --namespace default"},
		{[]string{"-n", "shop", "-A"}, "exclude each other"},
	}
	for _, test := range tests {
		if code, out, stderr := run(append([]string{"drops"}, test.args...)...); code != ExitUsage || out != "" || !strings.Contains(stderr, test.says) {
			t.Errorf("%q: exit code %d: %s%s", test.args, code, out, stderr)
		}
	}
}

func TestCompletionOfDrops(t *testing.T) {
	t.Parallel()
	s := newSite(t, web(), other())
	for _, test := range []struct {
		args []string
		want []string
	}{
		{[]string{"drops", "--pod", ""}, []string{"beef", "shop/web"}},
		{[]string{"drops", "--interface", ""}, []string{"net1", "net2"}},
		{[]string{"drops", "-n", "shop", "--interface", ""}, []string{"net1"}},
		{[]string{"drops", "--direction", ""}, drops.Directions()},
		{[]string{"drops", "--reason", ""}, drops.Reasons()},
		{[]string{"drops", "-o", ""}, dropOutputs},
	} {
		if got := s.complete(t, test.args...); !slices.Equal(got, test.want) {
			t.Errorf("%q: %q, want %q", test.args, got, test.want)
		}
	}
}
