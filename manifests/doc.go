// SPDX-License-Identifier: Apache-2.0

// Package manifests is the store of pods and networks for an agent without
// Kubernetes: a folder of YAML or JSON files with the objects as one would apply
// them to a cluster. It follows changes of the folder.
//
// A file that cannot be read, or holds an object that is not right, is named in
// the log once and keeps what it held before; the other files count. Of two
// objects with one name, the one in the file whose name sorts first counts. A
// folder that is gone keeps what it held until one of its name is there again.
package manifests
