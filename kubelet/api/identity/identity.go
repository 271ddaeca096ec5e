// Package identity authenticates a node's API and its clients: it has a certificate
// authority of the node's own, created at the first start and kept, and the
// certificates signed by it. Whoever can read the directory, or the kubeconfig, is root
// on this node; nobody else gets past the TLS handshake.
//
// A certificate names no person and grants everything, so it does not expire within a
// machine's life, and a wrong clock locks nobody out.
package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api/v1"
	"sigs.k8s.io/yaml"

	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// Identity signs the certificates of one node.
type Identity struct {
	node   string
	caCert *x509.Certificate
	caKey  crypto.Signer
	caPEM  []byte
}

// Open returns the identity kept in the directory. At the first start it creates it,
// and the directory for root alone. node is the node's name. If the process is killed
// at any instruction, the next Open returns the same identity, or a new one if no
// client has seen the first. A file that exists and cannot be parsed is an error.
func Open(dir, node string) (*Identity, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "ca.pem") // key and certificate in one file, so that neither exists without the other
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = newCA(); err == nil {
			err = atomicfile.Write(path, data, 0o600)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("the node's certificate authority: %w", err)
	}
	i, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w: remove it, and clients will need the new kubeconfig", path, err)
	}
	i.node = node
	return i, nil
}

// validity returns dates before and after any that a machine's clock shows.
func validity() (from, to time.Time) {
	return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
}

func newCA() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := template("nodekit-ca", "")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return encode(cert, key)
}

func template(name, group string) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		panic("no randomness: " + err.Error()) // crypto/rand never fails on Linux
	}
	t := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature}
	if group != "" {
		t.Subject.Organization = []string{group}
	}
	t.NotBefore, t.NotAfter = validity()
	return t
}

func encode(cert []byte, key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...), nil
}

func parse(data []byte) (*Identity, error) {
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, fault.Invalid.Wrap(err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, fault.Invalid.Errorf("it is not a certificate authority")
	}
	return &Identity{caCert: pair.Leaf, caKey: key, caPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Leaf.Raw})}, nil
}

// sign creates a certificate with its own key, both in PEM.
func (i *Identity) sign(t *x509.Certificate) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, t, i.caCert, private.Public(), i.caKey)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), nil
}

// ServerTLS returns the configuration of a server on the loopback addresses. It accepts
// only clients with a certificate signed by this identity.
func (i *Identity) ServerTLS() (*tls.Config, error) {
	t := template(i.node, "")
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	t.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	t.DNSNames = []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"}
	cert, key, err := i.sign(t)
	if err != nil {
		return nil, fmt.Errorf("signing the server's certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(i.caCert)
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}, nil
}

// Client returns the configuration of a client with the given user and group for the
// server at address ("127.0.0.1:6443"). Each call signs a new certificate.
func (i *Identity) Client(address, user, group string) (*rest.Config, error) {
	t := template(user, group)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	cert, key, err := i.sign(t)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate of %q: %w", user, err)
	}
	return &rest.Config{Host: "https://" + address, TLSClientConfig: rest.TLSClientConfig{CAData: i.caPEM, CertData: cert, KeyData: key}}, nil
}

// Kubeconfig writes c as a kubeconfig that only its owner can read.
func (i *Identity) Kubeconfig(path string, c *rest.Config) error {
	name := i.node
	file := clientcmdapi.Config{
		Kind: "Config", APIVersion: "v1", CurrentContext: name,
		Clusters:  []clientcmdapi.NamedCluster{{Name: name, Cluster: clientcmdapi.Cluster{Server: c.Host, CertificateAuthorityData: c.CAData}}},
		AuthInfos: []clientcmdapi.NamedAuthInfo{{Name: name, AuthInfo: clientcmdapi.AuthInfo{ClientCertificateData: c.CertData, ClientKeyData: c.KeyData}}},
		Contexts:  []clientcmdapi.NamedContext{{Name: name, Context: clientcmdapi.Context{Cluster: name, AuthInfo: name, Namespace: "default"}}},
	}
	data, err := yaml.Marshal(file)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(path, data, 0o600); err != nil {
		return fmt.Errorf("writing the kubeconfig: %w", err)
	}
	return nil
}
