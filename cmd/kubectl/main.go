// Command kubectl is the kubectl of Kubernetes, built from k8s.io/kubectl, so that a
// node can be inspected where no kubectl is installed. "nodekit kubectl" runs it.
package main

import (
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

func main() {
	// It adds the logging flags, -v among them.
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
	}
}
