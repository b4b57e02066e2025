// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
)

// resolvConfLimit is far above what a resolver reads, in bytes.
const resolvConfLimit = 1 << 20

// readResolvConf returns the DNS settings of a file in the form of resolv.conf(5).
func readResolvConf(path string) (types.DNS, error) {
	// The path is the network author's: a FIFO must not block, nor a device fill the memory.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return types.DNS{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return types.DNS{}, err
	}
	if !info.Mode().IsRegular() || info.Size() > resolvConfLimit {
		return types.DNS{}, fmt.Errorf("%w: not a regular file of at most %d bytes", ErrInvalid, resolvConfLimit)
	}
	content, err := io.ReadAll(io.LimitReader(f, resolvConfLimit))
	if err != nil {
		return types.DNS{}, err
	}
	return parseResolvConf(string(content)), nil
}

// parseResolvConf reads what the reference plugin reads: all name servers, search domains and
// options, and the last domain. Anything else is passed over.
func parseResolvConf(content string) types.DNS {
	var dns types.DNS
	for line := range strings.Lines(content) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch key, values := words[0], words[1:]; key {
		case "nameserver":
			dns.Nameservers = append(dns.Nameservers, values[0])
		case "domain":
			dns.Domain = values[0]
		case "search":
			dns.Search = append(dns.Search, values...)
		case "options":
			dns.Options = append(dns.Options, values...)
		}
	}
	return dns
}
