package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// addImageFlags adds the flags for the images that a node starts with and keeps, and
// for the source of the others.
func addImageFlags(cmd *cobra.Command, archives, pinned *[]string, hosts *string) {
	fs := cmd.Flags()
	fs.StringArrayVar(archives, "image-archive", nil, "load the images of this `archive` at the start, and pin them; may be repeated")
	fs.StringArrayVar(pinned, "pin-image", nil, "`image` that the kubelet's garbage collection must not remove: a name, in which * matches any text; may be repeated")
	addHostsDir(cmd, hosts)
}

func addHostsDir(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "hosts-dir", "", "`directory` of registry mirrors, with the layout of containerd's /etc/containerd/certs.d (HOST/hosts.toml)")
}

// hostsDir returns the absolute path of the directory. It rejects one that does not
// exist: images would come from elsewhere than the user thinks.
func hostsDir(named string) (string, error) {
	dir := named
	if err := absolute(&dir); err != nil || dir == "" {
		return "", err
	}
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		return "", fault.Invalid.Errorf("--hosts-dir %q: there is no such directory (%s)", named, dir)
	}
	return dir, nil
}
