package main

import (
	"os"

	"github.com/containerd/nri/pkg/api"
	"github.com/spf13/cobra"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/node"
)

// nriFlags are the flags for the NRI plugins of the reference runtime.
type nriFlags struct{ node.NRI }

func (f *nriFlags) addTo(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.Socket, "nri-socket", "", "let NRI plugins connect to this `socket`, which most of them expect at /var/run/nri/nri.sock; by default none can")
	fs.StringVar(&f.PluginDir, "nri-plugins", "", "start the NRI plugins in this `directory`; by default none")
	fs.StringVar(&f.ConfigDir, "nri-plugin-config", "/etc/nri/conf.d", "`directory` of the configurations of the NRI plugins that are started")
	fs.DurationVar(&f.Timeout, "nri-timeout", api.DefaultPluginRequestTimeout, "disconnect an NRI plugin that takes longer than this `time` to answer")
}

func (f *nriFlags) parse() (node.NRI, error) {
	all := f.NRI
	if all.Timeout < 0 {
		return all, fault.Invalid.Errorf("--nri-timeout %v: want a positive duration, such as 5s", all.Timeout)
	}
	if all.PluginDir != "" { // if it is missing, Pods would run as if there were no plugins
		if fi, err := os.Stat(all.PluginDir); err != nil || !fi.IsDir() {
			return all, fault.Invalid.Errorf("--nri-plugins %q: there is no such directory", all.PluginDir)
		}
	}
	return all, absolute(&all.Socket, &all.PluginDir, &all.ConfigDir)
}
