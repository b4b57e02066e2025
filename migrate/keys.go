// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"encoding/json"
	"strings"
)

// Verdict is what becomes of a key of Multus's configuration.
type Verdict string

// The verdicts.
const (
	// Kept: weir's entry has it, with its value and its meaning.
	Kept Verdict = "kept"
	// Differs: weir has something else in its place.
	Differs Verdict = "differs"
	// NoEffect: weir needs nothing of the kind.
	NoEffect Verdict = "no effect"
	// Unknown: it is no key of Multus's, nor of weir's.
	Unknown Verdict = "unknown"
)

// known is a key that Multus reads.
type known struct {
	name    string
	verdict Verdict
	why     string
	// is tells whether a value is of the kind that weir reads; nil where it reads none.
	is func(json.RawMessage) bool
}

func isA[T any](value json.RawMessage) bool {
	var v T
	return json.Unmarshal(value, &v) == nil
}

var (
	isText  = isA[string]
	isBool  = isA[bool]
	isTexts = isA[[]string]
	isList  = isA[[]json.RawMessage]
)

// knownKeys are the keys of the plugin's configuration, then those of the thick
// deployment's daemon. A function, as there are to be no variables that change.
func knownKeys() []known {
	return []known{
		{"clusterNetwork", Kept, "the default network", isText},
		{"delegates", Kept, "the default network and those of every pod, in full", isList},
		{"defaultNetworks", Kept, "", isTexts},
		{"systemNamespaces", Kept, "", isTexts},
		{"multusNamespace", Kept, "", isText},
		{"namespaceIsolation", Kept, "", isBool},
		{"globalNamespaces", Kept, "", isText},
		{"confDir", Kept, "", isText},
		{"binDir", Kept, "", isText},
		{"readinessindicatorfile", Kept, "", isText},
		{"auxiliaryCNIChainName", Kept, "", isText},

		{"name", Differs, "the entry bears the default network's name: the runtime keeps one account of its pods", nil},
		{"type", Differs, "it is weir", nil},
		{"cniVersion", Differs, "the entry has the default network's, 0.4.0 at least", nil},
		{"capabilities", Differs, "the entry has those of the default network's plugins", nil},
		{"plugins", Differs, "weir's entry is the list's only plugin", nil},

		{"kubeconfig", NoEffect, "the agent uses its service account; no token is on the node's disk", nil},
		{"cniDir", NoEffect, "records of attachments are in the agent's --state-dir", nil},
		{"retryDeleteOnError", NoEffect, "what a DEL could not undo always stays on record, and is tried again", nil},
		{"logFile", NoEffect, "the agent writes the log, to its standard error", nil},
		{"logLevel", NoEffect, "the agent has --log-level", nil},
		{"logToStderr", NoEffect, "the agent writes the log, to its standard error", nil},
		{"logOptions", NoEffect, "the agent writes the log, to its standard error", nil},
		{"daemonSocketDir", NoEffect, "the agent's socket is that of --socket, and of the key socket", nil},
		{"runtimeConfig", NoEffect, "the runtime gives it with each request", nil},
		{"prevResult", NoEffect, "Multus does not use it either", nil},
		{"cniConf", NoEffect, "Multus writes it and does not read it: the key is confDir", nil},
		{"disableCheck", NoEffect, "CHECK goes to the default network's plugins as its own configuration says", nil},
		{"disableGC", NoEffect, "GC goes to the default network's plugins as its own configuration says", nil},

		{"socketDir", NoEffect, "the agent's socket is that of --socket", nil},
		{"chrootDir", NoEffect, "the agent runs with the node's directories at their own paths", nil},
		{"metricsPort", Differs, "the agent has --metrics-address, and metrics of each attachment", nil},
		{"enablePprof", NoEffect, "the agent has no profiling endpoint", nil},
		{"connectionLimit", NoEffect, "most networks need no process: there is no limit of requests to set", nil},
		{"perNodeCertificate", NoEffect, "the agent uses its service account", nil},
		{"multusConfigFile", NoEffect, "weir's entry is always written by the agent", nil},
		{"multusAutoconfigDir", Differs, "the agent takes the default network's file, by its path", nil},
		{"multusMasterCNI", Differs, "the agent takes the default network's file by its name", nil},
		{"cniConfigDir", NoEffect, "the entry is written to the runtime's directory", nil},
		{"forceCNIVersion", NoEffect, "each network keeps its version, and results are converted; no file of another's is rewritten", nil},
		{"overrideNetworkName", NoEffect, "the entry always bears the default network's name", nil},
	}
}

// knownKey finds a key as encoding/json does, which minds no case; nil when it is
// nobody's.
func knownKey(name string) *known {
	for _, k := range knownKeys() {
		if strings.EqualFold(k.name, name) {
			return &k
		}
	}
	return nil
}
