// The program kubectl is Kubernetes' own, built from k8s.io/kubectl, so that a
// node can be looked at where no kubectl is installed. "nodekit kubectl" runs it.
package main

import (
	"os"

	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

func main() {
	if err := cmd.NewDefaultKubectlCommand().Execute(); err != nil {
		util.CheckErr(err)
		os.Exit(1)
	}
}
