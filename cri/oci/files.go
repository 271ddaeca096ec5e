package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/oci/spec"
)

// writeSandboxFiles writes the files that every container of the Pod sees in /etc, unless
// its own mounts replace them.
func (r *Runtime) writeSandboxFiles(s *cri.Sandbox, u *ownUsers, label string) error {
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	resolv, err := resolvConf(s)
	if err != nil {
		return err
	}
	hostname := s.Config.GetHostname()
	if hostname == "" {
		if hostname, err = os.Hostname(); err != nil {
			return err
		}
	}
	for name, content := range map[string][]byte{"hosts": hosts, "resolv.conf": resolv, "hostname": []byte(hostname + "\n")} {
		file := filepath.Join(s.Dir, name)
		// Readable by every user of a container, whatever this process's umask is.
		if err := errors.Join(os.WriteFile(file, content, 0o644), os.Chmod(file, 0o644), u.give(file), r.labels.SetFile(file, label)); err != nil {
			return fmt.Errorf("writing the sandbox's files: %w", err)
		}
	}
	return nil
}

// resolvConf returns a resolv.conf with the Pod's DNS config or, without one, the host's
// file.
func resolvConf(s *cri.Sandbox) ([]byte, error) {
	dns := s.Config.GetDnsConfig()
	if dns == nil {
		content, err := os.ReadFile("/etc/resolv.conf")
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return content, err
	}
	var b strings.Builder
	if len(dns.Searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(dns.Searches, " "))
	}
	for _, server := range dns.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	if len(dns.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(dns.Options, " "))
	}
	return []byte(b.String()), nil
}

// sandboxFiles returns the paths of the files, and of /dev/shm, that a container mounts.
func (r *Runtime) sandboxFiles(s *cri.Sandbox) spec.Files {
	f := spec.Files{
		ResolvConf: filepath.Join(s.Dir, "resolv.conf"),
		Hostname:   filepath.Join(s.Dir, "hostname"),
		Hosts:      filepath.Join(s.Dir, "hosts"),
		Shm:        filepath.Join(r.sandboxDir(s.ID), "shm"),
	}
	if hostIPC(s) {
		f.Shm = "/dev/shm"
	}
	return f
}

// writeJSON writes a file that need not survive a reboot.
func writeJSON(path string, v any) error {
	content, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o600)
}
