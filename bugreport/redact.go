// SPDX-License-Identifier: Apache-2.0

package bugreport

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// redacted stands for a value that is not told.
const redacted = "(redacted)"

// known are the keys of configurations, results and records whose values are told: those of
// the CNI specification, of the reference plugins and of weir that hold no secret.
var known = wordSet(`
	cniVersion cniVersions name type plugins disableCheck disableGC loadOnlyInlinedPlugins capabilities
	master mode bridge mtu linkInContainer isGateway isDefaultGateway forceAddress ipMasq ipMasqBackend hairpinMode promiscMode
	vlan vlanTrunk id minID maxID preserveDefaultVlan macspoofchk enabledad portIsolation bcqueuelen
	device hwaddr kernelpath pciBusID runtimeConfig deviceID
	ipam ranges subnet rangeStart rangeEnd gateway routes dst gw priority table scope addresses address range exclude
	dns nameservers search options domain dataDir resolvConf
	interfaces ips interface mac sandbox
	portMappings hostPort containerPort protocol hostIP bandwidth ingressRate ingressBurst egressRate egressBurst
	weir enforcement allow sources stormLimit broadcast multicast unknownUnicast isolation community segment
	rules direction action cidrs ports
	clusterNetwork delegates socket defaultNetworks systemNamespaces namespaceIsolation globalNamespaces auxiliaryCNIChainName
	readinessindicatorfile binDir confDir
	version containerID chained netns pod namespace uid phase claim path network default config resource result attachment
	created pinDir hostInterface index auxiliary noDefaultRoute gateways selection default-route
`)

func wordSet(text string) map[string]bool {
	words := map[string]bool{}
	for _, word := range strings.Fields(text) {
		words[word] = true
	}
	return words
}

// redactJSON keeps of a document the values of known keys, and the truth values of all.
func redactJSON(data []byte) ([]byte, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, fmt.Errorf("it is no JSON: %w", err)
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	_, isObject := value.(map[string]any)
	if err := encoder.Encode(redactValue(value, isObject)); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// redactValue redacts a value whose key is told or not. Below a key that is not told
// nothing is.
func redactValue(value any, told bool) any {
	switch v := value.(type) {
	case map[string]any:
		for key, inner := range v {
			v[key] = redactValue(inner, told && known[key])
		}
		return v
	case []any:
		for i, inner := range v {
			v[i] = redactValue(inner, told)
		}
		return v
	case nil, bool:
		return v
	default:
		if told {
			return v
		}
		return redacted
	}
}

// secrets are forms that secrets have wherever they are.
var secrets = []*regexp.Regexp{
	regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]+)*`),             // JSON web tokens (RFC 7519)
	regexp.MustCompile(`(?s)-----BEGIN [^-]+-----.*?(-----END [^-]+-----|$)`), // keys and certificates (RFC 7468)
	regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}`),       // HTTP (RFC 9110)
	regexp.MustCompile(`://[^/\s:@"]+:[^/\s@"]+@`),                            // URLs with a password
}

// assigned is a value that is given to a name which says that it is secret, be it quoted,
// or within a text that is.
var assigned = regexp.MustCompile(`(?i)((?:password|passwd|secret|token|api-?key)[\w-]*\\?["']?\s*[:=]\s*\\?["']?)[^\s"'\\,}]+`)

// scrub replaces what has the form of a secret in any text.
func scrub(text []byte) []byte {
	for _, form := range secrets {
		text = form.ReplaceAll(text, []byte(redacted))
	}
	return assigned.ReplaceAll(text, []byte("${1}"+redacted))
}
