// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A pod as clusters have them: two containers with probes, environment and mounts, a
// projected token, and the status and the managed fields that it has when it runs.
const typicalPod = `{"metadata":{"name":"web-68d889d8bd-%[1]d","namespace":"shop","uid":"68d889d8-0000-4000-8000-%012[1]d","labels":{"app":"web","pod-template-hash":"68d889d8bd"},
"annotations":{"k8s.v1.cni.cncf.io/networks":"first,second","k8s.v1.cni.cncf.io/network-status":"[{\"name\":\"a\",\"interface\":\"eth0\",\"ips\":[\"10.0.0.%[1]d\"]},{\"name\":\"b\",\"interface\":\"net1\"}]"},
"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-68d889d8bd","uid":"00000000-0000-4000-8000-%012[1]d","controller":true}],
"managedFields":[{"manager":"kube-controller-manager","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{"f:labels":{".":{},"f:app":{},"f:pod-template-hash":{}},"f:ownerReferences":{}},"f:spec":{"f:containers":{"k:{\"name\":\"main\"}":{"f:env":{},"f:image":{}}}}}}]},
"spec":{"nodeName":"node1","serviceAccountName":"default","volumes":[{"name":"kube-api-access-%[1]d","projected":{"sources":[{"serviceAccountToken":{"path":"token"}},{"configMap":{"name":"kube-root-ca.crt"}}]}},{"name":"data","emptyDir":{}}],
"containers":[%[2]s,%[2]s],"tolerations":[{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute"}]},
"status":{"phase":"Running","podIP":"10.0.0.%[1]d","podIPs":[{"ip":"10.0.0.%[1]d"}],"hostIP":"192.0.2.1","conditions":[{"type":"Ready","status":"True"},{"type":"Initialized","status":"True"},{"type":"ContainersReady","status":"True"},{"type":"PodScheduled","status":"True"}],
"containerStatuses":[{"name":"main","ready":true,"image":"registry.example.org/shop/web:v1.2.3","imageID":"registry.example.org/shop/web@sha256:%064[1]d","containerID":"containerd://%064[1]d"}]}}`

const typicalContainer = `{"name":"main","image":"registry.example.org/shop/web:v1.2.3","command":["/usr/bin/web"],"args":["--listen=:8080","--database=db.shop.svc:5432"],
"env":[{"name":"A","value":"one"},{"name":"B","value":"two"},{"name":"C","valueFrom":{"secretKeyRef":{"name":"s","key":"k"}}}],
"ports":[{"containerPort":8080}],"resources":{"requests":{"cpu":"100m","memory":"128Mi"}},"volumeMounts":[{"name":"data","mountPath":"/data"}],
"livenessProbe":{"httpGet":{"path":"/healthz","port":8080}},"readinessProbe":{"httpGet":{"path":"/readyz","port":8080}}}`

const typicalNetwork = `{"metadata":{"name":"lan-%[1]d","namespace":"shop","uid":"68d889d8-0000-4000-8000-%012[1]d","managedFields":[{"manager":"kubectl","operation":"Update","apiVersion":"k8s.cni.cncf.io/v1","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{".":{},"f:config":{}}}}]},
"spec":{"config":"{\"cniVersion\":\"1.0.0\",\"type\":\"macvlan\",\"master\":\"eth%[1]d\",\"mode\":\"bridge\",\"ipam\":{\"type\":\"host-local\",\"ranges\":[[{\"subnet\":\"10.%[1]d.0.0/16\"}]]}}"}}`

// BenchmarkCache measures what 1,000 objects take that the watches hold.
func BenchmarkCache(b *testing.B) {
	b.Run("pods", func(b *testing.B) { benchmarkCache[corev1.Pod](b, typicalPod, trimmed) })
	b.Run("networks", func(b *testing.B) { benchmarkCache[nadv1.NetworkAttachmentDefinition](b, typicalNetwork, trimmed) })
	b.Run("members", func(b *testing.B) { benchmarkCache[metav1.PartialObjectMetadata](b, typicalPod, withoutTheRest) })
}

func benchmarkCache[T any](b *testing.B, text string, keep func(any) (any, error)) {
	const objects = 1000
	for range b.N {
		before := heap()
		held := make([]any, objects)
		for i := range held {
			object := new(T)
			filled := fmt.Sprintf(text, i)
			if strings.Contains(text, "%[2]s") {
				filled = fmt.Sprintf(text, i, typicalContainer)
			}
			if err := json.Unmarshal([]byte(filled), object); err != nil {
				b.Fatal(err)
			}
			held[i], _ = keep(object)
		}
		b.ReportMetric(float64(heap()-before)/(1<<20), "MB/1000")
		runtime.KeepAlive(held)
	}
}

func heap() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
