// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

// identity is a key and a certificate of it, both PEM.
type identity struct{ key, certificate []byte }

// authority signs the certificates of a cluster.
type authority struct {
	identity
	parsed *x509.Certificate
	signer *ecdsa.PrivateKey
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the authority's key: %w", err)
	}
	template := newTemplate(pkix.Name{CommonName: "weir-e2e"})
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage |= x509.KeyUsageCertSign
	a := &authority{parsed: template, signer: key}
	if a.identity, err = a.sign(template, key); err != nil {
		return nil, err
	}
	block, _ := pem.Decode(a.certificate)
	if a.parsed, err = x509.ParseCertificate(block.Bytes); err != nil {
		return nil, fmt.Errorf("reading the authority's certificate: %w", err)
	}
	return a, nil
}

func newTemplate(subject pkix.Name) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      subject,
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

func (a *authority) sign(template *x509.Certificate, key *ecdsa.PrivateKey) (identity, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, a.parsed, key.Public(), a.signer)
	if err != nil {
		return identity{}, fmt.Errorf("signing a certificate for %s: %w", template.Subject, err)
	}
	encoded, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return identity{}, fmt.Errorf("encoding the key of %s: %w", template.Subject, err)
	}
	return identity{
		key:         pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: encoded}),
		certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
	}, nil
}

// issue makes an identity that is good for a client and, with addresses or names,
// for a server.
func (a *authority) issue(user string, groups []string, addresses []string, names ...string) (identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return identity{}, fmt.Errorf("making a key for %s: %w", user, err)
	}
	template := newTemplate(pkix.Name{CommonName: user, Organization: groups})
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	template.DNSNames = names
	for _, address := range addresses {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(address))
	}
	return a.sign(template, key)
}

type object = map[string]any

// kubeconfig is a kubectl configuration for somebody who looks for the API server
// at a URL.
func (a *authority) kubeconfig(server string, who identity) ([]byte, error) {
	const name = "weir-e2e"
	return json.Marshal(object{
		"apiVersion": "v1", "kind": "Config", "current-context": name,
		"clusters": []object{{"name": name, "cluster": object{
			"server": server, "certificate-authority-data": a.certificate,
		}}},
		"users": []object{{"name": name, "user": object{
			"client-certificate-data": who.certificate, "client-key-data": who.key,
		}}},
		"contexts": []object{{"name": name, "context": object{"cluster": name, "user": name}}},
	})
}
