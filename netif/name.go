// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"errors"
	"fmt"
	"hash/fnv"
	"strings"

	"golang.org/x/sys/unix"
)

// ValidateName says why the kernel would not take name for an interface, or
// would make another of it: 1 to 15 bytes, neither "." nor "..", no slash, colon
// or white space (dev_valid_name), no NUL, and no percent sign, which asks the
// kernel to number the name.
func ValidateName(name string) error {
	switch {
	case name == "":
		return errors.New("interface name is empty")
	case len(name) >= unix.IFNAMSIZ:
		return fmt.Errorf("interface name %q: %d bytes, at most %d fit", name, len(name), unix.IFNAMSIZ-1)
	case name == "." || name == "..":
		return fmt.Errorf("interface name %q: reserved", name)
	}
	for i := range len(name) {
		// The kernel's isspace holds 0xa0, Latin-1's no-break space, for one too.
		if strings.IndexByte("/:%\x00 \t\n\v\f\r\xa0", name[i]) >= 0 {
			return fmt.Errorf("interface name %q: the kernel does not allow %q in it", name, name[i:i+1])
		}
	}
	return nil
}

// temporaryName is what an interface is called until it has its name. It follows
// from the name, so that Delete finds what a killed process left; only pods hold
// such names, so none is in the way when a kernel looks in the host's namespace.
func temporaryName(name string) string {
	hash := fnv.New32a()
	hash.Write([]byte(name))
	return fmt.Sprintf("weir~%08x", hash.Sum32())
}
